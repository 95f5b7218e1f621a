//! Ranges of virtual addresses, permissions and kinds of access.

use bitflags::bitflags;

use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::table::MapFlags;

/// A non-empty run of virtual pages in one half of the address space.
///
/// The start is page-aligned, and the end (exclusive) is a canonical address in the same half; so the last page of
/// each half can be in no range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VaRange {
    start: VirtAddr,
    pages: u64,
}

impl VaRange {
    /// The `pages` pages from `start` on; None if that breaks the rules above.
    pub fn new(start: VirtAddr, pages: u64) -> Option<Self> {
        let bytes = pages.checked_mul(PAGE_SIZE)?;
        let end = VirtAddr::try_new(start.as_u64().checked_add(bytes)?).ok()?;
        let one_half = (end.as_u64() ^ start.as_u64()) >> 63 == 0;
        (pages > 0 && start.is_aligned(PAGE_SIZE) && one_half).then_some(Self { start, pages })
    }

    /// The smallest range that covers the bytes `[start, end)`; None if that is empty or breaks the rules.
    pub fn covering(start: VirtAddr, end: VirtAddr) -> Option<Self> {
        let first = start.align_down(PAGE_SIZE);
        let bytes = end.as_u64().checked_sub(first.as_u64())?;
        Self::new(first, bytes.div_ceil(PAGE_SIZE))
    }

    /// The first address.
    pub const fn start(self) -> VirtAddr {
        self.start
    }

    /// The first address after the range.
    pub fn end(self) -> VirtAddr {
        // `new` has made sure that it is canonical: nothing is cut off.
        VirtAddr::new_truncate(self.start.as_u64() + self.bytes())
    }

    /// The number of pages, never 0.
    pub const fn pages(self) -> u64 {
        self.pages
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.pages * PAGE_SIZE
    }

    /// Whether the address lies inside.
    pub fn contains(self, va: VirtAddr) -> bool {
        self.start <= va && va < self.end()
    }

    /// Whether all of `other` lies inside.
    pub fn covers(self, other: Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// What the two ranges share.
    pub fn intersection(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        Self::new(start, end.as_u64().checked_sub(start.as_u64())? / PAGE_SIZE)
    }

    /// The index of the page that holds `va`, which lies inside.
    pub fn page_of(self, va: VirtAddr) -> u64 {
        (va.as_u64() - self.start.as_u64()) / PAGE_SIZE
    }

    /// The sub-range of `pages` pages from page `first` on, cut to this range; None if nothing is left.
    pub fn part(self, first: u64, pages: u64) -> Option<Self> {
        let left = self.pages.checked_sub(first)?;
        Self::new(
            VirtAddr::new(self.start.as_u64() + first * PAGE_SIZE),
            pages.min(left),
        )
    }
}

bitflags! {
    /// What a mapping permits. Reading is always permitted.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Prot: u8 {
        /// Stores.
        const WRITE = 1;
        /// Instruction fetches.
        const EXEC = 2;
        /// Ring 3 as well as ring 0.
        const USER = 4;
    }
}

impl Prot {
    /// Whether this permits such an access.
    pub const fn permits(self, access: Access) -> bool {
        match access {
            Access::Read => true,
            Access::Write => self.contains(Self::WRITE),
            Access::Execute => self.contains(Self::EXEC),
        }
    }

    /// The page-table flags of a leaf; stores are permitted only if `writable` asks for them and the mapping grants
    /// them.
    pub(crate) fn flags(self, writable: bool) -> MapFlags {
        let mut flags = MapFlags::empty();
        flags.set(MapFlags::WRITABLE, writable && self.contains(Self::WRITE));
        flags.set(MapFlags::USER, self.contains(Self::USER));
        flags.set(MapFlags::NO_EXECUTE, !self.contains(Self::EXEC));
        flags
    }
}

/// What an access to memory was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}
