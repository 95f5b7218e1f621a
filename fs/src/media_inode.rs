//! An inode with its extents, read from the media and checked; shared by mount, lookup and fsck.

use alloc::vec::Vec;

use dax::pmem::{MediaError, Pmem};
use mm::mem::OutOfMemory;
use thiserror::Error;

use crate::commit::Media;
use crate::extents::{ExtentMap, Leaf, Overlap};
use crate::layout::{
    BLOCK_SIZE, Extent, Geometry, Ino, InodeFault, InodeImage, Node, NodeFault, NodeRef,
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
    /// A node of extents could not be read.
    #[error("extent node of inode {ino} at offset {offset:#x}: {source}")]
    NodeMedia {
        /// The inode.
        ino: Ino,
        /// Byte offset in the region.
        offset: u64,
        /// What the region said.
        source: MediaError,
    },
    /// A node of extents is wrong.
    #[error("extent node of inode {ino} at offset {offset:#x}: {fault}")]
    Node {
        /// The inode.
        ino: Ino,
        /// Byte offset in the region.
        offset: u64,
        /// What is wrong.
        fault: NodeFault,
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
                | Self::NodeMedia { .. }
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

/// An inode in use, with all its extents.
#[derive(Debug)]
pub struct Loaded {
    /// As on the media.
    pub inode: InodeImage,
    /// Its extents, and the nodes they stand in.
    pub map: ExtentMap,
}

/// Takes a node's entries.
type EachNode<'a> = &'a mut dyn FnMut(&NodeRef, &[[u64; 2]]) -> Result<(), LoadError>;

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
        let entries = &inode.body[..usize::from(inode.core.entries)];
        let map = match inode.core.depth {
            0 => self.inline(ino, entries)?,
            depth => self.tree(ino, depth, entries)?,
        };
        let offset = self.geometry.inode_off(ino);
        let map = map.map_err(|Overlap(block)| {
            let fault = InodeFault::Overlap(block);
            Corrupt::Inode { ino, offset, fault }
        })?;
        Ok(Loaded { inode, map })
    }

    /// Decodes entries that are extents; `wrong` says what one is that lies elsewhere than in the data blocks.
    fn extents(
        &self,
        entries: &[[u64; 2]],
        wrong: impl Fn(usize, [u64; 2]) -> Corrupt,
    ) -> Result<Vec<Extent>, LoadError> {
        let mut list = Vec::new();
        list.try_reserve_exact(entries.len())
            .map_err(|_| OutOfMemory)?;
        for (index, &words) in entries.iter().enumerate() {
            let extent = Extent::from_words(words, self.geometry);
            list.push(extent.ok_or_else(|| wrong(index, words))?);
        }
        Ok(list)
    }

    fn inline(
        &self,
        ino: Ino,
        entries: &[[u64; 2]],
    ) -> Result<Result<ExtentMap, Overlap>, LoadError> {
        let list = self.extents(entries, |index, words| Corrupt::Inode {
            ino,
            offset: self.geometry.inode_off(ino),
            fault: InodeFault::Extent { index, words },
        })?;
        Ok(ExtentMap::inline(list))
    }

    /// Reads a tree, level by level from the inode's entries down.
    fn tree(
        &self,
        ino: Ino,
        depth: u8,
        entries: &[[u64; 2]],
    ) -> Result<Result<ExtentMap, Overlap>, LoadError> {
        let mut level: Vec<NodeRef> = Vec::new();
        level
            .try_reserve_exact(entries.len())
            .map_err(|_| OutOfMemory)?;
        level.extend(entries.iter().map(|words| NodeRef::from_words(*words)));
        level.sort_unstable_by_key(|node| node.first);
        let mut index = Vec::new();
        index
            .try_reserve_exact(usize::from(depth))
            .map_err(|_| OutOfMemory)?;
        for number in (1..depth).rev() {
            let mut below = Vec::new();
            self.level(ino, number, &level, &mut |_, entries| {
                below.try_reserve(entries.len()).map_err(|_| OutOfMemory)?;
                below.extend(entries.iter().map(|words| NodeRef::from_words(*words)));
                Ok(())
            })?;
            index.insert(0, core::mem::replace(&mut level, below));
        }
        let leaves = self.leaves(ino, &level)?;
        Ok(ExtentMap::of(leaves, index))
    }

    fn leaves(&self, ino: Ino, nodes: &[NodeRef]) -> Result<Vec<Leaf>, LoadError> {
        let mut leaves = Vec::new();
        leaves
            .try_reserve_exact(nodes.len())
            .map_err(|_| OutOfMemory)?;
        self.level(ino, 0, nodes, &mut |node, entries| {
            let list = self.extents(entries, |index, words| {
                bad_node(ino, node, NodeFault::Entry { index, words })
            })?;
            leaves.push(Leaf::new(node.block, list));
            Ok(())
        })?;
        Ok(leaves)
    }

    /// Reads all nodes of one level, which begin where their parents say, in order. So no block can be reached twice, and reading ends.
    fn level(
        &self,
        ino: Ino,
        level: u8,
        nodes: &[NodeRef],
        each: EachNode<'_>,
    ) -> Result<(), LoadError> {
        let mut least = 0;
        for node in nodes {
            let content = self.node(ino, node)?;
            let entries = content.check(level, self.uuid, ino, node.block);
            let entries = entries.map_err(|fault| bad_node(ino, node, fault))?;
            let first = entries[0][0] & 0xffff_ffff;
            if entries.len() as u64 != node.count {
                return Err(bad_node(ino, node, NodeFault::Count(node.count)).into());
            }
            if first != node.first || first < least {
                return Err(bad_node(ino, node, NodeFault::First(first)).into());
            }
            least = first + 1;
            each(node, entries)?;
        }
        Ok(())
    }

    /// Reads a node: as many words as it says it has.
    fn node(&self, ino: Ino, node: &NodeRef) -> Result<Node, Corrupt> {
        if !self.geometry.is_data(node.block, 1) {
            let words = node.to_words();
            return Err(bad_node(ino, node, NodeFault::Entry { index: 0, words }));
        }
        let offset = node.block * BLOCK_SIZE;
        let mut content = Node([0; BLOCK_SIZE as usize / 8]);
        let mut read = |from: usize, to: usize| {
            let at = offset + 8 * from as u64;
            let read = self.media.read_words(at, &mut content.0[from..to]);
            read.map(|()| content.used())
        };
        let used = read(0, Node::HEAD).and_then(|used| read(Node::HEAD, used));
        used.map_err(|source| Corrupt::NodeMedia {
            ino,
            offset,
            source,
        })?;
        Ok(content)
    }
}

const fn bad_node(ino: Ino, node: &NodeRef, fault: NodeFault) -> Corrupt {
    let offset = node.block.saturating_mul(BLOCK_SIZE);
    Corrupt::Node { ino, offset, fault }
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
