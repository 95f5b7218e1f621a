//! Faults on a file: a pure decision, then its effects.
//!
//! [`decide`] looks at the entry, at what the file system has there, and at the access, and says what to do. It has no effects and
//! no state; its tests are a table. [`Mapping::fault`] carries it out, under the invalidate lock (shared: no breaker) and the
//! entry lock (nobody else decides about these pages):
//!
//! 1. *Size.* The largest page for which virtual address, file offset and frame share the alignment, and which lies within the mapping,
//!    the extent and the file. A smaller entry in the way, or a hole, means a smaller page.
//! 2. *Entry.* Allocate if a store meets a hole (durable before it returns), set the page's owner, insert the entry. A zero page that stands in
//!    the way is first taken out of *every* address space, so that nobody reads zeroes where another has stored: before there is storage,
//!    for from then on a write(2) may fill it in place, which needs no fault and looks for no zero page.
//! 3. *Install.* Into the page table of the faulting address space only.
//! 4. *Mark.* DIRTY if it can be stored to. A load maps read-only, so that the first store faults and is seen.
//!
//! Everything that can fail comes before the entry is inserted, but for the page table's own memory; when that is missing, the
//! entry and the owner are taken back. A block allocated meanwhile stays the file's: zeroes, as before.

use crate::entry::Entry;
use crate::mapping::{Block, BlockMap, Mapping};
use crate::xarray::{EntryGuard, LockError, Mark};
use mm::addr::{PAGE_SIZE, PageSize, Pfn, VirtAddr};
use mm::aspace::{Access, FaultAt, FaultError, FaultSink, Installed};
use mm::page::Owner;
use mm::pgmap::{AssociateError, Folio, PAGE_WAITERS, PopulateError};
use mm::trace::{self, Kind, What};

/// What to do about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The entry has storage: map it.
    Map,
    /// Map the shared zero page; the entry says so already.
    MapZero,
    /// Insert a zero entry, then map the shared zero page.
    InsertZero,
    /// Insert an entry for this storage, then map it.
    Insert(Pfn),
    /// Take the zero page out of every address space, then go on as for `Insert`.
    Replace(Pfn),
    /// Have the file system allocate, then decide again.
    Allocate,
    /// A page of this size cannot be had here: try a smaller one.
    Smaller,
}

/// Decides what to do about an access to the pages of a locked entry, behind whose first page the file system has `block`.
pub fn decide(entry: Entry, block: Block, write: bool) -> Action {
    let order = entry.order();
    match (entry, block) {
        (Entry::Pfn { .. }, _) => Action::Map,
        (_, Block::Extent { unwritten, .. })
            if !fits(block, order) && (order > 0 || !unwritten) =>
        {
            Action::Smaller
        }
        (
            Entry::Empty { .. },
            Block::Extent {
                pfn,
                unwritten: false,
                ..
            },
        ) => Action::Insert(pfn),
        (
            Entry::Zero { .. },
            Block::Extent {
                pfn,
                unwritten: false,
                ..
            },
        ) => Action::Replace(pfn),
        // What is left reads as zeroes: a hole, or storage never written.
        (_, Block::Hole) if order > 0 => Action::Smaller,
        _ if write => Action::Allocate,
        (Entry::Zero { .. }, _) => Action::MapZero,
        (Entry::Empty { order: 0 }, _) => Action::InsertZero,
        (Entry::Empty { .. }, _) => Action::Smaller,
    }
}

/// Whether the extent is long enough for an entry of this order, and its frame aligned.
fn fits(block: Block, order: u8) -> bool {
    match block {
        Block::Hole => false,
        Block::Extent { pfn, pages, .. } => {
            pages >> order > 0 && pfn.get() & ((1 << order) - 1) == 0
        }
    }
}

/// Whether a page of some size served the fault.
#[derive(PartialEq, Eq)]
enum Served {
    Yes,
    TooLarge,
}

/// One fault under way.
struct Fault<'a> {
    mapping: &'a Mapping,
    blocks: &'a dyn BlockMap,
    at: &'a FaultAt,
    sink: &'a FaultSink<'a>,
}

impl Mapping {
    /// Makes the page at `at` accessible: `VmObject::fault`.
    ///
    /// May sleep; delayed by at most 66 ms while a breaker waits for the page's range. Lock classes: INVALIDATE shared, ENTRY, what
    /// `blocks` takes, I_MMAP.
    ///
    /// Error: `PastEof` beyond the file's last page; `OutOfMemory`, `Dying`, or what `blocks` says. Nothing is half done then.
    pub fn fault(
        &self,
        blocks: &dyn BlockMap,
        at: &FaultAt,
        sink: &FaultSink<'_>,
    ) -> Result<(), FaultError> {
        self.breaking.delay_fault(at.file_page);
        let _no_breaker = self.invalidate.read();
        Fault {
            mapping: self,
            blocks,
            at,
            sink,
        }
        .serve()?;
        self.tell_breakers(at.file_page);
        Ok(())
    }

    /// A page was mapped: a breaker that sleeps for its pins must unmap it again in time, or new pins pass without a fault.
    ///
    /// Under the invalidate lock. A breaker that the fault does not find noted takes that lock after the fault, and unmaps.
    fn tell_breakers(&self, page: u64) {
        if self.breaking.is_awaited()
            && let Some(pfn) = self.load(page).and_then(|found| found.pfn())
        {
            // The count is raised already; the fence in `wake_all` pairs with that of the breaker's wait.
            PAGE_WAITERS.wake_all(pfn.get());
        }
    }
}

impl Fault<'_> {
    fn serve(&self) -> Result<(), FaultError> {
        let file_pages = self.blocks.size().div_ceil(PAGE_SIZE);
        if self.at.file_page >= file_pages {
            return Err(FaultError::PastEof);
        }
        for size in [PageSize::Size1G, PageSize::Size2M] {
            if self.is_candidate(size, file_pages)? && self.serve_sized(size)? == Served::Yes {
                return Ok(());
            }
        }
        match self.serve_sized(PageSize::Size4K)? {
            Served::Yes => Ok(()),
            // A 4 KiB page is refused only by a file system that hands out nothing after it allocated.
            Served::TooLarge => Err(FaultError::Io),
        }
    }

    fn write(&self) -> bool {
        self.at.access == Access::Write
    }

    /// The page of the file and the address where a page of `size` around the fault begins. None: before the first address.
    fn base(&self, size: PageSize) -> Option<(u64, VirtAddr)> {
        let into = self.at.file_page % size.pages();
        let va = self.at.va.as_u64().checked_sub(into * PAGE_SIZE)?;
        Some((self.at.file_page - into, VirtAddr::try_new(va).ok()?))
    }

    /// Whether a page of this size is worth trying: a glance before anything is locked.
    fn is_candidate(&self, size: PageSize, file_pages: u64) -> Result<bool, FaultError> {
        let Some((page, va)) = self
            .base(size)
            .filter(|(page, _)| page + size.pages() <= file_pages)
        else {
            return Ok(false);
        };
        let block = self.blocks.lookup(page)?;
        let Block::Extent { pfn, unwritten, .. } = block else {
            return Ok(false);
        };
        Ok(fits(block, size.order())
            && self.blocks.is_sound(page..page + size.pages())
            && self.sink.fits(va, pfn, size)
            && (!unwritten || self.write()))
    }

    fn serve_sized(&self, size: PageSize) -> Result<Served, FaultError> {
        match self
            .mapping
            .pages
            .lock_entry(self.at.file_page, size.order())
        {
            Ok(guard) => self.serve_entry(guard),
            Err(LockError::Conflict(_)) => Ok(Served::TooLarge),
            Err(LockError::OutOfMemory) => Err(FaultError::OutOfMemory),
            Err(LockError::BadIndex { .. }) => Err(FaultError::PastEof),
        }
    }

    fn serve_entry(&self, mut guard: EntryGuard<'_>) -> Result<Served, FaultError> {
        let storage = guard.entry().pfn().is_some();
        let block = if storage {
            Block::Hole
        } else {
            self.blocks.lookup(guard.base())?
        };
        let mut action = decide(guard.entry(), block, self.write());
        if matches!(action, Action::Allocate | Action::Replace(_)) {
            self.hide_zeroes(&guard);
        }
        if action == Action::Allocate {
            action = decide(
                guard.entry(),
                self.blocks.allocate(guard.base())?,
                self.write(),
            );
        }
        match action {
            Action::Map => self.map(&guard)?,
            Action::MapZero => self.map_zero()?,
            Action::InsertZero => self.insert_zero(&mut guard)?,
            Action::Insert(pfn) | Action::Replace(pfn) => self.insert(&mut guard, pfn)?,
            Action::Allocate | Action::Smaller => return Ok(Served::TooLarge),
        }
        Ok(Served::Yes)
    }

    fn insert_zero(&self, guard: &mut EntryGuard<'_>) -> Result<(), FaultError> {
        self.map_zero()?;
        guard.store(Entry::Zero {
            order: guard.entry().order(),
        });
        Ok(())
    }

    fn map_zero(&self) -> Result<(), FaultError> {
        let zero = self.mapping.zero_page();
        self.sink
            .install_uncounted(self.at.va, zero, PageSize::Size4K)
            .map(|_installed| ())
    }

    /// Takes the zero page out of every address space, if the entry is one. Whoever wants it again waits for the entry's lock.
    fn hide_zeroes(&self, guard: &EntryGuard<'_>) {
        if let Entry::Zero { .. } = guard.entry() {
            let pages = guard.base()..guard.base() + guard.entry().pages();
            self.mapping.unmap_range(pages);
        }
    }

    /// Sets the owner, inserts the entry and maps it; takes both back if it cannot be mapped.
    fn insert(&self, guard: &mut EntryGuard<'_>, pfn: Pfn) -> Result<(), FaultError> {
        let order = guard.entry().order();
        let size = PageSize::from_order(order).ok_or(FaultError::Io)?;
        let owner = Owner {
            inode: self.mapping.owner(),
            index: guard.base(),
        };
        self.mapping
            .pgmap()
            .associate(pfn, size, owner)
            .map_err(refused)?;
        guard.store(Entry::Pfn { pfn, order });
        self.map(guard).inspect_err(|_| self.take_back(guard, pfn))
    }

    fn take_back(&self, guard: &mut EntryGuard<'_>, pfn: Pfn) {
        // Nobody has mapped it: the entry was locked all the time.
        if self.mapping.disown(pfn).is_ok() {
            guard.store(Entry::Empty {
                order: guard.entry().order(),
            });
        }
    }

    /// Maps the storage of the entry, with the largest page that the address space takes and in which no byte is bad.
    fn map(&self, guard: &EntryGuard<'_>) -> Result<(), FaultError> {
        let pfn = guard.entry().pfn().ok_or(FaultError::Io)?;
        let folio = self.mapping.pgmap().folio(pfn).ok_or(FaultError::Io)?;
        let sizes = PageSize::ALL.into_iter().rev();
        for size in sizes.filter(|s| s.order() <= guard.entry().order()) {
            if self.install(guard, &folio, size)? {
                if self.write() {
                    guard.mark(Mark::Dirty, true);
                }
                return Ok(());
            }
        }
        Err(FaultError::Io)
    }

    /// Installs the part of the folio around the fault that a page of `size` covers. False: not with this size.
    fn install(
        &self,
        guard: &EntryGuard<'_>,
        folio: &Folio<'_>,
        size: PageSize,
    ) -> Result<bool, FaultError> {
        let Some((page, va)) = self.base(size) else {
            return Ok(false);
        };
        let Some(pfn) = guard.entry().pfn_at(page) else {
            return Ok(false);
        };
        if !self.blocks.is_sound(page..page + size.pages()) {
            return Ok(false);
        }
        let pgmap = self.mapping.pgmap();
        let installed = self
            .sink
            .install_part(va, (pfn, size), folio, pgmap, self.write())?;
        if installed != Installed::Fallback {
            let kind = match size {
                PageSize::Size4K => Kind::Fault,
                _ => Kind::FaultLarge,
            };
            trace::note(kind, || self.told(pfn, size));
        }
        Ok(installed != Installed::Fallback)
    }
}

impl Fault<'_> {
    fn told(&self, pfn: Pfn, size: PageSize) -> What {
        let what = What::pages(pfn, size.pages()).at(self.at.va);
        what.file(self.mapping.owner(), self.at.file_page)
            .with(self.write().into())
    }
}

fn refused(why: AssociateError) -> FaultError {
    match why {
        AssociateError::Populate(PopulateError::OutOfMemory) => FaultError::OutOfMemory,
        AssociateError::Populate(_) | AssociateError::InUse { .. } => FaultError::Io,
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
