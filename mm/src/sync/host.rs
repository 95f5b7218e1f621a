//! The host's runtime: std threads and a monotonic clock.
//!
//! Each thread has a park token of its own, apart from that of `std::thread::park`: std spends its token in its own waiting
//! (scoped threads, channels), which would lose a wake-up of ours.

use super::held::HeldLocks;
use super::runtime::{Runtime, ThreadId};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The runtime of every std thread.
pub(super) struct Host;

pub(super) static HOST: Host = Host;

static NEXT: AtomicU64 = AtomicU64::new(1);
static THREADS: LazyLock<Mutex<HashMap<ThreadId, Arc<Token>>>> = LazyLock::new(Mutex::default);
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What an unpark leaves and a park takes.
#[derive(Default)]
struct Token {
    left: Mutex<bool>,
    changed: Condvar,
}

impl Token {
    fn leave(&self) {
        *unpoisoned(&self.left) = true;
        self.changed.notify_one();
    }

    fn take(&self, at_most: Duration) {
        let left = unpoisoned(&self.left);
        let waited = self
            .changed
            .wait_timeout_while(left, at_most, |left| !*left);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}

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

std::thread_local! {
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

impl Runtime for Host {
    fn current(&self) -> ThreadId {
        ME.with(|me| me.id)
    }

    fn park(&self, deadline_us: Option<u64>) {
        let left = deadline_us.map_or(u64::MAX >> 20, |at| at.saturating_sub(self.now_us()));
        ME.with(|me| me.token.take(Duration::from_micros(left)));
    }

    fn unpark(&self, id: ThreadId) {
        let token = unpoisoned(&THREADS).get(&id).cloned();
        if let Some(token) = token {
            token.leave();
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
