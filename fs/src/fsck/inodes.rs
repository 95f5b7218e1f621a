//! Pass 2: every initialised inode. An inode is never used (all zero), or its checksum is right, whether or not it is in use.

use dax::pmem::Pmem;
use mm::mem::OutOfMemory;

use super::claims::Claim;
use super::{Check, Info, Pass, Problem};
use crate::layout::{BLOCK_SIZE, Ino, Kind};
use crate::media_inode::{Corrupt, Loaded};
use crate::symlink::text_of_block;

impl<P: Pmem> Check<'_, P> {
    pub(super) fn inode(&mut self, ino: Ino) {
        match self.ground.in_use(ino) {
            Ok(true) => match self.ground.load(ino) {
                Ok(loaded) => self.take(ino, &loaded),
                Err(error) => self.report.add(Pass::Inodes, error),
            },
            Ok(false) => self.orphan(ino),
            Err(corrupt) => self.report.add(Pass::Inodes, corrupt),
        }
    }

    /// Pass 6, in passing: a number that was used, and is no longer.
    fn orphan(&mut self, ino: Ino) {
        let word = self.ground.media.words::<1>(self.offset(ino));
        self.report.orphans += u64::from(word.is_ok_and(|[word]| word as u16 != 0));
    }

    fn take(&mut self, ino: Ino, loaded: &Loaded) {
        let core = loaded.inode.core;
        // Checked when it was decoded.
        let kind = core.kind().unwrap_or(Kind::File);
        if self.claim(ino, loaded).is_err() {
            return self.report.add(Pass::Inodes, OutOfMemory);
        }
        let extents = loaded.map.len() as u64;
        self.report.statistics.extents += extents;
        self.report.statistics.fragmented += u64::from(extents > 1);
        self.report.files += u64::from(kind != Kind::Dir);
        self.report.dirs += u64::from(kind == Kind::Dir);
        self.inodes[ino as usize] = Some(Info {
            kind,
            nlink: core.nlink,
            parent: core.parent,
            names: 0,
            subdirs: 0,
        });
        match kind {
            Kind::Dir => self.storage(ino, loaded),
            Kind::Symlink if core.entries > 0 => {
                if let Err(corrupt) = self.text(ino, loaded) {
                    self.report.add(Pass::Inodes, corrupt);
                }
            }
            _ => {}
        }
    }

    /// The text of a link that stands in a block has the sum that the inode says.
    fn text(&self, ino: Ino, loaded: &Loaded) -> Result<(), Corrupt> {
        let (media, core) = (self.ground.media, &loaded.inode.core);
        text_of_block(media, ino, loaded.map.at(0), core, &mut [])
    }

    fn claim(&mut self, ino: Ino, loaded: &Loaded) -> Result<(), OutOfMemory> {
        let more = loaded.map.len() + loaded.map.nodes();
        self.claims.try_reserve(more).map_err(|_| OutOfMemory)?;
        let runs = loaded.map.runs();
        self.claims.extend(runs.map(|run| Claim { run, ino }));
        Ok(())
    }

    /// A directory has written storage for each of its blocks, and no more.
    fn storage(&mut self, ino: Ino, loaded: &Loaded) {
        let expected = loaded.inode.core.size / BLOCK_SIZE;
        let mut covered = 0;
        for extent in loaded.map.iter() {
            if extent.file != covered || extent.unwritten {
                break;
            }
            covered = extent.end();
        }
        let found = loaded.map.blocks();
        if covered < expected {
            let (dir, block) = (ino, covered);
            self.report
                .add(Pass::Inodes, Corrupt::DirHole { dir, block });
        } else if found > expected {
            let (dir, offset) = (ino, self.offset(ino));
            self.report.add(
                Pass::Inodes,
                Problem::DirStorage {
                    dir,
                    offset,
                    found,
                    expected,
                },
            );
        }
    }
}
