//! Changing an inode: what goes into the record, and what follows it in memory.
//!
//! Inline entries stand in any order, so that taking one away or adding one changes few words; leaves are replaced, never changed.
//! Every function here prepares everything that can fail first, then commits, then cannot fail.

use alloc::vec::Vec;

use arrayvec::ArrayVec;
use dax::pmem::Pmem;
use mm::mem::OutOfMemory;

use crate::commit::{Applied, Building, Fresh, FreshSet, MetaAddr, RecordFull, RecordKind, Tx};
use crate::error::ChangeError;
use crate::extents::ExtentMap;
use crate::inode::{Attr, Vnode};
use crate::layout::{
    Block, CORE_WORDS, Core, Extent, INLINE_EXTENTS, Ino, InodeImage, LEAF_EXTENTS, Leaf,
};
use crate::media_inode::{LeafRef, Leaves};
use crate::record::PAYLOAD_WORDS;
use crate::shared::{Shared, State};
use crate::space::Goal;

/// Most extents that a file can have.
pub(crate) const MAX_EXTENTS: usize = INLINE_EXTENTS * LEAF_EXTENTS;

/// The 12 pairs of words after the attributes.
type Body = [[u64; 2]; INLINE_EXTENTS];

/// A group of extents that is to share a leaf.
enum Group<'a> {
    /// The leaf that is there says the same.
    Keep(LeafRef),
    /// A new leaf must be written.
    Write(&'a [Extent]),
}

/// How a new map stands on the media.
struct Plan {
    entries: ArrayVec<[u64; 2], INLINE_EXTENTS>,
    depth: u8,
    leaves: Leaves,
    retired: ArrayVec<Block, INLINE_EXTENTS>,
}

/// Divides the new extents among leaves so that as many as possible stay as they are; `None`: more leaves than entries.
fn groups<'a>(old: &Attr, new: &'a [Extent]) -> Option<ArrayVec<Group<'a>, INLINE_EXTENTS>> {
    let mut out = ArrayVec::new();
    let (mut rest, mut old_rest) = (new, old.map.as_slice());
    for (index, leaf) in old.leaves.iter().enumerate() {
        let end = old
            .leaves
            .get(index + 1)
            .map_or(u64::MAX, |next| next.first);
        let (mine, after) = rest.split_at(rest.partition_point(|e| e.file < end));
        let (was, old_after) = old_rest.split_at((leaf.count as usize).min(old_rest.len()));
        (rest, old_rest) = (after, old_after);
        if mine == was {
            out.try_push(Group::Keep(*leaf)).ok()?;
            continue;
        }
        push_groups(&mut out, mine)?;
    }
    push_groups(&mut out, rest)?;
    Some(out)
}

/// Cuts `extents` into the fewest groups of equal size that fit into leaves.
fn push_groups<'a>(
    out: &mut ArrayVec<Group<'a>, INLINE_EXTENTS>,
    extents: &'a [Extent],
) -> Option<()> {
    if extents.is_empty() {
        return Some(());
    }
    let size = extents.len().div_ceil(extents.len().div_ceil(LEAF_EXTENTS));
    for group in extents.chunks(size) {
        out.try_push(Group::Write(group)).ok()?;
    }
    Some(())
}

/// All extents afresh, in full leaves.
fn regrouped(new: &[Extent]) -> Result<ArrayVec<Group<'_>, INLINE_EXTENTS>, ChangeError> {
    let mut out = ArrayVec::new();
    push_groups(&mut out, new).ok_or(ChangeError::TooFragmented(MAX_EXTENTS))?;
    Ok(out)
}

impl<P: Pmem> Shared<P> {
    /// Decides how `map` will stand on the media, and writes new leaves into `set`.
    fn plan(
        &self,
        state: &mut State,
        ino: Ino,
        old: &Attr,
        map: &ExtentMap,
        set: &mut FreshSet,
    ) -> Result<Plan, ChangeError> {
        let new = map.as_slice();
        let mut plan = Plan {
            entries: ArrayVec::new(),
            depth: 0,
            leaves: Leaves::new(),
            retired: ArrayVec::new(),
        };
        if let Some(entries) = inline(&old.image.body, new) {
            plan.entries = entries;
        } else {
            plan.depth = 1;
            let groups = groups(old, new).map_or_else(|| regrouped(new), Ok)?;
            for group in groups {
                let leaf = self.leaf(state, ino, &group, set)?;
                plan.entries.push(leaf.to_words());
                plan.leaves.push(leaf);
            }
        }
        let gone = old.leaves.iter().filter(|leaf| !plan.leaves.contains(leaf));
        plan.retired.extend(gone.map(|leaf| leaf.block));
        Ok(plan)
    }

    fn leaf(
        &self,
        state: &mut State,
        ino: Ino,
        group: &Group<'_>,
        set: &mut FreshSet,
    ) -> Result<LeafRef, ChangeError> {
        let extents = match group {
            Group::Keep(leaf) => return Ok(*leaf),
            Group::Write(extents) => extents,
        };
        let fresh = self.take(state, 1, Goal::default())?;
        let block = fresh.run().block;
        self.write_leaf(&fresh, extents, ino);
        set.add(fresh).map_err(|fresh| {
            state.space.give(crate::space::Free::unpublished(fresh));
            ChangeError::TooFragmented(MAX_EXTENTS)
        })?;
        Ok(LeafRef {
            first: extents[0].file,
            count: extents.len() as u64,
            block,
        })
    }

    fn write_leaf(&self, fresh: &Fresh, extents: &[Extent], ino: Ino) {
        let leaf = Leaf::encode(extents, &self.uuid, ino, fresh.run().block);
        for (index, words) in leaf.0.chunks(8).enumerate() {
            let mut line = [0; 64];
            for (place, word) in line.as_chunks_mut::<8>().0.iter_mut().zip(words) {
                *place = word.to_le_bytes();
            }
            fresh.write(&self.media, 64 * index as u64, &line);
        }
    }
}

/// The extents as entries of the inode itself: if there are few enough, and a record holds what that changes beside all
/// attributes. Else a leaf takes them, which changes one entry.
fn inline(old: &Body, new: &[Extent]) -> Option<ArrayVec<[u64; 2], INLINE_EXTENTS>> {
    if new.len() > INLINE_EXTENTS {
        return None;
    }
    let entries: ArrayVec<_, INLINE_EXTENTS> = new.iter().map(Extent::to_words).collect();
    let room = PAYLOAD_WORDS - (1 + CORE_WORDS);
    (words_changed(old, &place(old, &entries)) <= room).then_some(entries)
}

/// Words of a record that say how a body differs: two for each entry, and one for each run of them.
fn words_changed(old: &Body, new: &Body) -> usize {
    let changed = |at: usize| old[at] != new[at];
    let begins = |at: usize| at == 0 || !changed(at - 1);
    let words = |at: usize| if begins(at) { 3 } else { 2 };
    (0..INLINE_EXTENTS)
        .filter(|at| changed(*at))
        .map(words)
        .sum()
}

/// Puts the entries where the old ones are, as far as they are the same, and the others into the places left.
fn place(old: &Body, entries: &[[u64; 2]]) -> Body {
    let mut body = *old;
    let mut kept = [false; INLINE_EXTENTS];
    let mut homeless: ArrayVec<[u64; 2], INLINE_EXTENTS> = ArrayVec::new();
    for entry in entries {
        let at = (0..entries.len()).find(|at| !kept[*at] && old[*at] == *entry);
        match at {
            Some(at) => kept[at] = true,
            None => homeless.push(*entry),
        }
    }
    let vacant = (0..entries.len()).filter(|at| !kept[*at]);
    for (at, entry) in vacant.zip(homeless) {
        body[at] = entry;
    }
    body
}

impl Tx<'_, Building> {
    /// Stores what differs between two states of inode `ino`, its checksum included.
    pub(crate) fn put_inode(
        &mut self,
        ino: Ino,
        old: &InodeImage,
        new: &InodeImage,
    ) -> Result<(), RecordFull> {
        let (uuid, g) = (*self.uuid(), *self.geometry());
        let before = old.core.to_words(old.checksum(&uuid, ino));
        let after = new.core.to_words(new.checksum(&uuid, ino));
        let differs = |at: &usize| before[*at] != after[*at];
        let first = (0..CORE_WORDS).find(differs);
        let last = (0..CORE_WORDS).rfind(differs);
        if let (Some(first), Some(last)) = (first, last) {
            self.store(MetaAddr::inode(&g, ino, first), &after[first..=last])?;
        }
        let bodies = old.body.iter().zip(&new.body).enumerate();
        for (at, (_, pair)) in bodies.filter(|(_, (old, new))| old != new) {
            self.store(MetaAddr::inode(&g, ino, CORE_WORDS + 2 * at), pair)?;
        }
        Ok(())
    }

    /// Stores all attributes of a new inode `ino`, and the first `body` words after them.
    pub(crate) fn put_new_inode(
        &mut self,
        ino: Ino,
        new: &InodeImage,
        body: usize,
    ) -> Result<(), RecordFull> {
        let words = new.core.to_words(new.checksum(self.uuid(), ino));
        let g = *self.geometry();
        self.store(MetaAddr::inode(&g, ino, 0), &words)?;
        let body = &new.body.as_flattened()[..body];
        self.store(MetaAddr::inode(&g, ino, CORE_WORDS), body)
    }
}

/// A change of one inode's attributes that is being prepared: the old image, the new one.
pub(crate) struct Edit {
    pub old: InodeImage,
    pub new: InodeImage,
    /// The lazy time that goes along.
    lazy: Option<u64>,
}

#[cfg(all(test, not(any(loom, shuttle))))]
impl Edit {
    pub(crate) const fn lazy(&self) -> Option<u64> {
        self.lazy
    }
}

impl<P: Pmem> Vnode<P> {
    /// Begins a change: the lazy time goes along with it.
    pub(crate) fn edit(&self) -> Edit {
        let attr = self.attr.lock();
        let (old, lazy) = (attr.image, attr.lazy_mtime);
        let mut new = old;
        (new.core.mtime, new.core.ctime) = attr.times();
        Edit { old, new, lazy }
    }

    /// Takes a committed change over. A lazy time that came meanwhile stays: a write in place does not hold the commit lock.
    pub(crate) fn adopt(&self, edit: &Edit) {
        let mut attr = self.attr.lock();
        attr.image = edit.new;
        attr.settled(edit.lazy);
    }

    /// Commits a change of attributes alone.
    pub(crate) fn commit_core(
        &self,
        state: &mut State,
        change: impl FnOnce(&mut Core),
    ) -> Result<(), ChangeError> {
        let mut edit = self.edit();
        change(&mut edit.new.core);
        let mut tx = state.ring.begin(RecordKind::Attributes);
        tx.put_inode(self.ino(), &edit.old, &edit.new)?;
        let _ = tx.commit(&self.shared.media);
        self.adopt(&edit);
        Ok(())
    }

    /// Commits a new set of extents, and what `change` does to the attributes, in one record. `set` holds the new blocks that the map
    /// names; one fence makes them and new leaves durable first. `after` sees the transaction, for what it freed.
    ///
    /// On an error nothing has changed and the new blocks are free again.
    pub(crate) fn commit_map<R>(
        &self,
        state: &mut State,
        map: ExtentMap,
        mut set: FreshSet,
        change: impl FnOnce(&mut Core),
        after: impl FnOnce(&Tx<'_, Applied>) -> R,
    ) -> Result<R, ChangeError> {
        match self.prepare(state, &map, &mut set, change) {
            Ok((edit, plan, retired)) => {
                Ok(self.finish(state, map, set, edit, plan, retired, after)?)
            }
            Err(error) => {
                Shared::<P>::give_back(state, set);
                Err(error)
            }
        }
    }

    fn prepare(
        &self,
        state: &mut State,
        map: &ExtentMap,
        set: &mut FreshSet,
        change: impl FnOnce(&mut Core),
    ) -> Result<(Edit, Leaves, ArrayVec<Block, INLINE_EXTENTS>), ChangeError> {
        let mut edit = self.edit();
        // A copy of what the plan compares with, so that no spin lock is held while blocks are allocated.
        let old = self.snapshot()?;
        let plan = self.shared.plan(state, self.ino(), &old, map, set)?;
        let runs = map.as_slice().len() + plan.leaves.len() + plan.retired.len();
        state.promise(runs.saturating_sub(self.runs()))?;
        edit.new.core.entries = plan.entries.len() as u8;
        edit.new.core.depth = plan.depth;
        edit.new.body = place(&edit.old.body, &plan.entries);
        change(&mut edit.new.core);
        Ok((edit, plan.leaves, plan.retired))
    }

    fn snapshot(&self) -> Result<Attr, OutOfMemory> {
        let attr = self.attr.lock();
        let mut list = Vec::new();
        let extents = attr.map.as_slice();
        list.try_reserve_exact(extents.len())
            .map_err(|_| OutOfMemory)?;
        list.extend_from_slice(extents);
        Ok(Attr {
            image: attr.image,
            map: ExtentMap::from_sorted(list),
            leaves: attr.leaves.clone(),
            index: None,
            lazy_mtime: None,
        })
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one prepared change"
    )]
    fn finish<R>(
        &self,
        state: &mut State,
        map: ExtentMap,
        set: FreshSet,
        edit: Edit,
        leaves: Leaves,
        retired: ArrayVec<Block, INLINE_EXTENTS>,
        after: impl FnOnce(&Tx<'_, Applied>) -> R,
    ) -> Result<R, ChangeError> {
        let media = &self.shared.media;
        let durable = set.fence(media);
        // The runs that the inode and quarantine will have, and those that were promised: of the inode before, of each new block.
        let (had, published) = (self.runs(), durable.len());
        let runs = map.as_slice().len() + leaves.len() + retired.len();
        let State {
            ring,
            quarantine,
            space,
            ..
        } = state;
        let mut tx = ring.begin(RecordKind::Extents);
        if let Err(full) = tx.put_inode(self.ino(), &edit.old, &edit.new) {
            for durable in durable {
                space.give(crate::space::Free::unpublished(durable.abandon()));
            }
            space.withdraw(runs.saturating_sub(had));
            return Err(full.into());
        }
        for durable in durable {
            tx.publish(durable);
        }
        let tx = tx.commit(media);
        for block in retired {
            quarantine.push(tx.freed_leaf(block));
        }
        space.withdraw(published + had.saturating_sub(runs));
        let result = after(&tx);
        let mut attr = self.attr.lock();
        attr.image = edit.new;
        attr.settled(edit.lazy);
        attr.leaves = leaves;
        let old = core::mem::replace(&mut attr.map, map);
        drop(attr);
        drop(old);
        Ok(result)
    }
}
