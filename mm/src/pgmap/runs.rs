//! Counts of consecutive pages: one lookup for a section of 2 MiB, one atomic operation for each folio.
//!
//! A waiter enters [`PAGE_WAITERS`] and then looks at the count; these functions change the counts of a section and then look, once,
//! whether anybody waits at all. A SeqCst fence stands between on both sides (`sync::wait`), so one sees the other. Mostly nobody waits.

use super::{Folio, LifePolicy, PAGE_WAITERS, Pgmap};
use crate::addr::{PageSize, Pfn};
use crate::page::{Drop1, Page};
use crate::sparse::Section;
use crate::trace::{self, Kind, What};

/// What is dropped from a count.
#[derive(Clone, Copy)]
enum Drops {
    Mappings,
    Pins,
}

impl Drops {
    /// For one page after the other.
    const fn one(self) -> Drop1 {
        match self {
            Self::Mappings => Drop1::MAPPING,
            Self::Pins => Drop1::PIN,
        }
    }

    /// Drops `n`; says whether the count is 0 now.
    fn from(self, page: &Page, n: u32) -> bool {
        match self {
            Self::Mappings => page.refs().drop_mappings(n) == 0,
            Self::Pins => page.refs().drop_pins(n) == 0,
        }
    }
}

impl Drops {
    /// An event for the run, at most `pages` pages of it in this section.
    #[inline(always)]
    fn note(self, first: Pfn, pages: u64) {
        let kind = match self {
            Self::Mappings => Kind::MapPut,
            Self::Pins => Kind::Unpin,
        };
        trace::note(kind, || What::pages(first, pages).with(pages));
    }
}

impl<L: LifePolicy> Pgmap<L> {
    /// The counts from `pfn` on, as far as one folio or one section reaches. `None`: no metadata, so idle, or out of range.
    pub(crate) fn section(&self, pfn: Pfn) -> Option<Section<'_>> {
        self.map.section(pfn)
    }

    /// Drops one mapping of each of `pages` frames from `first` on, which entries of 4 KiB mapped, as [`Pgmap::map_put`].
    ///
    /// # Panics
    ///
    /// If one has no metadata: its count keeps it, so someone dropped a reference too many.
    pub(crate) fn map_put_pages(&self, first: Pfn, pages: u64) {
        self.drop_run(first, pages, Drops::Mappings);
    }

    /// Drops one pin of each of `pages` frames from `first` on, as [`Pgmap::unpin`].
    ///
    /// # Panics
    ///
    /// As [`Pgmap::map_put_pages`].
    pub(crate) fn unpin_pages(&self, first: Pfn, pages: u64) {
        self.drop_run(first, pages, Drops::Pins);
    }

    fn drop_run(&self, first: Pfn, pages: u64, what: Drops) {
        let (mut at, end) = (first.get(), first.get() + pages);
        while at < end {
            let pfn = Pfn::new(at).expect("inside the pgmap");
            at += self.drop_section(pfn, end - at, what);
        }
    }

    /// Drops from the section at `first`, of at most `pages` pages; says how many it reached.
    fn drop_section(&self, first: Pfn, pages: u64, what: Drops) -> u64 {
        let section = self.section(first);
        what.note(first, pages);
        let (key, n) = match section.expect("a page with a count keeps its metadata") {
            Section::Pages(section) => {
                let n = pages.min(section.len() as u64);
                self.drop_pages(first, &section[..n as usize], what);
                (first, n)
            }
            Section::Folio { head, start, size } => {
                let n = pages.min(start.get() + size.pages() - first.get());
                if what.from(head, n as u32) {
                    self.rested(start, size, head);
                }
                (start, n)
            }
        };
        if matches!(what, Drops::Pins) {
            self.released(L::unpin(&self.gate, n as u32));
        }
        if !PAGE_WAITERS.nobody_waits() {
            wake(key, n, first);
        }
        n
    }

    /// The hot loop: one page, one compare-and-exchange.
    fn drop_pages(&self, first: Pfn, pages: &[Page], what: Drops) {
        let mut one = what.one();
        for (n, page) in pages.iter().enumerate() {
            if page.refs().drop_one(&mut one) {
                self.rested_at(first, n, page);
            }
        }
    }

    /// One base page of a run came to rest.
    #[inline]
    fn rested_at(&self, first: Pfn, n: usize, head: &Page) {
        if (L::COUNTS_IDLE || self.ops.is_set())
            && let Some(pfn) = first.checked_add(n as u64)
        {
            self.rested(pfn, PageSize::Size4K, head);
        }
    }

    #[cold]
    fn rested(&self, pfn: Pfn, size: PageSize, head: &Page) {
        self.came_to_rest(&Folio { head, pfn, size });
    }

    /// Wakes who waits for one of the `pages` frames from `first` on.
    pub(crate) fn wake_waiters(&self, first: Pfn, pages: u64) {
        let (mut at, end) = (first.get(), first.get() + pages);
        while at < end {
            let Some(folio) = Pfn::new(at).and_then(|pfn| self.folio(pfn)) else {
                return;
            };
            PAGE_WAITERS.wake_all(folio.pfn.get());
            at = folio.pfn.get() + folio.size.pages();
        }
    }
}

/// Wakes those who wait for the folio at `key`, or, if that is `first`, for any of `pages` base pages from there on.
fn wake(key: Pfn, pages: u64, first: Pfn) {
    PAGE_WAITERS.wake_all(key.get());
    if key == first {
        (1..pages).for_each(|n| PAGE_WAITERS.wake_all(first.get() + n));
    }
}
