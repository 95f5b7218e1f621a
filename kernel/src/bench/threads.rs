//! Switching threads.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use mm::sync::{Wait, WaitQueue};

use super::bed::Bed;
use super::error::BenchError;
use super::sample::{Counters, Sample};
use crate::thread;
use crate::time::ticks;

const OPS: u64 = 1000;

/// Two threads on one CPU that yield to each other.
pub fn yields(bed: &Bed) -> Result<Sample, BenchError> {
    let overhead = bed.clock.overhead;
    let spent = thread::spawn_on(0, "bench", || {
        let partner = thread::spawn_on(0, "bench", || (0..OPS).for_each(|_| thread::yield_now()))?;
        thread::yield_now();
        let start = ticks();
        (0..OPS / 2).for_each(|_| thread::yield_now());
        let spent = ticks() - start;
        partner.join();
        Ok::<_, BenchError>(spent)
    })?
    .join()?;
    Ok(Sample {
        ops: OPS,
        ticks: spent.saturating_sub(overhead),
        counters: Counters::default(),
    })
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

/// Two threads on one CPU that wake each other and sleep: each pass of the ball is a wake-up, a sleep and a switch.
pub fn park_unpark(bed: &Bed) -> Result<Sample, BenchError> {
    play(bed, 0)
}

/// Two threads on two CPUs that wake each other and sleep; the CPUs have nothing else to do and sleep too.
pub fn park_unpark_across(bed: &Bed) -> Result<Sample, BenchError> {
    play(bed, 1)
}

/// The first player on CPU 0, the second on `cpu`.
fn play(bed: &Bed, cpu: usize) -> Result<Sample, BenchError> {
    let (before, overhead) = (Counters::now(), bed.clock.overhead);
    let ticks = thread::spawn_on(0, "bench", move || first_player(cpu))?.join()?;
    let counters = Counters::now().since(&before);
    Ok(Sample {
        ops: 2 * (OPS - 1),
        ticks: ticks.saturating_sub(overhead),
        counters,
    })
}

fn first_player(cpu: usize) -> Result<u64, BenchError> {
    let ball = Arc::new(Ball {
        turn: AtomicU64::new(0),
        queue: WaitQueue::new(),
    });
    let theirs = ball.clone();
    let partner = thread::spawn_on(cpu, "bench", move || {
        (0..OPS).for_each(|n| theirs.pass(2 * n + 1));
    })?;
    ball.pass(0);
    let start = ticks();
    (1..OPS).for_each(|n| ball.pass(2 * n));
    let spent = ticks() - start;
    partner.join();
    Ok(spent)
}
