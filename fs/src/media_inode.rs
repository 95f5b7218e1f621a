//! An inode with its extents, read from the media and checked; shared by mount, lookup and fsck.

use alloc::vec::Vec;

use arrayvec::ArrayVec;
use dax::pmem::{MediaError, Pmem};
use mm::mem::OutOfMemory;
use thiserror::Error;

use crate::commit::Media;
use crate::extents::{ExtentMap, Overlap};
use crate::layout::{
    BLOCK_SIZE, Block, Extent, Geometry, INLINE_EXTENTS, Ino, InodeFault, InodeImage, Leaf,
    LeafFault,
};

/// A piece of metadata on the media that cannot be trusted: which, where, and what was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Corrupt {
    /// An inode could not be read.
    #[error("inode {ino} at offset {offset:#x}: {source}")]
    InodeMedia {
        /// Its number.
        ino: Ino,
        /// Byte offset in the region.
        offset: u64,
        /// What the region said.
        source: MediaError,
    },
    /// An inode is wrong.
    #[error("inode {ino} at offset {offset:#x}: {fault}")]
    Inode {
        /// Its number.
        ino: Ino,
        /// Byte offset in the region.
        offset: u64,
        /// What is wrong.
        fault: InodeFault,
    },
    /// A leaf could not be read.
    #[error("extent leaf of inode {ino} at offset {offset:#x}: {source}")]
    LeafMedia {
        /// The inode.
        ino: Ino,
        /// Byte offset in the region.
        offset: u64,
        /// What the region said.
        source: MediaError,
    },
    /// A leaf is wrong.
    #[error("extent leaf of inode {ino} at offset {offset:#x}: {fault}")]
    Leaf {
        /// The inode.
        ino: Ino,
        /// Byte offset in the region.
        offset: u64,
        /// What is wrong.
        fault: LeafFault,
    },
    /// The text of a symbolic link could not be read.
    #[error("symbolic link {ino}, text at offset {offset:#x}: {source}")]
    TextMedia {
        /// The link.
        ino: Ino,
        /// Byte offset in the region.
        offset: u64,
        /// What the region said.
        source: MediaError,
    },
    /// The text of a symbolic link is wrong.
    #[error(
        "symbolic link {ino}, text at offset {offset:#x}: checksum is {found:#010x}, should be {expected:#010x}"
    )]
    Text {
        /// The link.
        ino: Ino,
        /// Byte offset in the region.
        offset: u64,
        /// On the media.
        found: u32,
        /// By the content.
        expected: u32,
    },
    /// A symbolic link says that its text stands in a block, and names none that was written.
    #[error("symbolic link {0} has no text")]
    NoText(Ino),
    /// A directory entry could not be read.
    #[error("directory {dir}, slot {slot} at offset {offset:#x}: {source}")]
    DentryMedia {
        /// The directory.
        dir: Ino,
        /// Slot number in the directory.
        slot: u32,
        /// Byte offset in the region.
        offset: u64,
        /// What the region said.
        source: MediaError,
    },
    /// A directory entry is wrong.
    #[error("directory {dir}, slot {slot} at offset {offset:#x}: {fault}")]
    Dentry {
        /// The directory.
        dir: Ino,
        /// Slot number in the directory.
        slot: u32,
        /// Byte offset in the region.
        offset: u64,
        /// What is wrong.
        fault: DentryFault,
    },
    /// A directory has a hole, or storage that was never written.
    #[error("directory {dir}: its block {block} has no content")]
    DirHole {
        /// The directory.
        dir: Ino,
        /// Block of the directory.
        block: u64,
    },
}

impl Corrupt {
    /// Whether the medium could not be read, so that nobody knows what stood there.
    #[must_use]
    pub const fn is_media(&self) -> bool {
        matches!(
            self,
            Self::InodeMedia { .. }
                | Self::LeafMedia { .. }
                | Self::TextMedia { .. }
                | Self::DentryMedia { .. }
        )
    }
}

/// What is wrong with a directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DentryFault {
    /// Length, slots, kind or inode number are none that an entry has.
    #[error("not an entry")]
    Head,
    /// The name runs out of its block, or a slot of it does not look free.
    #[error("the slots after it do not hold its name")]
    Tail,
    /// The checksum does not match.
    #[error("checksum is {found:#010x}, should be {expected:#010x}")]
    Checksum {
        /// On the media.
        found: u32,
        /// By the content.
        expected: u32,
    },
    /// The hash is not that of the name.
    #[error("hash is {found:#010x}, should be {expected:#010x}")]
    Hash {
        /// On the media.
        found: u32,
        /// By the name.
        expected: u32,
    },
    /// It names an inode that does not exist.
    #[error("it names inode {0}, which is not in use")]
    Dangling(Ino),
    /// It says another kind than the inode.
    #[error("it says another kind than inode {0}")]
    Kind(Ino),
}

/// Why an inode could not be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LoadError {
    /// The media is wrong.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// No memory for the extents.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// A leaf of a file: its block, and the first file block of its first extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafRef {
    /// First file block.
    pub first: u64,
    /// Extents in it.
    pub count: u64,
    /// Where it is.
    pub block: Block,
}

/// The leaves of a file.
pub type Leaves = ArrayVec<LeafRef, INLINE_EXTENTS>;

impl LeafRef {
    /// The words of the index entry.
    #[must_use]
    pub const fn to_words(&self) -> [u64; 2] {
        [self.first | self.count << 32, self.block]
    }

    /// Reads an index entry.
    #[must_use]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self {
            first: words[0] & 0xffff_ffff,
            count: words[0] >> 32,
            block: words[1],
        }
    }
}

/// An inode in use, with all its extents.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// As on the media.
    pub inode: InodeImage,
    /// Its extents.
    pub map: ExtentMap,
    /// Its leaves, by file block.
    pub leaves: Leaves,
}

/// What loading needs to know about the file system.
pub struct Ground<'a, P> {
    /// The region.
    pub media: &'a Media<P>,
    /// Its areas.
    pub geometry: &'a Geometry,
    /// Its identity.
    pub uuid: &'a [u8; 16],
}

impl<P> Clone for Ground<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Ground<'_, P> {}

impl<P: Pmem> Ground<'_, P> {
    /// Whether inode `ino` is in use: a type and a link. `ino` lies in the initialised part of the table.
    ///
    /// An inode that is not in use was never used, or its checksum is right: a damaged first word must not make its blocks free.
    pub fn in_use(&self, ino: Ino) -> Result<bool, Corrupt> {
        let offset = self.geometry.inode_off(ino);
        let words = self.media.words::<4>(offset);
        let [first, .., sum] = words.map_err(|source| Corrupt::InodeMedia {
            ino,
            offset,
            source,
        })?;
        if InodeImage::in_use(first) {
            return Ok(true);
        }
        if first != 0 || sum != 0 {
            self.inode(ino)?;
        }
        Ok(false)
    }

    /// Reads and checks inode `ino`, which is in use.
    pub fn inode(&self, ino: Ino) -> Result<InodeImage, Corrupt> {
        let offset = self.geometry.inode_off(ino);
        let words = self
            .media
            .words(offset)
            .map_err(|source| Corrupt::InodeMedia {
                ino,
                offset,
                source,
            })?;
        InodeImage::decode(&words, self.uuid, ino).map_err(|fault| Corrupt::Inode {
            ino,
            offset,
            fault,
        })
    }

    /// Reads and checks inode `ino`, which is in use, with all its extents.
    pub fn load(&self, ino: Ino) -> Result<Loaded, LoadError> {
        let inode = self.inode(ino)?;
        let offset = self.geometry.inode_off(ino);
        let wrong = |fault| Corrupt::Inode { ino, offset, fault };
        let mut list = Vec::new();
        let mut leaves = Leaves::new();
        let entries = usize::from(inode.core.entries);
        list.try_reserve(entries).map_err(|_| OutOfMemory)?;
        for (index, words) in inode.body[..entries].iter().enumerate() {
            if inode.core.depth == 0 {
                let extent = Extent::from_words(*words, self.geometry);
                let bad = InodeFault::Extent {
                    index,
                    words: *words,
                };
                list.push(extent.ok_or_else(|| wrong(bad))?);
            } else {
                let leaf = LeafRef::from_words(*words);
                self.load_leaf(ino, &leaf, &mut list)?;
                leaves.push(leaf);
            }
        }
        leaves.sort_unstable_by_key(|leaf| leaf.first);
        let map = ExtentMap::from_unsorted(list);
        let map = map.map_err(|Overlap(block)| wrong(InodeFault::Overlap(block)))?;
        Ok(Loaded { inode, map, leaves })
    }

    fn load_leaf(&self, ino: Ino, leaf: &LeafRef, list: &mut Vec<Extent>) -> Result<(), LoadError> {
        let offset = leaf.block.saturating_mul(BLOCK_SIZE);
        let wrong = |fault| Corrupt::Leaf { ino, offset, fault };
        if !self.geometry.is_data(leaf.block, 1) {
            let words = leaf.to_words();
            return Err(wrong(LeafFault::Extent { index: 0, words }).into());
        }
        let content = self
            .media
            .words(offset)
            .map_err(|source| Corrupt::LeafMedia {
                ino,
                offset,
                source,
            })?;
        let content = Leaf(content);
        let extents = content
            .decode(self.geometry, self.uuid, ino, leaf.block)
            .map_err(wrong)?;
        let before = list.len();
        list.try_reserve(leaf.count as usize & 0xff)
            .map_err(|_| OutOfMemory)?;
        for extent in extents {
            list.try_reserve(1).map_err(|_| OutOfMemory)?;
            list.push(extent.map_err(wrong)?);
        }
        let found = (list.len() - before) as u64;
        let first = list.get(before).map(|extent| extent.file);
        if found != leaf.count || first != Some(leaf.first) {
            return Err(wrong(LeafFault::Count(found)).into());
        }
        Ok(())
    }
}

/// How many inodes are initialised, as the state block says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StateFault {
    /// The media could not be read.
    #[error("state block at offset {offset:#x}: {source}")]
    Media {
        /// Byte offset in the region.
        offset: u64,
        /// What the region said.
        source: MediaError,
    },
    /// The check half of the word does not match.
    #[error(
        "state block at offset {offset:#x}: check is {found:#010x}, should be {expected:#010x}"
    )]
    Check {
        /// Byte offset in the region.
        offset: u64,
        /// On the media.
        found: u32,
        /// By the content.
        expected: u32,
    },
    /// More inodes than the table holds, or none.
    #[error(
        "state block at offset {offset:#x}: {initialised} initialised inodes in a table of {inodes}"
    )]
    Inodes {
        /// Byte offset in the region.
        offset: u64,
        /// What it says.
        initialised: u32,
        /// What the table holds.
        inodes: u32,
    },
}

/// The word of the state block: the number of initialised inodes, and its check.
#[must_use]
pub fn state_word(uuid: &[u8; 16], initialised: u32) -> u64 {
    u64::from(initialised) | u64::from(state_check(uuid, initialised)) << 32
}

fn state_check(uuid: &[u8; 16], initialised: u32) -> u32 {
    crate::layout::Sum::new(uuid, u64::from(initialised)).finish()
}

impl<P: Pmem> Ground<'_, P> {
    /// How many inodes of the table are initialised.
    pub fn initialised(&self) -> Result<u32, StateFault> {
        let offset = self.geometry.state_off();
        let [word] = self
            .media
            .words::<1>(offset)
            .map_err(|source| StateFault::Media { offset, source })?;
        let (initialised, found) = (word as u32, (word >> 32) as u32);
        let expected = state_check(self.uuid, initialised);
        if found != expected {
            return Err(StateFault::Check {
                offset,
                found,
                expected,
            });
        }
        let inodes = self.geometry.inodes();
        if initialised < 2 || initialised > inodes {
            return Err(StateFault::Inodes {
                offset,
                initialised,
                inodes,
            });
        }
        Ok(initialised)
    }
}
