//! Making stores durable (msync), and forgetting holes.

use super::Mapping;
use crate::entry::Entry;
use crate::xarray::{EntryGuard, EntryRun, Found, LOCKS, Mark};
use arrayvec::ArrayVec;
use core::ops::Range;
use mm::addr::Pfn;

impl Mapping {
    /// Makes every store to the pages that happened before the call durable; returns how many pages were flushed.
    ///
    /// `flush(pfn, pages)` writes these frames back and returns when they are durable (flush and fence: the fence comes before the mark
    /// goes, or a second caller that finds the page clean would return too early). By runs of entries that lie near each other: write-protect
    /// everywhere, one flush of the TLBs for the run, flush, only then clear DIRTY. A page that is pinned keeps its mark, because its holder may store to it without
    /// a fault. Pages dirtied during the call may be left for the next.
    ///
    /// Lock classes: INVALIDATE shared, ENTRY, I_MMAP. Never allocates.
    pub fn clean_range(&self, pages: Range<u64>, flush: &dyn Fn(Pfn, u64)) -> u64 {
        let _no_breaker = self.invalidate.read();
        self.pages
            .copy_mark(pages.clone(), Mark::Dirty, Mark::ToWrite);
        let (mut from, mut flushed) = (pages.start, 0);
        while let Some(run) = self.pages.lock_marked(from..pages.end, Mark::ToWrite) {
            flushed += self.clean_run(&run, flush);
            from = run.span().end;
        }
        flushed
    }

    fn clean_run(&self, run: &EntryRun<'_>, flush: &dyn Fn(Pfn, u64)) -> u64 {
        run.unmark(Mark::ToWrite);
        self.write_protect(run.span());
        // Read after the permission is gone: a pin for writing taken since would have found no writable entry. Read before
        // the flush: the holder of a pin that ends during the flush may have stored after it.
        let pinned = |pfn| self.pgmap.folio(pfn).is_some_and(|f| f.counts().pinned > 0);
        let at_rest: ArrayVec<Found, LOCKS> = run
            .entries()
            .filter(|found| found.pfn().is_some_and(|pfn| !pinned(pfn)))
            .collect();
        let flushed = flush_each(run, flush);
        for found in at_rest {
            run.unmark_one(found, Mark::Dirty);
        }
        flushed
    }

    /// Takes the shared zero page out of every page table where the file now has storage: after write(2) or fallocate filled a
    /// hole that had been read.
    ///
    /// Call it when `BlockMap::lookup` already gives the new storage. Lock classes: INVALIDATE shared, ENTRY, I_MMAP. Never
    /// allocates.
    pub fn forget_holes(&self, pages: Range<u64>) {
        // A fault that found the hole locked its entry before it looked, and we come after the change of what it looked at: under the
        // lock that orders the two, so that its entry is seen here.
        if self.pages.is_empty() {
            return;
        }
        let _no_breaker = self.invalidate.read();
        let mut from = pages.start;
        while let Some(found) = self.pages.next(from..pages.end) {
            if found.pfn().is_none()
                && let Some(guard) = self.pages.lock_existing(found.base)
            {
                self.forget_hole(guard);
            }
            from = found.end();
        }
    }

    fn forget_hole(&self, guard: EntryGuard<'_>) {
        if let Entry::Zero { .. } = guard.entry() {
            self.unmap_range(guard.base()..guard.base() + guard.entry().pages());
            guard.erase();
        }
    }
}

/// Flushes the frames of a run, consecutive ones at once. Says how many pages they are.
fn flush_each(run: &EntryRun<'_>, flush: &dyn Fn(Pfn, u64)) -> u64 {
    let (mut stretch, mut flushed) = (None::<(Pfn, u64)>, 0);
    for found in run.entries() {
        let Some(pfn) = found.pfn() else { continue };
        let pages = found.entry.pages();
        flushed += pages;
        stretch = match stretch {
            Some((first, n)) if pfn.get() == first.get() + n => Some((first, n + pages)),
            Some((first, n)) => {
                flush(first, n);
                Some((pfn, pages))
            }
            None => Some((pfn, pages)),
        };
    }
    if let Some((first, n)) = stretch {
        flush(first, n);
    }
    flushed
}
