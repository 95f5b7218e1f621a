//! What one slot of a file's [`XArray`](crate::xarray::XArray) says about a run of file pages.
//!
//! An [`Entry`] is an enum, so that a hole or a placeholder can never be taken for a page: the only way to a pfn is to
//! match [`Entry::Pfn`]. (Linux stores flags beside a pfn, and read the pfn of a zero entry three times by mistake.)
//! Packed, it is one `u64`, so that a reader gets all of it in one load:
//!
//! ```text
//! 63      53 52      13  12        7  6     4  3  2  1 0
//! |    0    |   pfn    |   order   |  kind   |0 |L |tag|
//! ```
//!
//! `L` is the entry lock. `tag` belongs to the array: `11` marks an entry, see [`crate::xarray`].

use mm::addr::Pfn;

/// The largest order an entry may have: 2^36 pages.
pub const MAX_ORDER: u8 = 36;

const TAG: u64 = 0b11;
const LOCKED: u64 = 1 << 2;
const KIND_SHIFT: u32 = 4;
const KIND_MASK: u64 = 0b111;
const ORDER_SHIFT: u32 = 7;
const ORDER_MASK: u64 = 0x3f;
const PFN_SHIFT: u32 = 13;
const PFN_MASK: u64 = (1 << 40) - 1;

const KIND_EMPTY: u64 = 1;
const KIND_ZERO: u64 = 2;
const KIND_PFN: u64 = 3;

/// One entry: what stands behind the 2^`order` file pages it covers.
///
/// An entry holds no reference on its page. While a [`Entry::Pfn`] exists, the page's owner (inode, index) is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A placeholder: somebody holds the entry lock of these pages and has not decided yet. Never found unlocked.
    Empty {
        /// log2 of the pages covered.
        order: u8,
    },
    /// A hole that has been read: the shared zero page is mapped.
    Zero {
        /// log2 of the pages covered.
        order: u8,
    },
    /// Storage.
    Pfn {
        /// The first frame.
        pfn: Pfn,
        /// log2 of the pages covered.
        order: u8,
    },
}

impl Entry {
    /// log2 of the pages covered.
    pub const fn order(self) -> u8 {
        match self {
            Self::Empty { order } | Self::Zero { order } | Self::Pfn { order, .. } => order,
        }
    }

    /// The pages covered.
    pub const fn pages(self) -> u64 {
        1 << self.order()
    }

    /// The first page of the entry that covers file page `index`.
    pub const fn base(self, index: u64) -> u64 {
        index & !(self.pages() - 1)
    }

    /// The first frame, if there is storage behind the entry.
    pub const fn pfn(self) -> Option<Pfn> {
        match self {
            Self::Pfn { pfn, .. } => Some(pfn),
            Self::Empty { .. } | Self::Zero { .. } => None,
        }
    }

    /// The frame of file page `index`, which the entry must cover.
    pub fn pfn_at(self, index: u64) -> Option<Pfn> {
        self.pfn()?.checked_add(index - self.base(index))
    }
}

/// An entry as it is stored: the entry and its lock bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packed(u64);

impl Packed {
    /// Packs `entry`.
    pub(crate) fn new(entry: Entry, locked: bool) -> Self {
        let (kind, pfn) = match entry {
            Entry::Empty { .. } => (KIND_EMPTY, 0),
            Entry::Zero { .. } => (KIND_ZERO, 0),
            Entry::Pfn { pfn, .. } => (KIND_PFN, pfn.get()),
        };
        let order = u64::from(entry.order()) << ORDER_SHIFT;
        let lock = if locked { LOCKED } else { 0 };
        Self(TAG | lock | kind << KIND_SHIFT | order | pfn << PFN_SHIFT)
    }

    /// The packed word of a slot, if it is an entry's.
    pub(crate) const fn from_slot(word: u64) -> Option<Self> {
        if word & TAG == TAG {
            Some(Self(word))
        } else {
            None
        }
    }

    /// The word to store in a slot.
    pub(crate) const fn word(self) -> u64 {
        self.0
    }

    /// Whether somebody holds the entry lock.
    pub(crate) const fn locked(self) -> bool {
        self.0 & LOCKED != 0
    }

    /// The entry, without its lock bit. `None` for a word that [`Packed::new`] never makes.
    pub(crate) fn entry(self) -> Option<Entry> {
        let order = (self.0 >> ORDER_SHIFT & ORDER_MASK) as u8;
        match self.0 >> KIND_SHIFT & KIND_MASK {
            KIND_EMPTY => Some(Entry::Empty { order }),
            KIND_ZERO => Some(Entry::Zero { order }),
            KIND_PFN => {
                let pfn = Pfn::new(self.0 >> PFN_SHIFT & PFN_MASK)?;
                Some(Entry::Pfn { pfn, order })
            }
            _ => None,
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn every_kind_and_order_survives_packing() {
        let far = Pfn::new((1 << 40) - 1).unwrap();
        for order in 0..=MAX_ORDER {
            for entry in [
                Entry::Empty { order },
                Entry::Zero { order },
                Entry::Pfn { pfn: far, order },
            ] {
                for locked in [false, true] {
                    let packed = Packed::from_slot(Packed::new(entry, locked).word()).unwrap();
                    assert_eq!((packed.entry(), packed.locked()), (Some(entry), locked));
                }
            }
        }
    }

    #[test]
    fn only_storage_has_a_frame() {
        let pfn = Pfn::new(0x1000).unwrap();
        assert_eq!(Entry::Zero { order: 9 }.pfn_at(3), None);
        assert_eq!(Entry::Empty { order: 0 }.pfn_at(3), None);
        assert_eq!(
            Entry::Pfn { pfn, order: 9 }.pfn_at(512 + 7),
            Pfn::new(0x1007)
        );
    }

    #[test]
    fn words_of_the_array_are_not_entries() {
        for tag in [0b00, 0b01, 0b10] {
            assert_eq!(Packed::from_slot(0xfff0 | tag), None);
        }
    }
}
