//! Addresses, page frame numbers and page sizes.
//!
//! Every frame number that exists as a [`Pfn`] is below 2^40, so its physical address fits the 52 bits of x86_64 and no
//! later sum of a `Pfn` and a page count can wrap a `u64`.

use core::fmt;

pub use x86_64::{PhysAddr, VirtAddr};

/// Bytes in a base page.
pub const PAGE_SIZE: u64 = 4096;
/// Base-2 logarithm of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
/// One past the greatest page frame number: 2^40, from 52 bits of physical address.
pub const PFN_END: u64 = 1 << 40;

/// A page frame number: a physical address divided by [`PAGE_SIZE`], below [`PFN_END`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Pfn(u64);

impl Pfn {
    /// The frame number `pfn`, or `None` from [`PFN_END`] on.
    pub const fn new(pfn: u64) -> Option<Self> {
        if pfn < PFN_END { Some(Self(pfn)) } else { None }
    }

    /// The frame that contains `addr` (rounds down).
    pub const fn from_phys(addr: PhysAddr) -> Self {
        Self(addr.as_u64() >> PAGE_SHIFT)
    }

    /// The physical address of the frame's first byte.
    pub const fn phys(self) -> PhysAddr {
        PhysAddr::new_truncate(self.0 << PAGE_SHIFT)
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The frame `pages` further on, or `None` past the end of physical address space.
    pub const fn checked_add(self, pages: u64) -> Option<Self> {
        match self.0.checked_add(pages) {
            Some(sum) => Self::new(sum),
            None => None,
        }
    }

    /// Whether a folio of `size` may start at this frame.
    pub const fn is_aligned(self, size: PageSize) -> bool {
        self.0 & (size.pages() - 1) == 0
    }

    /// The first frame of the `size`-aligned block that contains this frame.
    pub const fn align_down(self, size: PageSize) -> Self {
        Self(self.0 & !(size.pages() - 1))
    }
}

impl fmt::Debug for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pfn({:#x})", self.0)
    }
}

impl fmt::Display for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A non-empty run of page frames that ends at or below [`PFN_END`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PfnRange {
    start: Pfn,
    pages: u64,
}

impl PfnRange {
    /// The `pages` frames from `start`; `None` when empty or past the end of physical address space.
    pub const fn new(start: Pfn, pages: u64) -> Option<Self> {
        if pages == 0 || pages > PFN_END - start.0 {
            return None;
        }
        Some(Self { start, pages })
    }

    /// The frames wholly inside the `len` bytes at `base`; `None` when there are none.
    pub const fn inside(base: PhysAddr, len: u64) -> Option<Self> {
        let Some(end) = base.as_u64().checked_add(len) else {
            return None;
        };
        let (first, last) = (base.as_u64().div_ceil(PAGE_SIZE), end / PAGE_SIZE);
        if first >= last {
            return None;
        }
        match Pfn::new(first) {
            Some(start) => Self::new(start, last - first),
            None => None,
        }
    }

    /// The first frame.
    pub const fn start(self) -> Pfn {
        self.start
    }

    /// The number of frames, at least 1.
    pub const fn pages(self) -> u64 {
        self.pages
    }

    /// One past the last frame, as a number: it may be [`PFN_END`], which is no frame.
    pub const fn end(self) -> u64 {
        self.start.0 + self.pages
    }

    /// Whether `pfn` lies in the range.
    pub const fn contains(self, pfn: Pfn) -> bool {
        self.start.0 <= pfn.0 && pfn.0 < self.end()
    }

    /// Whether all of `other` lies in the range.
    pub const fn contains_range(self, other: Self) -> bool {
        self.start.0 <= other.start.0 && other.end() <= self.end()
    }

    /// Whether the two ranges share a frame.
    pub const fn overlaps(self, other: Self) -> bool {
        self.start.0 < other.end() && other.start.0 < self.end()
    }

    /// The frames in both ranges, or `None` when they share none.
    pub fn intersect(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        Self::new(start, end.checked_sub(start.0)?)
    }

    /// Every frame, ascending.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Pfn> {
        (self.start.0..self.end()).map(Pfn)
    }
}

impl fmt::Debug for PfnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PfnRange({:#x}..{:#x})", self.start.0, self.end())
    }
}

impl fmt::Display for PfnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start.0, self.end())
    }
}

/// The sizes that one page-table entry of x86_64 can map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageSize {
    /// 4 KiB, a PTE.
    Size4K,
    /// 2 MiB, a PMD.
    Size2M,
    /// 1 GiB, a PUD.
    Size1G,
}

impl PageSize {
    /// The three sizes, smallest first.
    pub const ALL: [Self; 3] = [Self::Size4K, Self::Size2M, Self::Size1G];

    /// Base-2 logarithm of the number of base pages: 0, 9 or 18.
    pub const fn order(self) -> u8 {
        match self {
            Self::Size4K => 0,
            Self::Size2M => 9,
            Self::Size1G => 18,
        }
    }

    /// The size of that order, or `None` for an order that no page-table entry maps.
    pub const fn from_order(order: u8) -> Option<Self> {
        match order {
            0 => Some(Self::Size4K),
            9 => Some(Self::Size2M),
            18 => Some(Self::Size1G),
            _ => None,
        }
    }

    /// The number of base pages: 1, 512 or 262144.
    pub const fn pages(self) -> u64 {
        1 << self.order()
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.pages() << PAGE_SHIFT
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Size4K => "4k",
            Self::Size2M => "2m",
            Self::Size1G => "1g",
        })
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn pfn_bounds() {
        assert!(Pfn::new(PFN_END).is_none());
        let last = Pfn::new(PFN_END - 1).unwrap();
        assert_eq!(last.phys().as_u64(), (1 << 52) - 4096);
        assert!(last.checked_add(1).is_none());
        assert!(last.checked_add(u64::MAX).is_none());
        assert_eq!(Pfn::from_phys(PhysAddr::new(0x1FFF)).get(), 1);
    }

    #[test]
    fn range_is_validated() {
        let p = Pfn::new(PFN_END - 2).unwrap();
        assert!(PfnRange::new(p, 0).is_none());
        assert!(PfnRange::new(p, 3).is_none());
        assert!(PfnRange::new(p, u64::MAX).is_none());
        assert_eq!(PfnRange::new(p, 2).unwrap().end(), PFN_END);
    }

    #[test]
    fn inside_shrinks_to_whole_frames() {
        let r = PfnRange::inside(PhysAddr::new(0x1001), 0x3000).unwrap();
        assert_eq!((r.start().get(), r.pages()), (2, 2));
        assert!(PfnRange::inside(PhysAddr::new(0x1001), 0x1ffe).is_none());
        assert!(PfnRange::inside(PhysAddr::new(0x1000), u64::MAX).is_none());
    }

    #[test]
    fn overlap_and_intersection_agree() {
        let range = |s, n| PfnRange::new(Pfn::new(s).unwrap(), n).unwrap();
        let a = range(10, 10);
        for (b, common) in [
            (range(0, 10), None),
            (range(20, 1), None),
            (range(19, 5), Some((19, 1))),
            (range(0, 99), Some((10, 10))),
        ] {
            assert_eq!(a.overlaps(b), common.is_some());
            assert_eq!(a.intersect(b).map(|r| (r.start().get(), r.pages())), common);
        }
    }

    #[test]
    fn sizes() {
        for s in PageSize::ALL {
            assert_eq!(PageSize::from_order(s.order()), Some(s));
            assert_eq!(s.bytes(), s.pages() * PAGE_SIZE);
        }
        assert_eq!(PageSize::from_order(1), None);
        let odd = Pfn::new(0x10FE00).unwrap();
        assert!(odd.is_aligned(PageSize::Size2M) && !odd.is_aligned(PageSize::Size1G));
        assert_eq!(odd.align_down(PageSize::Size1G).get(), 0x100000);
    }
}
