//! Changing an inode: what goes into the record, and what follows it in memory.
//!
//! The entries of an inode stand in any order, so that taking one away or adding one changes few words; nodes are replaced, never
//! changed ([`extents`](crate::extents)). Every function here prepares everything that can fail first, then commits, then cannot fail.

use arrayvec::ArrayVec;
use dax::pmem::Pmem;

use crate::commit::{
    Applied, Building, Durable, Fresh, FreshSet, MetaAddr, RecordFull, RecordKind, Tx,
};
use crate::error::ChangeError;
use crate::extents::Edit as Extents;
use crate::extents::Limits;
use crate::extents::plan::{Plan, PlanError, Root};
use crate::inode::Vnode;
use crate::layout::{Block, CORE_WORDS, Core, INLINE_EXTENTS, Ino, InodeImage, Node};
use crate::record::PAYLOAD_WORDS;
use crate::shared::{Shared, State};
use crate::space::{Free, Need};

/// Extents that a file may have at least; beyond it depends on how full its nodes are.
pub(crate) const MAX_EXTENTS: usize = 1 << 32;

/// The 12 pairs of words after the attributes.
type Body = [[u64; 2]; INLINE_EXTENTS];

impl<P: Pmem> Shared<P> {
    /// Writes a node of `ino` into a new block, which joins `set`.
    fn write_node(
        &self,
        state: &mut State,
        (ino, level): (Ino, u8),
        need: Need,
        entries: &mut dyn Iterator<Item = [u64; 2]>,
        set: &mut FreshSet,
    ) -> Result<Block, ChangeError> {
        let fresh = self.take_node(state, need)?;
        let block = fresh.run().block;
        let node = Node::encode(level, entries, &self.uuid, ino, block);
        fresh.write(&self.media, 0, node.bytes());
        let added = set.add(fresh);
        added.map_err(|fresh| self.refuse(state, fresh))?;
        Ok(block)
    }

    /// A set has room for all nodes of a plan: this cannot happen.
    fn refuse(&self, state: &mut State, fresh: Fresh) -> ChangeError {
        state.space.give(Free::unpublished(fresh));
        ChangeError::TooFragmented(MAX_EXTENTS)
    }
}

impl From<PlanError> for ChangeError {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::OutOfMemory(error) => Self::OutOfMemory(error),
            PlanError::TooDeep => Self::TooFragmented(MAX_EXTENTS),
        }
    }
}

/// Whether a record holds what these entries change in the inode, beside all attributes.
fn fits(old: &Body, root: &Root) -> bool {
    let room = PAYLOAD_WORDS - (1 + CORE_WORDS);
    words_changed(old, &place(old, root)) <= room
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

    /// Commits a change of the extents, and what `change` does to the attributes, in one record. `set` holds the new blocks that the
    /// change names; one fence makes them and new nodes durable first. `after` sees the transaction, for what it freed.
    ///
    /// The change was made under this hold of the commit lock. If it changes no extent, the attributes are committed all the same. On an
    /// error nothing has changed and the new blocks are free again.
    pub(crate) fn commit_map<R>(
        &self,
        state: &mut State,
        extents: Extents,
        mut set: FreshSet,
        change: impl FnOnce(&mut Core),
        after: impl FnOnce(&Tx<'_, Applied>) -> R,
    ) -> Result<R, ChangeError> {
        match self.prepare(state, extents, &mut set, change) {
            Ok((edit, plan)) => self.finish(state, set, &edit, plan, after),
            Err(error) => {
                Shared::<P>::give_back(state, set);
                Err(error)
            }
        }
    }

    /// Everything that can fail: the shape of the tree, the blocks and content of its new nodes, memory.
    fn prepare(
        &self,
        state: &mut State,
        extents: Extents,
        set: &mut FreshSet,
        change: impl FnOnce(&mut Core),
    ) -> Result<(Edit, Plan), ChangeError> {
        let mut edit = self.edit();
        let need = extents.need();
        let mut plan = {
            let map = &mut self.attr.lock().map;
            let fits = |root: &Root| fits(&edit.old.body, root);
            let plan = if extents.is_nothing() {
                Plan::unchanged(map, root_of(&edit.old))?
            } else {
                Plan::new(map, extents, &fits, &Limits::MEDIA)?
            };
            map.make_room(&plan)?;
            plan
        };
        let ino = self.ino();
        let shared = &self.shared;
        plan.place(|level, entries| shared.write_node(state, (ino, level), need, entries, set))?;
        state.promise(runs_of(&plan).saturating_sub(self.runs()))?;
        edit.new.core.entries = plan.root().len() as u8;
        edit.new.core.depth = plan.depth();
        edit.new.body = place(&edit.old.body, plan.root());
        change(&mut edit.new.core);
        Ok((edit, plan))
    }

    fn finish<R>(
        &self,
        state: &mut State,
        set: FreshSet,
        edit: &Edit,
        mut plan: Plan,
        after: impl FnOnce(&Tx<'_, Applied>) -> R,
    ) -> Result<R, ChangeError> {
        let media = &self.shared.media;
        let durable = set.fence(media);
        // The runs that the inode and quarantine will have, and those that were promised: of the inode before, of each new block.
        let (had, published, runs) = (self.runs(), durable.len(), runs_of(&plan));
        let mut tx = state.ring.begin(RecordKind::Extents);
        if let Err(full) = tx.put_inode(self.ino(), &edit.old, &edit.new) {
            abandon(state, durable);
            state.space.withdraw(runs.saturating_sub(had));
            return Err(full.into());
        }
        for durable in durable {
            tx.publish(durable);
        }
        let tx = tx.commit(media);
        for block in plan.retired() {
            state.quarantine.push(tx.freed_node(*block));
        }
        state.space.withdraw(published + had.saturating_sub(runs));
        let result = after(&tx);
        let mut attr = self.attr.lock();
        attr.image = edit.new;
        attr.settled(edit.lazy);
        attr.map.apply(&mut plan);
        drop(attr);
        // What went out of the map is freed here, without the lock.
        drop(plan);
        Ok(result)
    }
}

/// The entries of an inode.
fn root_of(image: &InodeImage) -> Root {
    let entries = usize::from(image.core.entries);
    image.body.iter().take(entries).copied().collect()
}

/// Runs of the inode and, of what it had, in quarantine, after the change.
fn runs_of(plan: &Plan) -> usize {
    plan.extents() + plan.nodes() + plan.retired().len()
}

/// Gives blocks back that were made durable and are not published.
fn abandon(state: &mut State, durable: impl IntoIterator<Item = Durable>) {
    for durable in durable {
        state.space.give(Free::unpublished(durable.abandon()));
    }
}
