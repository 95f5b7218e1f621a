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
mod superblock;

pub use dentry::{DENTRY_SIZE, Dentry, HEAD_NAME, NAME_MAX, TAIL_NAME, name_hash, slots_for};
pub use extent::{Extent, RawExtent};
pub use geometry::{GIB_BLOCKS, Geometry, GeometryError, MEGA_BLOCKS};
pub use inode::{
    CORE_WORDS, Core, INLINE_EXTENTS, INLINE_TEXT, INODE_SIZE, InodeFault, InodeImage, Kind,
    TEXT_MAX,
};
pub use node::{MAX_DEPTH, NODE_ENTRIES, Node, NodeFault, NodeRef};
pub use superblock::{
    FEATURES_KNOWN, SUPERBLOCK_SIZE, SuperBlock, SuperblockFault, SuperblockFaultKind, VERSION,
};

use crc::{CRC_32_ISCSI, Crc, Digest, Table};
use zerocopy::IntoBytes;

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

static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// A running CRC-32C, the checksum of every structure of the format.
pub struct Sum(Digest<'static, u32, Table<16>>);

impl Sum {
    /// Starts a sum; `seed` binds it to the file system and the place, so that a structure in a wrong place is found.
    #[must_use]
    pub fn new(uuid: &[u8; 16], place: u64) -> Self {
        let mut digest = CRC32C.digest();
        digest.update(uuid);
        digest.update(&place.to_le_bytes());
        Self(digest)
    }

    /// Adds bytes.
    #[must_use]
    pub fn bytes(mut self, data: &[u8]) -> Self {
        self.0.update(data);
        self
    }

    /// Adds words, each little-endian.
    #[must_use]
    pub fn words(mut self, data: &[u64]) -> Self {
        const { assert!(cfg!(target_endian = "little")) }
        self.0.update(data.as_bytes());
        self
    }

    /// The checksum of all that was added.
    #[must_use]
    pub fn finish(self) -> u32 {
        self.0.finalize()
    }
}

/// The CRC-32C of `data`, bound to nothing; what the shell's `sum` prints.
#[must_use]
pub fn crc32c(data: &[u8]) -> u32 {
    CRC32C.checksum(data)
}

/// CRC-32C over data that arrives in pieces.
pub struct Running(Digest<'static, u32, Table<16>>);

impl Running {
    /// A sum over nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self(CRC32C.digest())
    }

    /// Adds the next piece.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The checksum.
    #[must_use]
    pub fn finish(self) -> u32 {
        self.0.finalize()
    }
}

impl Default for Running {
    fn default() -> Self {
        Self::new()
    }
}

/// The 8 words of a 64-byte line.
pub(crate) fn line_words(line: &[u8; 64]) -> [u64; 8] {
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(line.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}
