//! The runtime of the host and of the models: threads, park tokens and the clock.
//!
//! Host: std threads and a monotonic clock. Each thread has a park token of its own, apart from that of `std::thread::park`:
//! std spends its token in its own waiting (scoped threads, channels), which would lose a wake-up of ours.
//! Models: the model's threads and its clock (`super::model`).

use super::held::HeldLocks;
use super::runtime::{Runtime, ThreadId};
use std::boxed::Box;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

use token::Token;

/// The runtime of every thread.
pub(super) struct Host;

pub(super) static HOST: Host = Host;

static NEXT: AtomicU64 = AtomicU64::new(1);
static THREADS: LazyLock<Mutex<HashMap<ThreadId, Arc<Token>>>> = LazyLock::new(Mutex::default);

/// Locks what is never left half changed, so that a panicking test does no harm to the others.
fn unpoisoned<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread's number, listed in [`THREADS`] for as long as the thread lives.
struct Me {
    id: ThreadId,
    token: Arc<Token>,
    held: &'static HeldLocks,
}

#[cfg(not(any(loom, shuttle)))]
std::thread_local! {
    static ME: Me = Me::register();
}

#[cfg(loom)]
loom::thread_local! {
    static ME: Me = Me::register();
}

#[cfg(shuttle)]
shuttle::thread_local! {
    static ME: Me = Me::register();
}

impl Me {
    fn register() -> Self {
        // Relaxed: only the uniqueness of the number matters.
        let id =
            ThreadId::new(NEXT.fetch_add(1, Ordering::Relaxed)).expect("fewer than 2^64 threads");
        let token = Arc::<Token>::default();
        unpoisoned(&THREADS).insert(id, token.clone());
        Self {
            id,
            token,
            held: held_slot(),
        }
    }
}

impl Drop for Me {
    fn drop(&mut self) {
        unpoisoned(&THREADS).remove(&self.id);
        unpoisoned(&FREE_HELD).push(self.held);
    }
}

/// Lists of ended threads, kept for the next ones: `Runtime::held` hands out plain references, so a list is never freed.
static FREE_HELD: Mutex<Vec<&'static HeldLocks>> = Mutex::new(Vec::new());

fn held_slot() -> &'static HeldLocks {
    let old = unpoisoned(&FREE_HELD).pop();
    old.unwrap_or_else(|| Box::leak(Box::default()))
}

#[cfg(any(loom, shuttle))]
std::thread_local! {
    /// What a thread of the host holds while no model runs on it: values are made before a model and dropped after it.
    static OUTSIDE: &'static HeldLocks = held_slot();
}

impl Runtime for Host {
    fn current(&self) -> ThreadId {
        ME.with(|me| me.id)
    }

    fn park(&self, deadline_us: Option<u64>) {
        let token = ME.with(|me| me.token.clone());
        match deadline_us {
            None => token.take(),
            Some(at) => token.take_until(at),
        }
    }

    fn unpark(&self, id: ThreadId) {
        let token = unpoisoned(&THREADS).get(&id).cloned();
        if let Some(token) = token {
            token.leave();
        }
    }

    fn now_us(&self) -> u64 {
        clock::now_us()
    }

    fn held(&self) -> &HeldLocks {
        #[cfg(any(loom, shuttle))]
        if !super::model::running() {
            return OUTSIDE.with(|held| *held);
        }
        ME.with(|me| me.held)
    }

    fn cpu(&self) -> usize {
        0
    }
}

#[cfg(any(loom, shuttle))]
pub(super) use clock::reset_clock;

#[cfg(not(any(loom, shuttle)))]
mod clock {
    use std::sync::LazyLock;
    use std::time::Instant;

    static START: LazyLock<Instant> = LazyLock::new(Instant::now);

    pub(super) fn now_us() -> u64 {
        START.elapsed().as_micros() as u64
    }
}

/// The clock of a model, which moves only when a park with a deadline gives up.
#[cfg(any(loom, shuttle))]
mod clock {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    // Relaxed, and core's: one thread of the host, and no protocol rests on it.
    static NOW: AtomicU64 = AtomicU64::new(0);

    pub(super) fn now_us() -> u64 {
        NOW.load(Relaxed)
    }

    pub(super) fn at_least(us: u64) {
        NOW.fetch_max(us, Relaxed);
    }

    /// An execution begins.
    pub(crate) fn reset_clock() {
        NOW.store(0, Relaxed);
    }
}

/// What an unpark leaves and a park takes.
#[cfg(not(shuttle))]
mod token {
    use super::clock;
    #[cfg(loom)]
    use loom::sync::{Condvar, Mutex, MutexGuard};
    use std::sync::PoisonError;
    #[cfg(not(loom))]
    use std::sync::{Condvar, Mutex, MutexGuard};

    #[derive(Default)]
    pub(super) struct Token {
        left: Mutex<bool>,
        changed: Condvar,
    }

    impl Token {
        fn left(&self) -> MutexGuard<'_, bool> {
            self.left.lock().unwrap_or_else(PoisonError::into_inner)
        }

        pub(super) fn leave(&self) {
            *self.left() = true;
            self.changed.notify_one();
        }

        pub(super) fn take(&self) {
            let mut left = self.left();
            while !*left {
                let woken = self.changed.wait(left);
                left = woken.unwrap_or_else(PoisonError::into_inner);
            }
            *left = false;
        }

        /// Gives up at once: time passes while nobody looks.
        #[cfg(loom)]
        pub(super) fn take_until(&self, deadline_us: u64) {
            let had_it = core::mem::replace(&mut *self.left(), false);
            if !had_it {
                clock::at_least(deadline_us);
                loom::thread::yield_now();
            }
        }

        #[cfg(not(loom))]
        pub(super) fn take_until(&self, deadline_us: u64) {
            let at_most = deadline_us
                .saturating_sub(clock::now_us())
                .min(u64::MAX >> 20);
            let at_most = std::time::Duration::from_micros(at_most);
            let waited = self
                .changed
                .wait_timeout_while(self.left(), at_most, |left| !*left);
            *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
        }
    }
}

/// What an unpark leaves and a park takes.
#[cfg(shuttle)]
mod token {
    use super::clock;
    use crate::sync::model;
    use shuttle::thread::{Thread, current, park, yield_now};
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    /// Turns of others that a park with a deadline waits at most.
    const PATIENCE: u64 = 8;

    pub(super) struct Token {
        // Relaxed, and core's: one thread of the host.
        left: AtomicBool,
        thread: Thread,
    }

    impl Default for Token {
        fn default() -> Self {
            Self {
                left: AtomicBool::new(false),
                thread: current(),
            }
        }
    }

    impl Token {
        pub(super) fn leave(&self) {
            self.left.store(true, Relaxed);
            self.thread.unpark();
        }

        pub(super) fn take(&self) {
            while !self.left.swap(false, Relaxed) {
                park();
            }
        }

        pub(super) fn take_until(&self, deadline_us: u64) {
            for _ in 0..model::choose(PATIENCE) + 1 {
                if self.left.swap(false, Relaxed) {
                    return;
                }
                yield_now();
            }
            clock::at_least(deadline_us);
        }
    }
}
