//! A file's extents: a tree on the media, mirrored in memory.
//!
//! Up to 12 extents stand in the inode. More stand in *nodes*, blocks of up to 254 entries: level 0 holds extents, each level above names
//! the nodes below, and the inode holds up to 12 entries of the top. All nodes of one level lie in memory side by side, in order of
//! the file: looking an extent up is two binary searches.
//!
//! # A change is a path
//!
//! A change replaces the nodes between its two ends by new ones, and so on each level up to the inode, whose new words are the
//! commit (`plan`). At most 3 new nodes a level, 2 if it only takes extents away: a change costs by the depth of the tree, whatever
//! the number of extents. (When a node splits, the list of its level in memory moves by one place: 40 bytes for each 127 extents behind
//! it, once in more than a hundred changes.) An extent far away, or a tree of a hundred thousand, is never copied.
//!
//! # The inode's words always fit into a record
//!
//! The attributes and their run are 9 words of the 27, so 18 may say what changes in the entries. Where the entries of one level are more
//! than 12, or change more than that, the inode takes those of the next level, which are fewer; one entry is 3 words. So no change is
//! refused because a record is full.
//!
//! # How deep
//!
//! A node that is written with fewer than 63 entries joins a neighbour where both fit into 189. So of two neighbours at least one has 63, or
//! both together have more: 12 entries of depth d lead to at least 12 · 32^d extents. Six levels are more than a file of 2³² blocks can have.
//!
//! Every change is prepared apart and leaves the map alone, so that an operation can be refused or committed without undoing
//! anything. Preparing takes the memory; `ExtentMap::apply` takes none.

mod edit;
pub(crate) mod plan;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

use alloc::vec::Vec;

use mm::mem::OutOfMemory;

use crate::commit::Run;
use crate::layout::{Block, Extent, INLINE_EXTENTS, MAX_DEPTH, NODE_ENTRIES, NodeRef};
pub use edit::Edit;

/// Levels of nodes above the extents.
const INDEX: usize = MAX_DEPTH as usize - 1;

/// The block of what stands in the inode itself, and of a node that has no block yet; no node ever lies there.
pub(crate) const NO_BLOCK: Block = 0;

/// How full nodes may be; the media's, or a test's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Entries of the inode.
    pub root: usize,
    /// Entries of a node.
    pub node: usize,
    /// Entries of a node after a change that adds: the rest is for changes that take away, which may split an extent.
    pub soft: usize,
    /// A node with fewer looks for a neighbour to join.
    pub small: usize,
    /// Most entries of two nodes that join.
    pub joined: usize,
}

impl Limits {
    pub const MEDIA: Self = Self {
        root: INLINE_EXTENTS,
        node: NODE_ENTRIES,
        soft: NODE_ENTRIES - 32,
        small: NODE_ENTRIES / 4,
        joined: NODE_ENTRIES / 4 * 3,
    };
}

/// A node of level 0, or the extents that stand in the inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// `list[0].file`.
    pub(crate) first: u64,
    pub(crate) block: Block,
    /// Never empty.
    pub(crate) list: Vec<Extent>,
}

impl Leaf {
    pub(crate) fn new(block: Block, list: Vec<Extent>) -> Self {
        let first = list.first().map_or(0, |extent| extent.file);
        Self { first, block, list }
    }

    const fn as_ref(&self) -> NodeRef {
        NodeRef {
            first: self.first,
            count: self.list.len() as u64,
            block: self.block,
        }
    }
}

/// The extents of one file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ExtentMap {
    leaves: Vec<Leaf>,
    /// Level by level, lowest first; the inode names those of the last one, or the leaves if there is none.
    index: Vec<Vec<NodeRef>>,
    extents: usize,
    blocks: u64,
}

/// What is at a block of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spot {
    /// Nothing, up to (not including) this block.
    HoleUntil(u64),
    /// Storage, from the block asked for to the end of its extent.
    Extent(Extent),
}

/// The block at which two extents overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap(pub u64);

impl ExtentMap {
    /// No extents.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            leaves: Vec::new(),
            index: Vec::new(),
            extents: 0,
            blocks: 0,
        }
    }

    /// One extent.
    pub fn single(extent: Extent) -> Result<Self, OutOfMemory> {
        let mut leaves = try_vec(1)?;
        leaves.push(Leaf::new(NO_BLOCK, try_copy(&[extent])?));
        Ok(Self {
            leaves,
            index: Vec::new(),
            extents: 1,
            blocks: extent.len,
        })
    }

    /// The extents of an inode that holds them itself, in any order; refuses those that overlap. Does not join: the map mirrors the media.
    pub fn inline(mut list: Vec<Extent>) -> Result<Self, Overlap> {
        list.sort_unstable_by_key(|extent| extent.file);
        let mut leaves = Vec::new();
        if !list.is_empty() {
            leaves.push(Leaf::new(NO_BLOCK, list));
        }
        Self::of(leaves, Vec::new())
    }

    /// What was read: all nodes, level by level, each level in the order of the file. Refuses extents that overlap.
    pub(crate) fn of(leaves: Vec<Leaf>, index: Vec<Vec<NodeRef>>) -> Result<Self, Overlap> {
        let (mut extents, mut blocks, mut end) = (0, 0, 0);
        for extent in leaves.iter().flat_map(|leaf| &leaf.list) {
            if extent.file < end {
                return Err(Overlap(extent.file));
            }
            end = extent.end();
            extents += 1;
            blocks += extent.len;
        }
        Ok(Self {
            leaves,
            index,
            extents,
            blocks,
        })
    }

    /// A copy.
    pub fn try_clone(&self) -> Result<Self, OutOfMemory> {
        let mut leaves = try_vec(self.leaves.len())?;
        for leaf in &self.leaves {
            leaves.push(Leaf::new(leaf.block, try_copy(&leaf.list)?));
        }
        let mut index = try_vec(self.index.len())?;
        for level in &self.index {
            index.push(try_copy(level)?);
        }
        Ok(Self {
            leaves,
            index,
            ..*self
        })
    }

    /// All extents in order.
    pub fn iter(&self) -> impl Iterator<Item = &Extent> {
        self.leaves.iter().flat_map(|leaf| &leaf.list)
    }

    /// How many extents there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.extents
    }

    /// Whether the file has no storage.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.extents == 0
    }

    /// Blocks that the file has storage for.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Levels of nodes: 0 if the extents stand in the inode.
    #[must_use]
    pub fn depth(&self) -> u8 {
        match self.leaves.first() {
            Some(leaf) if leaf.block != NO_BLOCK => 1 + self.index.len() as u8,
            _ => 0,
        }
    }

    /// How many nodes there are.
    #[must_use]
    pub fn nodes(&self) -> usize {
        let leaves = if self.depth() == 0 {
            0
        } else {
            self.leaves.len()
        };
        leaves + self.index.iter().map(Vec::len).sum::<usize>()
    }

    /// All nodes with their levels, lowest first.
    pub fn tree(&self) -> impl Iterator<Item = (u8, NodeRef)> {
        let leaves = self.leaves.iter().map(|leaf| (0, leaf.as_ref()));
        let leaves = leaves.filter(|(_, leaf)| leaf.block != NO_BLOCK);
        let index = (1..).zip(&self.index);
        leaves.chain(index.flat_map(|(level, nodes)| nodes.iter().map(move |node| (level, *node))))
    }

    /// The blocks of all nodes.
    pub fn node_blocks(&self) -> impl Iterator<Item = Block> {
        let leaves = self.leaves.iter().map(|leaf| leaf.block);
        let index = self.index.iter().flatten().map(|node| node.block);
        leaves.filter(|block| *block != NO_BLOCK).chain(index)
    }

    /// All that the file has on the media: its extents, and its nodes.
    pub fn runs(&self) -> impl Iterator<Item = Run> {
        let data = self.iter().map(|extent| Run {
            block: extent.phys,
            len: extent.len,
        });
        data.chain(self.node_blocks().map(|block| Run { block, len: 1 }))
    }

    /// The first extent that ends after `block`.
    fn from(&self, block: u64) -> Option<&Extent> {
        let leaf = self.leaves.partition_point(|leaf| leaf.first <= block);
        let within = self.leaves[..leaf].last().and_then(|leaf| {
            let at = leaf.list.partition_point(|extent| extent.end() <= block);
            leaf.list.get(at)
        });
        within.or_else(|| self.leaves.get(leaf)?.list.first())
    }

    /// The last extent, if the extents stand in the inode.
    pub(crate) fn last_inline(&self) -> Option<Extent> {
        let leaf = self.leaves.last().filter(|leaf| leaf.block == NO_BLOCK)?;
        leaf.list.last().copied()
    }

    /// Puts `longer` in the place of [`ExtentMap::last_inline`], which it begins with.
    pub(crate) fn lengthen(&mut self, longer: Extent) {
        let last = self.leaves.last_mut().and_then(|leaf| leaf.list.last_mut());
        if let Some(last) = last {
            self.blocks += longer.len - last.len;
            *last = longer;
        }
    }

    /// What is at `block`.
    #[must_use]
    pub fn at(&self, block: u64) -> Spot {
        match self.from(block) {
            Some(extent) if extent.file <= block => {
                Spot::Extent(extent.clip(block, extent.end()).unwrap_or(*extent))
            }
            Some(extent) => Spot::HoleUntil(extent.file),
            None => Spot::HoleUntil(u64::MAX),
        }
    }

    /// The last extent that ends at or before `block`, if any.
    #[must_use]
    pub fn before(&self, block: u64) -> Option<Extent> {
        let upto = self.leaves.partition_point(|leaf| leaf.first < block);
        // The last of them that begins before may have no extent that ends before.
        self.leaves[..upto].iter().rev().take(2).find_map(|leaf| {
            let at = leaf.list.partition_point(|extent| extent.end() <= block);
            leaf.list[..at].last().copied()
        })
    }
}

/// An empty vector with room for `n`.
fn try_vec<T>(n: usize) -> Result<Vec<T>, OutOfMemory> {
    let mut list = Vec::new();
    list.try_reserve_exact(n).map_err(|_| OutOfMemory)?;
    Ok(list)
}

fn try_copy<T: Copy>(from: &[T]) -> Result<Vec<T>, OutOfMemory> {
    let mut list = try_vec(from.len())?;
    list.extend_from_slice(from);
    Ok(list)
}
