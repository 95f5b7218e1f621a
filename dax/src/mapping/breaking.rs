//! Fairness between a breaker that waits and the faults that would keep it waiting.
//!
//! A breaker notes its range here from its first wait until it is done or gives up. A fault in such a range is delayed, before it takes any
//! lock of the mapping: 1 ms, twice that after each retry of the breaker, at most 100 ms; when the breaker ends, delayed faults go on
//! at once. A pin faults first, since the breaker has unmapped the range, so pins are delayed with the faults. Nobody is ever
//! blocked: the holder of the page that the breaker waits for may need this very fault before it can let go.

use arrayvec::ArrayVec;
use core::ops::Range;
use mm::sync::{SpinLock, Wait, WaitQueue, now_us};

/// Breakers of one mapping that are noted at a time; further ones run without delaying faults.
const NOTED: usize = 8;
const FIRST_DELAY_US: u64 = 1_000;
/// The longest that one fault is delayed, in microseconds.
pub const MAX_DELAY_US: u64 = 100_000;

struct Note {
    id: u64,
    pages: Range<u64>,
    retries: u32,
}

/// The ranges of a mapping that are being broken and have a breaker waiting.
pub(crate) struct Breaking {
    notes: SpinLock<(u64, ArrayVec<Note, NOTED>)>,
    delayed: WaitQueue,
}

impl Breaking {
    pub(super) fn new() -> Self {
        Self {
            notes: SpinLock::new((0, ArrayVec::new())),
            delayed: WaitQueue::new(),
        }
    }

    /// How long a fault on `page` is delayed now, in microseconds.
    pub(crate) fn delay_us(&self, page: u64) -> u64 {
        let notes = self.notes.lock();
        let of = |n: &Note| {
            FIRST_DELAY_US
                .checked_shl(n.retries.min(20))
                .unwrap_or(MAX_DELAY_US)
                .min(MAX_DELAY_US)
        };
        notes
            .1
            .iter()
            .filter(|n| n.pages.contains(&page))
            .map(of)
            .max()
            .unwrap_or(0)
    }

    /// Delays a fault on `page` while a breaker waits for its range, for a bounded time.
    pub(crate) fn delay_fault(&self, page: u64) {
        let us = self.delay_us(page);
        if us > 0 {
            // Both ends of this wait mean "go on": the breaker is done, or the delay was long enough.
            let _ = self.delayed.wait_until(
                || self.delay_us(page) == 0,
                &Wait::until(now_us().saturating_add(us)),
            );
        }
    }
}

/// A breaker's note, from its first wait to its end.
pub(crate) struct Breaker<'a> {
    breaking: &'a Breaking,
    id: Option<u64>,
}

impl<'a> Breaker<'a> {
    pub(crate) fn new(breaking: &'a Breaking) -> Self {
        Self { breaking, id: None }
    }

    /// Says that the breaker waits, for the `retries`th time, for a page of `pages`.
    pub(crate) fn waits(&mut self, pages: Range<u64>, retries: u32) {
        let mut notes = self.breaking.notes.lock();
        let (next, list) = &mut *notes;
        let id = *self.id.get_or_insert(*next);
        *next = (*next).max(id + 1);
        list.retain(|n| n.id != id);
        let _full = list.try_push(Note { id, pages, retries });
    }
}

impl Drop for Breaker<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.breaking.notes.lock().1.retain(|n| n.id != id);
            self.breaking.delayed.wake_all();
        }
    }
}
