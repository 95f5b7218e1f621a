//! Where each area lies: pure arithmetic over the numbers of a superblock, validated once.

use thiserror::Error;

use super::{BLOCK_SIZE, Block, INODE_SIZE, Ino};

/// Blocks of 2 MiB.
pub const MEGA_BLOCKS: u64 = 512;
/// Blocks of 1 GiB.
pub const GIB_BLOCKS: u64 = 1 << 18;
/// The first block of the record ring, always.
const RING_BLOCK: Block = 3;
/// The block whose first word says how many inodes are initialised.
const STATE_BLOCK: Block = 2;
/// Records that fit into one block.
const SLOTS_PER_BLOCK: u32 = 16;
/// Inodes that fit into one block.
const INODES_PER_BLOCK: u32 = (BLOCK_SIZE / INODE_SIZE) as u32;
/// The largest region: file block numbers have 32 bits, and no file is longer than the region.
const MAX_BLOCKS: u64 = 1 << 32;

/// The areas of a region. Invariant: they lie in order, do not overlap, end within the region, and at least one data block is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    blocks: u64,
    ring_slots: u32,
    inodes: u32,
}

/// Why three numbers are no geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GeometryError {
    /// More blocks than file block numbers can name.
    #[error("{blocks} blocks, but the format ends at {MAX_BLOCKS} (16 TiB)")]
    TooBig {
        /// Blocks asked for.
        blocks: u64,
    },
    /// The ring must fill whole blocks.
    #[error("a ring of {slots} slots, but it must be a multiple of 16 from 16 to 4096")]
    Ring {
        /// Slots asked for.
        slots: u32,
    },
    /// The inode table must fill whole blocks.
    #[error("a table of {inodes} inodes, but it must be a multiple of 16, and not 0")]
    Inodes {
        /// Inodes asked for.
        inodes: u32,
    },
    /// Nothing is left for data.
    #[error("ring and inode table need {needed} blocks of {blocks}, and nothing is left for data")]
    NoRoom {
        /// Blocks before the first data block.
        needed: u64,
        /// Blocks of the region.
        blocks: u64,
    },
}

impl Geometry {
    /// Lays out `blocks` blocks with a ring of `ring_slots` and a table of `inodes`.
    pub const fn new(blocks: u64, ring_slots: u32, inodes: u32) -> Result<Self, GeometryError> {
        if blocks > MAX_BLOCKS {
            return Err(GeometryError::TooBig { blocks });
        }
        if ring_slots == 0 || ring_slots > 4096 || !ring_slots.is_multiple_of(SLOTS_PER_BLOCK) {
            return Err(GeometryError::Ring { slots: ring_slots });
        }
        if inodes == 0 || !inodes.is_multiple_of(INODES_PER_BLOCK) {
            return Err(GeometryError::Inodes { inodes });
        }
        let this = Self {
            blocks,
            ring_slots,
            inodes,
        };
        let needed = this.data_block();
        if needed >= blocks {
            return Err(GeometryError::NoRoom { needed, blocks });
        }
        Ok(this)
    }

    /// Blocks of the region.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Records in the ring.
    #[must_use]
    pub const fn ring_slots(&self) -> u32 {
        self.ring_slots
    }

    /// Inodes the table can hold, entry 0 (never used) included.
    #[must_use]
    pub const fn inodes(&self) -> u32 {
        self.inodes
    }

    /// Byte offset of the word that says how many inodes are initialised.
    #[must_use]
    pub const fn state_off(&self) -> u64 {
        STATE_BLOCK * BLOCK_SIZE
    }

    /// Byte offset of the ring.
    #[must_use]
    pub const fn ring_off(&self) -> u64 {
        RING_BLOCK * BLOCK_SIZE
    }

    /// Byte offset of the slot that a record of sequence number `seq` goes to.
    #[must_use]
    pub const fn slot_off(&self, seq: u64) -> u64 {
        self.ring_off() + (seq % self.ring_slots as u64) * (BLOCK_SIZE / SLOTS_PER_BLOCK as u64)
    }

    /// First block of the inode table.
    #[must_use]
    pub const fn inode_block(&self) -> Block {
        RING_BLOCK + (self.ring_slots / SLOTS_PER_BLOCK) as u64
    }

    /// Byte offset of an inode. `ino` must be below [`Geometry::inodes`].
    #[must_use]
    pub const fn inode_off(&self, ino: Ino) -> u64 {
        self.inode_block() * BLOCK_SIZE + ino as u64 * INODE_SIZE
    }

    /// First block that files may use.
    #[must_use]
    pub const fn data_block(&self) -> Block {
        self.inode_block() + (self.inodes / INODES_PER_BLOCK) as u64
    }

    /// Whether `len` blocks from `block` on lie in the part that files may use.
    #[must_use]
    pub fn is_data(&self, block: Block, len: u64) -> bool {
        let end = block.checked_add(len);
        block >= self.data_block() && end.is_some_and(|end| end <= self.blocks)
    }

    /// Whether a record may change the `len` bytes at `off`: the state word, inodes, or blocks of files.
    #[must_use]
    pub fn is_target(&self, off: u64, len: u64) -> bool {
        let Some(end) = off.checked_add(len) else {
            return false;
        };
        let state = off == self.state_off() && len == 8;
        let rest = off >= self.inode_off(0) && end <= self.blocks * BLOCK_SIZE;
        state || rest
    }
}
