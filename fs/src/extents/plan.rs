//! How a changed map will stand on the media: which nodes go, which come, and what the inode says.
//!
//! A plan is made in two steps, so that no spin lock is held while blocks are allocated: first its shape, which depends on counts
//! alone (a new node has no block yet), then [`Plan::place`] gives each new node its block, lowest level first, since the level above
//! names it.

use alloc::vec::Vec;
use core::ops::Range;

use arrayvec::ArrayVec;
use mm::mem::OutOfMemory;
use thiserror::Error;

use super::edit::{Edit, PARTS, Side, chunks, joining};
use super::{ExtentMap, INDEX, Leaf, Limits, NO_BLOCK, try_vec};
use crate::layout::{Block, Extent, INLINE_EXTENTS, MAX_DEPTH, NodeRef};

/// Most new nodes of a plan.
pub(crate) const MOST_NODES: usize = 3 * MAX_DEPTH as usize + 1;

/// The entries of an inode, in the order of the file.
pub(crate) type Root = ArrayVec<[u64; 2], INLINE_EXTENTS>;

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum PlanError {
    /// No memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// The tree would have more levels than the format knows; no file has so many blocks.
    #[error("more levels than the format has")]
    TooDeep,
}

/// A new node above the leaves.
struct NewNode {
    children: Vec<NodeRef>,
    block: Block,
}

impl NewNode {
    fn as_ref(&self) -> NodeRef {
        NodeRef {
            first: self.children.first().map_or(0, |child| child.first),
            count: self.children.len() as u64,
            block: self.block,
        }
    }
}

/// What happens to one level.
struct Level {
    at: Range<usize>,
    new: ArrayVec<NewNode, PARTS>,
    /// Room for what the level in memory takes in.
    refs: Vec<NodeRef>,
}

/// A change of a map as it will be committed.
#[must_use = "place and apply it, or drop it"]
pub(crate) struct Plan {
    at: Range<usize>,
    leaves: ArrayVec<Leaf, PARTS>,
    /// Levels that stay or come; those of the map beyond go.
    ///
    /// Not in place: a plan is moved often, and most files have none.
    levels: Vec<Level>,
    root: Root,
    depth: u8,
    /// Nodes that no longer belong to the file.
    retired: Vec<Block>,
    /// Room for the leaves that go, so that they are freed without a lock.
    out: Vec<Leaf>,
    extents: usize,
    blocks: u64,
    nodes: usize,
}

/// A level of the old tree, as its parents see it, and what changes in it.
struct Below<'a> {
    map: &'a ExtentMap,
    /// 0: the leaves; else that level of the index.
    level: usize,
    at: Range<usize>,
    new: ArrayVec<NodeRef, PARTS>,
}

impl Below<'_> {
    /// Nodes of the old tree at this level.
    fn old(&self) -> usize {
        match self.level {
            0 if self.map.depth() == 0 => 0,
            0 => self.map.leaves.len(),
            level => self.map.index.get(level - 1).map_or(0, Vec::len),
        }
    }

    fn get(&self, at: usize) -> NodeRef {
        match self.level {
            0 => self.map.leaves[at].as_ref(),
            level => self.map.index[level - 1][at],
        }
    }

    /// Where the first node at or after file block `first` stands.
    fn find(&self, first: u64) -> usize {
        match self.level {
            0 => self.map.leaves.partition_point(|leaf| leaf.first < first),
            level => self.map.index[level - 1].partition_point(|node| node.first < first),
        }
    }

    /// Nodes afterwards.
    fn total(&self) -> usize {
        let replaced = if self.old() == 0 { 0 } else { self.at.len() };
        self.old() - replaced + self.new.len()
    }

    /// The nodes of places `range` (of the old tree), with the change done to it. The range covers what goes.
    fn with_change(&self, range: Range<usize>) -> Result<Vec<NodeRef>, OutOfMemory> {
        let mut list = try_vec(range.len() + self.new.len())?;
        list.extend((range.start..self.at.start).map(|at| self.get(at)));
        list.extend_from_slice(&self.new);
        list.extend((self.at.end..range.end).map(|at| self.get(at)));
        Ok(list)
    }

    /// All nodes afterwards.
    fn all(&self) -> Result<Vec<NodeRef>, OutOfMemory> {
        let old = self.old();
        if old == 0 {
            return self.with_change(self.at.clone());
        }
        self.with_change(0..old)
    }
}

/// Says whether an inode can take these entries, one record holding what changes.
pub(crate) type Fits<'a> = &'a dyn Fn(&Root) -> bool;

impl Plan {
    /// The shape of `map` after `edit`, which changes something: the lowest level that the inode can take becomes its entries.
    pub fn new(
        map: &ExtentMap,
        edit: Edit,
        fits: Fits<'_>,
        limits: &Limits,
    ) -> Result<Self, PlanError> {
        if let Some(plan) = Self::inline(map, &edit, fits, limits)? {
            return Ok(plan);
        }
        let new = edit.new.iter().map(|list| NodeRef {
            first: list[0].file,
            count: list.len() as u64,
            block: NO_BLOCK,
        });
        let mut below = Below {
            map,
            level: 0,
            at: edit.at.clone(),
            new: new.collect(),
        };
        let mut levels = try_vec(INDEX)?;
        let most = if edit.cuts { limits.node } else { limits.soft };
        let root = loop {
            if let Some(root) = root_of(&below, fits, limits)? {
                break root;
            }
            let level = level_above(&below, most, limits)?;
            below = Below {
                map,
                level: below.level + 1,
                at: level.at.clone(),
                new: level.new.iter().map(NewNode::as_ref).collect(),
            };
            if levels.len() == INDEX {
                return Err(PlanError::TooDeep);
            }
            levels.push(level);
        };
        let leaves = edit.new.into_iter().map(|list| Leaf::new(NO_BLOCK, list));
        let plan = Self {
            at: edit.at,
            leaves: leaves.collect(),
            depth: 1 + levels.len() as u8,
            levels,
            root,
            retired: Vec::new(),
            out: Vec::new(),
            extents: edit.extents,
            blocks: edit.blocks,
            nodes: 0,
        };
        Ok(plan.counted(map)?)
    }

    /// The plan that leaves `map` as it is; `root` is what the inode says now.
    pub fn unchanged(map: &ExtentMap, root: Root) -> Result<Self, OutOfMemory> {
        let stays = |_: &Vec<NodeRef>| Level {
            at: 0..0,
            new: ArrayVec::new(),
            refs: Vec::new(),
        };
        let mut levels = try_vec(map.index.len())?;
        levels.extend(map.index.iter().map(stays));
        Ok(Self {
            at: 0..0,
            leaves: ArrayVec::new(),
            levels,
            root,
            depth: map.depth(),
            retired: Vec::new(),
            out: Vec::new(),
            extents: map.extents,
            blocks: map.blocks,
            nodes: map.nodes(),
        })
    }

    /// All extents in the inode, if it can take them.
    fn inline(
        map: &ExtentMap,
        edit: &Edit,
        fits: Fits<'_>,
        limits: &Limits,
    ) -> Result<Option<Self>, OutOfMemory> {
        if edit.extents > limits.root {
            return Ok(None);
        }
        let (before, after) = (&map.leaves[..edit.at.start], &map.leaves[edit.at.end..]);
        let lists = before.iter().map(|leaf| &leaf.list);
        let lists = lists
            .chain(&edit.new)
            .chain(after.iter().map(|leaf| &leaf.list));
        let mut list: Vec<Extent> = try_vec(edit.extents)?;
        list.extend(lists.flatten());
        let root = list.iter().map(Extent::to_words).collect();
        if !fits(&root) {
            return Ok(None);
        }
        let mut leaves = ArrayVec::new();
        if !list.is_empty() {
            leaves.push(Leaf::new(NO_BLOCK, list));
        }
        let plan = Self {
            at: 0..map.leaves.len(),
            leaves,
            levels: Vec::new(),
            root,
            depth: 0,
            retired: Vec::new(),
            out: Vec::new(),
            extents: edit.extents,
            blocks: edit.blocks,
            nodes: 0,
        };
        Ok(Some(plan.counted(map)?))
    }

    /// Notes what goes, and counts what stays.
    fn counted(mut self, map: &ExtentMap) -> Result<Self, OutOfMemory> {
        let mut going = self.at.len();
        for (level, old) in map.index.iter().enumerate() {
            going += self.levels.get(level).map_or(old.len(), |new| new.at.len());
        }
        self.retired = try_vec(going)?;
        self.out = try_vec(self.at.len())?;
        let leaves = map.leaves[self.at.clone()].iter().map(|leaf| leaf.block);
        self.retired
            .extend(leaves.filter(|block| *block != NO_BLOCK));
        for (level, old) in map.index.iter().enumerate() {
            let at = self
                .levels
                .get(level)
                .map_or(0..old.len(), |l| l.at.clone());
            self.retired.extend(old[at].iter().map(|node| node.block));
        }
        self.nodes = map.nodes() - self.retired.len() + self.new_nodes();
        Ok(self)
    }

    /// Nodes to be written.
    pub fn new_nodes(&self) -> usize {
        let leaves = if self.depth == 0 {
            0
        } else {
            self.leaves.len()
        };
        leaves
            + self
                .levels
                .iter()
                .map(|level| level.new.len())
                .sum::<usize>()
    }

    /// Nodes of the file afterwards.
    pub const fn nodes(&self) -> usize {
        self.nodes
    }

    /// Extents of the file afterwards.
    pub const fn extents(&self) -> usize {
        self.extents
    }

    /// Levels of nodes afterwards.
    pub const fn depth(&self) -> u8 {
        self.depth
    }

    /// Nodes that no longer belong to the file.
    pub fn retired(&self) -> &[Block] {
        &self.retired
    }

    /// The inode's entries; whole once the plan is placed.
    pub const fn root(&self) -> &Root {
        &self.root
    }

    /// Gives each new node a block: `write` stores its entries and says where.
    pub fn place<E>(
        &mut self,
        mut write: impl FnMut(u8, &mut dyn Iterator<Item = [u64; 2]>) -> Result<Block, E>,
    ) -> Result<(), E> {
        if self.depth == 0 {
            return Ok(());
        }
        let mut below: ArrayVec<Block, PARTS> = ArrayVec::new();
        for leaf in &mut self.leaves {
            leaf.block = write(0, &mut leaf.list.iter().map(Extent::to_words))?;
            below.push(leaf.block);
        }
        for (number, level) in (1..).zip(&mut self.levels) {
            let mut blocks = below.iter();
            let children = level.new.iter_mut().flat_map(|node| &mut node.children);
            let unplaced = children.filter(|child| child.block == NO_BLOCK);
            unplaced
                .zip(&mut blocks)
                .for_each(|(child, block)| child.block = *block);
            below.clear();
            for node in &mut level.new {
                node.block = write(number, &mut node.children.iter().map(NodeRef::to_words))?;
                below.push(node.block);
                level.refs.push(node.as_ref());
            }
        }
        let unplaced = self.root.iter_mut().filter(|entry| entry[1] == NO_BLOCK);
        unplaced
            .zip(below)
            .for_each(|(entry, block)| entry[1] = block);
        Ok(())
    }
}

/// The entries of the inode if it names the nodes of this level itself, and can.
fn root_of(
    below: &Below<'_>,
    fits: Fits<'_>,
    limits: &Limits,
) -> Result<Option<Root>, OutOfMemory> {
    if below.total() > limits.root {
        return Ok(None);
    }
    let root = below.all()?.iter().map(NodeRef::to_words).collect();
    Ok(fits(&root).then_some(root))
}

/// What happens to the level above `below`, when the inode does not take `below` itself.
fn level_above(below: &Below<'_>, most: usize, limits: &Limits) -> Result<Level, OutOfMemory> {
    let parents = below
        .map
        .index
        .get(below.level)
        .map_or(&[][..], |level| level);
    let (at, content) = if parents.is_empty() {
        (0..0, below.all()?)
    } else {
        content_above(below, parents, limits)?
    };
    let appends = at.end == parents.len() && below.at.end >= below.old();
    let parts = chunks(content, most, appends)?;
    let refs = try_vec(parts.len())?;
    let new = parts.into_iter().map(|children| NewNode {
        children,
        block: NO_BLOCK,
    });
    let new = new.collect();
    Ok(Level { at, new, refs })
}

/// The parents that are written anew, and the children that they have afterwards.
fn content_above(
    below: &Below<'_>,
    parents: &[NodeRef],
    limits: &Limits,
) -> Result<(Range<usize>, Vec<NodeRef>), OutOfMemory> {
    let parent = |child: usize| {
        let first = below.get(child).first;
        parents
            .partition_point(|p| p.first <= first)
            .saturating_sub(1)
    };
    let last = below.at.end.max(below.at.start + 1) - 1;
    let mut at = parent(below.at.start)..parent(last) + 1;
    let start_of = |place: usize| {
        let parent = parents.get(place);
        parent.map_or(below.old(), |parent| below.find(parent.first))
    };
    let range = |at: &Range<usize>| start_of(at.start)..start_of(at.end);
    let len = range(&at).len() - below.at.len() + below.new.len();
    let count = |place: usize| parents.get(place).map(|parent| parent.count as usize);
    let before = at.start.checked_sub(1).and_then(count);
    match joining(len, before, count(at.end), limits) {
        Some(Side::Before) => at.start -= 1,
        Some(Side::After) => at.end += 1,
        None => {}
    }
    let content = below.with_change(range(&at))?;
    Ok((at, content))
}

impl ExtentMap {
    /// Makes room for what `plan` puts in, so that [`ExtentMap::apply`] takes no memory.
    pub(crate) fn make_room(&mut self, plan: &Plan) -> Result<(), OutOfMemory> {
        let room = self.leaves.try_reserve(plan.leaves.len());
        room.map_err(|_| OutOfMemory)?;
        let more = plan.levels.len().saturating_sub(self.index.len());
        self.index.try_reserve(more).map_err(|_| OutOfMemory)?;
        for (level, new) in self.index.iter_mut().zip(&plan.levels) {
            level.try_reserve(new.new.len()).map_err(|_| OutOfMemory)?;
        }
        Ok(())
    }

    /// Does what was planned for this map, and placed. The plan keeps the leaves that went.
    pub(crate) fn apply(&mut self, plan: &mut Plan) {
        let gone = self.leaves.splice(plan.at.clone(), plan.leaves.drain(..));
        plan.out.extend(gone);
        self.index.truncate(plan.levels.len());
        for (place, level) in plan.levels.iter_mut().enumerate() {
            match self.index.get_mut(place) {
                Some(old) => drop(old.splice(level.at.clone(), level.refs.drain(..))),
                None => self.index.push(core::mem::take(&mut level.refs)),
            }
        }
        self.extents = plan.extents;
        self.blocks = plan.blocks;
    }
}
