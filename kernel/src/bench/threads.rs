//! Switching threads.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use mm::sync::{Wait, WaitQueue};

use super::bed::Bed;
use super::error::BenchError;
use super::sample::Sample;
use crate::thread;

const OPS: u64 = 1000;

/// Two threads that yield to each other.
pub fn yields(bed: &Bed) -> Result<Sample, BenchError> {
    let partner = thread::spawn("bench partner", || {
        (0..OPS).for_each(|_| thread::yield_now())
    })?;
    thread::yield_now();
    let sample = bed.measure(OPS, || {
        (0..OPS / 2).for_each(|_| thread::yield_now());
        Ok(())
    });
    partner.join();
    sample
}

/// Whose turn it is, and who waits for it.
struct Ball {
    turn: AtomicU64,
    queue: WaitQueue,
}

impl Ball {
    /// Waits for turn `n`, then passes the ball on.
    fn pass(&self, n: u64) {
        // Acquire: pairs with the Release below, the other player's last step.
        let mine = || self.turn.load(Ordering::Acquire) == n;
        // A wait without an end in time ends by the condition alone.
        let _ = self.queue.wait_until(mine, &Wait::forever());
        // Release: see above.
        self.turn.store(n + 1, Ordering::Release);
        self.queue.wake_all();
    }
}

/// Two threads that wake each other and sleep: each pass of the ball is a wake-up, a sleep and a switch.
pub fn park_unpark(bed: &Bed) -> Result<Sample, BenchError> {
    let ball = Arc::new(Ball {
        turn: AtomicU64::new(0),
        queue: WaitQueue::new(),
    });
    let theirs = ball.clone();
    let partner = thread::spawn("bench partner", move || {
        (0..OPS).for_each(|n| theirs.pass(2 * n + 1));
    })?;
    ball.pass(0);
    let sample = bed.measure(2 * (OPS - 1), || {
        (1..OPS).for_each(|n| ball.pass(2 * n));
        Ok(())
    });
    partner.join();
    sample
}
