//! Room for names and inodes: slots of a directory, entries of the inode table. Whatever is reserved here stays free until a record
//! uses it, so that nothing has to be undone.

use dax::pmem::Pmem;
use mm::mem::OutOfMemory;

use crate::commit::{FreshSet, MetaAddr, RecordKind, Ring, Run};
use crate::dir::Name;
use crate::error::ChangeError;
use crate::extents::Edit;
use crate::fs::Fs;
use crate::inode::Inode;
use crate::layout::{BLOCK_SIZE, Core, DENTRY_SIZE, Dentry, Extent, HEAD_NAME, Ino, Kind};
use crate::media_inode::{Corrupt, state_word};
use crate::shared::{Shared, State};
use crate::space::Goal;

/// Inodes that the table is grown by.
const TABLE_STEP: u32 = 256;
/// Most blocks that a directory is grown by: 2 MiB.
const GROWTH_MAX: u64 = 512;
/// Tails of a name that fit into one record.
const TAILS_A_RECORD: usize = 3;

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
        let (hash, len) = (name.hash(), name.bytes().len());
        dir.with_index(|_, index| index.insert(slot, hash, len, names));
    }

    /// Finds slots for `name`, growing the directory if need be, and writes the tails of a long name into them: the slots stay
    /// free until the head is written. Gives the first slot, and where it is.
    pub(crate) fn reserve_slots(
        &self,
        state: &mut State,
        dir: &Inode<P>,
        name: Name<'_>,
    ) -> Result<(u32, MetaAddr), ChangeError> {
        let (slot, at) = match Self::vacancy(dir, name)? {
            Some(found) => found,
            None => {
                self.grow_dir(state, dir)?;
                // A new block has 64 free slots.
                let found = Self::vacancy(dir, name)?;
                found.ok_or(ChangeError::RecordFull(crate::commit::RecordFull))?
            }
        };
        self.shared.media.prefetch(at.offset());
        let tails = name.slots() as usize - 1;
        for first in (0..tails).step_by(TAILS_A_RECORD) {
            let mut tx = state.ring.begin(RecordKind::Prepare);
            for tail in first..tails.min(first + TAILS_A_RECORD) {
                let at = self.slot_addr(dir, slot + 1 + tail as u32)?;
                tx.store(at, &Dentry::tail_words(name.bytes(), tail))?;
            }
            let _ = tx.commit(&self.shared.media);
        }
        Ok((slot, at))
    }

    /// Free slots for `name`, and the memory to note it.
    fn vacancy(dir: &Inode<P>, name: Name<'_>) -> Result<Option<(u32, MetaAddr)>, ChangeError> {
        let found = dir.with_index(|on_media, index| {
            index.reserve_name(name)?;
            let slot = index.vacancy(name.slots());
            let found = slot.map(|slot| Ok((slot, on_media.addr(slot, 0)?)));
            found.transpose()
        });
        found.transpose().map(Option::flatten)
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
                Shared::<P>::give_back(state, set);
                return Err(error.into());
            }
        };
        let resize = |core: &mut Core| core.size = blocks * BLOCK_SIZE;
        dir.commit_map(state, edit, set, resize, |_| ())?;
        dir.with_index(|_, index| index.cover(blocks as usize));
        Ok(())
    }

    /// The extents of a directory with more blocks; its index has the memory for them.
    fn grown(&self, dir: &Inode<P>, new: Extent) -> Result<Edit, OutOfMemory> {
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
