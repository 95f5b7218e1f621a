//! Checking an unmounted file system, read-only; and repairing it, in [`repair`](mod@repair).
//!
//! | pass | looks at |
//! |---|---|
//! | 0 | both superblocks: whole, and the same |
//! | 1 | the ring: records to replay, torn, stale, damaged; the state block |
//! | 2 | every initialised inode and its nodes of extents: checksum, kind, extents in the data blocks and without overlap |
//! | 3 | blocks that two inodes claim, by a sweep over all runs in order |
//! | 4 | directories: entries, names, kinds; each directory reached once from the root, and naming the parent it stands in |
//! | 5 | link counts |
//! | 6 | inodes without a link: free to the next mount |
//! | 7 | bytes behind the ends of files |
//! | 8 | free space by size of run, fragments |
//!
//! What the ring still has to replay is taken into account without being written: the check sees what a mount would see. It
//! takes the bytes as an allegation and never panics. Memory goes by structures: 32 bytes an inode, 24 a run of blocks, 16 an entry of the
//! directory that is being read; where there is none, the report says that not everything was checked.

mod claims;
mod ends;
mod inodes;
mod overlay;
mod repair;
mod report;
mod tree;

use alloc::vec::Vec;

use dax::pmem::Pmem;
use mm::mem::OutOfMemory;

use crate::commit::Media;
use crate::layout::{BLOCK_SIZE, Geometry, Ino, Kind};
use crate::media_inode::Ground;
use crate::superblock;

use claims::Claim;
use overlay::Overlay;
pub use repair::{Fix, RepairError, RepairReport, repair};
pub use report::{Finding, FsckReport, Pass, Problem, Statistics, Structure};

/// How far a check is: `done` of `of` inodes of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The pass.
    pub pass: Pass,
    /// Inodes done.
    pub done: u64,
    /// Inodes in all.
    pub of: u64,
}

/// Inodes between two calls of the progress function.
const STRIDE: u32 = 1024;

/// What the check remembers of an inode in use.
#[derive(Clone, Copy)]
struct Info {
    kind: Kind,
    /// As on the media.
    nlink: u32,
    parent: Ino,
    /// Entries that name it.
    names: u32,
    /// Of a directory: entries that name directories.
    subdirs: u32,
}

struct Check<'a, P> {
    ground: Ground<'a, P>,
    report: &'a mut FsckReport,
    tell: &'a mut dyn FnMut(Progress),
    inodes: Vec<Option<Info>>,
    claims: Vec<Claim>,
    /// Parent and child directory.
    edges: Vec<(Ino, Ino)>,
    /// Entries that name a directory which names another parent.
    strays: Vec<Stray>,
}

/// An entry that names a directory.
#[derive(Clone, Copy)]
struct Stray {
    dir: Ino,
    slot: u32,
    offset: u64,
    ino: Ino,
}

/// Checks the file system on `p` without changing it. Never panics, whatever the bytes.
pub fn fsck<P: Pmem>(p: &P) -> FsckReport {
    fsck_with(p, &mut |_| ())
}

/// As [`fsck`], and calls `tell` now and then.
pub fn fsck_with<P: Pmem>(p: &P, tell: &mut dyn FnMut(Progress)) -> FsckReport {
    let mut report = FsckReport::default();
    let Some((geometry, uuid)) = superblocks(p, &mut report) else {
        return report;
    };
    report.blocks = geometry.blocks() - geometry.data_block();
    let media = Media::new(Overlay::new(p, &geometry, &uuid, &mut report));
    let ground = Ground {
        media: &media,
        geometry: &geometry,
        uuid: &uuid,
    };
    check(ground, &mut report, tell);
    report
}

/// Pass 0. `None`: neither is whole.
fn superblocks<P: Pmem>(p: &P, report: &mut FsckReport) -> Option<(Geometry, [u8; 16])> {
    let chosen = match superblock::choose(&Media::new(p)) {
        Ok(chosen) => chosen,
        Err(faults) => {
            faults
                .into_iter()
                .for_each(|fault| report.add(Pass::Superblocks, fault));
            return None;
        }
    };
    if let Some(fault) = chosen.other {
        report.add(Pass::Superblocks, fault);
    }
    if let Some(block) = chosen.differs {
        let problem = Problem::Older {
            name: superblock::name(block),
            offset: block * BLOCK_SIZE,
            found: chosen.other_generation,
            expected: chosen.superblock.generation.get(),
        };
        report.add(Pass::Superblocks, problem);
    }
    Some((chosen.geometry, chosen.superblock.uuid))
}

fn check<P: Pmem>(ground: Ground<'_, P>, report: &mut FsckReport, tell: &mut dyn FnMut(Progress)) {
    let initialised = match ground.initialised() {
        Ok(initialised) => initialised,
        Err(fault) => return report.add(Pass::Ring, fault),
    };
    let mut inodes = Vec::new();
    if inodes.try_reserve_exact(initialised as usize).is_err() {
        return report.add(Pass::Inodes, OutOfMemory);
    }
    inodes.resize(initialised as usize, None);
    let mut check = Check {
        ground,
        report,
        tell,
        inodes,
        claims: Vec::new(),
        edges: Vec::new(),
        strays: Vec::new(),
    };
    check.each(Pass::Inodes, Check::inode);
    check.sweep();
    check.each(Pass::Tree, Check::directory);
    check.tree();
    check.links();
    check.each(Pass::Ends, Check::ends);
}

impl<P: Pmem> Check<'_, P> {
    /// Calls `look` for every initialised inode.
    fn each(&mut self, pass: Pass, look: fn(&mut Self, Ino)) {
        let of = self.inodes.len() as u64;
        for ino in 1..self.inodes.len() as Ino {
            if ino.is_multiple_of(STRIDE) {
                let done = ino.into();
                (self.tell)(Progress { pass, done, of });
            }
            look(self, ino);
        }
        (self.tell)(Progress { pass, done: of, of });
    }

    fn info(&mut self, ino: Ino) -> Option<&mut Info> {
        self.inodes.get_mut(ino as usize)?.as_mut()
    }

    fn offset(&self, ino: Ino) -> u64 {
        self.ground.geometry.inode_off(ino)
    }
}
