//! The two index blocks, and which of them counts.

use core::ops::Range;

use thiserror::Error;
use zerocopy::FromBytes;

use super::raw;

/// Index blocks are multiples of this many bytes.
const INDEX_ALIGN: u64 = 256;

/// A sound index block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Index {
    /// Place in the area, in bytes.
    pub offset: usize,
    /// Bytes of the block.
    pub size: usize,
    /// Sequence number, 1 to 3.
    pub sequence: u8,
    /// Where the labels start, in bytes.
    pub label_offset: usize,
    /// Bytes of a label: 128 (version 1.1) or 256 (version 1.2).
    pub label_size: usize,
    /// Number of slots; all lie in the area.
    pub slots: u32,
    /// Minor version of the format; the major one is 1.
    pub minor: u16,
}

/// What is wrong with an index block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IndexFault {
    /// It is not there, or past the end of the area.
    #[error("no index block (initialise the labels)")]
    Missing,
    /// Its format is not known.
    #[error(
        "version {major}.{minor} with label size code {size} is not known (initialise the labels with version 1.1 or 1.2)"
    )]
    Version {
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
        /// The label size as stored: 128 shifted left by this.
        size: u8,
    },
    /// Its sequence number is not 1, 2 or 3.
    #[error("sequence number {0} (the update was cut off, or the block is damaged)")]
    Sequence(u32),
    /// It does not say the place where it was found.
    #[error("it says that it is at {own:#x} and the other at {other:#x} (the block is damaged)")]
    Place {
        /// Its own place as it says.
        own: u64,
        /// The other block's place as it says.
        other: u64,
    },
    /// Its size is no multiple of 256, or too small for its bitmap.
    #[error("size {0:#x} (the block is damaged)")]
    Size(u64),
    /// Its labels do not lie between the index blocks and the end of the area.
    #[error("{slots} labels at {offset:#x} do not fit the area (the block is damaged)")]
    Slots {
        /// Number of slots.
        slots: u32,
        /// Where the labels start.
        offset: u64,
    },
    /// It does not add up.
    #[error(
        "checksum is {stored:#x}, the bytes give {computed:#x} (the update was cut off, or the block is damaged)"
    )]
    Checksum {
        /// The checksum it carries.
        stored: u64,
        /// The checksum of its bytes.
        computed: u64,
    },
}

/// The index block that counts, with the fault of the other; or the faults of both.
///
/// The second block starts where the first ends. When the first is too damaged to say, the second is looked for at every
/// multiple of 256: it must then say itself that it is at that place, and add up.
pub(super) fn choose(area: &[u8]) -> Result<(Index, Option<IndexFault>), (IndexFault, IndexFault)> {
    let first = Index::read(area, 0);
    let second = match first {
        Ok(first) => Index::read(area, first.size),
        Err(_) => find_second(area),
    };
    match (first, second) {
        (Ok(first), Ok(second)) if first.newer_than(&second) => Ok((first, None)),
        (_, Ok(second)) => Ok((second, first.err())),
        (Ok(first), Err(fault)) => Ok((first, Some(fault))),
        (Err(first), Err(second)) => Err((first, second)),
    }
}

fn find_second(area: &[u8]) -> Result<Index, IndexFault> {
    let places = (INDEX_ALIGN as usize..area.len()).step_by(INDEX_ALIGN as usize);
    let mut second = places.map(|place| Index::read(area, place));
    second
        .find(Result::is_ok)
        .unwrap_or(Err(IndexFault::Missing))
}

impl Index {
    /// Reads the index block at `offset`.
    fn read(area: &[u8], offset: usize) -> Result<Self, IndexFault> {
        let block = area.get(offset..).ok_or(IndexFault::Missing)?;
        let (raw, _) = raw::Index::ref_from_prefix(block).map_err(|_| IndexFault::Missing)?;
        if raw.signature != *b"NAMESPACE_INDEX\0" {
            return Err(IndexFault::Missing);
        }
        let label_size = label_size(raw)?;
        let sequence = match raw.sequence.get() {
            sequence @ 1..=3 => sequence as u8,
            other => return Err(IndexFault::Sequence(other)),
        };
        let size = own_size(raw, block)?;
        check_place(raw, offset, size)?;
        check_sum(raw, &block[..size])?;
        let label_offset = label_offset(raw, size, label_size, area.len())?;
        Ok(Self {
            offset,
            size,
            sequence,
            label_offset,
            label_size,
            slots: raw.slots.get(),
            minor: raw.minor.get(),
        })
    }

    /// Whether this, the first block, counts rather than `second`. With equal numbers, which no writer leaves behind,
    /// the second does, as the specification asks.
    const fn newer_than(&self, second: &Self) -> bool {
        self.sequence == second.sequence % 3 + 1
    }

    /// The slots whose bit in the bitmap says that they are in use.
    pub(super) fn used_slots(self, area: &[u8]) -> impl Iterator<Item = u32> + use<'_> {
        let bitmap = &area[self.offset + size_of::<raw::Index>()..self.offset + self.size];
        let free = |slot: &u32| bitmap[*slot as usize / 8] & 1 << (slot % 8) != 0;
        (0..self.slots).filter(move |slot| !free(slot))
    }

    /// The bytes of a slot.
    pub(super) fn slot<'a>(&self, area: &'a [u8], slot: u32) -> &'a [u8] {
        let start = self.label_offset + slot as usize * self.label_size;
        &area[start..start + self.label_size]
    }
}

/// Bytes of a label by the version of the format.
fn label_size(raw: &raw::Index) -> Result<usize, IndexFault> {
    let (major, minor, size) = (raw.major.get(), raw.minor.get(), raw.label_size);
    match (major, minor, size) {
        (1, 0 | 1, 0) => Ok(raw::LABEL_1_1),
        (1, 2.., 1) => Ok(raw::LABEL_1_2),
        _ => Err(IndexFault::Version { major, minor, size }),
    }
}

/// The block's size: a multiple of 256 that holds the bitmap and lies in the area.
fn own_size(raw: &raw::Index, block: &[u8]) -> Result<usize, IndexFault> {
    let size = raw.own_size.get();
    let needed = size_of::<raw::Index>() as u64 + u64::from(raw.slots.get().div_ceil(8));
    if size < needed || size > block.len() as u64 || !size.is_multiple_of(INDEX_ALIGN) {
        return Err(IndexFault::Size(size));
    }
    Ok(size as usize)
}

/// The two blocks lie at 0 and one block's size after it, and each names both places.
fn check_place(raw: &raw::Index, offset: usize, size: usize) -> Result<(), IndexFault> {
    let (own, other) = (raw.own_offset.get(), raw.other_offset.get());
    let (offset, size) = (offset as u64, size as u64);
    let right = own == offset && own.checked_add(other) == Some(size) && (own == 0 || own == size);
    right.then_some(()).ok_or(IndexFault::Place { own, other })
}

fn check_sum(raw: &raw::Index, block: &[u8]) -> Result<(), IndexFault> {
    let (stored, computed) = (
        raw.checksum.get(),
        raw::checksum(block, raw::INDEX_CHECKSUM),
    );
    if stored == computed {
        return Ok(());
    }
    Err(IndexFault::Checksum { stored, computed })
}

/// Where the labels start, once they all lie between the second index block and the end of the area.
fn label_offset(
    raw: &raw::Index,
    index: usize,
    label: usize,
    area: usize,
) -> Result<usize, IndexFault> {
    let (slots, offset) = (raw.slots.get(), raw.label_offset.get());
    let bytes = u64::from(slots) * label as u64;
    let end = offset.checked_add(bytes).filter(|end| *end <= area as u64);
    let place: Option<Range<u64>> = end
        .map(|end| offset..end)
        .filter(|place| place.start >= 2 * index as u64);
    let place = place.ok_or(IndexFault::Slots { slots, offset })?;
    Ok(place.start as usize)
}
