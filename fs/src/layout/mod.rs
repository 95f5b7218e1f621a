//! The media format: every structure that stands on the region, its size asserted, its checksum beside it.
//!
//! ```text
//! block 0      superblock A          one of the two is always whole: mkfs and resize write one, fence, write the other
//! block 1      superblock B
//! block 2      state block           one word: how many inodes of the table are initialised
//! block 3..    record ring           slots of 256 bytes, one redo record each
//! ..           inode table           256 bytes an inode; only the initialised part holds anything
//! ..           blocks of files, directories and nodes of extents, to the end of the region
//! ```
//!
//! All numbers are little-endian; all blocks are 4096 bytes, counted from the start of the region. What is *not* here is as
//! much part of the format: no free map (free is what no live inode reaches), no list of orphans (an inode with no link
//! left is free to whoever mounts next), no journal head (the newest whole record says how far the media had got).
//!
//! A structure is read by copying it out; nothing here borrows the media. Every reader takes the bytes as an allegation,
//! and answers either a checked value or what was wrong.

mod dentry;
mod extent;
mod geometry;
mod inode;
mod node;
mod sum;
mod superblock;

pub use dentry::{DENTRY_SIZE, Dentry, HEAD_NAME, NAME_MAX, TAIL_NAME, name_hash, slots_for};
pub use extent::{Extent, RawExtent};
pub use geometry::{GIB_BLOCKS, Geometry, GeometryError, MEGA_BLOCKS};
pub use inode::{
    Body, CORE_WORDS, Core, INLINE_EXTENTS, INLINE_TEXT, INODE_SIZE, InodeFault, InodeImage, Kind,
    SUM_WORD, TEXT_MAX,
};
pub use node::{MAX_DEPTH, NODE_ENTRIES, Node, NodeFault, NodeRef};
pub use superblock::{
    FEATURES_KNOWN, SUPERBLOCK_SIZE, SuperBlock, SuperblockFault, SuperblockFaultKind, VERSION,
};

pub use sum::{Running, Seed, Sum, crc32c};

/// Bytes of a block, the unit of allocation; the size of a small page.
pub const BLOCK_SIZE: u64 = 4096;
/// log2 of [`BLOCK_SIZE`].
pub const BLOCK_SHIFT: u32 = 12;

/// A block number, counted from the start of the region.
pub type Block = u64;

/// The number of an inode: its index in the inode table. 0 is no inode; 1 is the root directory.
pub type Ino = u32;

/// The root directory.
pub const ROOT: Ino = 1;

/// The 8 words of a 64-byte line.
pub(crate) fn line_words(line: &[u8; 64]) -> [u64; 8] {
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(line.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}
