//! Pinning the pages behind a range of virtual addresses, for DMA and the like.
//!
//! **What a pin is.** [`PinnedPages`] holds, for every page of the range, one count in the *pinned* half of its
//! folio, and for every object behind the range one `Arc`. It belongs to nobody: the mapping may be removed, the
//! file closed and unlinked, the thread may end; the pages stay theirs until the value is dropped.
//!
//! **How it is taken.** Under the address space's lock held shared, so that the pages in the table belong to the
//! mapping that was found: with interrupts off, read the entry; pin its folio (fails at count 0); read the entry
//! again; if it changed, undo and start over. Between the two stands a sequentially consistent fence, which pairs
//! with the one in the zap: either the zap's caller sees the pin when it reads the counts, or the second reading
//! sees the cleared entry. An entry that is absent, or does not permit the store, is faulted in with the lock
//! released (a fault takes it), and the walk goes on.
//!
//! **Progress.** There is no bound on the number of tries. Each repetition means that somebody else made progress
//! in between: a zap took the entry away, or another CPU changed it. Delays for a range that is being broken are
//! the business of the object's fault, which every such repetition passes through.
//!
//! **Holes.** The shared zero page has no count and is never pinned. Where it is mapped, the range is faulted in as
//! if for a store if the mapping allows stores, so that the holder sees later writes to the file; else the answer
//! is [`GupError::Hole`].
//!
//! **Order of the end.** A drop unpins first and lets the objects go after. The last unpin may report the page idle
//! to the file system, which then looks for the inode that owns the page: it must still be alive. The other way
//! round, the last `Arc` could end an inode whose pages are still pinned, and eviction would have to wait for them.
//!
//! **Long-term pins.** A pin of a file's own storage that may last for ever needs a [`Lease`], which is entered in the object's
//! registry before its first page is pinned ([`crate::lease`]).
//!
//! **Durability.** A pin for writing marks its pages dirty when it is taken. A holder that stores after the file
//! was synced makes its own stores durable.

#[cfg(all(test, not(loom)))]
mod tests;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use thiserror::Error;

use crate::addr::{PAGE_SIZE, PageSize, Pfn, PhysAddr, VirtAddr};
use crate::aspace::{Access, AddressSpace, FaultError, Prot, VaRange, VmObject, Vma};
use crate::lease::{Lease, LeaseState};
use crate::mem::{OutOfMemory, check_headroom};
use crate::pgmap::{PAGE_WAITERS, Pgmap, PinError, find_pgmap};
use crate::sync::atomic::{Ordering, fence};
use crate::table::Leaf;

/// Why a range was not pinned. Whatever had been pinned of it is unpinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GupError {
    /// No pages were asked for, or the start is not page-aligned, or the range leaves its half of the address
    /// space.
    #[error("not a range of pages")]
    BadRange,
    /// A page could not be made accessible.
    #[error("{at:#x}: {why}")]
    Fault {
        /// The page.
        at: VirtAddr,
        /// Why not.
        why: FaultError,
    },
    /// A hole of a file in a mapping that allows no stores: there is no page to pin.
    #[error("a hole at {at:#x}, and the mapping allows no stores")]
    Hole {
        /// The page.
        at: VirtAddr,
    },
    /// The page is mapped but has no reference count (device registers, kernel memory).
    #[error("the memory at {at:#x} has no reference count")]
    Uncounted {
        /// The page.
        at: VirtAddr,
    },
    /// The folio can take no more pins.
    #[error("too many pins on the page at {at:#x}")]
    TooManyPins {
        /// The page.
        at: VirtAddr,
    },
    /// A long-term pin of a file's own storage without a lease.
    #[error(
        "the page at {at:#x} is storage of a file, which could never be taken back: a long-term pin of it needs a lease with a \
         revoke callback; pin it for one transfer at a time, or give a lease"
    )]
    NeedsLease {
        /// The page.
        at: VirtAddr,
    },
    /// No memory for the list of pages.
    #[error("out of memory")]
    OutOfMemory,
}

impl From<OutOfMemory> for GupError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Consecutive frames, pinned; their folios all have the same size.
struct Run {
    pgmap: Arc<Pgmap>,
    first: Pfn,
    pages: u64,
    folio: PageSize,
}

impl Run {
    /// The frame after the last.
    fn end(&self) -> u64 {
        self.first.get() + self.pages
    }

    /// Drops the pins, one atomic operation for each folio.
    fn unpin(&self) {
        let mut at = self.first.get();
        while at < self.end() {
            let next = (at - at % self.folio.pages() + self.folio.pages()).min(self.end());
            unpin(
                &self.pgmap,
                Pfn::new(at).expect("inside the run"),
                next - at,
            );
            at = next;
        }
    }
}

/// Pages that are pinned until this value is dropped. See the head of this file.
#[must_use = "the pages are unpinned when this is dropped"]
pub struct PinnedPages {
    runs: Vec<Run>,
    // Below the runs: `drop` has unpinned them before any field is dropped.
    leased: Vec<Leased>,
    objects: Vec<Arc<dyn VmObject>>,
}

impl PinnedPages {
    const fn empty() -> Self {
        Self {
            runs: Vec::new(),
            leased: Vec::new(),
            objects: Vec::new(),
        }
    }

    /// The number of 4 KiB pages.
    pub fn pages(&self) -> u64 {
        self.runs.iter().map(|r| r.pages).sum()
    }

    /// The frames, in the order of the addresses.
    pub fn pfns(&self) -> impl Iterator<Item = Pfn> {
        self.runs
            .iter()
            .flat_map(|r| (r.first.get()..r.end()).filter_map(Pfn::new))
    }

    /// The physical memory in the order of the addresses: (address, bytes) of each contiguous part.
    pub fn segments(&self) -> impl Iterator<Item = (PhysAddr, u64)> {
        self.runs
            .iter()
            .map(|r| (r.first.phys(), r.pages * PAGE_SIZE))
    }

    /// Keeps the object alive as long as the pins.
    fn keep(&mut self, object: &Arc<dyn VmObject>) -> Result<(), OutOfMemory> {
        if !self.objects.last().is_some_and(|o| Arc::ptr_eq(o, object)) {
            self.objects.try_reserve(1).map_err(|_| OutOfMemory)?;
            self.objects.push(object.clone());
        }
        Ok(())
    }

    /// The leases of a long-term pin, one for each range of pages of each object, as they stand.
    pub fn leases(&self) -> impl Iterator<Item = LeaseState> {
        self.leased.iter().filter_map(Leased::state)
    }

    /// Enters a lease for the pages of a file from `at` on, unless it has been. Before their first page is pinned.
    fn enter(&mut self, term: &Term, at: VirtAddr, want: &Want<'_>) -> Result<(), GupError> {
        let (Term::Long(lease), Some(registry)) = (term, want.object.leases()) else {
            return Ok(());
        };
        let lease = lease.as_ref().ok_or(GupError::NeedsLease { at })?;
        let pages = want.file_page..want.file_page + (want.end - at) / PAGE_SIZE;
        if self.leased.last().is_some_and(|l| l.covers(want, &pages)) {
            return Ok(());
        }
        self.leased.try_reserve(1).map_err(|_| OutOfMemory)?;
        let (id, object) = (registry.grant(lease, pages.clone())?, want.object.clone());
        self.leased.push(Leased { object, id, pages });
        Ok(())
    }

    /// Wakes who waits for one of the pages: they are held by a lease now, which can be revoked.
    fn tell_waiters(&self) {
        for run in &self.runs {
            let heads = run.first.get() / run.folio.pages()..run.end().div_ceil(run.folio.pages());
            heads.for_each(|n| PAGE_WAITERS.wake_all(n * run.folio.pages()));
        }
    }

    /// The pgmap of a frame; mostly that of the last run.
    fn pgmap_of(&self, pfn: Pfn) -> Option<Arc<Pgmap>> {
        let last = self
            .runs
            .last()
            .map(|r| &r.pgmap)
            .filter(|p| p.range().contains(pfn));
        last.cloned().or_else(|| find_pgmap(pfn))
    }

    /// Adds a run, joined to the last one if it continues it. Room was reserved.
    fn push(&mut self, run: Run) {
        match self.runs.last_mut() {
            Some(last) if last.continued_by(&run) => last.pages += run.pages,
            _ => self.runs.push(run),
        }
    }
}

/// A lease entered for pages of one object; taken off the list on drop.
struct Leased {
    object: Arc<dyn VmObject>,
    id: u64,
    pages: Range<u64>,
}

impl Leased {
    fn covers(&self, want: &Want<'_>, pages: &Range<u64>) -> bool {
        Arc::ptr_eq(&self.object, want.object)
            && self.pages.start <= pages.start
            && pages.end <= self.pages.end
    }

    fn state(&self) -> Option<LeaseState> {
        self.object.leases()?.state(self.id)
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Some(leases) = self.object.leases() {
            leases.end(self.id);
        }
    }
}

/// For how long pages are pinned.
enum Term {
    /// For one transfer.
    Short,
    /// For as long as the holder likes, or until its lease is revoked.
    Long(Option<Arc<dyn Lease>>),
}

impl Run {
    fn continued_by(&self, next: &Self) -> bool {
        self.end() == next.first.get()
            && self.folio == next.folio
            && Arc::ptr_eq(&self.pgmap, &next.pgmap)
    }
}

impl Drop for PinnedPages {
    fn drop(&mut self) {
        self.runs.iter().for_each(Run::unpin);
    }
}

impl core::fmt::Debug for PinnedPages {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.segments()).finish()
    }
}

/// Pins the `pages` pages from `start` on, faulting them in where needed, for stores too if `write`.
///
/// Takes the address space's lock shared, again and again; the caller holds no lock of class ASPACE or later, nor
/// any that the objects' faults take. May sleep. The range may cover several mappings.
///
/// # Errors
///
/// As [`GupError`] says; nothing stays pinned then.
pub fn pin_user_pages(
    space: &AddressSpace,
    start: VirtAddr,
    pages: usize,
    write: bool,
) -> Result<PinnedPages, GupError> {
    pin(space, start, pages, write, &Term::Short)
}

/// Pins pages as [`pin_user_pages`] does, for as long as the holder likes.
///
/// Where the pages are storage of a file, `lease` must say how to get them back ([`crate::lease`]): it is entered before the first of them
/// is pinned, and leaves the list when the returned value is dropped.
///
/// # Errors
///
/// [`GupError::NeedsLease`] for such pages without a lease; else as [`GupError`] says. Nothing stays pinned then.
pub fn pin_user_pages_longterm(
    space: &AddressSpace,
    start: VirtAddr,
    pages: usize,
    write: bool,
    lease: Option<Arc<dyn Lease>>,
) -> Result<PinnedPages, GupError> {
    let pinned = pin(space, start, pages, write, &Term::Long(lease))?;
    pinned.tell_waiters();
    Ok(pinned)
}

fn pin(
    space: &AddressSpace,
    start: VirtAddr,
    pages: usize,
    write: bool,
    term: &Term,
) -> Result<PinnedPages, GupError> {
    check_headroom()?;
    let range = VaRange::new(start, pages as u64).ok_or(GupError::BadRange)?;
    let mut pinned = PinnedPages::empty();
    let mut at = range.start();
    while at < range.end() {
        let access;
        (at, access) = pin_present(space, at, range.end(), write, term, &mut pinned)?;
        if let Some(access) = access {
            space
                .handle_fault(at, access)
                .map_err(|why| GupError::Fault { at, why })?;
        }
    }
    Ok(pinned)
}

/// Pins what is present from `at` on, as far as one mapping reaches. Says how far it came, and what fault the page
/// there needs, if that is why it stopped.
fn pin_present(
    space: &AddressSpace,
    mut at: VirtAddr,
    end: VirtAddr,
    write: bool,
    term: &Term,
    pinned: &mut PinnedPages,
) -> Result<(VirtAddr, Option<Access>), GupError> {
    space.with_vma(at, |vma, translations| {
        let want = Want::new(vma, at, end, write)?;
        pinned.keep(want.object)?;
        pinned.enter(term, at, &want)?;
        while at < want.end {
            pinned.runs.try_reserve(1).map_err(|_| OutOfMemory)?;
            match translations.with_leaf(at, |leaf| pin_leaf(leaf, at, &want, pinned))? {
                Pin::Taken(pages) => at += pages * PAGE_SIZE,
                Pin::Changed => core::hint::spin_loop(),
                Pin::Fault(access) => return Ok((at, Some(access))),
            }
        }
        Ok((at, None))
    })
}

/// What is wanted of one mapping.
struct Want<'a> {
    object: &'a Arc<dyn VmObject>,
    /// The page of the object at the address where this begins.
    file_page: u64,
    end: VirtAddr,
    write: bool,
    may_write: bool,
}

impl<'a> Want<'a> {
    fn new(
        vma: Option<&'a Vma>,
        at: VirtAddr,
        end: VirtAddr,
        write: bool,
    ) -> Result<Self, GupError> {
        let vma = vma.ok_or(GupError::Fault {
            at,
            why: FaultError::NoMapping,
        })?;
        let may_write = vma.prot.contains(Prot::WRITE);
        if write && !may_write {
            return Err(GupError::Fault {
                at,
                why: FaultError::Permission,
            });
        }
        Ok(Self {
            object: &vma.object,
            file_page: vma.file_page + (at - vma.range.start()) / PAGE_SIZE,
            end: end.min(vma.range.end()),
            write,
            may_write,
        })
    }
}

/// What one look at an entry came to.
enum Pin {
    Taken(u64),
    /// The entry changed under our eyes; look again.
    Changed,
    Fault(Access),
}

/// Looks at the entry for `at` and pins what it maps, as far as wanted. Interrupts are off.
fn pin_leaf(
    leaf: Option<Leaf<'_>>,
    at: VirtAddr,
    want: &Want<'_>,
    pinned: &mut PinnedPages,
) -> Result<Pin, GupError> {
    let Some(leaf) = leaf else {
        return Ok(Pin::Fault(if want.write {
            Access::Write
        } else {
            Access::Read
        }));
    };
    if !leaf.entry.is_counted() {
        return uncounted(&leaf, at, want);
    }
    if want.write && !leaf.entry.is_writable() {
        return Ok(Pin::Fault(Access::Write));
    }
    let leaf_end = at.align_down(leaf.size.bytes()) + leaf.size.bytes();
    take(&leaf, at, (leaf_end.min(want.end) - at) / PAGE_SIZE, pinned)
}

/// A page without a count: the zero page over a hole, or memory that can never be pinned.
fn uncounted(leaf: &Leaf<'_>, at: VirtAddr, want: &Want<'_>) -> Result<Pin, GupError> {
    match (leaf.entry.is_writable(), want.may_write) {
        (true, _) => Err(GupError::Uncounted { at }),
        (false, true) => Ok(Pin::Fault(Access::Write)),
        (false, false) => Err(GupError::Hole { at }),
    }
}

/// Pins `pages` pages of the leaf from `at` on with one atomic operation, and keeps the pins if the entry is
/// unchanged.
fn take(
    leaf: &Leaf<'_>,
    at: VirtAddr,
    pages: u64,
    pinned: &mut PinnedPages,
) -> Result<Pin, GupError> {
    let first = leaf.pfn_at(at);
    // A page without a pgmap or without metadata is idle: the entry is on its way out.
    let Some(pgmap) = pinned.pgmap_of(first) else {
        return Ok(Pin::Changed);
    };
    let Some(folio) = pgmap.folio(first) else {
        return Ok(Pin::Changed);
    };
    let size = folio.size();
    between::reading_and_pinning();
    match pgmap.try_pin(&folio, count(pages)) {
        Ok(()) => {}
        Err(PinError::Idle) => return Ok(Pin::Changed),
        Err(PinError::Overflow) => return Err(GupError::TooManyPins { at }),
        Err(PinError::Dying) => {
            return Err(GupError::Fault {
                at,
                why: FaultError::Dying,
            });
        }
    }
    // SeqCst: pairs with the fence after the clear in `Translations::zap`; either its caller sees the pin, or we
    // see the clear.
    fence(Ordering::SeqCst);
    if !leaf.unchanged() {
        pgmap.unpin(&folio, count(pages));
        return Ok(Pin::Changed);
    }
    pinned.push(Run {
        pgmap,
        first,
        pages,
        folio: size,
    });
    Ok(Pin::Taken(pages))
}

/// Where a test lets something happen between two steps; nothing otherwise.
mod between {
    #[cfg(all(test, not(loom)))]
    std::thread_local! {
        /// Done once, on this thread, between the first reading of an entry and the pin of its folio.
        pub(super) static ONCE: core::cell::RefCell<Option<alloc::boxed::Box<dyn FnOnce()>>> =
            const { core::cell::RefCell::new(None) };
    }

    pub(super) fn reading_and_pinning() {
        #[cfg(all(test, not(loom)))]
        if let Some(action) = ONCE.with_borrow_mut(Option::take) {
            action();
        }
    }
}

/// Drops `pages` pins of the folio that holds `pfn`.
fn unpin(pgmap: &Pgmap, pfn: Pfn, pages: u64) {
    let folio = pgmap.folio(pfn).expect("a pinned page keeps its metadata");
    pgmap.unpin(&folio, count(pages));
}

/// A number of pages of one folio; the largest folio has 2^18.
fn count(pages: u64) -> u32 {
    u32::try_from(pages).expect("no more pages than a folio has")
}
