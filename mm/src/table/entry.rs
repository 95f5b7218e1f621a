//! One 64-bit page-table entry and its bits.

use bitflags::bitflags;

use crate::addr::{PageSize, Pfn, PhysAddr};

/// Entries in one table, at every level.
pub const ENTRIES: usize = 512;

/// The number of levels; level 3 is the root (PML4), level 0 holds 4 KiB entries.
pub const LEVELS: u8 = 4;

const PRESENT: u64 = 1 << 0;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const HUGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

bitflags! {
    /// What a mapping permits and how it is cached, in the bit positions of an x86_64 entry.
    ///
    /// The four cache types that need no PAT bit are the four combinations of `WRITE_THROUGH` and `NO_CACHE`; with
    /// the PAT as it is after reset: neither is write-back, the first write-through, the second weakly uncached,
    /// both together strongly uncached (for device registers: [`MapFlags::DEVICE`]).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct MapFlags: u64 {
        /// Stores are allowed. Without it a store faults in ring 0 too (the kernel runs with CR0.WP set).
        const WRITABLE = 1 << 1;
        /// Ring 3 may use the mapping.
        const USER = 1 << 2;
        /// PWT.
        const WRITE_THROUGH = 1 << 3;
        /// PCD.
        const NO_CACHE = 1 << 4;
        /// Kept over a change of CR3.
        const GLOBAL = 1 << 8;
        /// Software bit: the memory has no reference count (the shared zero page, device registers, kernel memory
        /// under an address space). Such an entry holds no reference, and gup never pins through it.
        const UNCOUNTED = 1 << 9;
        /// Instructions are not fetched from here (EFER.NXE is set).
        const NO_EXECUTE = 1 << 63;
        /// Strongly uncached, no execution: device registers.
        const DEVICE = Self::WRITE_THROUGH.bits() | Self::NO_CACHE.bits() | Self::NO_EXECUTE.bits();
    }
}

/// One page-table entry as it was read; an absent entry is all zeroes, always.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry(u64);

impl Entry {
    /// The absent entry.
    pub const ABSENT: Self = Self(0);

    /// The entry with these bits.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// An entry that maps the page of `size` at `phys`.
    ///
    /// The hardware's accessed and dirty bits are set from the start: nothing here uses them (a store marks its
    /// page dirty in the write fault), the CPU never needs to write the entry, and so gup may compare a whole entry
    /// with what it read before. `phys` must be aligned to `size`; low bits are dropped.
    pub fn leaf(phys: PhysAddr, size: PageSize, flags: MapFlags) -> Self {
        let huge = if size == PageSize::Size4K { 0 } else { HUGE };
        let address = phys.as_u64() & ADDRESS & !(size.bytes() - 1);
        Self(address | flags.bits() | huge | PRESENT | ACCESSED | DIRTY)
    }

    /// An entry that points to a lower table. It permits all that a leaf below may permit; ring 3 only with `USER`.
    pub(crate) fn table(pfn: Pfn, flags: MapFlags) -> Self {
        Self(pfn.phys().as_u64() | Self::parent_bits(flags))
    }

    /// The permission bits that the tables above a leaf with `flags` must have.
    pub(crate) fn parent_bits(flags: MapFlags) -> u64 {
        PRESENT | ACCESSED | MapFlags::WRITABLE.bits() | (flags & MapFlags::USER).bits()
    }

    /// The raw bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether the entry maps something or points to a table.
    pub const fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    /// Whether an entry above level 0 maps a large page.
    pub(crate) const fn is_huge(self) -> bool {
        self.0 & HUGE != 0
    }

    /// The page size that this entry maps if it is a present leaf at `level`; None for a table pointer or an absent
    /// one.
    pub fn leaf_size(self, level: u8) -> Option<PageSize> {
        match (self.is_present(), level, self.0 & HUGE != 0) {
            (true, 0, _) => Some(PageSize::Size4K),
            (true, 1, true) => Some(PageSize::Size2M),
            (true, 2, true) => Some(PageSize::Size1G),
            _ => None,
        }
    }

    /// The frame of the mapped page (the first one, if it is large) or of the lower table.
    pub fn pfn(self, size: PageSize) -> Pfn {
        Pfn::from_phys(PhysAddr::new(self.0 & ADDRESS & !(size.bytes() - 1)))
    }

    /// The permissions, the cache type and the software bit.
    pub const fn flags(self) -> MapFlags {
        MapFlags::from_bits_truncate(self.0)
    }

    /// Whether stores are allowed.
    pub const fn is_writable(self) -> bool {
        self.flags().contains(MapFlags::WRITABLE)
    }

    /// Whether the entry holds a reference on its page.
    pub const fn is_counted(self) -> bool {
        self.is_present() && !self.flags().contains(MapFlags::UNCOUNTED)
    }
}

impl core::fmt::Debug for Entry {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Entry({:#x} {:?})", self.0 & ADDRESS, self.flags())
    }
}
