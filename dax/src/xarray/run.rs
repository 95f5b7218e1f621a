//! The locks of several entries at once: those of one node that have a mark, for whoever does the same with each of them.
//!
//! The first lock is waited for, in the usual way; the others are taken as far as they are free, under one hold of the array's lock.
//! So nobody waits for an entry while it holds the lock of another, and two runs cannot wait for each other.

use super::batch::run;
use super::lock::EntryGuard;
use super::{Found, Mark, XArray};
use crate::entry::Packed;
use arrayvec::ArrayVec;
use core::ops::Range;

/// Locks of a run at most.
pub(crate) const LOCKS: usize = 32;
/// Pages of a run after which nothing more is added: the locks are held while they are written back.
const PAGES: u64 = 512;

/// Entry locks that are held, of entries in ascending order. Dropping it unlocks each and wakes one waiter of each.
#[must_use = "the entries are unlocked at once otherwise"]
pub(crate) struct EntryRun<'a> {
    array: &'a XArray,
    first: EntryGuard<'a>,
    more: ArrayVec<Found, { LOCKS - 1 }>,
}

impl XArray {
    /// Locks the first entry of `range` that has `mark`, and those after it that have it too: of the same node, up to the first that is
    /// locked, a bounded number. `None`: there is no entry with the mark.
    ///
    /// Sleeps while another holds the first lock; never allocates. Lock class: ENTRY.
    pub(crate) fn lock_marked(&self, range: Range<u64>, mark: Mark) -> Option<EntryRun<'_>> {
        let mut from = range.start;
        loop {
            let found = self.next_marked(from..range.end, mark)?;
            if let Some(first) = self.lock_existing(found.base) {
                let more = self.lock_more(&first, range.end, mark);
                return Some(EntryRun {
                    array: self,
                    first,
                    more,
                });
            }
            from = found.end();
        }
    }

    /// Locks what is free of the entries with `mark` that follow `first` in its node.
    fn lock_more(
        &self,
        first: &EntryGuard<'_>,
        end: u64,
        mark: Mark,
    ) -> ArrayVec<Found, { LOCKS - 1 }> {
        let mut more = ArrayVec::new();
        let inner = self.inner.lock();
        let Some(step) = self.path(first.base()).and_then(|mut path| path.pop()) else {
            return more;
        };
        let mut pages = first.entry().pages();
        let marked = run(step, first.found(), end)
            .skip(1)
            .filter(|(at, _)| step.node.marked(*at, mark));
        for (_, found) in marked.take_while(|(_, found)| !found.locked) {
            if pages >= PAGES || more.is_full() {
                break;
            }
            pages += found.entry.pages();
            self.replace(&inner, found.base, Packed::new(found.entry, true));
            more.push(found);
        }
        more
    }
}

impl EntryRun<'_> {
    /// The entries, as they were when they were locked, in ascending order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Found> {
        core::iter::once(self.first.found()).chain(self.more.iter().copied())
    }

    /// The indices from the first entry's first to the last one's last. Others may lie between.
    pub(crate) fn span(&self) -> Range<u64> {
        let end = self
            .more
            .last()
            .map_or(self.first.found().end(), Found::end);
        self.first.base()..end
    }

    /// Clears a mark of every entry.
    pub(crate) fn unmark(&self, mark: Mark) {
        self.entries().for_each(|found| {
            self.array.clear_mark(found.base, mark);
        });
    }

    /// Clears a mark of one of its entries.
    pub(crate) fn unmark_one(&self, found: Found, mark: Mark) {
        self.array.clear_mark(found.base, mark);
    }
}

impl Drop for EntryRun<'_> {
    fn drop(&mut self) {
        // The first goes with its guard.
        for found in &self.more {
            self.array.unlock(found.base, found.entry);
        }
    }
}
