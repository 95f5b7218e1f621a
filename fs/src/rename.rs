//! Rename: one record moves a name, whatever it replaces, or exchanges two.
//!
//! At most: the new entry, the old one, the inode that moves (its parent, if it is a directory), the inode that is replaced, and both
//! directories: 25 words of 27. An exchange: both entries, both inodes, both directories: 26 words.
//!
//! All of it is checked and done under the commit lock, so that no cycle of directories can arise: each directory that moves is looked
//! for on the way from its new parent up to the root.

use alloc::sync::Arc;

use arrayvec::ArrayVec;
use dax::pmem::Pmem;

use crate::change::Edit;
use crate::commit::{Building, RecordFull, RecordKind, Tx};
use crate::dir::DirIndex;
use crate::error::{LookupError, RenameError};
use crate::fs::Fs;
use crate::inode::Inode;
use crate::layout::{Ino, Kind, ROOT};
use crate::names::{Loser, Place};
use crate::shared::State;
use crate::slots::{Entry, head_len};

/// Words of an entry that change when it comes to name another inode: the inode, the sums, its kind.
const COMMIT_WORDS: usize = 3;

/// What stands at a name: the entry, and what it names.
struct Target<P: Pmem> {
    entry: Entry,
    inode: Arc<Inode<P>>,
}

/// The changes of attributes, prepared.
struct Edits {
    moved: Edit,
    replaced: Option<Edit>,
    /// Links that the old directory loses.
    leaves: u32,
    /// Of the new directory, unless both names are in the same directory.
    to: Option<Edit>,
}

/// What a rename does when the new name exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Nothing is renamed.
    NoReplace,
    /// What is there loses that name, in the same step.
    Replace,
    /// Each gets the name of the other; there must be one.
    Exchange,
}

impl<P: Pmem> Fs<P> {
    /// Moves the name `old` to `new`; what is there is replaced, in one step, unless `replace` is false.
    ///
    /// A directory replaces only an empty directory, and never moves below itself. Two names of the same inode: nothing happens.
    pub fn rename(&self, old: &str, new: &str, replace: bool) -> Result<(), RenameError> {
        let mode = if replace {
            RenameMode::Replace
        } else {
            RenameMode::NoReplace
        };
        self.rename_path(old, new, mode)
    }

    /// Exchanges what `one` and `other` name, in one step: any two kinds, in any two directories, unless one lies below the other.
    pub fn exchange(&self, one: &str, other: &str) -> Result<(), RenameError> {
        self.rename_path(one, other, RenameMode::Exchange)
    }

    fn rename_path(&self, old: &str, new: &str, mode: RenameMode) -> Result<(), RenameError> {
        let _inside = self.begin()?;
        let (from, to) = (self.parent_of(old)?, self.parent_of(new)?);
        self.rename_at(&from.place(), &to.place(), mode)
    }

    /// As [`Fs::rename`] and [`Fs::exchange`], from directory to directory.
    pub fn rename_in(
        &self,
        old_dir: &Arc<Inode<P>>,
        old_name: &[u8],
        new_dir: &Arc<Inode<P>>,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), RenameError> {
        let _inside = self.begin()?;
        let from = Place::new(old_dir, old_name)?;
        let to = Place::new(new_dir, new_name)?;
        self.rename_at(&from, &to, mode)
    }

    fn rename_at(
        &self,
        from: &Place<'_, P>,
        to: &Place<'_, P>,
        mode: RenameMode,
    ) -> Result<(), RenameError> {
        let replaced = {
            let mut state = self.lock();
            self.rename_locked(&mut state, from, to, mode)?
        };
        replaced.into_iter().for_each(|loser| self.let_go(loser));
        Ok(())
    }

    /// Gives what lost a name, perhaps its last.
    fn rename_locked(
        &self,
        state: &mut State,
        from: &Place<'_, P>,
        to: &Place<'_, P>,
        mode: RenameMode,
    ) -> Result<Option<Loser<P>>, RenameError> {
        let moved = self.target(state, from)?.ok_or(LookupError::NotFound)?;
        // A directory with an entry has a name.
        if to.dir.ino() != from.dir.ino() && to.dir.is_orphan() {
            return Err(LookupError::NotFound.into());
        }
        self.check_cycle(state, &moved.inode, to.dir)?;
        let Some(target) = self.target(state, to)? else {
            if mode == RenameMode::Exchange {
                return Err(LookupError::NotFound.into());
            }
            return self.commit_rename(state, from, to, &moved, None);
        };
        if mode == RenameMode::NoReplace {
            return Err(RenameError::Exists);
        }
        if target.entry.found.ino == moved.entry.found.ino {
            return Ok(None);
        }
        if mode == RenameMode::Exchange {
            self.check_cycle(state, &target.inode, from.dir)?;
            self.commit_exchange(state, (from, &moved), (to, &target))?;
            return Ok(None);
        }
        self.replaceable(state, &moved.inode, &target.inode)?;
        self.commit_rename(state, from, to, &moved, Some(target))
    }

    fn target(
        &self,
        state: &mut State,
        to: &Place<'_, P>,
    ) -> Result<Option<Target<P>>, LookupError> {
        let Some(entry) = self.entry(state, to)? else {
            return Ok(None);
        };
        self.shared.expect(entry.found.ino);
        let inode = self.get(state, entry.found.ino)?;
        Ok(Some(Target { entry, inode }))
    }

    fn replaceable(
        &self,
        state: &mut State,
        moved: &Inode<P>,
        target: &Inode<P>,
    ) -> Result<(), RenameError> {
        match (moved.kind() == Kind::Dir, target.kind() == Kind::Dir) {
            (false, true) => Err(RenameError::IsDir),
            (true, false) => Err(RenameError::NotDir),
            (true, true) if !self.is_empty(state, target)? => Err(RenameError::NotEmpty),
            _ => Ok(()),
        }
    }

    /// Refuses to move a directory into itself: walks up from `dir`.
    fn check_cycle(
        &self,
        state: &mut State,
        moved: &Inode<P>,
        dir: &Arc<Inode<P>>,
    ) -> Result<(), RenameError> {
        if moved.kind() != Kind::Dir {
            return Ok(());
        }
        let mut at = dir.clone();
        // A chain of parents is no longer than there are inodes, unless the media has a ring of them.
        for _ in 0..=state.inodes.in_use() {
            if at.ino() == moved.ino() {
                return Err(RenameError::Cycle);
            }
            if at.ino() == ROOT {
                return Ok(());
            }
            let parent: Ino = at.attr.lock().image.core.parent;
            at = self.get(state, parent)?;
        }
        Err(RenameError::Cycle)
    }

    fn commit_rename(
        &self,
        state: &mut State,
        from: &Place<'_, P>,
        to: &Place<'_, P>,
        moved: &Target<P>,
        target: Option<Target<P>>,
    ) -> Result<Option<Loser<P>>, RenameError> {
        let (old, moved) = (&moved.entry, &moved.inode);
        let (slot, at, len) = match &target {
            Some(Target { entry, .. }) => (entry.found.slot, entry.at, COMMIT_WORDS),
            None => {
                // Whether it is there was looked at.
                let site = self.reserve_slots::<RenameError>(state, to, |_, _, _| Ok(()))?;
                (site.slot, site.at, head_len(to.name))
            }
        };
        let now = self.shared.now();
        let edits = self.edits(now, (from, to), moved, target.as_ref())?;
        let words = self.head(to.dir, to.name, moved.ino(), moved.kind());
        state.reserve_orphan()?;
        let mut tx = state.ring.begin(RecordKind::Rename);
        tx.store(at, &words[..len])?;
        tx.store(old.at, &[0])?;
        edits.store(&mut tx, (to.dir, moved), target.as_ref())?;
        let held = from.dir.hold();
        let mut parent = held.edit(now);
        parent.new.nlink = parent.new.nlink.saturating_sub(edits.leaves);
        held.put(&mut tx, &parent)?;
        let tx = tx.commit(&self.shared.media);
        let loser = target.zip(edits.replaced).map(|(target, edit)| {
            let unlinked = tx.unlinked(target.inode.ino());
            (target.inode, edit, unlinked)
        });
        let leave = |index: &mut DirIndex| index.remove(old.found.slot, from.name);
        let names = (moved.ino(), moved.kind());
        let enter = |index: &mut DirIndex| match loser {
            Some(_) => index.replace(slot, to.name, names),
            None => index.add(slot, to.name, names),
        };
        match &edits.to {
            None => held.adopt_entry(&parent, |index| {
                leave(index);
                enter(index);
            }),
            Some(edit) => {
                held.adopt_entry(&parent, leave);
                to.dir.adopt_entry(edit, enter);
            }
        }
        moved.adopt(&edits.moved);
        let loser =
            loser.map(|(inode, edit, unlinked)| self.take_name(state, inode, &edit, unlinked));
        Ok(loser)
    }

    /// Each entry keeps its name and gets the other's inode.
    fn commit_exchange(
        &self,
        state: &mut State,
        (from, moved): (&Place<'_, P>, &Target<P>),
        (to, other): (&Place<'_, P>, &Target<P>),
    ) -> Result<(), RenameError> {
        let inodes = [&*moved.inode, &*other.inode, &**from.dir, &**to.dir];
        let edits = self.exchange_edits(inodes)?;
        // Each entry: where it is, and what it names from now on.
        let entries = [
            (from, &moved.entry, &other.inode),
            (to, &other.entry, &moved.inode),
        ];
        let mut tx = state.ring.begin(RecordKind::Rename);
        for (place, entry, inode) in entries {
            let words = self.head(place.dir, place.name, inode.ino(), inode.kind());
            tx.store(entry.at, &words[..COMMIT_WORDS])?;
        }
        for (inode, edit) in inodes.iter().zip(&edits) {
            inode.put(&mut tx, edit)?;
        }
        let _ = tx.commit(&self.shared.media);
        for (inode, edit) in inodes.iter().zip(&edits) {
            inode.adopt(edit);
        }
        for (place, entry, inode) in entries {
            let names = (inode.ino(), inode.kind());
            let note = |index: &mut DirIndex| index.replace(entry.found.slot, place.name, names);
            place.dir.with_index(|_, index| note(index));
        }
        Ok(())
    }

    /// The changes of the two that change places, and of their directories; of a directory that has both only one.
    fn exchange_edits(
        &self,
        [moved, other, from, to]: [&Inode<P>; 4],
    ) -> Result<ArrayVec<Edit, 4>, RenameError> {
        let now = self.shared.now();
        let apart = from.ino() != to.ino();
        let mut edits: ArrayVec<Edit, 4> = [moved, other, from]
            .into_iter()
            .chain(apart.then_some(to))
            .map(|inode| inode.edit())
            .collect();
        for edit in &mut edits {
            edit.new.ctime = now;
        }
        for edit in &mut edits[2..] {
            edit.new.mtime = now;
        }
        for (at, inode, dir) in [(0, moved, to), (1, other, from)] {
            if inode.kind() == Kind::Dir {
                edits[at].new.parent = dir.ino();
            }
        }
        if apart {
            let dirs = [moved, other].map(|inode| u32::from(inode.kind() == Kind::Dir));
            for (at, less, more) in [(2, dirs[0], dirs[1]), (3, dirs[1], dirs[0])] {
                let links = &mut edits[at].new.nlink;
                let left = links.saturating_sub(less).checked_add(more);
                *links = left.ok_or(RenameError::TooManyLinks)?;
            }
        }
        Ok(edits)
    }

    fn edits(
        &self,
        now: u64,
        (from, to): (&Place<'_, P>, &Place<'_, P>),
        moved: &Inode<P>,
        target: Option<&Target<P>>,
    ) -> Result<Edits, RenameError> {
        let apart = from.dir.ino() != to.dir.ino();
        let mut edits = Edits {
            moved: moved.edit(),
            replaced: target.map(|target| self.drop_link(&target.inode, now)),
            leaves: 0,
            to: apart.then(|| to.dir.hold().edit(now)),
        };
        edits.moved.new.ctime = now;
        if moved.kind() == Kind::Dir {
            edits.moved.new.parent = to.dir.ino();
            edits.count_subdirectories(target.is_some())?;
        }
        Ok(edits)
    }
}

impl Edits {
    /// Stores all but the change of the old directory.
    fn store<P: Pmem>(
        &self,
        tx: &mut Tx<'_, Building>,
        (to, moved): (&Inode<P>, &Inode<P>),
        target: Option<&Target<P>>,
    ) -> Result<(), RecordFull> {
        moved.put(tx, &self.moved)?;
        if let (Some(target), Some(edit)) = (target, &self.replaced) {
            target.inode.put(tx, edit)?;
        }
        self.to.as_ref().map_or(Ok(()), |edit| to.put(tx, edit))
    }

    /// A directory moves: its old parent has one link less, the new one more, unless it replaces one there.
    fn count_subdirectories(&mut self, replaces: bool) -> Result<(), RenameError> {
        self.leaves = u32::from(self.to.is_some() || replaces);
        if let Some(to) = self.to.as_mut().filter(|_| !replaces) {
            let links = to.new.nlink.checked_add(1);
            to.new.nlink = links.ok_or(RenameError::TooManyLinks)?;
        }
        Ok(())
    }
}
