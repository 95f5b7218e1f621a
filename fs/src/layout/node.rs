//! Nodes: blocks of extents, and blocks that name such blocks, for files with more extents than fit into the inode.
//!
//! A node never changes after it is published: a change writes a new node, and new ones above it, and swings the entry in the
//! inode, all in one record. So its checksum is written once, no record ever targets one, and the words of a record stay few.

use thiserror::Error;
use zerocopy::IntoBytes;

use super::{BLOCK_SIZE, Block, Ino, Sum};

/// Entries in a node.
pub const NODE_ENTRIES: usize = 254;
/// The deepest tree: entries of an inode that are extents are depth 0; each level of nodes is one more.
pub const MAX_DEPTH: u8 = 6;
const MAGIC: u64 = u64::from_le_bytes(*b"hf-node\0");
const WORDS: usize = (BLOCK_SIZE / 8) as usize;
/// Words before the entries: magic; inode, count and level; checksum; 0.
const HEAD: usize = 4;

const _: () = assert!(HEAD + 2 * NODE_ENTRIES == WORDS);

/// What is wrong with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NodeFault {
    /// Not a node.
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
    /// Of another level than its parent says.
    #[error("level {found}, but its parent is of level {}", expected + 1)]
    Level {
        /// On the media.
        found: u8,
        /// By the parent.
        expected: u8,
    },
    /// Another number of entries than its parent says, more than there is room for, or none.
    #[error("{0} entries, which is not what its parent says, or not 1 to 254")]
    Count(u64),
    /// It begins at another block of the file than its parent says, or than the order of the nodes allows.
    #[error("begins at file block {0}, out of order")]
    First(u64),
    /// An entry that lies outside the region or is empty.
    #[error("entry {index} ({words:#x?}) does not lie in the data blocks")]
    Entry {
        /// Index in the node.
        index: usize,
        /// As found.
        words: [u64; 2],
    },
}

/// An entry that names a node: two words, as an extent has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeRef {
    /// First block of the file of all that is below it.
    pub first: u64,
    /// Entries in it.
    pub count: u64,
    /// Where it is.
    pub block: Block,
}

impl NodeRef {
    /// The words of the entry.
    #[must_use]
    pub const fn to_words(&self) -> [u64; 2] {
        [self.first | self.count << 32, self.block]
    }

    /// Takes the words apart; checks nothing.
    #[must_use]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self {
            first: words[0] & 0xffff_ffff,
            count: words[0] >> 32,
            block: words[1],
        }
    }
}

/// The words of a node, one block.
pub struct Node(pub [u64; WORDS]);

impl Node {
    /// Words that are read before it is known how many there are.
    pub const HEAD: usize = HEAD;

    /// Packs 1 to 254 entries of `ino`, for block `at`. Level 0 holds extents.
    #[must_use]
    pub fn encode(
        level: u8,
        entries: impl Iterator<Item = [u64; 2]>,
        uuid: &[u8; 16],
        ino: Ino,
        at: Block,
    ) -> Self {
        let mut words = [0; WORDS];
        let mut count = 0;
        let places = words[HEAD..].as_chunks_mut::<2>().0.iter_mut();
        for (place, entry) in places.zip(entries) {
            *place = entry;
            count += 1;
        }
        words[0] = MAGIC;
        words[1] = u64::from(ino) | count << 32 | u64::from(level) << 48;
        let mut this = Self(words);
        this.0[2] = u64::from(this.sum(uuid, at));
        this
    }

    /// Entries, as the head says.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.0[1] >> 32 & 0xffff
    }

    /// Words up to the last entry; what is behind them means nothing. At most a block, whatever the head says.
    #[must_use]
    pub fn used(&self) -> usize {
        HEAD + 2 * (self.count() as usize).min(NODE_ENTRIES)
    }

    /// The used words as they stand on the media.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        const { assert!(cfg!(target_endian = "little")) }
        self.0[..self.used()].as_bytes()
    }

    fn sum(&self, uuid: &[u8; 16], at: Block) -> u32 {
        Sum::new(uuid, at)
            .words(&self.0[..2])
            .words(&self.0[3..self.used()])
            .finish()
    }

    /// Checks the node of `level` of `ino` in block `at`, and gives its entries, unchecked.
    pub fn check(
        &self,
        level: u8,
        uuid: &[u8; 16],
        ino: Ino,
        at: Block,
    ) -> Result<&[[u64; 2]], NodeFault> {
        let words = &self.0;
        if words[0] != MAGIC {
            return Err(NodeFault::Magic);
        }
        let expected = self.sum(uuid, at);
        if words[2] != u64::from(expected) {
            let found = words[2] as u32;
            return Err(NodeFault::Checksum { found, expected });
        }
        if words[1] as u32 != ino {
            return Err(NodeFault::Inode(words[1] as u32));
        }
        let found = (words[1] >> 48) as u8;
        if words[1] >> 48 != u64::from(level) {
            let expected = level;
            return Err(NodeFault::Level { found, expected });
        }
        let count = self.count();
        if count == 0 || count > NODE_ENTRIES as u64 {
            return Err(NodeFault::Count(count));
        }
        Ok(&words[HEAD..].as_chunks::<2>().0[..count as usize])
    }
}
