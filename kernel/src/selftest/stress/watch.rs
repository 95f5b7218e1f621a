//! The watchdog: a worker that does not come on is a violation, told with where every thread of the test waits and what it holds.

use super::world::Round;
use crate::thread::{self, ThreadInfo};
use alloc::format;
use alloc::string::String;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use mm::sync::{SpinLock, now_us};

/// The longest that one operation of a worker may take, in microseconds.
pub const PATIENCE_US: u64 = 30_000_000;

/// What a worker does, in short.
pub type Doing = (&'static str, u32, u64);

/// How far one worker is.
pub struct Progress {
    /// The worker's name.
    pub name: String,
    since_us: AtomicU64,
    ended: AtomicBool,
    doing: SpinLock<Doing>,
}

impl Progress {
    /// A worker that has not begun.
    pub fn new(name: String) -> Self {
        Progress {
            name,
            since_us: AtomicU64::new(now_us()),
            ended: AtomicBool::new(false),
            doing: SpinLock::new(("beginning", 0, 0)),
        }
    }

    /// It begins an operation on a page of a file.
    pub fn begins(&self, what: &'static str, file: u32, page: u64) {
        *self.doing.lock() = (what, file, page);
        // Relaxed: read by the watchdog, who has time.
        self.since_us.store(now_us(), Ordering::Relaxed);
    }

    /// It has ended.
    pub fn end(&self) {
        // Relaxed: as above.
        self.ended.store(true, Ordering::Relaxed);
    }

    /// How long its operation has been under way, in microseconds; 0 when it has ended.
    fn age_us(&self) -> u64 {
        // Relaxed: as above.
        if self.ended.load(Ordering::Relaxed) {
            return 0;
        }
        now_us().saturating_sub(self.since_us.load(Ordering::Relaxed))
    }
}

/// Looks once; accuses who has been at one operation for too long. True when all is well.
pub fn look(round: &Round) -> bool {
    let stuck = round.progress.iter().find(|p| p.age_us() > PATIENCE_US);
    let Some(stuck) = stuck else {
        return true;
    };
    let (what, file, page) = *stuck.doing.lock();
    round.accuse(
        "stuck",
        format!("worker {}: {what} of file {file} page {page}", stuck.name),
        format!("an end within {} s", PATIENCE_US / 1_000_000),
        everybody(round),
        None,
    );
    false
}

/// Where each worker is and what its thread holds.
fn everybody(round: &Round) -> String {
    let mut text = String::from("none");
    // Without memory there are no threads to show.
    let threads = thread::threads().unwrap_or_default();
    for worker in &round.progress {
        let (what, file, page) = *worker.doing.lock();
        let age = worker.age_us() / 1000;
        let thread = threads.iter().find(|t| t.name.as_str() == worker.name);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n    {}: {what} of file {file} page {page} for {age} ms",
            worker.name
        );
        if let Some(thread) = thread {
            describe(thread, &mut text);
        }
    }
    text
}

fn describe(thread: &ThreadInfo, text: &mut String) {
    let state = format!("{:?}", thread.state).to_lowercase();
    let _ = write!(text, "; thread {} {state}, holds [", thread.id);
    for (i, lock) in thread.held.iter().enumerate() {
        let _ = write!(text, "{}{}", if i > 0 { ", " } else { "" }, lock);
    }
    text.push(']');
}
