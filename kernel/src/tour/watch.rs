//! A truncate in a thread of its own, watched from outside.

use super::TourError;
use crate::machine::{Fs, Inode};
use crate::shell::On;
use crate::thread;
use alloc::string::ToString;
use alloc::sync::Arc;
use dax::layout::{BreakEvent, BreakReport, Held, How};
use fs::TruncateReport;
use fs::error::TruncateError;
use mm::mem::OutOfMemory;
use mm::sync::{HeldList, SpinLock, Wait, WaitQueue};

/// How long an event may take to come, in microseconds.
const PATIENCE_US: u64 = 5_000_000;

/// What the truncate has done so far.
#[derive(Clone, Default)]
pub struct Seen {
    /// It has taken the range out of all page tables.
    pub zapped: bool,
    /// It waits for this page, holding these locks.
    pub waiting: Option<(Held, HeldList)>,
    /// It has ended.
    pub ended: Option<Result<TruncateReport, TruncateError>>,
}

/// A truncate under way.
pub struct Watch {
    seen: SpinLock<Seen>,
    changed: WaitQueue,
}

impl Watch {
    /// Starts the truncate.
    pub fn start(fs: Arc<Fs>, inode: Arc<Inode>, size: u64) -> Result<Arc<Self>, TourError> {
        let watch = Arc::new(Watch {
            seen: SpinLock::new(Seen::default()),
            changed: WaitQueue::new(),
        });
        let theirs = watch.clone();
        let work = move || {
            let observer = |event| theirs.note(event);
            let mut report = BreakReport::observed(&observer);
            let ended = fs.truncate(&inode, size, How::Wait(Wait::forever()), &mut report);
            // The file is let go before anyone is told that it is over.
            drop((inode, fs));
            theirs.change(|seen| seen.ended = Some(ended));
        };
        thread::spawn("truncate", work)
            .map_err(|_| OutOfMemory)
            .on(|| "truncate")?;
        Ok(watch)
    }

    fn note(&self, event: BreakEvent) {
        match event {
            BreakEvent::Zapped { .. } => self.change(|seen| seen.zapped = true),
            BreakEvent::Waiting { held, locks_held } => {
                self.change(|seen| seen.waiting = Some((held, locks_held)))
            }
            BreakEvent::Revoking { .. }
            | BreakEvent::Overdue { .. }
            | BreakEvent::Retry
            | BreakEvent::Idle => {}
        }
    }

    fn change(&self, f: impl FnOnce(&mut Seen)) {
        f(&mut self.seen.lock());
        self.changed.wake_all();
    }

    /// What it has done so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().clone()
    }

    /// Waits until `done` says that enough has happened.
    pub fn wait_for(
        &self,
        fact: &'static str,
        done: impl Fn(&Seen) -> bool,
    ) -> Result<Seen, TourError> {
        let waited = self
            .changed
            .wait_until(|| done(&self.seen.lock()), &Wait::for_us(PATIENCE_US));
        waited.map_err(|e| TourError::Wrong {
            fact,
            found: e.to_string(),
        })?;
        Ok(self.seen())
    }
}
