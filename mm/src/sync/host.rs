//! The host's runtime: std threads, `park` and `unpark`, and a monotonic clock.

use super::held::HeldLocks;
use super::runtime::{Runtime, ThreadId};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// The runtime of every std thread.
pub(super) struct Host;

pub(super) static HOST: Host = Host;

static NEXT: AtomicU64 = AtomicU64::new(1);
static THREADS: LazyLock<Mutex<HashMap<ThreadId, Thread>>> = LazyLock::new(Mutex::default);
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A thread's number, listed in [`THREADS`] for as long as the thread lives.
struct Me {
    id: ThreadId,
    held: &'static HeldLocks,
}

std::thread_local! {
    static ME: Me = Me::register();
}

impl Me {
    fn register() -> Self {
        // Relaxed: only the uniqueness of the number matters.
        let id =
            ThreadId::new(NEXT.fetch_add(1, Ordering::Relaxed)).expect("fewer than 2^64 threads");
        threads().insert(id, thread::current());
        Self {
            id,
            held: held_slot(),
        }
    }
}

impl Drop for Me {
    fn drop(&mut self) {
        threads().remove(&self.id);
        FREE_HELD
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(self.held);
    }
}

/// Lists of ended threads, kept for the next ones: `Runtime::held` hands out plain references, so a list is never freed.
static FREE_HELD: Mutex<Vec<&'static HeldLocks>> = Mutex::new(Vec::new());

fn held_slot() -> &'static HeldLocks {
    let old = FREE_HELD
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .pop();
    old.unwrap_or_else(|| Box::leak(Box::default()))
}

fn threads() -> std::sync::MutexGuard<'static, HashMap<ThreadId, Thread>> {
    // A panicking test may poison the map; each operation on it is a single call, so it is never half done.
    THREADS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runtime for Host {
    fn current(&self) -> ThreadId {
        ME.with(|me| me.id)
    }

    fn park(&self, deadline_us: Option<u64>) {
        match deadline_us {
            None => thread::park(),
            Some(at) => {
                thread::park_timeout(Duration::from_micros(at.saturating_sub(self.now_us())))
            }
        }
    }

    fn unpark(&self, id: ThreadId) {
        let found = threads().get(&id).cloned();
        if let Some(thread) = found {
            thread.unpark();
        }
    }

    fn now_us(&self) -> u64 {
        START.elapsed().as_micros() as u64
    }

    fn held(&self) -> &HeldLocks {
        ME.with(|me| me.held)
    }

    fn cpu(&self) -> usize {
        0
    }
}
