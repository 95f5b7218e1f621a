//! The byte ranges of a region known to be bad.
//!
//! A healthy region pays one relaxed load per read: the list is consulted only while it is not empty. A range is added
//! under the lock before the length becomes visible, so that a reader who sees a length also sees its ranges.

use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

use arrayvec::ArrayVec;
use mm::sync::SpinLock;
use thiserror::Error;

use super::{LINE, MediaError};

/// Ranges that one region remembers.
const CAPACITY: usize = 64;

/// The list of bad ranges is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{CAPACITY} bad ranges are recorded already (repair some, or take the region out of use)")]
pub struct BadRangesFull;

/// Bad byte ranges of one region.
pub(super) struct BadRanges {
    count: AtomicUsize,
    list: SpinLock<ArrayVec<Range<u64>, CAPACITY>>,
}

impl BadRanges {
    pub(super) const fn new() -> Self {
        Self {
            count: AtomicUsize::new(0),
            list: SpinLock::new(ArrayVec::new_const()),
        }
    }

    /// Adds a range; reads that touch it fail from now on.
    pub(super) fn add(&self, range: Range<u64>) -> Result<(), BadRangesFull> {
        let mut list = self.list.lock();
        list.try_push(range).map_err(|_| BadRangesFull)?;
        self.publish(list.len());
        Ok(())
    }

    /// Forgets what lies within `range`; a bad range that only overlaps it is cut.
    pub(super) fn clear(&self, range: &Range<u64>) -> Result<(), BadRangesFull> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let mut list = self.list.lock();
        let mut left = ArrayVec::new_const();
        for bad in list.iter() {
            let before = bad.start..bad.end.min(range.start);
            let after = bad.start.max(range.end)..bad.end;
            for part in [before, after].into_iter().filter(|part| !part.is_empty()) {
                left.try_push(part).map_err(|_| BadRangesFull)?;
            }
        }
        *list = left;
        self.publish(list.len());
        Ok(())
    }

    /// Forgets the whole lines within `len` bytes at `off`, which were stored anew. A range that would have to be cut in two while the list
    /// is full stays as it is.
    #[inline]
    pub(super) fn heal(&self, off: u64, len: u64) {
        // Relaxed: as in `check`.
        if self.count.load(Ordering::Relaxed) != 0 {
            self.heal_lines(off, len);
        }
    }

    fn heal_lines(&self, off: u64, len: u64) {
        let lines = off.next_multiple_of(LINE)..(off + len) / LINE * LINE;
        if !lines.is_empty() {
            // Refused: the bytes stay bad, which is true of nobody but safe.
            let _ = self.clear(&lines);
        }
    }

    /// The first bad range that ends after `off`: for listings.
    pub(super) fn after(&self, off: u64) -> Option<Range<u64>> {
        let list = self.list.lock();
        let later = list.iter().filter(|bad| bad.end > off);
        later.min_by_key(|bad| bad.start).cloned()
    }

    /// Fails if a read of `len` bytes at `off` touches a bad byte.
    #[inline]
    pub(super) fn check(&self, off: u64, len: u64) -> Result<(), MediaError> {
        // Relaxed: a reader that races with `add` may miss the range, just as a load may come before the failure does.
        // Partner: the store in `publish`; the list itself is read under its lock.
        if self.count.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        self.check_list(off, len)
    }

    #[cold]
    fn check_list(&self, off: u64, len: u64) -> Result<(), MediaError> {
        let list = self.list.lock();
        let hit = |bad: &Range<u64>| bad.start.max(off)..bad.end.min(off + len);
        let first = list
            .iter()
            .map(hit)
            .filter(|hit| !hit.is_empty())
            .min_by_key(|hit| hit.start);
        match first {
            Some(bad) => Err(MediaError {
                offset: bad.start,
                len: bad.end - bad.start,
            }),
            None => Ok(()),
        }
    }

    fn publish(&self, count: usize) {
        // Relaxed: only a hint to look; partner: the loads in `check` and `clear`, which then take the lock.
        self.count.store(count, Ordering::Relaxed);
    }
}
