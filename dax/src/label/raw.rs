//! Layouts of the label area, byte by byte, and its checksum (UEFI 2.10, section 13.19).

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// An index block, before its bitmap of free slots.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Index {
    pub signature: [u8; 16],
    pub flags: [u8; 3],
    pub label_size: u8,
    pub sequence: U32,
    pub own_offset: U64,
    pub own_size: U64,
    pub other_offset: U64,
    pub label_offset: U64,
    pub slots: U32,
    pub major: U16,
    pub minor: U16,
    pub checksum: U64,
}

/// The part of a label that versions 1.1 and 1.2 share.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Label {
    pub uuid: [u8; 16],
    pub name: [u8; 64],
    pub flags: U32,
    pub labels: U16,
    pub position: U16,
    pub set_cookie: U64,
    pub lba_size: U64,
    pub dpa: U64,
    pub raw_size: U64,
    pub slot: U32,
    pub align: u8,
    pub reserved: [u8; 3],
}

/// What version 1.2 adds.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Label2 {
    pub kind: [u8; 16],
    pub abstraction: [u8; 16],
    pub reserved: [u8; 88],
    pub checksum: U64,
}

/// Bytes of a label of version 1.1.
pub(super) const LABEL_1_1: usize = size_of::<Label>();
/// Bytes of a label of version 1.2.
pub(super) const LABEL_1_2: usize = LABEL_1_1 + size_of::<Label2>();
/// Where an index block keeps its checksum.
pub(super) const INDEX_CHECKSUM: usize = 64;
/// Where a label of version 1.2 keeps its checksum.
pub(super) const LABEL_CHECKSUM: usize = 248;

const _: () = assert!(size_of::<Index>() == 72 && LABEL_1_1 == 128 && LABEL_1_2 == 256);

/// Fletcher's checksum over 32-bit words.
pub(super) fn fletcher64(words: impl Iterator<Item = u32>) -> u64 {
    let (low, high) = words.fold((0_u32, 0_u32), |(low, high), word| {
        let low = low.wrapping_add(word);
        (low, high.wrapping_add(low))
    });
    u64::from(high) << 32 | u64::from(low)
}

/// Fletcher's checksum over a structure with its own checksum, the 8 bytes at `at`, taken as 0. The structures here are
/// multiples of 4 bytes long; stray bytes would not be summed.
pub(super) fn checksum(bytes: &[u8], at: usize) -> u64 {
    let own = at / 4..at / 4 + 2;
    let words = bytes.as_chunks().0.iter().enumerate();
    fletcher64(words.map(|(i, word)| {
        if own.contains(&i) {
            0
        } else {
            u32::from_le_bytes(*word)
        }
    }))
}
