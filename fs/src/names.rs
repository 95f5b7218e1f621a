//! Names: lookup, readdir, create, mkdir, link, unlink, rmdir, rename. Each is one record (a name over 44 bytes one or two more, before it).
//!
//! All of it runs under the commit lock, on indexes and attributes that change only under it. So nothing needs to be checked
//! twice, no two inodes are ever locked together, and a cycle of directories cannot arise between the check and the rename.

use alloc::sync::Arc;

use dax::pmem::Pmem;
use mm::mem::{OutOfMemory, check_headroom};

use crate::change::{Edit, new_image};
use crate::commit::{FreshSet, MetaAddr, RecordKind, Ring};
use crate::dir::{DirEntry, Found, Name};
use crate::error::{ChangeError, CreateError, LookupError, RemoveError};
use crate::extents::ExtentMap;
use crate::fs::Fs;
use crate::gate::Inside;
use crate::inode::{Inode, Stat};
use crate::layout::{
    BLOCK_SIZE, DENTRY_SIZE, Dentry, Extent, HEAD_NAME, Ino, Kind, ROOT, name_hash,
};
use crate::media_inode::{Corrupt, Leaves, Loaded, state_word};
use crate::shared::State;
use crate::space::Goal;

/// Inodes that the table is grown by.
const TABLE_STEP: u32 = 256;
/// Tails of a name that fit into one record.
const TAILS_A_RECORD: usize = 3;

/// Where a name is, or will be: a directory, and the name in it.
pub(crate) struct Place<'a, P: Pmem> {
    pub dir: Arc<Inode<P>>,
    pub name: Name<'a>,
}

impl<P: Pmem> Fs<P> {
    /// The root directory.
    pub fn root(&self) -> Result<Arc<Inode<P>>, LookupError> {
        self.inode(ROOT)
    }

    /// The inode at `path`: names between slashes, from the root; empty names and `.` say nothing, `..` goes up.
    pub fn open(&self, path: &str) -> Result<Arc<Inode<P>>, LookupError> {
        self.walk(path.as_bytes())
    }

    fn walk(&self, path: &[u8]) -> Result<Arc<Inode<P>>, LookupError> {
        let mut at = self.root()?;
        for name in path.split(|byte| *byte == b'/') {
            at = match name {
                b"" | b"." => at,
                b".." => {
                    // Read first: looking the inode up takes sleeping locks.
                    let parent = at.attr.lock().image.core.parent;
                    self.inode(parent)?
                }
                name => self.lookup(&at, name)?,
            };
        }
        Ok(at)
    }

    /// The directory of `path`, and its last name.
    pub(crate) fn place<'a>(&self, path: &'a str) -> Result<Place<'a, P>, LookupError> {
        let path = path.trim_end_matches('/').as_bytes();
        let cut = path.iter().rposition(|byte| *byte == b'/');
        let (dir, name) = cut.map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
        let name = Name::new(name)?;
        let dir = self.walk(dir)?;
        if dir.kind() != Kind::Dir {
            return Err(LookupError::NotDir);
        }
        Ok(Place { dir, name })
    }

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
        self.load_index(state, dir)?;
        let found = dir.with_index(|on_media, index| index.find(on_media, name));
        Ok(found.transpose()?.flatten())
    }

    /// The attributes of what `path` leads to.
    pub fn stat(&self, path: &str) -> Result<Stat, LookupError> {
        Ok(self.open(path)?.stat())
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
        let _inside = self.begin()?;
        let place = self.place(path)?;
        self.make(&place, Kind::File, mode)
    }

    /// Makes an empty directory.
    pub fn mkdir(&self, path: &str, mode: u16) -> Result<Arc<Inode<P>>, CreateError> {
        let _inside = self.begin()?;
        let place = self.place(path)?;
        self.make(&place, Kind::Dir, mode)
    }

    /// Makes `name` in a directory: what [`Fs::create`] and [`Fs::mkdir`] do by path.
    pub fn create_in(
        &self,
        dir: &Arc<Inode<P>>,
        name: &[u8],
        kind: Kind,
        mode: u16,
    ) -> Result<Arc<Inode<P>>, CreateError> {
        let _inside = self.begin()?;
        let place = Place {
            dir: dir.clone(),
            name: Name::new(name)?,
        };
        self.make(&place, kind, mode)
    }

    fn make(
        &self,
        place: &Place<'_, P>,
        kind: Kind,
        mode: u16,
    ) -> Result<Arc<Inode<P>>, CreateError> {
        let Place { dir, name } = place;
        let mut state = self.lock();
        let state = &mut *state;
        self.vacant(state, place)?;
        let slot = self.reserve_slots(state, dir, *name)?;
        let ino = self.vacant_inode(state)?;
        let now = self.shared.now();
        let is_dir = kind == Kind::Dir;
        let nlink = if is_dir { 2 } else { 1 };
        let parent = if is_dir { dir.ino() } else { 0 };
        let generation = self.generation(ino)?.wrapping_add(1);
        let image = new_image(kind.bits() | mode & 0o7777, nlink, parent, generation, now);
        let mut edit = dir.edit();
        (edit.new.core.mtime, edit.new.core.ctime) = (now, now);
        if is_dir {
            let links = edit.new.core.nlink.checked_add(1);
            edit.new.core.nlink = links.ok_or(CreateError::TooManyLinks)?;
        }
        let words = self.head(dir, *name, ino, kind);
        let at = self.slot_addr(dir, slot)?;
        // Nothing may fail after the commit: the new inode is made from what is about to be stored.
        let loaded = Loaded {
            inode: image,
            map: ExtentMap::new(),
            leaves: Leaves::new(),
        };
        let inode = Arc::new(Inode::new(self.shared.clone(), ino, loaded));
        let mut tx = state.ring.begin(RecordKind::Create);
        tx.put_new_inode(ino, &image)?;
        tx.store(at, &words[..head_len(*name)])?;
        tx.put_inode(dir.ino(), &edit.old, &edit.new)?;
        let _ = tx.commit(&self.shared.media);
        dir.adopt(&edit);
        self.enter(dir, slot, *name, (ino, kind));
        state.inodes.set(ino);
        self.table.insert(inode.clone());
        Ok(inode)
    }

    /// Checks that `place` lies in a directory that still has a name, and is free.
    fn vacant(&self, state: &State, place: &Place<'_, P>) -> Result<(), CreateError> {
        if place.dir.stat().nlink == 0 {
            return Err(LookupError::NotFound.into());
        }
        match self.find(state, &place.dir, place.name)? {
            Some(_) => Err(CreateError::Exists),
            None => Ok(()),
        }
    }

    /// The generation that the slot of the table had last.
    fn generation(&self, ino: Ino) -> Result<u32, Corrupt> {
        let offset = self.shared.geometry.inode_off(ino);
        let word = self.shared.media.words::<1>(offset + 48);
        let [word] = word.map_err(|source| Corrupt::InodeMedia {
            ino,
            offset,
            source,
        })?;
        Ok(word as u32)
    }

    /// The words of a head.
    pub(crate) fn head(&self, dir: &Inode<P>, name: Name<'_>, ino: Ino, kind: Kind) -> [u64; 8] {
        let bytes = name.bytes();
        let hash = name_hash(bytes);
        let len = bytes.len() as u8;
        let dentry = Dentry {
            ino,
            hash,
            kind,
            len,
        };
        dentry.head_words(dentry.checksum(&self.shared.uuid, dir.ino(), bytes), bytes)
    }

    pub(crate) fn slot_addr(&self, dir: &Inode<P>, slot: u32) -> Result<MetaAddr, Corrupt> {
        // Only a directory whose index is loaded has slots.
        let missing = Corrupt::DirHole {
            dir: dir.ino(),
            block: u64::from(slot) / (BLOCK_SIZE / DENTRY_SIZE),
        };
        dir.with_index(|on_media, _| on_media.addr(slot, 0))
            .unwrap_or(Err(missing))
    }

    /// Notes an entry in the index, after its commit.
    pub(crate) fn enter(&self, dir: &Inode<P>, slot: u32, name: Name<'_>, names: (Ino, Kind)) {
        let (hash, len) = (name_hash(name.bytes()), name.bytes().len());
        dir.with_index(|_, index| index.insert(slot, hash, len, names));
    }

    /// Finds slots for `name`, growing the directory if need be, and writes the tails of a long name into them: the slots stay
    /// free until the head is written.
    pub(crate) fn reserve_slots(
        &self,
        state: &mut State,
        dir: &Inode<P>,
        name: Name<'_>,
    ) -> Result<u32, ChangeError> {
        let vacancy = || {
            dir.with_index(|_, index| index.vacancy(name.slots()))
                .flatten()
        };
        let slot = match vacancy() {
            Some(slot) => slot,
            None => {
                self.grow_dir(state, dir)?;
                // A new block has 64 free slots.
                vacancy().ok_or(ChangeError::RecordFull(crate::commit::RecordFull))?
            }
        };
        let tails = name.slots() as usize - 1;
        for first in (0..tails).step_by(TAILS_A_RECORD) {
            let mut tx = state.ring.begin(RecordKind::Prepare);
            for tail in first..tails.min(first + TAILS_A_RECORD) {
                let at = self.slot_addr(dir, slot + 1 + tail as u32)?;
                tx.store(at, &Dentry::tail_words(name.bytes(), tail))?;
            }
            let _ = tx.commit(&self.shared.media);
        }
        Ok(slot)
    }

    /// Adds a zeroed block to a directory.
    fn grow_dir(&self, state: &mut State, dir: &Inode<P>) -> Result<(), ChangeError> {
        let block = dir.stat().size / BLOCK_SIZE;
        let after = dir.attr.lock().map.before(block).map(|e| e.phys + e.len);
        let fresh = self.shared.take(
            state,
            1,
            Goal {
                file_block: 0,
                after,
                total: 0,
            },
        )?;
        fresh.zero(&self.shared.media, 0, BLOCK_SIZE);
        let phys = fresh.run().block;
        let new = Extent {
            file: block,
            phys,
            len: 1,
            unwritten: false,
        };
        let set = FreshSet::of(fresh);
        let prepared = self.grown(dir, new, block as usize + 1);
        let map = match prepared {
            Ok(map) => map,
            Err(error) => {
                crate::shared::Shared::<P>::give_back(state, set);
                return Err(error.into());
            }
        };
        dir.commit_map(
            state,
            map,
            set,
            |core| core.size = (block + 1) * BLOCK_SIZE,
            |_| (),
        )
    }

    /// The map of a directory with one more block, its index made ready for it.
    fn grown(
        &self,
        dir: &Inode<P>,
        new: Extent,
        blocks: usize,
    ) -> Result<crate::extents::ExtentMap, OutOfMemory> {
        let mut attr = dir.attr.lock();
        let (map, _) = attr.map.with(new)?;
        if let Some(index) = &mut attr.index {
            index.grow(blocks)?;
        }
        Ok(map)
    }

    /// A free inode number; initialises more of the table if need be (two fences).
    fn vacant_inode(&self, state: &mut State) -> Result<Ino, ChangeError> {
        if let Some(ino) = state.inodes.vacancy() {
            return Ok(ino);
        }
        let from = state.inodes.initialised();
        let to = from
            .saturating_add(TABLE_STEP)
            .min(self.shared.geometry.inodes());
        if from >= to {
            return Err(ChangeError::NoInodes);
        }
        state.inodes.grow(to).map_err(ChangeError::OutOfMemory)?;
        let State { ring, .. } = state;
        Ring::grow_table(
            ring,
            &self.shared.media,
            from,
            to,
            state_word(&self.shared.uuid, to),
        )?;
        state.inodes.vacancy().ok_or(ChangeError::NoInodes)
    }

    /// Gives a file a second name.
    pub fn link(&self, old: &str, new: &str) -> Result<(), CreateError> {
        let _inside = self.begin()?;
        let inode = self.open(old)?;
        if inode.kind() == Kind::Dir {
            return Err(CreateError::IsDir);
        }
        let place = self.place(new)?;
        let Place { dir, name } = &place;
        let mut state = self.lock();
        let state = &mut *state;
        self.vacant(state, &place)?;
        let slot = self.reserve_slots(state, dir, *name)?;
        let now = self.shared.now();
        let (mut child, mut parent) = (inode.edit(), dir.edit());
        child.new.core.nlink = match child.old.core.nlink {
            0 => return Err(LookupError::NotFound.into()),
            n => n.checked_add(1).ok_or(CreateError::TooManyLinks)?,
        };
        child.new.core.ctime = now;
        (parent.new.core.mtime, parent.new.core.ctime) = (now, now);
        let words = self.head(dir, *name, inode.ino(), inode.kind());
        let at = self.slot_addr(dir, slot)?;
        let mut tx = state.ring.begin(RecordKind::Link);
        tx.store(at, &words[..head_len(*name)])?;
        tx.put_inode(inode.ino(), &child.old, &child.new)?;
        tx.put_inode(dir.ino(), &parent.old, &parent.new)?;
        let _ = tx.commit(&self.shared.media);
        inode.adopt(&child);
        dir.adopt(&parent);
        self.enter(dir, slot, *name, (inode.ino(), inode.kind()));
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
        let place = self.place(path)?;
        self.remove_at(&place, kind).map(|child| self.let_go(child))
    }

    /// Removes `name` from a directory: `kind` Dir for [`Fs::rmdir`], any other for [`Fs::unlink`].
    pub fn remove_in(
        &self,
        dir: &Arc<Inode<P>>,
        name: &[u8],
        kind: Kind,
    ) -> Result<(), RemoveError> {
        let _inside = self.begin()?;
        let place = Place {
            dir: dir.clone(),
            name: Name::new(name)?,
        };
        self.remove_at(&place, kind).map(|child| self.let_go(child))
    }

    /// Gives what lost a name: perhaps its last.
    fn remove_at(&self, place: &Place<'_, P>, kind: Kind) -> Result<Arc<Inode<P>>, RemoveError> {
        let Place { dir, name } = place;
        let mut state = self.lock();
        let state = &mut *state;
        let found = self.find(state, dir, *name)?.ok_or(LookupError::NotFound)?;
        let child = self.get(state, found.ino)?;
        self.removable(state, &child, kind)?;
        let now = self.shared.now();
        let (gone, mut parent) = (self.drop_link(&child, now), dir.edit());
        (parent.new.core.mtime, parent.new.core.ctime) = (now, now);
        if child.kind() == Kind::Dir {
            parent.new.core.nlink = parent.new.core.nlink.saturating_sub(1);
        }
        let at = self.slot_addr(dir, found.slot)?;
        state.reserve_orphan()?;
        let mut tx = state.ring.begin(RecordKind::Unlink);
        tx.store(at, &[0])?;
        tx.put_inode(child.ino(), &gone.old, &gone.new)?;
        tx.put_inode(dir.ino(), &parent.old, &parent.new)?;
        let tx = tx.commit(&self.shared.media);
        if gone.new.core.nlink == 0 {
            state.orphans.push(tx.unlinked(child.ino()));
        }
        child.adopt(&gone);
        if gone.new.core.nlink == 0 {
            self.table.orphan(child.ino());
        }
        dir.adopt(&parent);
        dir.with_index(|_, index| index.remove(found.slot, *name));
        Ok(child)
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
        let core = &mut edit.new.core;
        core.nlink = if child.kind() == Kind::Dir {
            0
        } else {
            core.nlink.saturating_sub(1)
        };
        core.ctime = now;
        edit
    }
}

/// Words of a head that carry something: the name's unused end is not stored.
pub(crate) fn head_len(name: Name<'_>) -> usize {
    (20 + name.bytes().len().min(HEAD_NAME)).div_ceil(8)
}
