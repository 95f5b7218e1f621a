//! Changing an inode: what goes into the record, and what follows it in memory.
//!
//! The entries of an inode stand in any order, so that taking one away or adding one changes few words; nodes are replaced, never
//! changed ([`extents`](crate::extents)). Every function here prepares everything that can fail first, then commits, then cannot fail.

use arrayvec::ArrayVec;
use dax::pmem::Pmem;
use mm::sync::SpinGuard;

use crate::commit::{Applied, Building, Fresh, FreshSet, MetaAddr, RecordFull, RecordKind, Tx};
use crate::dir::DirIndex;
use crate::error::ChangeError;
use crate::extents::Edit as Extents;
use crate::extents::plan::{Plan, PlanError, Root};
use crate::extents::{ExtentMap, Limits};
use crate::inode::{Attr, Vnode};
use crate::layout::{
    Block, Body, CORE_WORDS, Core, Extent, INLINE_EXTENTS, Ino, InodeImage, Node, SUM_WORD,
};
use crate::record::PAYLOAD_WORDS;
use crate::shared::{Shared, State};
use crate::space::{Free, Need, Quarantine};

/// Extents that a file may have at least; beyond it depends on how full its nodes are.
pub(crate) const MAX_EXTENTS: usize = 1 << 32;

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
    /// Stores what differs between two states of the attributes of inode `ino`, and the checksum if anything does. `body`: what comes
    /// after them, which stays.
    fn put_core(&mut self, ino: Ino, edit: &Edit, body: &Body) -> Result<(), RecordFull> {
        if edit.old == edit.new {
            return Ok(());
        }
        self.put_attributes(ino, edit, body)
    }

    /// As `put_core`, where `new` comes in the place of `old` behind the attributes.
    fn put_inode(
        &mut self,
        ino: Ino,
        edit: &Edit,
        (old, new): (&Body, &Body),
    ) -> Result<(), RecordFull> {
        if edit.old == edit.new && old == new {
            return Ok(());
        }
        self.put_attributes(ino, edit, new)?;
        let g = *self.geometry();
        let bodies = old.iter().zip(new).enumerate();
        for (at, (_, pair)) in bodies.filter(|(_, (old, new))| old != new) {
            self.store(MetaAddr::inode(&g, ino, CORE_WORDS + 2 * at), pair)?;
        }
        Ok(())
    }

    /// Stores what differs between two whole images of inode `ino`.
    pub(crate) fn put_image(
        &mut self,
        ino: Ino,
        old: &InodeImage,
        new: &InodeImage,
    ) -> Result<(), RecordFull> {
        let edit = Edit {
            old: old.core,
            new: new.core,
            lazy: None,
        };
        self.put_inode(ino, &edit, (&old.body, &new.body))
    }

    /// Stores from the first to the last word that differs. The old checksum need not be known: it is another one.
    fn put_attributes(&mut self, ino: Ino, edit: &Edit, body: &Body) -> Result<(), RecordFull> {
        let before = edit.old.to_words(0);
        let after = edit
            .new
            .to_words(edit.new.checksum_from(self.seed().at(ino.into()), body));
        let differs = |at: &usize| before[*at] != after[*at] || *at == SUM_WORD;
        let first = (0..CORE_WORDS).find(differs).unwrap_or(SUM_WORD);
        let last = (0..CORE_WORDS).rfind(differs).unwrap_or(SUM_WORD);
        let at = MetaAddr::inode(self.geometry(), ino, first);
        self.store(at, &after[first..=last])
    }

    /// Stores all attributes of a new inode `ino`, and the first `body` words after them.
    pub(crate) fn put_new_inode(
        &mut self,
        ino: Ino,
        new: &InodeImage,
        body: usize,
    ) -> Result<(), RecordFull> {
        let words = new.core.to_words(
            new.core
                .checksum_from(self.seed().at(ino.into()), &new.body),
        );
        let [core, after] = [0, CORE_WORDS].map(|at| MetaAddr::inode(self.geometry(), ino, at));
        self.store(core, &words)?;
        self.store(after, &new.body.as_flattened()[..body])
    }
}

/// A change of one inode's attributes that is being prepared: as they are, as they will be.
pub(crate) struct Edit {
    pub old: Core,
    pub new: Core,
    /// The lazy time that goes along.
    lazy: Option<u64>,
}

impl Attr {
    /// Begins a change: the lazy time goes along with it.
    pub(crate) fn edit(&self) -> Edit {
        let (old, lazy) = (self.image.core, self.lazy_mtime);
        let mut new = old;
        (new.mtime, new.ctime) = self.times();
        Edit { old, new, lazy }
    }

    fn adopt(&mut self, edit: &Edit) {
        self.image.core = edit.new;
        self.settled(edit.lazy);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
impl Edit {
    pub(crate) const fn lazy(&self) -> Option<u64> {
        self.lazy
    }
}

/// A directory whose attributes and index are held while a change of them is committed.
pub(crate) struct HeldDir<'a> {
    ino: Ino,
    attr: SpinGuard<'a, Attr>,
}

impl HeldDir<'_> {
    /// Begins a change of a directory whose entries change at `now`.
    pub(crate) fn edit(&self, now: u64) -> Edit {
        let mut edit = self.attr.edit();
        (edit.new.mtime, edit.new.ctime) = (now, now);
        edit
    }

    /// As [`Vnode::put`].
    pub(crate) fn put(&self, tx: &mut Tx<'_, Building>, edit: &Edit) -> Result<(), RecordFull> {
        tx.put_core(self.ino, edit, &self.attr.image.body)
    }

    /// As [`Vnode::adopt_entry`].
    pub(crate) fn adopt_entry(mut self, edit: &Edit, note: impl FnOnce(&mut DirIndex)) {
        self.attr.adopt(edit);
        if let Some(index) = self.attr.index.as_deref_mut() {
            note(index);
        }
    }
}

/// A change of extents, ready to be committed.
pub(crate) struct Prepared {
    edit: Edit,
    /// What the inode has behind its attributes.
    old: Body,
    /// What it has there from then on.
    body: Body,
    /// Runs of the inode now; and of the inode and, of what it had, in quarantine, after the change.
    runs: (usize, usize),
}

impl Prepared {
    /// Runs that were promised for what the inode will have more than now.
    const fn more(&self) -> usize {
        let (now, then) = self.runs;
        then.saturating_sub(now)
    }

    /// Runs that the inode will have no more.
    const fn fewer(&self) -> usize {
        let (now, then) = self.runs;
        now.saturating_sub(then)
    }
}

impl<P: Pmem> Vnode<P> {
    /// Begins a change: the lazy time goes along with it.
    pub(crate) fn edit(&self) -> Edit {
        self.attr.lock().edit()
    }

    /// Adds a change of attributes to a record.
    pub(crate) fn put(&self, tx: &mut Tx<'_, Building>, edit: &Edit) -> Result<(), RecordFull> {
        tx.put_core(self.ino(), edit, &self.attr.lock().image.body)
    }

    /// Holds the attributes of a directory from before a commit to after it: whoever reads them waits for the time of one commit, and
    /// no lock is taken between the fence and what must follow it, which would wait for the fence alone. Spin lock, class ATTR.
    pub(crate) fn hold(&self) -> HeldDir<'_> {
        HeldDir {
            ino: self.ino(),
            attr: self.attr.lock(),
        }
    }

    /// Takes a committed change over. A lazy time that came meanwhile stays: a write in place does not hold the commit lock.
    pub(crate) fn adopt(&self, edit: &Edit) {
        self.attr.lock().adopt(edit);
    }

    /// As [`Vnode::adopt`] of a directory, in one moment with what `note` does to its index, which is loaded.
    pub(crate) fn adopt_entry(&self, edit: &Edit, note: impl FnOnce(&mut DirIndex)) {
        self.hold().adopt_entry(edit, note);
    }

    /// Commits a change of attributes alone.
    pub(crate) fn commit_core(
        &self,
        state: &mut State,
        change: impl FnOnce(&mut Core),
    ) -> Result<(), ChangeError> {
        let mut edit = self.edit();
        change(&mut edit.new);
        let mut tx = state.ring.begin(RecordKind::Attributes);
        self.put(&mut tx, &edit)?;
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
        let (prepared, mut plan) = match self.prepare(state, extents, &mut set, change) {
            Ok(prepared) => prepared,
            Err(error) => {
                self.shared.give_back(state, set);
                return Err(error);
            }
        };
        let result = self.finish(state, set, &prepared, |tx, quarantine| {
            for block in plan.retired() {
                quarantine.push(tx.freed_node(*block));
            }
            after(tx)
        })?;
        self.adopt_map(&prepared, |map| map.apply(&mut plan));
        // What went out of the map is freed here, without the lock.
        drop(plan);
        Ok(result)
    }

    /// Commits what [`Vnode::prepare_longer`] prepared, as [`Vnode::commit_map`] would; `set` holds the new blocks.
    pub(crate) fn commit_longer(
        &self,
        state: &mut State,
        set: FreshSet,
        (prepared, longer): &(Prepared, Extent),
    ) -> Result<(), ChangeError> {
        self.finish(state, set, prepared, |_, _| ())?;
        self.adopt_map(prepared, |map| map.lengthen(*longer));
        Ok(())
    }

    /// The change of an extent that only makes the last one longer, as most that a growing file gets: it takes no memory and writes no node.
    /// `None`: it is not such a one.
    pub(crate) fn prepare_longer(
        &self,
        new: Extent,
        change: impl FnOnce(&mut Core),
    ) -> Option<(Prepared, Extent)> {
        let attr = self.attr.lock();
        let mut edit = attr.edit();
        let last = attr.map.last_inline().filter(|last| last.joins(&new))?;
        let longer = Extent {
            len: last.len + new.len,
            ..last
        };
        let mut body = attr.image.body;
        let entries = usize::from(attr.image.core.entries).min(INLINE_EXTENTS);
        let words = last.to_words();
        let entry = body[..entries].iter_mut().find(|entry| **entry == words)?;
        *entry = longer.to_words();
        change(&mut edit.new);
        let prepared = Prepared {
            edit,
            old: attr.image.body,
            body,
            runs: (attr.map.len(), attr.map.len()),
        };
        Some((prepared, longer))
    }

    /// Everything that can fail: the shape of the tree, the blocks and content of its new nodes, memory.
    fn prepare(
        &self,
        state: &mut State,
        extents: Extents,
        set: &mut FreshSet,
        change: impl FnOnce(&mut Core),
    ) -> Result<(Prepared, Plan), ChangeError> {
        let mut edit = self.edit();
        let need = extents.need();
        let (old, mut plan) = {
            let attr = &mut *self.attr.lock();
            let (old, map) = (attr.image.body, &mut attr.map);
            let fits = |root: &Root| fits(&old, root);
            let plan = if extents.is_nothing() {
                Plan::unchanged(map, root_of(&attr.image))?
            } else {
                Plan::new(map, extents, &fits, &Limits::MEDIA)?
            };
            map.make_room(&plan)?;
            (old, plan)
        };
        let ino = self.ino();
        let shared = &self.shared;
        plan.place(|level, entries| shared.write_node(state, (ino, level), need, entries, set))?;
        let runs = (self.runs(), runs_of(&plan));
        edit.new.entries = plan.root().len() as u8;
        edit.new.depth = plan.depth();
        change(&mut edit.new);
        let body = place(&old, plan.root());
        let prepared = Prepared {
            edit,
            old,
            body,
            runs,
        };
        state.promise(prepared.more())?;
        Ok((prepared, plan))
    }

    /// Commits, and before it makes the new blocks durable.
    ///
    /// What was stored to them is on its way to the media when this begins, and nothing up to the fence waits for it: no lock is taken.
    fn finish<R>(
        &self,
        state: &mut State,
        set: FreshSet,
        prepared: &Prepared,
        after: impl FnOnce(&Tx<'_, Applied>, &mut Quarantine) -> R,
    ) -> Result<R, ChangeError> {
        let Prepared {
            edit, old, body, ..
        } = prepared;
        let media = &self.shared.media;
        let published = set.count();
        let mut tx = state.ring.begin(RecordKind::Extents);
        if let Err(full) = tx.put_inode(self.ino(), edit, (old, body)) {
            self.shared.give_back(state, set);
            state.space.withdraw(prepared.more());
            return Err(full.into());
        }
        let mut tx = tx.encode();
        for durable in set.fence(media) {
            tx.publish(durable);
        }
        let tx = tx.commit(media);
        state.space.withdraw(published + prepared.fewer());
        Ok(after(&tx, &mut state.quarantine))
    }

    /// Takes a committed change of the extents over.
    fn adopt_map(&self, prepared: &Prepared, apply: impl FnOnce(&mut ExtentMap)) {
        let mut attr = self.attr.lock();
        attr.image.core = prepared.edit.new;
        attr.image.body = prepared.body;
        attr.settled(prepared.edit.lazy);
        apply(&mut attr.map);
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
