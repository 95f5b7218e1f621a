//! Repairs that need no space: transactions on the bare region, without a mount.

use alloc::vec::Vec;

use dax::pmem::Pmem;
use zerocopy::IntoBytes;

use super::{RepairError, RepairReport};
use crate::commit::{Media, MetaAddr, RecordKind, Ring, Run, salvage};
use crate::dir::{Dir, NameBuf};
use crate::fsck::Problem;
use crate::layout::{
    BLOCK_SIZE, CORE_WORDS, Core, DENTRY_SIZE, Dentry, Geometry, INODE_SIZE, Ino, ROOT,
    SUPERBLOCK_SIZE,
};
use crate::media_inode::{Corrupt, DentryFault, Ground, state_word};
use crate::superblock;

/// Words of a slot of a directory.
const SLOT_WORDS: u64 = DENTRY_SIZE / 8;
/// The inode table is initialised in whole blocks.
const BATCH: u32 = (BLOCK_SIZE / INODE_SIZE) as u32;

/// The region with its ring in use.
struct Bare<'a, P> {
    media: Media<&'a P>,
    geometry: Geometry,
    uuid: [u8; 16],
    ring: Ring,
}

pub(super) fn round<'a, P: Pmem>(
    p: &P,
    problems: impl Iterator<Item = &'a Problem>,
    report: &mut RepairReport,
) -> Result<(), RepairError> {
    let media = Media::new(p);
    // Without a superblock there is nothing to stand on; the check has said so.
    let Ok(chosen) = superblock::choose(&media) else {
        return Ok(());
    };
    let (geometry, uuid) = (chosen.geometry, chosen.superblock.uuid);
    let ring = salvage(&media, &geometry, &uuid)?.ring;
    let mut bare = Bare {
        media,
        geometry,
        uuid,
        ring,
    };
    for problem in problems {
        if let Problem::Superblock(_) | Problem::Older { .. } = problem {
            let off = problem.offset().unwrap_or(0);
            p.copy_nt(off, &chosen.superblock.as_bytes()[..SUPERBLOCK_SIZE]);
            p.fence();
            p.heal(off, SUPERBLOCK_SIZE as u64);
            report.note(problem, Vec::new());
            continue;
        }
        let name = bare.one(problem)?;
        report.note(problem, name);
    }
    bare.ring.checkpoint(&bare.media);
    Ok(())
}

impl<P: Pmem> Bare<'_, P> {
    fn ground(&self) -> Ground<'_, &P> {
        Ground {
            media: &self.media,
            geometry: &self.geometry,
            uuid: &self.uuid,
        }
    }

    /// Repairs one problem; gives the name that went.
    fn one(&mut self, problem: &Problem) -> Result<Vec<u8>, RepairError> {
        match problem {
            Problem::State(_) => self.state()?,
            Problem::NoRoot { .. } => self.root()?,
            Problem::Corrupt(Corrupt::Dentry {
                dir,
                slot,
                fault: DentryFault::Kind(ino),
                ..
            }) => self.entry_kind(*dir, *slot, *ino)?,
            Problem::Corrupt(Corrupt::Dentry { dir, slot, .. })
            | Problem::Name { dir, slot, .. }
            | Problem::Duplicate { dir, slot, .. }
            | Problem::SecondName { dir, slot, .. } => return self.remove_entry(*dir, *slot),
            Problem::Corrupt(Corrupt::DentryMedia { offset, .. }) => {
                self.mend(*offset, DENTRY_SIZE);
            }
            Problem::Corrupt(
                Corrupt::InodeMedia { ino, .. }
                | Corrupt::Inode { ino, .. }
                | Corrupt::NodeMedia { ino, .. }
                | Corrupt::Node { ino, .. }
                | Corrupt::TextMedia { ino, .. }
                | Corrupt::Text { ino, .. }
                | Corrupt::NoText(ino),
            ) => self.clear(*ino)?,
            Problem::Parent { ino, expected, .. } => {
                self.attribute(*ino, |core| core.parent = *expected)?;
            }
            Problem::Links { ino, expected, .. } => {
                self.attribute(*ino, |core| core.nlink = *expected)?;
            }
            Problem::OldBytes { offset, .. } => {
                let run = Run {
                    block: offset / BLOCK_SIZE,
                    len: 1,
                };
                self.media.zero_data(run, 0, BLOCK_SIZE);
                self.media.fence();
            }
            // The ring is sound since it was opened; the others need a mount, or nothing can be done.
            _ => {}
        }
        Ok(Vec::new())
    }

    /// Makes the lines of `off..off + len` readable, as zeroes, if one of them is not. Nobody could read them before.
    fn mend(&self, off: u64, len: u64) {
        let (from, to) = (off / 64 * 64, (off + len).next_multiple_of(64));
        if self.media.pmem().check(from, to - from).is_err() {
            self.media.pmem().zero_nt(from, to - from);
            self.media.fence();
            self.media.pmem().heal(from, to - from);
        }
    }

    fn state(&mut self) -> Result<(), RepairError> {
        self.mend(self.geometry.state_off(), 8);
        let ground = self.ground();
        let mut last = (1..self.geometry.inodes()).rev();
        let last = last.find(|ino| ground.inode(*ino).is_ok()).unwrap_or(ROOT);
        let batches = (last + 1).next_multiple_of(BATCH);
        let word = state_word(&self.uuid, batches.min(self.geometry.inodes()));
        let at = MetaAddr::state(&self.geometry);
        self.commit(RecordKind::Table, at, &[word])
    }

    fn commit(&mut self, kind: RecordKind, at: MetaAddr, words: &[u64]) -> Result<(), RepairError> {
        let mut tx = self.ring.begin(kind);
        tx.store(at, words)?;
        let _ = tx.commit(&self.media);
        Ok(())
    }

    fn root(&mut self) -> Result<(), RepairError> {
        self.mend(self.geometry.inode_off(ROOT), INODE_SIZE);
        let words = crate::mkfs::root(&self.uuid, 0);
        let at = MetaAddr::inode(&self.geometry, ROOT, 0);
        self.commit(RecordKind::Create, at, &words)
    }

    /// An inode that was never used: no content, no checksum.
    fn clear(&mut self, ino: Ino) -> Result<(), RepairError> {
        self.mend(self.geometry.inode_off(ino), INODE_SIZE);
        let at = MetaAddr::inode(&self.geometry, ino, 0);
        self.commit(RecordKind::Unlink, at, &[0; CORE_WORDS])
    }

    fn attribute(&mut self, ino: Ino, change: impl FnOnce(&mut Core)) -> Result<(), RepairError> {
        let old = self.ground().inode(ino)?;
        let mut new = old;
        change(&mut new.core);
        let mut tx = self.ring.begin(RecordKind::Attributes);
        tx.put_image(ino, &old, &new)?;
        let _ = tx.commit(&self.media);
        Ok(())
    }

    /// Where a slot of a directory is, and what stands there if it can be read.
    fn slot(
        &self,
        ino: Ino,
        slot: u32,
    ) -> Result<(MetaAddr, Option<(Dentry, NameBuf)>), RepairError> {
        let loaded = self.ground().load(ino)?;
        let dir = Dir {
            ground: self.ground(),
            ino,
            map: &loaded.map,
        };
        Ok((dir.addr(slot, 0)?, dir.entry(slot).unwrap_or(None)))
    }

    fn remove_entry(&mut self, dir: Ino, slot: u32) -> Result<Vec<u8>, RepairError> {
        let (at, entry) = self.slot(dir, slot)?;
        self.mend(at.offset(), SLOT_WORDS * 8);
        self.commit(RecordKind::Unlink, at, &[0])?;
        let mut name = Vec::new();
        if let Some((_, found)) = entry
            && name.try_reserve(found.as_bytes().len()).is_ok()
        {
            name.extend_from_slice(found.as_bytes());
        }
        Ok(name)
    }

    fn entry_kind(&mut self, dir: Ino, slot: u32, ino: Ino) -> Result<(), RepairError> {
        let inode = self.ground().inode(ino)?;
        let (at, entry) = self.slot(dir, slot)?;
        let (Some((mut dentry, name)), Some(kind)) = (entry, inode.core.kind()) else {
            return Ok(());
        };
        dentry.kind = kind;
        let sum = dentry.checksum(&self.uuid, dir, name.as_bytes());
        let words = dentry.head_words(sum, name.as_bytes());
        self.commit(RecordKind::Rename, at, &words[..3])
    }
}
