//! Room for names and inodes: slots of a directory, entries of the inode table. Whatever is reserved here stays free until a record
//! uses it, so that nothing has to be undone.

use dax::pmem::Pmem;
use mm::mem::OutOfMemory;

use crate::commit::{FreshSet, MetaAddr, RecordFull, RecordKind, Ring, Run};
use crate::dir::{Dir, DirIndex, Found, Name};
use crate::error::{ChangeError, CreateError, LookupError};
use crate::extents;
use crate::fs::Fs;
use crate::inode::Inode;
use crate::layout::{BLOCK_SIZE, Core, DENTRY_SIZE, Dentry, Extent, HEAD_NAME, Ino, Kind};
use crate::media_inode::{Corrupt, state_word};
use crate::names::Place;
use crate::shared::State;
use crate::space::Goal;

/// Inodes that the table is grown by.
const TABLE_STEP: u32 = 256;
/// Most blocks that a directory is grown by: 2 MiB.
const GROWTH_MAX: u64 = 512;
/// Tails of a name that fit into one record.
const TAILS_A_RECORD: usize = 3;

/// Room for a new name: the first of its slots, and where that is.
#[derive(Clone, Copy)]
pub(crate) struct Site {
    pub slot: u32,
    pub at: MetaAddr,
    /// Mode and group of the directory, for what is made there.
    pub grouped: (u16, u32),
}

/// An entry: what it names, and where it is.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub found: Found,
    pub at: MetaAddr,
}

impl<P: Pmem> Fs<P> {
    /// The words of a head.
    pub(crate) fn head(&self, dir: &Inode<P>, name: Name<'_>, ino: Ino, kind: Kind) -> [u64; 8] {
        let bytes = name.bytes();
        let hash = name.hash();
        let len = bytes.len() as u8;
        let dentry = Dentry {
            ino,
            hash,
            kind,
            len,
        };
        let start = self.shared.seed.at(dir.ino().into());
        dentry.head_words(dentry.checksum_from(start, bytes), bytes)
    }

    fn slot_addr(&self, dir: &Inode<P>, slot: u32) -> Result<MetaAddr, Corrupt> {
        // Only a directory whose index is loaded has slots.
        let missing = Corrupt::DirHole {
            dir: dir.ino(),
            block: u64::from(slot) / (BLOCK_SIZE / DENTRY_SIZE),
        };
        dir.with_index(|on_media, _| on_media.addr(slot, 0))
            .unwrap_or(Err(missing))
    }

    /// The entry at `place`. Under the commit lock.
    pub(crate) fn entry(
        &self,
        state: &State,
        Place { dir, name }: &Place<'_, P>,
    ) -> Result<Option<Entry>, LookupError> {
        let look = || {
            dir.with_index(|on_media, index| {
                let found = index.find(on_media, *name)?;
                Ok(found.map(|(found, at)| Entry { found, at }))
            })
        };
        self.with_loaded(state, dir, look)
    }

    /// Room for a name that is not there, in a directory that still has one itself. As [`Fs::reserve_slots`].
    pub(crate) fn site(
        &self,
        state: &mut State,
        place: &Place<'_, P>,
    ) -> Result<Site, CreateError> {
        self.reserve_slots(state, place, |core, on_media, index| {
            if core.nlink == 0 {
                return Err(LookupError::NotFound.into());
            }
            match index.find(on_media, place.name)? {
                Some(_) => Err(CreateError::Exists),
                None => Ok(()),
            }
        })
    }

    /// Room for a name if `check` allows it: grows the directory if need be, and writes the tails of a long name, which stay free until
    /// the head is written.
    pub(crate) fn reserve_slots<E: From<LookupError> + From<ChangeError>>(
        &self,
        state: &mut State,
        place: &Place<'_, P>,
        check: impl Fn(&Core, &Dir<'_, P>, &DirIndex) -> Result<(), E>,
    ) -> Result<Site, E> {
        let Place { dir, name } = *place;
        let site = match self.vacancy(state, place, &check)? {
            Some(site) => site,
            None => {
                self.grow_dir(state, dir)?;
                // A new block has 64 free slots.
                let site = self.vacancy(state, place, &check)?;
                site.ok_or(ChangeError::RecordFull(RecordFull))?
            }
        };
        self.shared.media.prefetch(site.at.offset(), 1);
        if name.slots() > 1 {
            self.write_tails(state, dir, name, site.slot)?;
        }
        Ok(site)
    }

    /// Room in the blocks that the directory has, and the memory to note the name.
    fn vacancy<E: From<LookupError> + From<ChangeError>>(
        &self,
        state: &State,
        Place { dir, name }: &Place<'_, P>,
        check: impl Fn(&Core, &Dir<'_, P>, &DirIndex) -> Result<(), E>,
    ) -> Result<Option<Site>, E> {
        let look = || {
            dir.with_dir(|core, on_media, index| {
                check(core, on_media, index)?;
                index.reserve_name(*name).map_err(ChangeError::from)?;
                let slot = index.vacancy(name.slots());
                let site = slot.map(|slot| {
                    let at = on_media.addr(slot, 0).map_err(LookupError::from)?;
                    let grouped = (core.mode, core.gid);
                    Ok(Site { slot, at, grouped })
                });
                site.transpose()
            })
        };
        self.with_loaded(state, dir, look)
    }

    /// What `look` finds in a directory's index, which is loaded if it is not; the default for what is no directory.
    fn with_loaded<R: Default, E: From<LookupError>>(
        &self,
        state: &State,
        dir: &Inode<P>,
        look: impl Fn() -> Option<Result<R, E>>,
    ) -> Result<R, E> {
        if let Some(found) = look() {
            return found;
        }
        self.load_index(state, dir)?;
        look().unwrap_or(Ok(R::default()))
    }

    fn write_tails(
        &self,
        state: &mut State,
        dir: &Inode<P>,
        name: Name<'_>,
        slot: u32,
    ) -> Result<(), ChangeError> {
        let tails = name.slots() as usize - 1;
        for first in (0..tails).step_by(TAILS_A_RECORD) {
            let mut tx = state.ring.begin(RecordKind::Prepare);
            for tail in first..tails.min(first + TAILS_A_RECORD) {
                let at = self.slot_addr(dir, slot + 1 + tail as u32)?;
                tx.store(at, &Dentry::tail_words(name.bytes(), tail))?;
            }
            let _ = tx.commit(&self.shared.media);
        }
        Ok(())
    }

    /// Adds zeroed blocks to a directory, an eighth of what it has: so the number of its extents, and the work for each entry, stay
    /// small however large it grows.
    fn grow_dir(&self, state: &mut State, dir: &Inode<P>) -> Result<(), ChangeError> {
        let block = dir.stat().size / BLOCK_SIZE;
        let after = dir.attr.lock().map.before(block).map(|e| e.phys + e.len);
        let goal = Goal {
            after,
            ..Goal::default()
        };
        let want = (block / 8).clamp(1, GROWTH_MAX);
        let fresh = self.shared.take(state, want, goal)?;
        let Run { block: phys, len } = fresh.run();
        fresh.zero(&self.shared.media, 0, len * BLOCK_SIZE);
        let new = Extent {
            file: block,
            phys,
            len,
            unwritten: false,
        };
        let (set, blocks) = (FreshSet::of(fresh), block + len);
        let edit = match self.grown(dir, new) {
            Ok(edit) => edit,
            Err(error) => {
                self.shared.give_back(state, set);
                return Err(error.into());
            }
        };
        let resize = |core: &mut Core| core.size = blocks * BLOCK_SIZE;
        dir.commit_map(state, edit, set, resize, |_| ())?;
        dir.with_index(|_, index| index.cover(blocks as usize));
        Ok(())
    }

    /// The extents of a directory with more blocks; its index has the memory for them.
    fn grown(&self, dir: &Inode<P>, new: Extent) -> Result<extents::Edit, OutOfMemory> {
        let mut attr = dir.attr.lock();
        let (edit, _) = attr.map.with(new)?;
        if let Some(index) = &mut attr.index {
            index.reserve(new.end() as usize)?;
        }
        Ok(edit)
    }

    /// A free inode number; initialises more of the table if need be (two fences).
    pub(crate) fn vacant_inode(&self, state: &mut State) -> Result<Ino, ChangeError> {
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
}

/// Words of a head that carry something: the name's unused end is not stored.
pub(crate) fn head_len(name: Name<'_>) -> usize {
    (20 + name.bytes().len().min(HEAD_NAME)).div_ceil(8)
}
