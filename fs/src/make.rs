//! A new inode and its name, in one record: prepared first, with everything that can fail; then committed.

use alloc::sync::Arc;

use dax::pmem::Pmem;
use mm::mem::ArcSlot;

use crate::attr::NewInode;
use crate::change::{Edit, HeldDir};
use crate::commit::{Building, MetaAddr, RecordKind, Tx};
use crate::error::CreateError;
use crate::fs::Fs;
use crate::inode::{Inode, Vnode};
use crate::layout::{CORE_WORDS, Ino, InodeImage, Kind};
use crate::media_inode::{Corrupt, Loaded};
use crate::names::Place;
use crate::record::PAYLOAD_WORDS;
use crate::shared::State;
use crate::slots::{Site, head_len};
use crate::space::Free;
use crate::symlink::{Stored, Target, TargetError};
use crate::table::Room;

/// Words of a record that say that a directory changed: where, both times, the checksum.
const DIR_WORDS: usize = 4;

/// All that the record of a new inode says.
struct Birth {
    ino: Ino,
    kind: Kind,
    image: InodeImage,
    /// The slot of its name, where that is, and what it is to hold: the first `words` of them.
    slot: u32,
    at: MetaAddr,
    head: [u64; 8],
    words: usize,
    /// When.
    now: u64,
}

impl Birth {
    fn store(
        &self,
        tx: &mut Tx<'_, Building>,
        dir: &HeldDir<'_>,
        body: usize,
    ) -> Result<Edit, CreateError> {
        tx.put_new_inode(self.ino, &self.image, body)?;
        tx.store(self.at, &self.head[..self.words])?;
        let mut edit = dir.edit(self.now);
        if self.kind == Kind::Dir {
            let links = edit.new.nlink.checked_add(1);
            edit.new.nlink = links.ok_or(CreateError::TooManyLinks)?;
        }
        dir.put(tx, &edit)?;
        Ok(edit)
    }

    /// Words that the record has left for the text of a link: inode, entry and directory each come with one that says where.
    const fn room(&self) -> usize {
        PAYLOAD_WORDS - (1 + CORE_WORDS) - (1 + self.words) - DIR_WORDS
    }
}

impl<P: Pmem> Fs<P> {
    /// Makes an inode and its name; `target` is the text of a symbolic link. The caller is inside.
    pub(crate) fn make(
        &self,
        place: &Place<'_, P>,
        new: &NewInode,
        target: Option<Target<'_>>,
    ) -> Result<Arc<Inode<P>>, CreateError> {
        if new.kind == Kind::Symlink && target.is_none() {
            return Err(TargetError::Empty.into());
        }
        let mut state = self.lock();
        let state = &mut *state;
        // First, so that its lines come while the rest is looked up.
        let memory = ArcSlot::new();
        let mut birth = self.conceive(state, place, new)?;
        let room = self.table.room(birth.ino)?;
        let text = match target {
            Some(target) => {
                let room = birth.room();
                self.store_text(state, birth.ino, &mut birth.image, (target, room))?
            }
            None => Stored::default(),
        };
        self.bear(state, place, &birth, text, (memory, room))
    }

    fn conceive(
        &self,
        state: &mut State,
        place: &Place<'_, P>,
        new: &NewInode,
    ) -> Result<Birth, CreateError> {
        let Site { slot, at, grouped } = self.site(state, place)?;
        let Place { dir, name } = place;
        let ino = self.vacant_inode(state)?;
        let now = self.shared.now();
        let generation = self.generation(ino)?.wrapping_add(1);
        Ok(Birth {
            ino,
            kind: new.kind,
            image: new.image(grouped, dir.ino(), generation, now),
            slot,
            at,
            head: self.head(dir, *name, ino, new.kind),
            words: head_len(*name),
            now,
        })
    }

    fn bear(
        &self,
        state: &mut State,
        Place { dir, name }: &Place<'_, P>,
        birth: &Birth,
        text: Stored,
        (memory, room): (ArcSlot<Vnode<P>>, Room<'_, P>),
    ) -> Result<Arc<Inode<P>>, CreateError> {
        // Nothing may fail after the commit: the new inode is made from what is about to be stored.
        let loaded = Loaded {
            inode: birth.image,
            map: text.map,
        };
        let inode = Inode::new(memory, self.shared.clone(), birth.ino, loaded);
        let mut tx = state.ring.begin(RecordKind::Create);
        let held = dir.hold();
        let parent = match birth.store(&mut tx, &held, text.words) {
            Ok(parent) => parent,
            Err(error) => {
                drop((held, tx));
                if let Some(block) = text.block {
                    state.space.give(Free::unpublished(block.abandon()));
                }
                return Err(error);
            }
        };
        let mut tx = tx.encode();
        if let Some(block) = text.block {
            tx.publish(block);
        }
        let _ = tx.commit(&self.shared.media);
        held.adopt_entry(&parent, |index| {
            index.add(birth.slot, *name, (birth.ino, birth.kind));
        });
        state.inodes.set(birth.ino);
        room.fill(inode.clone());
        // The next one, most likely: its line comes while nobody waits for it.
        if let Some(next) = state.inodes.vacancy() {
            self.shared.expect(next);
        }
        Ok(inode)
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
}
