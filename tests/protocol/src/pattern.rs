//! The contents of the scratch disk: every 8-byte little-endian word is its own byte offset, xor [`KEY`].
//!
//! So any aligned piece of the disk can be checked without the rest, a piece from the wrong offset never matches, and no word is zero
//! or repeated.

/// What each word's offset is xored with.
pub const KEY: u64 = 0x9e37_79b9_7f4a_7c15;

/// The word at a byte offset of the disk, which must be a multiple of 8.
pub const fn word(offset: u64) -> u64 {
    offset ^ KEY
}

/// Fills `buf` with what the disk holds from byte `offset` on; `offset` may be any number.
pub fn fill(offset: u64, buf: &mut [u8]) {
    for (at, byte) in (offset..).zip(buf) {
        *byte = byte_at(at);
    }
}

/// The first position in `buf` that differs from the disk's contents at byte `offset` and on; `None` when all of it is equal.
pub fn first_difference(offset: u64, buf: &[u8]) -> Option<usize> {
    (offset..)
        .zip(buf)
        .position(|(at, byte)| *byte != byte_at(at))
}

const fn byte_at(offset: u64) -> u8 {
    word(offset & !7).to_le_bytes()[(offset & 7) as usize]
}
