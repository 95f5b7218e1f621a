//! Leaves: blocks of extents, for files with more than fit into the inode.
//!
//! A leaf never changes after it is published: a change writes a new leaf and swings the entry in the inode, in the same
//! record. So its checksum is written once, no record ever targets one, and the words of a record stay few.

use thiserror::Error;

use super::{BLOCK_SIZE, Block, Extent, Geometry, Ino, Sum};

/// Extents in a leaf.
pub const LEAF_EXTENTS: usize = 254;
const MAGIC: u64 = u64::from_le_bytes(*b"hf-leaf\0");
const WORDS: usize = (BLOCK_SIZE / 8) as usize;
/// Words before the extents: magic, inode and count, checksum, 0.
const HEAD: usize = 4;

const _: () = assert!(HEAD + 2 * LEAF_EXTENTS == WORDS);

/// What is wrong with a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LeafFault {
    /// Not a leaf.
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
    /// Of another inode.
    #[error("belongs to inode {0}")]
    Inode(Ino),
    /// More extents than there is room for, or none.
    #[error("{0} extents, but it holds 1 to 254")]
    Count(u64),
    /// An extent that lies outside the region or is empty.
    #[error("extent {index} ({words:#x?}) does not lie in the data blocks")]
    Extent {
        /// Index in the leaf.
        index: usize,
        /// As found.
        words: [u64; 2],
    },
}

/// The words of a leaf, one block.
pub struct Leaf(pub [u64; WORDS]);

impl Leaf {
    /// Packs 1 to 254 extents of `ino`, for block `at`.
    #[must_use]
    pub fn encode(extents: &[Extent], uuid: &[u8; 16], ino: Ino, at: Block) -> Self {
        let mut words = [0; WORDS];
        for (place, extent) in words[HEAD..].as_chunks_mut::<2>().0.iter_mut().zip(extents) {
            *place = extent.to_words();
        }
        words[0] = MAGIC;
        words[1] = u64::from(ino) | (extents.len() as u64) << 32;
        words[2] = u64::from(Self::sum(&words, uuid, at));
        Self(words)
    }

    fn sum(words: &[u64; WORDS], uuid: &[u8; 16], at: Block) -> u32 {
        Sum::new(uuid, at)
            .words(&words[..2])
            .words(&words[3..])
            .finish()
    }

    /// Checks the leaf of `ino` in block `at`, and gives its extents.
    pub fn decode(
        &self,
        g: &Geometry,
        uuid: &[u8; 16],
        ino: Ino,
        at: Block,
    ) -> Result<impl Iterator<Item = Result<Extent, LeafFault>>, LeafFault> {
        let words = &self.0;
        if words[0] != MAGIC {
            return Err(LeafFault::Magic);
        }
        let expected = Self::sum(words, uuid, at);
        if words[2] != u64::from(expected) {
            let found = words[2] as u32;
            return Err(LeafFault::Checksum { found, expected });
        }
        if words[1] as u32 != ino {
            return Err(LeafFault::Inode(words[1] as u32));
        }
        let count = words[1] >> 32;
        if count == 0 || count > LEAF_EXTENTS as u64 {
            return Err(LeafFault::Count(count));
        }
        let pairs = words[HEAD..].as_chunks::<2>().0[..count as usize].iter();
        Ok(pairs.enumerate().map(|(index, pair)| {
            Extent::from_words(*pair, g).ok_or(LeafFault::Extent {
                index,
                words: *pair,
            })
        }))
    }
}
