//! The translations of one address space: its page table, the lock of its writers, and the law of the zap.
//!
//! **The law.** An entry that counts holds one reference on its folio. It is taken away in three steps, in this
//! order: clear the entry; flush the TLB of every CPU; drop the reference. So a page's count reaches 0 only when no
//! CPU can reach the page any more. [`MmuGather`] carries cleared entries from the first step to the last
//! (`gather.rs`).
//!
//! **Locks.** `writers` (class PAGE_TABLE, a spin lock) covers every change of an entry, never a flush, never a
//! drop of a reference, never anything that sleeps. Between the clear and the drop another fault may install the
//! page anew: it takes a reference of its own, so each entry is paid for exactly once. Readers take no lock: they
//! walk with interrupts off, and tables are freed only after a flush, which waits for them.
//!
//! **Nobody returns early.** A zap must not return while any CPU can still reach the range, nor write protection
//! while any CPU can still store to it, also when it was another CPU that changed the entries and is still
//! flushing. `flushing` counts the batches between their first change and the end of their flush; whoever finds one
//! there when it is done flushes the range itself.

#![expect(unsafe_code, reason = "detaches and frees page tables")]

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64 as CoreU64, Ordering as CoreOrdering};

use arrayvec::ArrayVec;

use super::gather::{Displaced, Flushing, MmuGather, ROOM, Room, Span};
use super::object::{FaultError, SpaceId};
use super::range::{Access, VaRange};
use super::sink::Installed;
use crate::addr::{PageSize, Pfn, VirtAddr};
use crate::mem::OutOfMemory;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use crate::sync::{SpinLock, class, irq_off};
use crate::table::{
    self, Entry, Leaf, MapFlags, MapPageError, PageTable, PageTableMem, Probe, Stretch,
};
use crate::tlb::Tlb;
use crate::trace::{self, Kind, What};

/// Tables detached under one hold of the lock and flushed at once.
const BATCH: usize = 64;

/// Places looked at under one hold of the lock.
const SCAN: usize = 1024;

type Tables = PageTable<Arc<dyn PageTableMem>>;

/// See the head of this file.
pub struct Translations {
    id: SpaceId,
    table: Tables,
    owns_root: bool,
    window: VaRange,
    tlb: Arc<dyn Tlb>,
    writers: SpinLock<()>,
    /// How often entries were cleared or write-protected, under `writers`; see `Clearing`.
    clears: AtomicU64,
    flushing: AtomicU32,
    /// Lent to one gather at a time.
    room: Room,
}

/// What a virtual address maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// The frame of the 4 KiB page that holds the address.
    pub pfn: Pfn,
    /// The size of the page that maps it.
    pub size: PageSize,
    /// Whether stores are allowed.
    pub writable: bool,
    /// Whether the entry holds a reference on the page.
    pub counted: bool,
}

/// Counts a change that takes something away, when it is done: dropped under the page-table lock after the entries were changed. Walkers
/// that read the same number before and after their pins know that they were overlooked by nobody, without a look at each entry.
struct Clearing<'a>(&'a AtomicU64);

impl Drop for Clearing<'_> {
    fn drop(&mut self) {
        // Relaxed: only the holder of the lock writes. Release: pairs with the Acquire in `Translations::clears`; who reads this number sees
        // the entries as they are now.
        self.0
            .store(self.0.load(Ordering::Relaxed) + 1, Ordering::Release);
    }
}

/// What a try at installing an entry came to.
enum Placed<'a> {
    Done(Installed),
    /// Something else stood there and was cleared.
    Displaced(Displaced<'a>),
    /// An empty table stood there and was detached.
    Detached(Pfn),
}

impl Translations {
    /// Translations with a root of their own.
    pub(super) fn new(
        mem: Arc<dyn PageTableMem>,
        tlb: Arc<dyn Tlb>,
        window: VaRange,
    ) -> Result<Self, OutOfMemory> {
        let room = gather_room()?;
        Ok(Self::build(PageTable::new(mem)?, true, tlb, window, room))
    }

    /// Translations in a part of an existing table.
    ///
    /// # Safety
    ///
    /// As [`super::AddressSpace::with_root`].
    pub(super) unsafe fn with_root(
        mem: Arc<dyn PageTableMem>,
        tlb: Arc<dyn Tlb>,
        root: Pfn,
        window: VaRange,
    ) -> Result<Self, OutOfMemory> {
        let room = gather_room()?;
        // SAFETY: passed on to the caller.
        let table = unsafe { PageTable::from_root(mem, root) };
        Ok(Self::build(table, false, tlb, window, room))
    }

    fn build(
        table: Tables,
        owns_root: bool,
        tlb: Arc<dyn Tlb>,
        window: VaRange,
        room: Room,
    ) -> Self {
        let (writers, flushing) = (
            SpinLock::with_class(&class::PAGE_TABLE, ()),
            AtomicU32::new(0),
        );
        Self {
            id: next_id(),
            table,
            owns_root,
            window,
            tlb,
            writers,
            clears: AtomicU64::new(0),
            flushing,
            room,
        }
    }

    pub(super) fn id(&self) -> SpaceId {
        self.id
    }

    pub(super) fn root(&self) -> Pfn {
        self.table.root()
    }

    pub(super) fn window(&self) -> VaRange {
        self.window
    }

    /// The largest page that may be installed.
    pub(super) fn largest_page(&self) -> PageSize {
        self.table.mem().largest_page()
    }

    /// What `va` maps to at this moment.
    pub(super) fn translate(&self, va: VirtAddr) -> Option<Mapped> {
        self.with_leaf(va, |leaf| {
            let leaf = leaf?;
            let (writable, counted) = (leaf.entry.is_writable(), leaf.entry.is_counted());
            Some(Mapped {
                pfn: leaf.pfn_at(va),
                size: leaf.size,
                writable,
                counted,
            })
        })
    }

    /// Whether the page table permits this access already, so that its fault was spurious.
    pub(super) fn permits(&self, va: VirtAddr, access: Access) -> bool {
        self.translate(va)
            .is_some_and(|m| m.writable || access != Access::Write)
    }

    /// Runs `f` on the leaf that maps `va`, with interrupts off: the tables are not freed meanwhile.
    pub(crate) fn with_leaf<R>(&self, va: VirtAddr, f: impl FnOnce(Option<Leaf<'_>>) -> R) -> R {
        irq_off(|| f(self.table.walk(va)))
    }

    /// Whether the calling CPU runs on this root; with interrupts off. See [`Tlb::runs_on`].
    pub(super) fn runs_here(&self) -> bool {
        self.tlb.runs_on(self.table.root())
    }

    /// The number of changes that took something away and are done.
    pub(super) fn clears(&self) -> u64 {
        // Acquire: pairs with the Release in the drop of `Clearing`.
        self.clears.load(Ordering::Acquire)
    }

    /// The page table, for walks with interrupts off.
    pub(super) fn table(&self) -> &Tables {
        &self.table
    }

    /// Returns when every section with interrupts off that was under way, on a CPU that runs on this root, has ended.
    pub(super) fn expel_walkers(&self) {
        let at = self.window.start();
        let end = at + PageSize::Size4K.bytes();
        self.tlb.flush(self.table.root(), at, end);
    }

    /// Takes away every translation of the range: cleared, flushed on every CPU, references dropped, in this order.
    ///
    /// Large pages that reach into the range go whole. Takes only the page-table lock, in short holds; allocates
    /// nothing. Returns whether anything was flushed, that is, whether walkers were waited for.
    pub(super) fn zap(&self, range: VaRange) -> bool {
        let (mut at, end) = (range.start().as_u64(), range.end().as_u64());
        let mut flushed = false;
        while at < end {
            let mut gather = self.gather();
            while at < end && !gather.is_full() {
                at = self.clear_some(at, end, &mut gather);
            }
            flushed |= gather.finish();
        }
        flushed | self.flush_for_others(range, &Flushing::begin(&self.flushing), Span::default())
    }

    /// Clears entries from `at` on, under one hold of the lock, until the gather is full or enough places were seen. Says where to go on.
    fn clear_some(&self, mut at: u64, end: u64, gather: &mut MmuGather<'_>) -> u64 {
        let _writers = self.writers.lock();
        let _clearing = Clearing(&self.clears);
        let mut seen = 0;
        while at < end && seen < SCAN && !gather.is_full() {
            let stretch = self.table.stretch(VirtAddr::new(at));
            seen += stretch.places();
            at = match stretch {
                Stretch::Absent { span } => next_multiple(at, span),
                Stretch::Large(leaf) => gather.take_large(at, &leaf),
                Stretch::Small(slots) => gather.take_small(at, end, slots),
            };
        }
        at
    }

    /// Flushes `changed`, and the range too if somebody else may have cleared entries there and is still flushing.
    /// Returns whether anything was flushed.
    fn flush_for_others(&self, range: VaRange, own: &Flushing<'_>, mut changed: Span) -> bool {
        if own.has_company() {
            changed.add(range.start(), range.end());
        }
        self.flush(changed)
    }

    /// Takes the permission to store away, and returns when no CPU has it any more.
    ///
    /// Large pages that reach into the range lose it whole. Locks as [`Translations::zap`].
    pub(super) fn write_protect(&self, range: VaRange) {
        let flushing = Flushing::begin(&self.flushing);
        let mut changed = Span::default();
        let (mut at, end) = (range.start().as_u64(), range.end().as_u64());
        while at < end {
            at = self.protect_some(at, end, &mut changed);
        }
        // SeqCst: pairs with the fence in gup; who cleans the pages then reads their pins, or gup reads the entries as they are now.
        fence(Ordering::SeqCst);
        self.flush_for_others(range, &flushing, changed);
    }

    /// Write-protects entries from `at` on, under one hold of the lock. Says where to go on.
    fn protect_some(&self, mut at: u64, end: u64, changed: &mut Span) -> u64 {
        let _writers = self.writers.lock();
        let _clearing = Clearing(&self.clears);
        let mut seen = 0;
        while at < end && seen < SCAN {
            let step = match self.table.probe(VirtAddr::new(at)) {
                Probe::Absent { span } => span,
                Probe::Leaf(leaf) => {
                    let start = VirtAddr::new(at & !(leaf.size.bytes() - 1));
                    if protect(&leaf) {
                        changed.add(start, start + leaf.size.bytes());
                    }
                    leaf.size.bytes()
                }
            };
            at = next_multiple(at, step);
            seen += 1;
        }
        at
    }

    /// Flushes the span, if there is one; whether there was.
    pub(super) fn flush(&self, span: Span) -> bool {
        if let Some((start, end)) = span.get() {
            trace::note(Kind::FlushBegin, || What::value(end - start).at(start));
            self.tlb.flush(self.table.root(), start, end);
            trace::note(Kind::FlushEnd, || What::value(end - start).at(start));
        }
        span.get().is_some()
    }

    /// An empty gather, to be filled under the page-table lock.
    fn gather(&self) -> MmuGather<'_> {
        MmuGather::new(self, Flushing::begin(&self.flushing), &self.room)
    }

    /// Installs a page whose reference the caller holds. Unless the answer is `New`, the reference stays the
    /// caller's.
    ///
    /// Whatever else stands there is cleared, flushed and dropped first.
    pub(super) fn install(
        &self,
        va: VirtAddr,
        pfn: Pfn,
        size: PageSize,
        flags: MapFlags,
    ) -> Result<Installed, FaultError> {
        let new = Entry::leaf(pfn.phys(), size, flags);
        loop {
            match self.place(va, size, new)? {
                Placed::Done(installed) => return Ok(installed),
                Placed::Displaced(entry) => entry.finish(self, &self.room),
                Placed::Detached(table) => self.free_detached(va, &[table]),
            }
        }
    }

    fn place(&self, va: VirtAddr, size: PageSize, new: Entry) -> Result<Placed<'_>, FaultError> {
        let _writers = self.writers.lock();
        match self.table.probe(va) {
            Probe::Leaf(leaf) => Ok(self.place_over(va, leaf, size, new)),
            Probe::Absent { .. } => self.place_absent(va, size, new),
        }
    }

    /// A leaf stands at `va`: the same page (keep it, with the greater permission) or another one (clear it).
    fn place_over(&self, va: VirtAddr, leaf: Leaf<'_>, size: PageSize, new: Entry) -> Placed<'_> {
        if leaf.size.order() < size.order() {
            return Placed::Done(Installed::Fallback);
        }
        let same_page =
            leaf.entry.is_counted() == new.is_counted() && leaf.pfn_at(va) == new.pfn(size);
        if same_page && (leaf.entry.is_writable() || !new.is_writable()) {
            return Placed::Done(Installed::Present);
        }
        if same_page && leaf.size == size && table::exchange(leaf.slot, leaf.entry, new) {
            return Placed::Done(Installed::Present);
        }
        let flushing = Flushing::begin(&self.flushing);
        let _clearing = Clearing(&self.clears);
        Placed::Displaced(Displaced::take(va, &leaf, flushing))
    }

    /// Nothing is mapped at `va` itself; a table may still stand where a large page should go.
    fn place_absent(
        &self,
        va: VirtAddr,
        size: PageSize,
        new: Entry,
    ) -> Result<Placed<'_>, FaultError> {
        let slot = self
            .table
            .make_slot(va, size, new.flags())
            .map_err(table_error)?;
        if table::fill(slot, new).is_ok() {
            return Ok(Placed::Done(Installed::New));
        }
        let Some(below) = (size.order() / 9).checked_sub(1) else {
            return Ok(Placed::Done(Installed::Fallback));
        };
        // SAFETY: the page-table lock is held, so nobody adds entries; the caller frees the table after a flush.
        let detached = unsafe { self.table.detach_empty(va, below) }.ok().flatten();
        Ok(detached.map_or(Placed::Done(Installed::Fallback), Placed::Detached))
    }

    /// Installs memory without a reference count, if nothing is mapped at `va`.
    pub(super) fn install_uncounted(
        &self,
        va: VirtAddr,
        pfn: Pfn,
        size: PageSize,
        flags: MapFlags,
    ) -> Result<Installed, FaultError> {
        let new = Entry::leaf(pfn.phys(), size, flags | MapFlags::UNCOUNTED);
        let _writers = self.writers.lock();
        if let Probe::Leaf(_) = self.table.probe(va) {
            return Ok(Installed::Present);
        }
        let slot = self.table.make_slot(va, size, flags).map_err(table_error)?;
        Ok(table::fill(slot, new).map_or(Installed::Fallback, |()| Installed::New))
    }

    /// Frees the tables of the range that are empty and belong to this address space alone.
    ///
    /// Flushes before it frees. Locks as [`Translations::zap`].
    pub(super) fn free_tables(&self, range: VaRange) {
        for level in 0..table::LEVELS - 1 {
            let (mut at, end) = (range.start().as_u64(), range.end().as_u64());
            while at < end {
                let mut tables = ArrayVec::new();
                let from = VirtAddr::new(at);
                at = self.detach_some(at, end, level, &mut tables);
                self.free_detached_range(from, at.min(end), &tables);
            }
        }
    }

    fn detach_some(
        &self,
        mut at: u64,
        end: u64,
        level: u8,
        tables: &mut ArrayVec<Pfn, BATCH>,
    ) -> u64 {
        let _writers = self.writers.lock();
        let reach = table::span(level + 1);
        let mut seen = 0;
        while at < end && !tables.is_full() && seen < SCAN {
            let mut step = reach;
            if self.owns(at & !(reach - 1), reach) {
                // SAFETY: the page-table lock is held; `free_detached_range` flushes before it frees.
                match unsafe { self.table.detach_empty(VirtAddr::new(at), level) } {
                    Ok(table) => tables.extend(table),
                    Err(span) => step = span,
                }
            }
            at = next_multiple(at, step);
            seen += 1;
        }
        at
    }

    /// Whether the table that covers `reach` bytes from `start` maps addresses of this address space only.
    fn owns(&self, start: u64, reach: u64) -> bool {
        let (first, end) = (self.window.start().as_u64(), self.window.end().as_u64());
        self.owns_root || (first <= start && start.checked_add(reach).is_some_and(|e| e <= end))
    }

    fn free_detached(&self, va: VirtAddr, tables: &[Pfn]) {
        self.free_detached_range(va, va.as_u64() + PageSize::Size4K.bytes(), tables);
    }

    fn free_detached_range(&self, from: VirtAddr, end: u64, tables: &[Pfn]) {
        if tables.is_empty() {
            return;
        }
        self.tlb.flush(self.table.root(), from, VirtAddr::new(end));
        self.tlb.quiesce();
        for &table in tables {
            // SAFETY: detached under the lock, so no entry points to it; the flush has dropped every cached pointer
            // to it, and `quiesce` has waited for the walkers that were under way.
            unsafe { self.table.mem().free_table(table) };
        }
    }
}

impl Drop for Translations {
    fn drop(&mut self) {
        // Every mapping is gone. In a shared root there is nothing left to do; and another address space may use
        // the window by now, while a late attachment kept this value.
        if self.owns_root {
            self.free_tables(self.window);
            // SAFETY: the last owner is here, so no walker is; whoever ran on this root has left it, says
            // `AddressSpace::root`.
            unsafe { self.table.mem().free_table(self.table.root()) };
        }
    }
}

/// Takes the permission to store from one entry; whether it had it.
fn protect(leaf: &Leaf<'_>) -> bool {
    let flags = leaf.entry.flags();
    let new = Entry::leaf(
        leaf.entry.pfn(leaf.size).phys(),
        leaf.size,
        flags - MapFlags::WRITABLE,
    );
    leaf.entry.is_writable() && table::exchange(leaf.slot, leaf.entry, new)
}

fn table_error(error: MapPageError) -> FaultError {
    match error {
        MapPageError::OutOfMemory { .. } => FaultError::OutOfMemory,
        // The caller holds the page-table lock and has seen that nothing is mapped at the address.
        MapPageError::AlreadyMapped { .. } | MapPageError::NotAligned { .. } => {
            unreachable!("a large page where the walk found none")
        }
    }
}

fn gather_room() -> Result<Room, OutOfMemory> {
    let mut room = Vec::new();
    room.try_reserve_exact(ROOM).map_err(|_| OutOfMemory)?;
    Ok(SpinLock::new(room))
}

fn next_multiple(at: u64, span: u64) -> u64 {
    (at | (span - 1)).saturating_add(1)
}

fn next_id() -> SpaceId {
    static NEXT: CoreU64 = CoreU64::new(1);
    // Relaxed: only uniqueness matters.
    SpaceId(NEXT.fetch_add(1, CoreOrdering::Relaxed))
}
