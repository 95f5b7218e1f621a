//! Making a file system.
//!
//! The old superblocks go first, the new ones come last: a mkfs that is cut off leaves a region without a file system, never half of
//! one.

use dax::pmem::{MediaError, Pmem};
use thiserror::Error;

use crate::commit::{Media, MetaAddr, RecordKind, Ring};
use crate::layout::{
    BLOCK_SIZE, CORE_WORDS, Core, Geometry, GeometryError, INODE_SIZE, InodeImage, Kind, ROOT,
    SUPERBLOCK_SIZE, SuperBlock, SuperblockFault, SuperblockFaultKind,
};
use crate::media_inode::state_word;
use crate::superblock;
use zerocopy::IntoBytes;

/// Inodes of a block.
const BATCH: u64 = BLOCK_SIZE / INODE_SIZE;

/// How a file system is to be.
#[derive(Clone, Copy, Debug)]
pub struct MkfsOptions {
    /// Overwrite a file system that is there.
    pub force: bool,
    /// Its identity; must differ between any two.
    pub uuid: [u8; 16],
    /// A name for people, padded with zeroes.
    pub label: [u8; 32],
    /// Room in the inode table; `None`: one inode for each 64 KiB. Rounded up to a multiple of 16.
    pub inodes: Option<u32>,
    /// Records in the ring: a multiple of 16, 16 to 4096.
    pub ring_slots: u32,
    /// The time, in nanoseconds since 1970, that the root directory gets.
    pub now_ns: u64,
}

impl MkfsOptions {
    /// The usual: 256 records, an inode for each 64 KiB, no label.
    #[must_use]
    pub const fn new(uuid: [u8; 16]) -> Self {
        Self {
            force: false,
            uuid,
            label: [0; 32],
            inodes: None,
            ring_slots: 256,
            now_ns: 0,
        }
    }
}

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MkfsReport {
    /// Blocks of the region.
    pub blocks: u64,
    /// Inodes that the table can hold.
    pub inodes: u32,
    /// First block that files may use.
    pub data_block: u64,
    /// Records in the ring.
    pub ring_slots: u32,
}

/// Why no file system was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MkfsError {
    /// There is one already.
    #[error(
        "the region holds a file system, of this version of the format or another (force overwrites it)"
    )]
    Exists,
    /// The region cannot be written.
    #[error("the region is read-only")]
    ReadOnly,
    /// The areas do not fit.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The identity of all zeroes is none.
    #[error("the identity is all zeroes")]
    Uuid,
    /// The record could not be written back and read.
    #[error(transparent)]
    Media(#[from] MediaError),
}

/// Makes an empty file system on `p`: the root directory and nothing else.
pub fn mkfs<P: Pmem>(p: &P, o: &MkfsOptions) -> Result<MkfsReport, MkfsError> {
    if !p.writable() {
        return Err(MkfsError::ReadOnly);
    }
    if o.uuid == [0; 16] {
        return Err(MkfsError::Uuid);
    }
    let g = geometry(p.len() / BLOCK_SIZE, o)?;
    if !o.force && exists(p) {
        return Err(MkfsError::Exists);
    }
    p.zero_nt(0, 2 * BLOCK_SIZE);
    p.fence();
    write_areas(p, &g, o);
    for block in [0, 1] {
        let copy = SuperBlock::new(&g, o.uuid, o.label, 1);
        p.copy_nt(block * BLOCK_SIZE, &copy.as_bytes()[..SUPERBLOCK_SIZE]);
        p.fence();
    }
    Ok(MkfsReport {
        blocks: g.blocks(),
        inodes: g.inodes(),
        data_block: g.data_block(),
        ring_slots: g.ring_slots(),
    })
}

/// Whether there is a file system, of this version or another.
fn exists<P: Pmem>(p: &P) -> bool {
    let other = |fault: &SuperblockFault| {
        use SuperblockFaultKind::{Features, Version};
        matches!(fault.kind, Version(_) | Features(_))
    };
    match superblock::choose(&Media::new(p)) {
        Ok(_) => true,
        Err(faults) => faults.iter().any(other),
    }
}

fn geometry(blocks: u64, o: &MkfsOptions) -> Result<Geometry, GeometryError> {
    let by_size = || (blocks / 16).clamp(BATCH, 1 << 31) as u32;
    let inodes = o.inodes.unwrap_or_else(by_size).max(1);
    let inodes = inodes.checked_next_multiple_of(BATCH as u32).unwrap_or(0);
    Geometry::new(blocks, o.ring_slots, inodes)
}

/// State block, ring and the first block of the inode table.
fn write_areas<P: Pmem>(p: &P, g: &Geometry, o: &MkfsOptions) {
    p.zero_nt(g.state_off(), BLOCK_SIZE);
    p.zero_nt(g.ring_off(), u64::from(g.ring_slots()) * 256);
    p.zero_nt(g.inode_block() * BLOCK_SIZE, BLOCK_SIZE);
    p.fence();
    let media = Media::new(p);
    let mut ring = Ring::first(*g, o.uuid);
    let mut tx = ring.begin(RecordKind::Create);
    let words = root(&o.uuid, o.now_ns);
    // A record holds 27 words; these are 11.
    let _ = tx.store(MetaAddr::inode(g, ROOT, 0), &words);
    let _ = tx.store(MetaAddr::state(g), &[state_word(&o.uuid, BATCH as u32)]);
    let _ = tx.commit(&media);
    ring.checkpoint(&media);
}

/// The words of an empty root directory's attributes.
pub(crate) fn root(uuid: &[u8; 16], now_ns: u64) -> [u64; CORE_WORDS] {
    let core = Core {
        mode: Kind::Dir.bits() | 0o755,
        entries: 0,
        depth: 0,
        nlink: 2,
        mtime: now_ns,
        ctime: now_ns,
        parent: ROOT,
        size: 0,
        uid: 0,
        gid: 0,
        generation: 1,
        extra: 0,
        atime: now_ns,
    };
    let image = InodeImage {
        core,
        body: Default::default(),
    };
    core.to_words(image.checksum(uuid, ROOT))
}
