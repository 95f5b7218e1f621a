//! The entry lock: one bit in the entry, and a guard.
//!
//! A fault locks its entry before it decides anything, also when there is none yet: then it inserts a locked placeholder
//! ([`Entry::Empty`]), which disappears with the guard unless something was stored. So faults on the same page, or on a huge page and
//! a small one inside it, go one after the other, while others do not meet at all.
//!
//! # Hand-over
//!
//! A waiter queues under (array, first index of the entry it found locked) and tries to take the lock from within its wait, so
//! that it keeps its place in the queue when a newcomer was faster. There are two ways for a lock to end:
//!
//! - *Unlocked*, the entry stays: **one** waiter of that entry is woken, the one that has waited longest. It takes the lock, or
//!   finds it taken by a newcomer, who will wake one in turn. Order and first index of an entry never change while it
//!   exists, so a waiter of that key that finds the entry unlocked always takes it: the wake-up cannot end with one who
//!   does not want the lock.
//! - *Deleted* (erased, or a placeholder that nothing was stored in): **all** are woken. What they find there now may be nothing, or
//!   entries of another order with other keys: each looks for itself.
//!
//! So at every moment at which an entry is unlocked and has waiters, one of them has been woken and not yet looked; nobody sleeps
//! for ever. The orderings of queue and bit are those of `mm::sync::wait`: the bit changes under the array's lock, then the
//! queue is looked at; a waiter is in the queue before it looks at the bit.

use super::write::Inner;
use super::{Found, InsertError, Mark, XArray};
use crate::entry::{Entry, Packed};
use mm::mem::OutOfMemory;
use mm::sync::{Noted, Wait, WaitTable, class, note_held};

/// Waiters for entry locks of all arrays.
static WAITERS: WaitTable = WaitTable::new();

/// Why an entry cannot be locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// A smaller entry lies in the range asked for: use a smaller order.
    #[error("a smaller entry at page {} is in the way", .0.base)]
    Conflict(Found),
    /// No memory for the placeholder.
    #[error("out of memory")]
    OutOfMemory,
    /// The index or the order is too large.
    #[error("index {index:#x} of order {order} is out of range")]
    BadIndex {
        /// The index asked for.
        index: u64,
        /// The order asked for.
        order: u8,
    },
}

/// An entry lock that is held. Dropping it unlocks and wakes one waiter; a placeholder that is still one is
/// removed, and all its waiters are woken.
#[must_use = "the entry is unlocked at once otherwise"]
pub struct EntryGuard<'a> {
    array: &'a XArray,
    base: u64,
    entry: Entry,
    _noted: Noted,
}

/// What one attempt to lock found.
enum Attempt {
    Locked(Found),
    Busy { base: u64 },
    Conflict(Found),
    Nothing,
}

impl XArray {
    /// Locks the entry that covers `index`; where there is none, inserts a locked placeholder of `order`. Sleeps while another holds
    /// the lock.
    ///
    /// The entry may be larger than `order`; one that is smaller is a [`LockError::Conflict`], whether locked or not. Lock class:
    /// ENTRY. Allocates only for a placeholder.
    pub fn lock_entry(&self, index: u64, order: u8) -> Result<EntryGuard<'_>, LockError> {
        let noted = note_held(&class::ENTRY);
        loop {
            match self.attempt_patiently(index, order) {
                Attempt::Locked(found) => return Ok(self.guard(found, noted)),
                Attempt::Conflict(found) => return Err(LockError::Conflict(found)),
                Attempt::Busy { .. } => {}
                Attempt::Nothing => {
                    if let Some(found) = self.placeholder(index, order)? {
                        return Ok(self.guard(found, noted));
                    }
                }
            }
        }
    }

    /// Locks the entry that covers `index`, if there is one. Sleeps while another holds the lock; never allocates.
    pub fn lock_existing(&self, index: u64) -> Option<EntryGuard<'_>> {
        let noted = note_held(&class::ENTRY);
        loop {
            match self.attempt_patiently(index, 0) {
                Attempt::Locked(found) => return Some(self.guard(found, noted)),
                Attempt::Busy { .. } => {}
                Attempt::Conflict(_) | Attempt::Nothing => return None,
            }
        }
    }

    /// Attempts until the answer is another than "busy", or until the entry in the way begins elsewhere than before.
    fn attempt_patiently(&self, index: u64, order: u8) -> Attempt {
        let first = self.attempt(index, order);
        let Attempt::Busy { base } = first else {
            return first;
        };
        let mut last = first;
        let answered = || {
            last = self.attempt(index, order);
            !matches!(last, Attempt::Busy { base: now } if now == base)
        };
        // An endless wait ends only with its condition; should it end otherwise, the caller tries again.
        let _ = WAITERS.wait_until(self.key(base), answered, &Wait::forever());
        last
    }

    fn attempt(&self, index: u64, order: u8) -> Attempt {
        #[cfg(test)]
        self.tries.fetch_add(1, mm::sync::atomic::Ordering::Relaxed);
        let inner = self.inner.lock();
        let base = Entry::Empty { order }.base(index);
        let Some(found) = self.seek(&(base..base + (1 << order)), None) else {
            return Attempt::Nothing;
        };
        // The order is looked at before the lock bit: a conflict is told at once, without waiting.
        if found.entry.order() < order {
            return Attempt::Conflict(found);
        }
        if found.locked {
            return Attempt::Busy { base: found.base };
        }
        self.replace(&inner, found.base, Packed::new(found.entry, true));
        Attempt::Locked(found)
    }

    /// `None`: somebody else was faster.
    fn placeholder(&self, index: u64, order: u8) -> Result<Option<Found>, LockError> {
        let entry = Entry::Empty { order };
        let base = entry.base(index);
        match self.put(base, entry, true) {
            Ok(()) => Ok(Some(Found {
                base,
                entry,
                locked: true,
            })),
            Err(InsertError::Occupied(_)) => Ok(None),
            Err(InsertError::OutOfMemory) => Err(LockError::OutOfMemory),
            Err(InsertError::BadIndex { index, order }) => {
                Err(LockError::BadIndex { index, order })
            }
        }
    }

    fn guard(&self, found: Found, noted: Noted) -> EntryGuard<'_> {
        EntryGuard {
            array: self,
            base: found.base,
            entry: found.entry,
            _noted: noted,
        }
    }

    fn key(&self, base: u64) -> u64 {
        self.id.rotate_left(48) ^ base
    }

    /// Wakes everybody who waits for the entry at `base`, which was deleted.
    pub(super) fn wake_all(&self, base: u64) {
        WAITERS.wake_all(self.key(base));
    }

    pub(super) fn unlock(&self, base: u64, entry: Entry) {
        let mut inner = self.inner.lock();
        match entry {
            Entry::Empty { .. } => {
                let locked = true;
                self.remove(
                    &mut inner,
                    Found {
                        base,
                        entry,
                        locked,
                    },
                );
                drop(inner);
                self.wake_all(base);
            }
            Entry::Zero { .. } | Entry::Pfn { .. } => {
                self.replace(&inner, base, Packed::new(entry, false));
                drop(inner);
                WAITERS.wake_one(self.key(base));
            }
        }
    }
}

impl EntryGuard<'_> {
    /// The first index of the entry.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The entry as it is now.
    pub fn entry(&self) -> Entry {
        self.entry
    }

    pub(super) fn found(&self) -> Found {
        Found {
            base: self.base,
            entry: self.entry,
            locked: true,
        }
    }

    /// Stores `entry` in the place of this one; it stays locked. Never allocates.
    ///
    /// Panics: the order differs.
    pub fn store(&mut self, entry: Entry) {
        assert_eq!(
            entry.order(),
            self.entry.order(),
            "an entry is replaced by one of its own order"
        );
        let inner: Inner<'_> = self.array.inner.lock();
        self.array
            .replace(&inner, self.base, Packed::new(entry, true));
        self.entry = entry;
    }

    /// Sets or clears a mark of this entry.
    pub fn mark(&self, mark: Mark, on: bool) {
        if on {
            self.array.set_mark(self.base, mark)
        } else {
            self.array.clear_mark(self.base, mark)
        };
    }

    /// Removes the entry and wakes the waiters. Never allocates.
    pub fn erase(mut self) {
        self.entry = Entry::Empty {
            order: self.entry.order(),
        };
    }
}

impl Drop for EntryGuard<'_> {
    fn drop(&mut self) {
        self.array.unlock(self.base, self.entry);
    }
}

impl From<OutOfMemory> for LockError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}
