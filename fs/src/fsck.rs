//! Checking an unmounted file system, read-only.
//!
//! Passes: superblocks; ring; inodes and their leaves; overlapping extents; directory entries; the tree (each directory reached
//! once, from the parent that it names); link counts. What the ring still has to replay is taken into account without being
//! written: the check sees what a mount would see.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use dax::pmem::{MediaError, Pmem};
use mm::mem::{OutOfMemory, check_headroom};
use thiserror::Error;

use crate::commit::{Media, RecoverError, Run, scan};
use crate::dir::Dir;
use crate::layout::{
    BLOCK_SIZE, Block, Core, DENTRY_SIZE, Geometry, Ino, Kind, ROOT, SuperblockFault, slots_for,
};
use crate::media_inode::{Corrupt, DentryFault, Ground, LoadError, Loaded, StateFault};
use crate::superblock;

/// Problems after which the check stops listing.
const MOST: usize = 1000;
/// Slots of a block of a directory.
const SLOTS: u64 = BLOCK_SIZE / DENTRY_SIZE;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// A superblock is not whole.
    #[error(transparent)]
    Superblock(#[from] SuperblockFault),
    /// The ring cannot be recovered from.
    #[error(transparent)]
    Ring(#[from] RecoverError),
    /// The state block is wrong.
    #[error(transparent)]
    State(#[from] StateFault),
    /// An inode, leaf or directory entry is wrong.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// Two inodes claim a block.
    #[error("block {block} at offset {offset:#x} belongs to inode {first} and to inode {second}", offset = block * BLOCK_SIZE)]
    Overlap {
        /// The block.
        block: Block,
        /// One owner.
        first: Ino,
        /// The other.
        second: Ino,
    },
    /// The root directory is missing.
    #[error("inode 1: the root directory is missing")]
    NoRoot,
    /// A name stands twice in a directory.
    #[error("directory {dir}: slots {first} and {second} have the same name")]
    Duplicate {
        /// The directory.
        dir: Ino,
        /// One slot.
        first: u32,
        /// The other.
        second: u32,
    },
    /// A directory names another parent than the one it stands in.
    #[error("directory {ino} stands in directory {found}, but names {named} as its parent")]
    Parent {
        /// The directory.
        ino: Ino,
        /// Where it stands.
        found: Ino,
        /// What it says.
        named: Ino,
    },
    /// An inode in use that the tree does not reach.
    #[error("inode {0} is in use, and no path leads to it")]
    Unreachable(Ino),
    /// The number of links is wrong.
    #[error("inode {ino} has {found} links, should be {expected}")]
    Links {
        /// The inode.
        ino: Ino,
        /// On the media.
        found: u32,
        /// As counted.
        expected: u32,
    },
    /// Not enough memory to check everything.
    #[error("{0}: not everything was checked")]
    OutOfMemory(#[from] OutOfMemory),
    /// There are more problems.
    #[error("more problems than are listed")]
    More,
}

impl From<LoadError> for Problem {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Corrupt(corrupt) => Self::Corrupt(corrupt),
            LoadError::OutOfMemory(error) => Self::OutOfMemory(error),
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// What is wrong, at most 1,000 of it.
    pub problems: Vec<Problem>,
    /// Files.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Inodes without a link, which a mount takes for free.
    pub orphans: u64,
    /// Blocks that inodes claim.
    pub blocks_used: u64,
    /// Blocks that inodes may use.
    pub blocks: u64,
    /// Records that a mount will replay.
    pub pending: u64,
    /// Torn records.
    pub torn: u64,
}

impl FsckReport {
    /// Nothing is wrong.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    fn add(&mut self, problem: impl Into<Problem>) {
        let problem = if self.problems.len() + 1 < MOST {
            problem.into()
        } else {
            Problem::More
        };
        if self.problems.len() < MOST && self.problems.try_reserve(1).is_ok() {
            self.problems.push(problem);
        }
    }
}

impl fmt::Display for FsckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        let verdict = if self.is_clean() {
            "clean"
        } else {
            "NOT clean"
        };
        write!(
            f,
            "{verdict}: {} files, {} directories, {} orphans, {} of {} blocks used, {} records to replay, {} torn",
            self.files,
            self.dirs,
            self.orphans,
            self.blocks_used,
            self.blocks,
            self.pending,
            self.torn
        )
    }
}

/// The region as it will be when the ring is replayed.
struct Overlay<'a, P> {
    region: &'a P,
    words: BTreeMap<u64, u64>,
}

impl<P: Pmem> Pmem for Overlay<'_, P> {
    fn len(&self) -> u64 {
        self.region.len()
    }
    fn writable(&self) -> bool {
        false
    }
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<(), MediaError> {
        self.region.read(off, buf)?;
        let end = off + buf.len() as u64;
        for (at, word) in self.words.range(off.saturating_sub(7)..end) {
            for (place, byte) in (*at..).zip(word.to_le_bytes()) {
                if (off..end).contains(&place) {
                    buf[(place - off) as usize] = byte;
                }
            }
        }
        Ok(())
    }
    fn load64(&self, off: u64) -> Result<u64, MediaError> {
        let stored = self.words.get(&off).copied();
        stored.map_or_else(|| self.region.load64(off), Ok)
    }
    // A check stores nothing.
    fn store64(&self, _off: u64, _v: u64) {}
    fn store(&self, _off: u64, _data: &[u8]) {}
    fn copy_nt(&self, _off: u64, _data: &[u8]) {}
    fn zero_nt(&self, _off: u64, _len: u64) {}
    fn flush(&self, _off: u64, _len: u64) {}
    fn fence(&self) {}
}

/// What the walk knows of an inode in use.
#[derive(Clone, Copy)]
struct Info {
    core: Core,
    kind: Kind,
    /// Entries that name it.
    names: u32,
    /// Of a directory: entries that name directories.
    subdirs: u32,
}

struct Check<'a, P> {
    ground: Ground<'a, P>,
    report: &'a mut FsckReport,
    inodes: Vec<Option<Info>>,
    claims: Vec<(Run, Ino)>,
    /// Parent and child directory.
    edges: Vec<(Ino, Ino)>,
}

/// Checks the file system on `p` without changing it. Never panics, whatever the bytes.
pub fn fsck<P: Pmem>(p: &P) -> FsckReport {
    let mut report = FsckReport::default();
    let media = Media::new(p);
    let chosen = match superblock::choose(&media) {
        Ok(chosen) => chosen,
        Err(faults) => {
            faults.into_iter().for_each(|fault| report.add(fault));
            return report;
        }
    };
    chosen.other.into_iter().for_each(|fault| report.add(fault));
    let (g, uuid) = (chosen.geometry, chosen.superblock.uuid);
    report.blocks = g.blocks() - g.data_block();
    let words = match pending(&media, &g, &uuid, &mut report) {
        Ok(words) => words,
        Err(error) => {
            report.add(error);
            BTreeMap::new()
        }
    };
    let media = Media::new(Overlay { region: p, words });
    let ground = Ground {
        media: &media,
        geometry: &g,
        uuid: &uuid,
    };
    check(ground, &mut report);
    report
}

/// The words that a mount would store, replaying the ring.
fn pending<P: Pmem>(
    media: &Media<&P>,
    g: &Geometry,
    uuid: &[u8; 16],
    report: &mut FsckReport,
) -> Result<BTreeMap<u64, u64>, RecoverError> {
    check_headroom()?;
    let found = scan(media, g, uuid)?;
    let mut words = BTreeMap::new();
    for record in found.pending(g)? {
        let mut any = false;
        for (off, run) in record.record.runs() {
            any = true;
            words.extend(
                run.iter()
                    .enumerate()
                    .map(|(i, word)| (off + 8 * i as u64, *word)),
            );
        }
        report.pending += u64::from(any);
    }
    report.torn = u64::from(found.torn);
    Ok(words)
}

fn check<P: Pmem>(ground: Ground<'_, P>, report: &mut FsckReport) {
    let initialised = match ground.initialised() {
        Ok(initialised) => initialised,
        Err(fault) => return report.add(fault),
    };
    let mut inodes = Vec::new();
    if inodes.try_reserve_exact(initialised as usize).is_err() {
        return report.add(OutOfMemory);
    }
    inodes.resize(initialised as usize, None);
    let (claims, edges) = (Vec::new(), Vec::new());
    let mut check = Check {
        ground,
        report,
        inodes,
        claims,
        edges,
    };
    for ino in 1..initialised {
        check.inode(ino);
    }
    check.overlaps();
    for ino in 1..initialised {
        check.directory(ino);
    }
    check.tree();
    check.links();
}

impl<P: Pmem> Check<'_, P> {
    fn inode(&mut self, ino: Ino) {
        let used = match self.ground.in_use(ino) {
            Ok(used) => used,
            Err(corrupt) => return self.report.add(corrupt),
        };
        if !used {
            let word = self
                .ground
                .media
                .words::<1>(self.ground.geometry.inode_off(ino));
            self.report.orphans += u64::from(word.is_ok_and(|[word]| word as u16 != 0));
            return;
        }
        match self.ground.load(ino) {
            Ok(loaded) => self.take(ino, &loaded),
            Err(error) => self.report.add(error),
        }
    }

    fn take(&mut self, ino: Ino, loaded: &Loaded) {
        let core = loaded.inode.core;
        let kind = core.kind().unwrap_or(Kind::File);
        let extents = loaded.map.as_slice();
        let more = extents.len() + loaded.leaves.len();
        if self.claims.try_reserve(more).is_err() {
            return self.report.add(OutOfMemory);
        }
        let runs = extents.iter().map(|e| Run {
            block: e.phys,
            len: e.len,
        });
        let leaves = loaded.leaves.iter().map(|leaf| Run {
            block: leaf.block,
            len: 1,
        });
        self.claims.extend(runs.chain(leaves).map(|run| (run, ino)));
        self.report.files += u64::from(kind != Kind::Dir);
        self.report.dirs += u64::from(kind == Kind::Dir);
        let (names, subdirs) = (0, 0);
        self.inodes[ino as usize] = Some(Info {
            core,
            kind,
            names,
            subdirs,
        });
    }

    fn overlaps(&mut self) {
        self.claims.sort_unstable_by_key(|(run, _)| run.block);
        let mut last = (0, 0);
        for index in 0..self.claims.len() {
            let (run, ino) = self.claims[index];
            let (end, first) = last;
            if run.block < end {
                self.report.add(Problem::Overlap {
                    block: run.block,
                    first,
                    second: ino,
                });
            }
            self.report.blocks_used += run.len;
            last = (run.end().max(end), ino);
        }
    }

    fn info(&mut self, ino: Ino) -> Option<&mut Info> {
        self.inodes.get_mut(ino as usize)?.as_mut()
    }

    fn directory(&mut self, ino: Ino) {
        let Some(info) = self.info(ino).filter(|info| info.kind == Kind::Dir) else {
            return;
        };
        let blocks = info.core.size / BLOCK_SIZE;
        let Ok(loaded) = self.ground.load(ino) else {
            return;
        };
        if blocks > loaded.map.blocks() {
            let block = loaded.map.blocks();
            return self.report.add(Corrupt::DirHole { dir: ino, block });
        }
        let dir = Dir {
            ground: self.ground,
            ino,
            map: &loaded.map,
        };
        let mut names = BTreeMap::new();
        let mut slot = 0;
        while u64::from(slot) < blocks * SLOTS {
            slot += self.slot(&dir, slot, &mut names);
        }
    }

    /// Checks the entry in `slot`; returns how many slots it takes.
    fn slot(&mut self, dir: &Dir<'_, P>, slot: u32, names: &mut BTreeMap<(u32, u32), ()>) -> u32 {
        let (dentry, name) = match dir.entry(slot) {
            Ok(Some(found)) => found,
            Ok(None) => return 1,
            Err(corrupt) => {
                self.report.add(corrupt);
                return 1;
            }
        };
        if check_headroom().is_err() {
            self.report.add(OutOfMemory);
            return 1;
        }
        for (&(_, other), ()) in names.range((dentry.hash, 0)..=(dentry.hash, u32::MAX)) {
            let same = dir
                .entry(other)
                .is_ok_and(|e| e.is_some_and(|(_, n)| n.as_bytes() == name.as_bytes()));
            if same {
                let (dir, first, second) = (dir.ino, other, slot);
                self.report.add(Problem::Duplicate { dir, first, second });
            }
        }
        names.insert((dentry.hash, slot), ());
        self.named(dir, slot, dentry.ino, dentry.kind);
        slots_for(dentry.len.into()) as u32
    }

    fn named(&mut self, dir: &Dir<'_, P>, slot: u32, ino: Ino, kind: Kind) {
        let offset = dir.addr(slot, 0).map_or(0, |at| at.offset());
        let wrong = |fault| Corrupt::Dentry {
            dir: dir.ino,
            slot,
            offset,
            fault,
        };
        let Some(info) = self.info(ino) else {
            return self.report.add(wrong(DentryFault::Dangling(ino)));
        };
        info.names += 1;
        let (found_kind, named) = (info.kind, info.core.parent);
        if found_kind != kind {
            self.report.add(wrong(DentryFault::Kind(ino)));
        }
        if found_kind != Kind::Dir {
            return;
        }
        if named != dir.ino {
            let found = dir.ino;
            self.report.add(Problem::Parent { ino, found, named });
        }
        if let Some(parent) = self.info(dir.ino) {
            parent.subdirs += 1;
        }
        if self.edges.try_reserve(1).is_ok() {
            self.edges.push((dir.ino, ino));
        }
    }

    /// Walks down from the root; what is not reached is wrong, and so is what stands in a ring.
    fn tree(&mut self) {
        if self.info(ROOT).is_none_or(|root| root.kind != Kind::Dir) {
            return self.report.add(Problem::NoRoot);
        }
        self.edges.sort_unstable();
        let mut reached = Vec::new();
        let mut todo = Vec::new();
        let room = reached.try_reserve_exact(self.inodes.len());
        if room.is_err() || todo.try_reserve(self.edges.len() + 1).is_err() {
            return self.report.add(OutOfMemory);
        }
        reached.resize(self.inodes.len(), false);
        todo.push(ROOT);
        while let Some(dir) = todo.pop() {
            if core::mem::replace(&mut reached[dir as usize], true) {
                continue;
            }
            let from = self.edges.partition_point(|(parent, _)| *parent < dir);
            let below = self.edges[from..]
                .iter()
                .take_while(|(parent, _)| *parent == dir);
            todo.extend(below.map(|(_, child)| *child));
        }
        for ino in 1..self.inodes.len() as Ino {
            let Some(info) = self.info(ino).copied() else {
                continue;
            };
            let lost = if info.kind == Kind::Dir {
                !reached[ino as usize]
            } else {
                info.names == 0
            };
            if lost {
                self.report.add(Problem::Unreachable(ino));
            }
        }
    }

    fn links(&mut self) {
        for ino in 1..self.inodes.len() as Ino {
            let Some(info) = self.info(ino).copied() else {
                continue;
            };
            let root = u32::from(ino == ROOT);
            let expected = match info.kind {
                // Its name, its own `.`, and the `..` of each directory in it.
                Kind::Dir => (info.names + root)
                    .saturating_add(1)
                    .saturating_add(info.subdirs),
                _ => info.names,
            };
            let found = info.core.nlink;
            if found != expected && info.names + root > 0 {
                self.report.add(Problem::Links {
                    ino,
                    found,
                    expected,
                });
            }
        }
    }
}
