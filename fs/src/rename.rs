//! Rename: one record moves a name, whatever it replaces.
//!
//! At most: the new entry, the old one, the inode that moves (its parent, if it is a directory), the inode that is replaced, and both
//! directories: 26 words of 27.

use alloc::sync::Arc;

use dax::pmem::Pmem;

use crate::change::Edit;
use crate::commit::{Building, RecordFull, RecordKind, Tx};
use crate::dir::Found;
use crate::error::{LookupError, RenameError};
use crate::fs::Fs;
use crate::inode::Inode;
use crate::layout::{Ino, Kind, ROOT};
use crate::names::{Place, head_len};
use crate::shared::State;

/// What stands at the new name.
struct Target<P: Pmem> {
    found: Found,
    inode: Arc<Inode<P>>,
}

/// The changes of attributes, prepared.
struct Edits {
    moved: Edit,
    replaced: Option<Edit>,
    from: Edit,
    /// Unless both names are in the same directory.
    to: Option<Edit>,
}

impl<P: Pmem> Fs<P> {
    /// Moves the name `old` to `new`; what is there is replaced, in one step, unless `replace` is false.
    ///
    /// A directory replaces only an empty directory, and never moves below itself. Two names of the same inode: nothing happens.
    pub fn rename(&self, old: &str, new: &str, replace: bool) -> Result<(), RenameError> {
        let _inside = self.begin()?;
        let (from, to) = (self.place(old)?, self.place(new)?);
        let replaced = self.rename_at(&from, &to, replace)?;
        replaced.into_iter().for_each(|inode| self.let_go(inode));
        Ok(())
    }

    fn rename_at(
        &self,
        from: &Place<'_, P>,
        to: &Place<'_, P>,
        replace: bool,
    ) -> Result<Option<Arc<Inode<P>>>, RenameError> {
        let mut state = self.lock();
        let state = &mut *state;
        let found = self
            .find(state, &from.dir, from.name)?
            .ok_or(LookupError::NotFound)?;
        let moved = self.get(state, found.ino)?;
        if to.dir.stat().nlink == 0 {
            return Err(LookupError::NotFound.into());
        }
        self.check_cycle(state, &moved, &to.dir)?;
        let target = self.target(state, to)?;
        if let Some(target) = &target {
            if target.found.ino == found.ino {
                return if replace {
                    Ok(None)
                } else {
                    Err(RenameError::Exists)
                };
            }
            self.replaceable(state, &moved, target, replace)?;
        }
        self.commit_rename(state, (from, found), to, &moved, target)
    }

    fn target(
        &self,
        state: &mut State,
        to: &Place<'_, P>,
    ) -> Result<Option<Target<P>>, LookupError> {
        let Some(found) = self.find(state, &to.dir, to.name)? else {
            return Ok(None);
        };
        let inode = self.get(state, found.ino)?;
        Ok(Some(Target { found, inode }))
    }

    fn replaceable(
        &self,
        state: &mut State,
        moved: &Inode<P>,
        target: &Target<P>,
        replace: bool,
    ) -> Result<(), RenameError> {
        if !replace {
            return Err(RenameError::Exists);
        }
        match (moved.kind() == Kind::Dir, target.inode.kind() == Kind::Dir) {
            (false, true) => Err(RenameError::IsDir),
            (true, false) => Err(RenameError::NotDir),
            (true, true) if !self.is_empty(state, &target.inode)? => Err(RenameError::NotEmpty),
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
        (from, found): (&Place<'_, P>, Found),
        to: &Place<'_, P>,
        moved: &Inode<P>,
        target: Option<Target<P>>,
    ) -> Result<Option<Arc<Inode<P>>>, RenameError> {
        let slot = match &target {
            Some(target) => target.found.slot,
            None => self.reserve_slots(state, &to.dir, to.name)?,
        };
        let edits = self.edits(from, to, moved, target.as_ref())?;
        let words = self.head(&to.dir, to.name, moved.ino(), moved.kind());
        // Over an old entry only the inode, its kind and the sums change.
        let len = if target.is_some() {
            3
        } else {
            head_len(to.name)
        };
        let (new_at, old_at) = (
            self.slot_addr(&to.dir, slot)?,
            self.slot_addr(&from.dir, found.slot)?,
        );
        state.reserve_orphan()?;
        let mut tx = state.ring.begin(RecordKind::Rename);
        tx.store(new_at, &words[..len])?;
        tx.store(old_at, &[0])?;
        edits.store(&mut tx, (&from.dir, &to.dir, moved, target.as_ref()))?;
        let tx = tx.commit(&self.shared.media);
        if let (Some(target), Some(edit)) = (&target, &edits.replaced)
            && edit.new.core.nlink == 0
        {
            state.orphans.push(tx.unlinked(target.inode.ino()));
        }
        edits.adopt((&from.dir, &to.dir, moved, target.as_ref()));
        if let Some(target) = target.as_ref().filter(|target| target.inode.is_orphan()) {
            self.table.orphan(target.inode.ino());
        }
        from.dir
            .with_index(|_, index| index.remove(found.slot, from.name));
        self.enter(&to.dir, slot, to.name, (moved.ino(), moved.kind()));
        Ok(target.map(|target| target.inode))
    }

    fn edits(
        &self,
        from: &Place<'_, P>,
        to: &Place<'_, P>,
        moved: &Inode<P>,
        target: Option<&Target<P>>,
    ) -> Result<Edits, RenameError> {
        let now = self.shared.now();
        let same = from.dir.ino() == to.dir.ino();
        let mut edits = Edits {
            moved: moved.edit(),
            replaced: target.map(|target| self.drop_link(&target.inode, now)),
            from: from.dir.edit(),
            to: (!same).then(|| to.dir.edit()),
        };
        edits.moved.new.core.ctime = now;
        for edit in [Some(&mut edits.from), edits.to.as_mut()]
            .into_iter()
            .flatten()
        {
            (edit.new.core.mtime, edit.new.core.ctime) = (now, now);
        }
        if moved.kind() == Kind::Dir {
            edits.moved.new.core.parent = to.dir.ino();
            edits.count_subdirectories(target.is_some())?;
        }
        Ok(edits)
    }
}

/// Old directory, new directory, the inode that moves, the one that it replaces.
type Parts<'a, P> = (
    &'a Inode<P>,
    &'a Inode<P>,
    &'a Inode<P>,
    Option<&'a Target<P>>,
);

impl Edits {
    /// Each change with the inode it is of.
    fn each<'a, P: Pmem>(
        &'a self,
        (from, to, moved, target): Parts<'a, P>,
    ) -> impl Iterator<Item = (&'a Inode<P>, &'a Edit)> {
        let target = target.map(|target| &*target.inode);
        let always = [(moved, &self.moved), (from, &self.from)];
        let replaced = target.zip(self.replaced.as_ref());
        let to = self.to.as_ref().map(|edit| (to, edit));
        always.into_iter().chain(replaced).chain(to)
    }

    fn store<P: Pmem>(
        &self,
        tx: &mut Tx<'_, Building>,
        parts: Parts<'_, P>,
    ) -> Result<(), RecordFull> {
        self.each(parts)
            .try_for_each(|(inode, edit)| tx.put_inode(inode.ino(), &edit.old, &edit.new))
    }

    fn adopt<P: Pmem>(&self, parts: Parts<'_, P>) {
        self.each(parts).for_each(|(inode, edit)| inode.adopt(edit));
    }

    /// A directory moves: its old parent has one link less, the new one more, unless it replaces one there.
    fn count_subdirectories(&mut self, replaces: bool) -> Result<(), RenameError> {
        let from = &mut self.from.new.core.nlink;
        if self.to.is_some() || replaces {
            *from = from.saturating_sub(1);
        }
        if let Some(to) = self.to.as_mut().filter(|_| !replaces) {
            let links = to.new.core.nlink.checked_add(1);
            to.new.core.nlink = links.ok_or(RenameError::TooManyLinks)?;
        }
        Ok(())
    }
}
