//! The superblock: written by mkfs (and resize), twice.

use thiserror::Error;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{BLOCK_SIZE, Geometry, GeometryError, crc32c};

/// Bytes of a superblock; it stands at the start of its block.
pub const SUPERBLOCK_SIZE: usize = 256;
/// The version of the format.
pub const VERSION: u32 = 2;
/// Incompatible features that this code knows: none yet.
pub const FEATURES_KNOWN: u64 = 0;
const MAGIC: [u8; 8] = *b"HOLDFAST";

/// A superblock, 256 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SuperBlock {
    magic: [u8; 8],
    version: U32,
    block_size: U32,
    /// Identity; part of every checksum, so that leftovers of an older file system never look valid.
    pub uuid: [u8; 16],
    /// The copy with the higher generation wins.
    pub generation: U64,
    /// Features that a reader may ignore.
    pub compat: U64,
    /// Features that a writer must know.
    pub ro_compat: U64,
    /// Features that a reader must know.
    pub incompat: U64,
    blocks: U64,
    ring_slots: U32,
    inodes: U32,
    /// A name for people, padded with zeroes.
    pub label: [u8; 32],
    reserved: [u8; 140],
    sum: U32,
}

const _: () = assert!(size_of::<SuperBlock>() == SUPERBLOCK_SIZE);

/// What is wrong with a superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SuperblockFaultKind {
    /// The media could not be read.
    #[error(transparent)]
    Media(#[from] dax::pmem::MediaError),
    /// Not ours, or never formatted.
    #[error("no magic number")]
    Magic,
    /// The checksum does not match.
    #[error("checksum is {found:#010x}, should be {expected:#010x}")]
    Checksum {
        /// On the media.
        found: u32,
        /// By the content.
        expected: u32,
    },
    /// Another version of the format, older or newer.
    #[error("format version {0}, but this code reads and writes version {VERSION} only")]
    Version(u32),
    /// A block size that we never write.
    #[error("block size {0}, but only 4096 exists")]
    BlockSize(u32),
    /// Features that we do not know.
    #[error("unknown features {0:#x}")]
    Features(u64),
    /// The areas do not fit together.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The region is smaller than the file system.
    #[error("{blocks} blocks, but the region has only {region}")]
    Truncated {
        /// Blocks of the file system.
        blocks: u64,
        /// Blocks of the region.
        region: u64,
    },
}

/// Which superblock, where, and what was wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("superblock {name} at offset {offset:#x}: {kind}")]
pub struct SuperblockFault {
    /// A or B.
    pub name: char,
    /// Byte offset in the region.
    pub offset: u64,
    /// What was wrong.
    pub kind: SuperblockFaultKind,
}

impl SuperBlock {
    /// A superblock for a geometry, not yet sealed.
    #[must_use]
    pub fn new(g: &Geometry, uuid: [u8; 16], label: [u8; 32], generation: u64) -> Self {
        let mut this = Self {
            magic: MAGIC,
            version: VERSION.into(),
            block_size: (BLOCK_SIZE as u32).into(),
            uuid,
            generation: generation.into(),
            compat: 0.into(),
            ro_compat: 0.into(),
            incompat: 0.into(),
            blocks: g.blocks().into(),
            ring_slots: g.ring_slots().into(),
            inodes: g.inodes().into(),
            label,
            reserved: [0; 140],
            sum: 0.into(),
        };
        this.sum = this.checksum().into();
        this
    }

    fn checksum(&self) -> u32 {
        crc32c(&self.as_bytes()[..SUPERBLOCK_SIZE - 4])
    }

    /// Checks everything a superblock says about itself against a region of `region` blocks.
    pub fn check(&self, region: u64) -> Result<Geometry, SuperblockFaultKind> {
        use SuperblockFaultKind as Fault;
        if self.magic != MAGIC {
            return Err(Fault::Magic);
        }
        let (found, expected) = (self.sum.get(), self.checksum());
        if found != expected {
            return Err(Fault::Checksum { found, expected });
        }
        if self.version.get() != VERSION {
            return Err(Fault::Version(self.version.get()));
        }
        if u64::from(self.block_size.get()) != BLOCK_SIZE {
            return Err(Fault::BlockSize(self.block_size.get()));
        }
        let unknown = (self.incompat.get() | self.ro_compat.get()) & !FEATURES_KNOWN;
        if unknown != 0 {
            return Err(Fault::Features(unknown));
        }
        let blocks = self.blocks.get();
        if blocks > region {
            return Err(Fault::Truncated { blocks, region });
        }
        let g = Geometry::new(blocks, self.ring_slots.get(), self.inodes.get())?;
        Ok(g)
    }
}
