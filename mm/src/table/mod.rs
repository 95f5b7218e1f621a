//! The 4-level x86_64 page table, over any memory that can hold tables.
//!
//! **Invariant.** An absent entry is 0, at every level. A present entry is a leaf or points to a table that came
//! from the same [`PageTableMem`] and stays allocated while the pointer stands.
//!
//! **Protocol.** Every entry is one atomic word. [`PageTable::map`] sets an entry only if it was absent (one
//! compare-and-swap), and installs missing tables in the same way, so any number of CPUs may map, protect, unmap
//! and walk at once through `&self`. What `&self` never does is free a table. Taking an empty table away is the one
//! step that needs more: writers must be kept out while it is detached (the address space holds its page-table
//! lock), and walkers must be gone before it is freed (they run with interrupts off, and `Tlb::flush` waits for
//! them). `PageTable::detach_empty` says so in its safety section.
//!
//! **What it does not do.** It flushes no TLB: whoever takes a permission away calls [`Tlb`](crate::tlb::Tlb) after
//! it. Giving more permission needs no flush; a CPU that still holds the old translation takes one spurious fault.

#![expect(
    unsafe_code,
    reason = "page-table memory is reached through pointers that PageTableMem hands out"
)]

mod entry;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

use core::ptr::NonNull;

pub use entry::{ENTRIES, Entry, LEVELS, MapFlags};
use thiserror::Error;

use crate::addr::{PageSize, Pfn, PhysAddr, VirtAddr};
use crate::mem::OutOfMemory;
use crate::sync::atomic::{AtomicU64, Ordering};

/// The memory that page tables are made of.
///
/// # Safety
///
/// `alloc_table` returns a frame that nobody else uses, whose 512 entries are 0, until `free_table` gives it back.
/// `table` returns, for each such frame and for the root, a pointer that is valid and stays the same as long as the
/// frame is a table.
pub unsafe trait PageTableMem: Send + Sync {
    /// A zeroed table, or None if memory is out. Does not sleep; called under spin locks.
    fn alloc_table(&self) -> Option<Pfn>;

    /// A root table, or None if memory is out: as `alloc_table`, but entries of addresses that all roots share may be set.
    fn new_root(&self) -> Option<Pfn> {
        self.alloc_table()
    }

    /// Gives a table back.
    ///
    /// # Safety
    ///
    /// The frame came from `alloc_table` or `new_root` of the same memory, no entry points to it any more, and no CPU or walker
    /// can still be reading it.
    unsafe fn free_table(&self, table: Pfn);

    /// The entries of the table in this frame.
    fn table(&self, table: Pfn) -> NonNull<[AtomicU64; ENTRIES]>;

    /// The largest page that this CPU can map (1 GiB pages are optional on x86_64). 2 MiB unless overridden.
    fn largest_page(&self) -> PageSize {
        PageSize::Size2M
    }
}

macro_rules! forward_page_table_mem {
    ($($holder:ty),*) => {$(
        // SAFETY: every call goes to an implementation that keeps the promise itself.
        unsafe impl<M: PageTableMem + ?Sized> PageTableMem for $holder {
            fn alloc_table(&self) -> Option<Pfn> {
                (**self).alloc_table()
            }
            fn new_root(&self) -> Option<Pfn> {
                (**self).new_root()
            }
            unsafe fn free_table(&self, table: Pfn) {
                // SAFETY: the caller's promise is passed on unchanged.
                unsafe { (**self).free_table(table) }
            }
            fn table(&self, table: Pfn) -> NonNull<[AtomicU64; ENTRIES]> {
                (**self).table(table)
            }
            fn largest_page(&self) -> PageSize {
                (**self).largest_page()
            }
        }
    )*};
}
forward_page_table_mem!(&M, alloc::sync::Arc<M>);

/// Why a page was not mapped. The pages of the same call that lie before `at` stay mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MapPageError {
    /// No memory for a page table.
    #[error("no memory for a page table at {at:?}")]
    OutOfMemory {
        /// The first address that is not mapped.
        at: VirtAddr,
    },
    /// Something is mapped there, or a table stands where a large page should go.
    #[error("something is mapped at {at:?} already")]
    AlreadyMapped {
        /// The first address that is not mapped.
        at: VirtAddr,
    },
    /// An address or the length is not aligned to the page size, or the range wraps or leaves its half of the
    /// address space.
    #[error("not aligned, or not in one half of the address space, at {at:?}")]
    NotAligned {
        /// The address at fault.
        at: VirtAddr,
    },
}

/// A leaf found by a walk: the entry as it was read, and where to read it again.
#[derive(Clone, Copy, Debug)]
pub struct Leaf<'a> {
    /// The entry as the walk saw it.
    pub entry: Entry,
    /// How much it maps.
    pub size: PageSize,
    /// The entry itself.
    pub slot: &'a AtomicU64,
}

impl Leaf<'_> {
    /// The frame that maps `va`, which must be an address that this leaf maps.
    pub fn pfn_at(&self, va: VirtAddr) -> Pfn {
        let offset = va.as_u64() & (self.size.bytes() - 1);
        let phys = self.entry.pfn(self.size).phys().as_u64() | offset;
        // An entry holds at most 52 bits of address: nothing is cut off.
        Pfn::from_phys(PhysAddr::new_truncate(phys))
    }

    /// Whether the entry still is what the walk saw.
    pub fn unchanged(&self) -> bool {
        // Acquire: pairs with the Release half of every store to an entry in this module.
        self.slot.load(Ordering::Acquire) == self.entry.bits()
    }
}

/// What stands at an address: a leaf, or nothing as far as the next multiple of `span` bytes.
pub(crate) enum Probe<'a> {
    Leaf(Leaf<'a>),
    Absent { span: u64 },
}

/// What stands from an address on, as far as one table reaches.
pub(crate) enum Stretch<'a> {
    /// Nothing as far as the next multiple of `span` bytes.
    Absent { span: u64 },
    /// A large leaf that maps the address.
    Large(Leaf<'a>),
    /// The entries of 4 KiB pages from the address to the end of their table; never none.
    Small(&'a [AtomicU64]),
}

impl Stretch<'_> {
    /// How many entries there are to look at, at most.
    pub(crate) const fn places(&self) -> usize {
        match self {
            Self::Absent { .. } | Self::Large(_) => 1,
            Self::Small(slots) => slots.len(),
        }
    }
}

/// A 4-level page table whose tables live in `M`.
///
/// Dropping it frees nothing: the owner of the root knows whether the machine still runs on it.
#[derive(Debug)]
pub struct PageTable<M> {
    mem: M,
    root: Pfn,
}

impl<M: PageTableMem> PageTable<M> {
    /// An empty table with a root of its own.
    ///
    /// # Errors
    ///
    /// `OutOfMemory` if there is no memory for the root.
    pub fn new(mem: M) -> Result<Self, OutOfMemory> {
        let root = mem.new_root().ok_or(OutOfMemory)?;
        Ok(Self { mem, root })
    }

    /// The table with an existing root.
    ///
    /// # Safety
    ///
    /// `root`, and every table reachable from it that this value will walk, belongs to `mem` as [`PageTableMem`]
    /// describes. If the machine runs on this root, the caller answers for what it maps and unmaps: no Rust object
    /// may lose its memory by it.
    pub unsafe fn from_root(mem: M, root: Pfn) -> Self {
        Self { mem, root }
    }

    /// The frame of the root table, for CR3 and for TLB flushes.
    pub fn root(&self) -> Pfn {
        self.root
    }

    /// The memory that the tables live in.
    pub fn mem(&self) -> &M {
        &self.mem
    }

    /// The leaf that maps `va`, if there is one. Lock-free; allocates nothing.
    ///
    /// The answer is a snapshot: hold off the writers, or read the entry again ([`Leaf::unchanged`]), before
    /// trusting it.
    pub fn walk(&self, va: VirtAddr) -> Option<Leaf<'_>> {
        match self.probe(va) {
            Probe::Leaf(leaf) => Some(leaf),
            Probe::Absent { .. } => None,
        }
    }

    /// As [`PageTable::walk`], and says how far an absence reaches.
    pub(crate) fn probe(&self, va: VirtAddr) -> Probe<'_> {
        let mut table = self.root;
        for level in (0..LEVELS).rev() {
            let slot = self.slot(table, va, level);
            // Acquire: pairs with the Release of `fill` and `subtable`; the table below, or whatever was prepared
            // for the page before it was mapped, is seen whole.
            let entry = Entry::from_bits(slot.load(Ordering::Acquire));
            if let Some(size) = entry.leaf_size(level) {
                return Probe::Leaf(Leaf { entry, size, slot });
            }
            if !entry.is_present() {
                return Probe::Absent { span: span(level) };
            }
            table = entry.pfn(PageSize::Size4K);
        }
        unreachable!("a present entry at level 0 is a leaf")
    }

    /// What stands from `va` on: one walk for all entries of a table. Lock-free; allocates nothing.
    pub(crate) fn stretch(&self, va: VirtAddr) -> Stretch<'_> {
        let mut table = self.root;
        for level in (1..LEVELS).rev() {
            let slot = self.slot(table, va, level);
            // Acquire: as in `probe`.
            let entry = Entry::from_bits(slot.load(Ordering::Acquire));
            if let Some(size) = entry.leaf_size(level) {
                return Stretch::Large(Leaf { entry, size, slot });
            }
            if !entry.is_present() {
                return Stretch::Absent { span: span(level) };
            }
            table = entry.pfn(PageSize::Size4K);
        }
        Stretch::Small(&self.entries(table)[index(va, 0)..])
    }

    /// Maps the page of `size` at `phys` to `va`.
    ///
    /// # Errors
    ///
    /// As [`MapPageError`] lists; nothing changes then, except that empty tables may have been added.
    pub fn map(
        &self,
        va: VirtAddr,
        phys: PhysAddr,
        size: PageSize,
        flags: MapFlags,
    ) -> Result<(), MapPageError> {
        if !va.is_aligned(size.bytes()) || !phys.is_aligned(size.bytes()) {
            return Err(MapPageError::NotAligned { at: va });
        }
        let slot = self.make_slot(va, size, flags)?;
        fill(slot, Entry::leaf(phys, size, flags))
            .map_err(|_| MapPageError::AlreadyMapped { at: va })
    }

    /// Maps `len` bytes at `phys` to `va`, each part with the largest page that alignment, length and the CPU
    /// allow.
    ///
    /// # Errors
    ///
    /// `NotAligned` if `va`, `phys` or `len` is not a multiple of 4 KiB or the range is not in one half of the
    /// address space, and then nothing is mapped; the others as [`MapPageError`] says, and then what lies before
    /// `at` stays mapped.
    pub fn map_range(
        &self,
        va: VirtAddr,
        phys: PhysAddr,
        len: u64,
        flags: MapFlags,
    ) -> Result<(), MapPageError> {
        check_range(va, phys, len)?;
        let mut done = 0;
        while done < len {
            let size = self.best_size(va.as_u64() + done, phys.as_u64() + done, len - done);
            self.map(VirtAddr::new(va.as_u64() + done), phys + done, size, flags)?;
            done += size.bytes();
        }
        Ok(())
    }

    fn best_size(&self, va: u64, phys: u64, len: u64) -> PageSize {
        let fits = |size: PageSize| {
            size.order() <= self.mem.largest_page().order()
                && (va | phys).is_multiple_of(size.bytes())
                && len >= size.bytes()
        };
        [PageSize::Size1G, PageSize::Size2M]
            .into_iter()
            .find(|&s| fits(s))
            .unwrap_or(PageSize::Size4K)
    }

    /// Adds the table below the root's entry for `va`, if it is missing.
    ///
    /// # Errors
    ///
    /// `OutOfMemory` if there is no memory for it.
    pub fn add_top_level(&self, va: VirtAddr) -> Result<(), OutOfMemory> {
        let slot = self.slot(self.root, va, LEVELS - 1);
        // The entries of the root are never leaves, so the only error is the lack of memory.
        self.subtable(slot, va, MapFlags::WRITABLE)
            .map_err(|_| OutOfMemory)?;
        Ok(())
    }

    /// Takes away the leaf that maps `va`, and says what it was; None if nothing was mapped.
    ///
    /// The whole leaf goes, whatever its size. The caller flushes the TLB before it reuses the memory.
    #[must_use = "a translation that was taken away must be flushed from the TLB"]
    pub fn unmap(&self, va: VirtAddr) -> Option<(Entry, PageSize)> {
        let leaf = self.walk(va)?;
        let old = take(leaf.slot);
        old.is_present().then_some((old, leaf.size))
    }

    /// Gives the leaf that maps `va` other flags, and says how large it is; None if nothing is mapped.
    ///
    /// The caller flushes the TLB if this took a permission away or changed the cache type.
    #[must_use = "a changed translation must be flushed from the TLB"]
    pub fn protect(&self, va: VirtAddr, flags: MapFlags) -> Option<PageSize> {
        loop {
            let leaf = self.walk(va)?;
            self.raise_parents(va, leaf.size, flags);
            let new = Entry::leaf(leaf.entry.pfn(leaf.size).phys(), leaf.size, flags);
            if exchange(leaf.slot, leaf.entry, new) {
                return Some(leaf.size);
            }
        }
    }

    /// The entry where a leaf of `size` for `va` belongs; missing tables above it are added.
    pub(crate) fn make_slot(
        &self,
        va: VirtAddr,
        size: PageSize,
        flags: MapFlags,
    ) -> Result<&AtomicU64, MapPageError> {
        let mut table = self.root;
        for level in (level_of(size) + 1..LEVELS).rev() {
            table = self.subtable(self.slot(table, va, level), va, flags)?;
        }
        Ok(self.slot(table, va, level_of(size)))
    }

    /// The table that `slot` points to, added if it is missing.
    fn subtable(
        &self,
        slot: &AtomicU64,
        va: VirtAddr,
        flags: MapFlags,
    ) -> Result<Pfn, MapPageError> {
        // Acquire: pairs with the Release of `fill` below, on whichever CPU added the table.
        let found = Entry::from_bits(slot.load(Ordering::Acquire));
        if !found.is_present() {
            return self.add_table(slot, va, flags);
        }
        if found.is_huge() {
            return Err(MapPageError::AlreadyMapped { at: va });
        }
        // Relaxed: adds a permission bit to a pointer that stays the same; the leaf that needs it is stored later.
        slot.fetch_or(Entry::parent_bits(flags), Ordering::Relaxed);
        Ok(found.pfn(PageSize::Size4K))
    }

    fn add_table(
        &self,
        slot: &AtomicU64,
        va: VirtAddr,
        flags: MapFlags,
    ) -> Result<Pfn, MapPageError> {
        let table = self
            .mem
            .alloc_table()
            .ok_or(MapPageError::OutOfMemory { at: va })?;
        if fill(slot, Entry::table(table, flags)).is_ok() {
            return Ok(table);
        }
        // SAFETY: the exchange failed, so nobody ever saw this table.
        unsafe { self.mem.free_table(table) };
        self.subtable(slot, va, flags)
    }

    /// Lets the tables above an existing leaf permit what `flags` permit.
    fn raise_parents(&self, va: VirtAddr, size: PageSize, flags: MapFlags) {
        let mut table = self.root;
        for level in (level_of(size) + 1..LEVELS).rev() {
            let slot = self.slot(table, va, level);
            // Relaxed: as in `subtable`.
            let found =
                Entry::from_bits(slot.fetch_or(Entry::parent_bits(flags), Ordering::Relaxed));
            table = found.pfn(PageSize::Size4K);
        }
    }

    /// Detaches the table that holds the entries of `level` for `va`, if it is there and empty.
    ///
    /// Ok holds the detached table (None if it holds entries and stays); Err holds how many bytes from `va` up to
    /// the next multiple have no such table.
    ///
    /// # Safety
    ///
    /// No other CPU adds entries at or below this table during the call. The caller frees the detached table
    /// only after a TLB flush for `va` has completed, which also waits for lock-free walkers.
    pub(crate) unsafe fn detach_empty(&self, va: VirtAddr, level: u8) -> Result<Option<Pfn>, u64> {
        let mut table = self.root;
        for above in (level + 1..LEVELS).rev() {
            let slot = self.slot(table, va, above);
            // Acquire: pairs with the Release of `fill` in `add_table`.
            let entry = Entry::from_bits(slot.load(Ordering::Acquire));
            if !entry.is_present() || entry.is_huge() {
                return Err(span(above));
            }
            table = entry.pfn(PageSize::Size4K);
            if above == level + 1 {
                return Ok(self.detach(slot, table));
            }
        }
        Ok(None)
    }

    fn detach(&self, slot: &AtomicU64, table: Pfn) -> Option<Pfn> {
        // Relaxed: no writer runs, says the caller of `detach_empty`.
        let empty = self
            .entries(table)
            .iter()
            .all(|e| e.load(Ordering::Relaxed) == 0);
        empty.then(|| {
            take(slot);
            table
        })
    }

    fn slot(&self, table: Pfn, va: VirtAddr, level: u8) -> &AtomicU64 {
        &self.entries(table)[index(va, level)]
    }

    fn entries(&self, table: Pfn) -> &[AtomicU64; ENTRIES] {
        // SAFETY: `table` is the root or was read from an entry, so it is a table of `mem` and its pointer is valid
        // while it stays one; it stays one as long as walkers and writers keep the protocol at the head of this
        // file.
        unsafe { self.mem.table(table).as_ref() }
    }
}

/// Sets an absent entry. Err holds what stood there instead.
pub(crate) fn fill(slot: &AtomicU64, new: Entry) -> Result<(), Entry> {
    // Release: pairs with the Acquire of every walk; what was prepared for the page (its metadata, its reference, a
    // zeroed table) is seen by whoever sees the entry. Acquire on failure: the caller looks at what the entry
    // points to.
    slot.compare_exchange(0, new.bits(), Ordering::AcqRel, Ordering::Acquire)
        .map(drop)
        .map_err(Entry::from_bits)
}

/// Replaces an entry that still is `old`.
pub(crate) fn exchange(slot: &AtomicU64, old: Entry, new: Entry) -> bool {
    // Release: as in `fill`.
    slot.compare_exchange(old.bits(), new.bits(), Ordering::AcqRel, Ordering::Acquire)
        .is_ok()
}

/// Clears an entry and says what it was.
pub(crate) fn take(slot: &AtomicU64) -> Entry {
    // AcqRel: Acquire pairs with `fill` (whoever drops the reference sees the page as its faulter left it); Release
    // orders the clearing before the flush that follows.
    Entry::from_bits(slot.swap(0, Ordering::AcqRel))
}

/// How many bytes one entry at `level` covers.
pub(crate) const fn span(level: u8) -> u64 {
    1 << (12 + 9 * level as u32)
}

const fn index(va: VirtAddr, level: u8) -> usize {
    (va.as_u64() >> (12 + 9 * level as u32)) as usize % ENTRIES
}

/// The level whose entries map pages of `size`.
fn level_of(size: PageSize) -> u8 {
    size.order() / 9
}

fn check_range(va: VirtAddr, phys: PhysAddr, len: u64) -> Result<(), MapPageError> {
    let small = PageSize::Size4K.bytes();
    let aligned = va.is_aligned(small) && phys.is_aligned(small) && len.is_multiple_of(small);
    let last = len.checked_sub(1).and_then(|l| va.as_u64().checked_add(l));
    let one_half = len == 0
        || last.is_some_and(|l| VirtAddr::try_new(l).is_ok() && (l ^ va.as_u64()) >> 63 == 0);
    let physical = phys
        .as_u64()
        .checked_add(len)
        .is_some_and(|end| end <= 1 << 52);
    if aligned && one_half && physical {
        Ok(())
    } else {
        Err(MapPageError::NotAligned { at: va })
    }
}
