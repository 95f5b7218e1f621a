//! Who is inside a file system, so that the device can go: every operation enters, and after the gate closed nobody enters.
//!
//! One word: the number of those inside, and CLOSED. Entering is one compare-and-swap that fails when CLOSED is set, so "closed and
//! empty" is final. An operation that waits for pins stays inside; it cannot outlast a removal, which waits for the same pins
//! first. Whoever is inside may enter again; the inner one fails when the gate closed meanwhile, and the operation ends with that.
//!
//! No lock is held by being inside, and nobody inside waits for the gate to empty.

use mm::sync::atomic::{AtomicU64, Ordering};
use mm::sync::{Wait, WaitError, WaitQueue};
use thiserror::Error;

const CLOSED: u64 = 1 << 63;

/// The device is being removed, or is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the device is gone")]
pub struct Gone;

/// The gate of one file system.
#[derive(Default)]
pub(crate) struct Gate {
    word: AtomicU64,
    left: WaitQueue,
}

/// Being inside; ends when dropped.
#[must_use = "it is the right to use the device"]
pub(crate) struct Inside<'a>(&'a Gate);

impl Gate {
    pub fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            left: WaitQueue::new(),
        }
    }

    /// Goes in, unless the gate is closed. Any context; never sleeps.
    pub fn enter(&self) -> Result<Inside<'_>, Gone> {
        let more = |word: u64| (word & CLOSED == 0).then_some(word + 1);
        // Acquire pairs with the Release of `close`: who is refused sees what the remover did before.
        self.word
            .fetch_update(Ordering::Acquire, Ordering::Acquire, more)
            .map_or(Err(Gone), |_| Ok(Inside(self)))
    }

    /// Nobody enters from here on.
    pub fn close(&self) {
        // AcqRel: Release pairs with the Acquire of `enter`.
        self.word.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Whether nobody enters any more.
    pub fn is_closed(&self) -> bool {
        // Acquire pairs with the Release of `close`.
        self.word.load(Ordering::Acquire) & CLOSED != 0
    }

    /// How many are inside at this moment.
    pub fn inside(&self) -> u64 {
        // Acquire pairs with the Release of the drop of `Inside`: what was done inside has happened.
        self.word.load(Ordering::Acquire) & !CLOSED
    }

    /// Waits until nobody is inside. Close it first.
    pub fn wait_empty(&self, wait: &Wait<'_>) -> Result<(), WaitError> {
        self.left.wait_until(|| self.inside() == 0, wait)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        // AcqRel: Release pairs with the Acquire of `inside`. The word changes before the queue is looked at.
        if self.0.word.fetch_sub(1, Ordering::AcqRel) == CLOSED | 1 {
            self.0.left.wake_all();
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_lets_out_and_not_in() {
        let gate = Gate::new();
        let inside = gate.enter().expect("open");
        gate.close();
        assert_eq!(gate.enter().err(), Some(Gone));
        let late = gate.wait_empty(&Wait::until(0));
        assert_eq!((late, gate.inside()), (Err(WaitError::TimedOut), 1));
        drop(inside);
        assert_eq!(gate.wait_empty(&Wait::until(0)), Ok(()));
        assert_eq!(gate.enter().err(), Some(Gone));
    }

    #[test]
    fn the_last_one_out_wakes_the_remover() {
        let gate = Gate::new();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let inside = gate.enter().expect("open");
                scope.spawn(move || {
                    mm::sync::sleep_us(2_000);
                    drop(inside);
                });
            }
            gate.close();
            assert_eq!(gate.wait_empty(&Wait::for_us(10_000_000)), Ok(()));
        });
    }
}
