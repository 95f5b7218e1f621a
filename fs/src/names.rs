//! Names: lookup, readdir, create, mkdir, link, unlink, rmdir. Each is one record (a name over 44 bytes one or two more, before it).
//!
//! All of it runs under the commit lock, on indexes and attributes that change only under it. So nothing needs to be checked
//! twice, no two inodes are ever locked together, and a cycle of directories cannot arise between the check and the rename.

use alloc::sync::Arc;

use dax::pmem::Pmem;
use mm::mem::check_headroom;
use mm::trace::{self, What};

use crate::attr::NewInode;
use crate::change::Edit;
use crate::commit::{RecordKind, Unlinked};
use crate::dir::{DirEntry, Found, Name, NameError};
use crate::error::{ChangeError, CreateError, LookupError, RemoveError};
use crate::fs::Fs;
use crate::gate::Inside;
use crate::inode::{Inode, Vnode};
use crate::layout::Kind;
use crate::shared::State;
use crate::slots::{Entry, Site, head_len};

/// What has lost a name, perhaps its last.
pub(crate) struct Loser<P: Pmem> {
    pub inode: Arc<Inode<P>>,
    /// It has ended: nobody else used it.
    pub ended: bool,
}

/// Where a name is, or will be: a directory, and the name in it.
pub(crate) struct Place<'a, P: Pmem> {
    pub dir: &'a Arc<Inode<P>>,
    pub name: Name<'a>,
}

impl<'a, P: Pmem> Place<'a, P> {
    /// The place of `name` in `dir`.
    pub fn new(dir: &'a Arc<Inode<P>>, name: &'a [u8]) -> Result<Self, NameError> {
        let name = Name::new(name)?;
        Ok(Self { dir, name })
    }
}

impl<P: Pmem> Fs<P> {
    /// The inode that `name` leads to in `dir`.
    pub fn lookup(&self, dir: &Inode<P>, name: &[u8]) -> Result<Arc<Inode<P>>, LookupError> {
        let name = Name::new(name)?;
        if dir.kind() != Kind::Dir {
            return Err(LookupError::NotDir);
        }
        let _inside = self.shared.gate.enter()?;
        let mut state = self.lock();
        let found = self.find(&state, dir, name)?.ok_or(LookupError::NotFound)?;
        self.get(&mut state, found.ino)
    }

    /// Finds a name. Under the commit lock.
    pub(crate) fn find(
        &self,
        state: &State,
        dir: &Inode<P>,
        name: Name<'_>,
    ) -> Result<Option<Found>, LookupError> {
        let look = || dir.with_index(|on_media, index| index.find(on_media, name));
        let found = match look() {
            None => {
                self.load_index(state, dir)?;
                look()
            }
            found => found,
        };
        let found = found.transpose()?.flatten();
        Ok(found.map(|(found, _)| found))
    }

    /// The first entry of `dir` at or after `cookie` (0: the first of all); `None` at the end. `.` and `..` are not given.
    pub fn readdir(&self, dir: &Inode<P>, cookie: u64) -> Result<Option<DirEntry>, LookupError> {
        let _inside = self.shared.gate.enter()?;
        self.load_index(&self.lock(), dir)?;
        let slot = u32::try_from(cookie).unwrap_or(u32::MAX);
        let next = dir.with_index(|on_media, index| index.next(on_media, slot));
        Ok(next.transpose()?.flatten())
    }

    /// Begins an operation that changes something: the device, memory, orphans, the region. It lasts as long as the answer lives.
    pub(crate) fn begin(&self) -> Result<Inside<'_>, ChangeError> {
        let inside = self.shared.gate.enter()?;
        check_headroom()?;
        self.shared.writable()?;
        self.finish_waiting();
        self.shrink();
        Ok(inside)
    }

    /// Makes an empty file. `mode`: permission bits.
    pub fn create(&self, path: &str, mode: u16) -> Result<Arc<Inode<P>>, CreateError> {
        self.create_as(path, &NewInode::new(Kind::File, mode))
    }

    /// Makes an empty directory.
    pub fn mkdir(&self, path: &str, mode: u16) -> Result<Arc<Inode<P>>, CreateError> {
        self.create_as(path, &NewInode::new(Kind::Dir, mode))
    }

    /// Makes what `new` says: a file, a directory, a pipe, a socket or a device.
    pub fn create_as(&self, path: &str, new: &NewInode) -> Result<Arc<Inode<P>>, CreateError> {
        let _inside = self.begin()?;
        let parent = self.parent_of(path)?;
        self.make(&parent.place(), new, None)
    }

    /// As [`Fs::create_as`], in a directory.
    pub fn create_in(
        &self,
        dir: &Arc<Inode<P>>,
        name: &[u8],
        new: &NewInode,
    ) -> Result<Arc<Inode<P>>, CreateError> {
        let _inside = self.begin()?;
        let place = Place::new(dir, name)?;
        self.make(&place, new, None)
    }

    /// Gives a file a second name; a symbolic link at the end of `old` gets it itself.
    pub fn link(&self, old: &str, new: &str) -> Result<(), CreateError> {
        let _inside = self.begin()?;
        let inode = self.open_nofollow(old)?;
        let parent = self.parent_of(new)?;
        self.link_at(&inode, &parent.place())
    }

    /// As [`Fs::link`], in a directory.
    pub fn link_in(
        &self,
        inode: &Inode<P>,
        dir: &Arc<Inode<P>>,
        name: &[u8],
    ) -> Result<(), CreateError> {
        let _inside = self.begin()?;
        let place = Place::new(dir, name)?;
        self.link_at(inode, &place)
    }

    fn link_at(&self, inode: &Inode<P>, place: &Place<'_, P>) -> Result<(), CreateError> {
        if inode.kind() == Kind::Dir {
            return Err(CreateError::IsDir);
        }
        let Place { dir, name } = place;
        let mut state = self.lock();
        let state = &mut *state;
        let Site { slot, at, .. } = self.site(state, place)?;
        let now = self.shared.now();
        let mut child = inode.edit();
        child.new.nlink = match child.old.nlink {
            0 => return Err(LookupError::NotFound.into()),
            n => n.checked_add(1).ok_or(CreateError::TooManyLinks)?,
        };
        child.new.ctime = now;
        let words = self.head(dir, *name, inode.ino(), inode.kind());
        let mut tx = state.ring.begin(RecordKind::Link);
        tx.store(at, &words[..head_len(*name)])?;
        inode.put(&mut tx, &child)?;
        let held = dir.hold();
        let parent = held.edit(now);
        held.put(&mut tx, &parent)?;
        let _ = tx.commit(&self.shared.media);
        held.adopt_entry(&parent, |index| {
            index.add(slot, *name, (inode.ino(), inode.kind()));
        });
        inode.adopt(&child);
        Ok(())
    }

    /// Removes the name of a file. With its last name the file goes, as soon as nobody has it open, mapped or pinned.
    pub fn unlink(&self, path: &str) -> Result<(), RemoveError> {
        self.remove(path, Kind::File)
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, path: &str) -> Result<(), RemoveError> {
        self.remove(path, Kind::Dir)
    }

    fn remove(&self, path: &str, kind: Kind) -> Result<(), RemoveError> {
        let _inside = self.begin()?;
        let parent = self.parent_of(path)?;
        let loser = self.remove_at(&parent.place(), kind)?;
        self.let_go(loser);
        Ok(())
    }

    /// Removes `name` from a directory: `kind` Dir for [`Fs::rmdir`], any other for [`Fs::unlink`].
    pub fn remove_in(
        &self,
        dir: &Arc<Inode<P>>,
        name: &[u8],
        kind: Kind,
    ) -> Result<(), RemoveError> {
        let _inside = self.begin()?;
        let place = Place::new(dir, name)?;
        let loser = self.remove_at(&place, kind)?;
        self.let_go(loser);
        Ok(())
    }

    fn remove_at(&self, place: &Place<'_, P>, kind: Kind) -> Result<Loser<P>, RemoveError> {
        let Place { dir, name } = place;
        let mut state = self.lock();
        let state = &mut *state;
        let entry = self.entry(state, place)?;
        let Entry { found, at } = entry.ok_or(LookupError::NotFound)?;
        self.shared.expect(found.ino);
        let child = self.get(state, found.ino)?;
        self.removable(state, &child, kind)?;
        let now = self.shared.now();
        let gone = self.drop_link(&child, now);
        state.reserve_orphan()?;
        let mut tx = state.ring.begin(RecordKind::Unlink);
        tx.store(at, &[0])?;
        child.put(&mut tx, &gone)?;
        let held = dir.hold();
        let mut parent = held.edit(now);
        if child.kind() == Kind::Dir {
            parent.new.nlink = parent.new.nlink.saturating_sub(1);
        }
        held.put(&mut tx, &parent)?;
        let unlinked = tx.commit(&self.shared.media).unlinked(child.ino());
        held.adopt_entry(&parent, |index| index.remove(found.slot, *name));
        Ok(self.take_name(state, child, &gone, unlinked))
    }

    /// Notes that `inode` has lost a name by a durable record. If it was the last, it becomes an orphan; or it ends here, if nobody
    /// uses it and there is nothing of it that anybody could hold. Under the commit lock; the list of orphans has room.
    pub(crate) fn take_name(
        &self,
        state: &mut State,
        inode: Arc<Inode<P>>,
        edit: &Edit,
        unlinked: Unlinked,
    ) -> Loser<P> {
        let last = edit.new.nlink == 0;
        let ended = last && self.table.remove_sole(&inode, Vnode::is_bare);
        inode.adopt(edit);
        if ended {
            state.inodes.clear(inode.ino());
            trace::note(trace::Kind::OrphanEnd, || {
                What::default().file(inode.ino().into(), 0)
            });
        } else if last {
            state.orphans.push(unlinked);
            self.table.orphan(inode.ino());
        }
        Loser { inode, ended }
    }

    fn removable(
        &self,
        state: &mut State,
        child: &Inode<P>,
        kind: Kind,
    ) -> Result<(), RemoveError> {
        match (child.kind() == Kind::Dir, kind == Kind::Dir) {
            (true, false) => Err(RemoveError::IsDir),
            (false, true) => Err(RemoveError::NotDir),
            (true, true) if !self.is_empty(state, child)? => Err(RemoveError::NotEmpty),
            _ => Ok(()),
        }
    }

    /// Whether a directory has no entry. Under the commit lock.
    pub(crate) fn is_empty(&self, state: &State, dir: &Inode<P>) -> Result<bool, LookupError> {
        self.load_index(state, dir)?;
        Ok(dir.with_index(|_, index| index.is_empty()).unwrap_or(true))
    }

    /// One name less; a directory has only the one, and its own `.` goes with it.
    pub(crate) fn drop_link(&self, child: &Inode<P>, now: u64) -> Edit {
        let mut edit = child.edit();
        let core = &mut edit.new;
        core.nlink = if child.kind() == Kind::Dir {
            0
        } else {
            core.nlink.saturating_sub(1)
        };
        core.ctime = now;
        edit
    }
}
