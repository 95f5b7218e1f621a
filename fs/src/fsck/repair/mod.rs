//! Repairing what the check finds.
//!
//! Rounds: check, take the problems of the first kind there is in the order below, repair those, check again. So every repair stands on
//! what is on the media at that moment, never on what an earlier one left in memory; a repair that is cut off is begun again by the
//! next one; and a second repair finds nothing to do.
//!
//! Every change of metadata is one transaction, which happens or does not. Three are not, and need none: the superblock that is not in
//! force, slots of the ring that hold nothing whole, and lines that cannot be read, of which nobody could read half either.
//!
//! | order | what | how |
//! |---|---|---|
//! | 1 | superblock | copied from the one in force |
//! | 2 | ring | whole records after the floor are replayed, gaps passed over, the others emptied |
//! | 3 | state block | by the last inode whose checksum is right |
//! | 4 | root | an empty one |
//! | 5 | entries: damaged, naming nothing, second names | removed |
//! | 6 | damaged inodes | cleared, now that nothing names them |
//! | 7 | blocks with two owners | a node is its inode's; else the second owner reads zeroes there. A copy would show one file's bytes in the other |
//! | 8 | holes in directories | an empty block; a directory that is mostly hole is cleared |
//! | 9 | kinds in entries, parents | by the inode, and by where the directory stands |
//! | 10 | without a path | a name in `/lost+found`; a ring of directories is cut first |
//! | 11 | links | as counted |
//! | 12 | old bytes behind the end | zeroed |

mod bare;
mod held;

use alloc::vec::Vec;
use core::fmt;

use dax::pmem::Pmem;
use mm::mem::OutOfMemory;
use thiserror::Error;

use super::{Finding, FsckReport, Problem, Progress, fsck_with};
use crate::commit::{RecordFull, RecoverError};
use crate::error::{ChangeError, CreateError, LookupError, MountError};
use crate::media_inode::{Corrupt, DentryFault, LoadError};
use crate::shared::Backing;

/// Rounds after which a repair gives up: each kind of problem may bring up those after it once, and some of those before.
const ROUNDS: u32 = 100;

/// Why a repair ended early. What it did before stays, each repair whole.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RepairError {
    /// The region cannot be written.
    #[error("the region is read-only")]
    ReadOnly,
    /// No memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// The ring is beyond repair.
    #[error(transparent)]
    Ring(#[from] RecoverError),
    /// The file system could not be mounted for the repairs that need space.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Space or a number was missing.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// A name in `/lost+found` could not be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// Something that was found before is not there.
    #[error(transparent)]
    Lookup(#[from] LookupError),
}

impl From<RecordFull> for RepairError {
    fn from(full: RecordFull) -> Self {
        Self::Change(full.into())
    }
}

impl From<LoadError> for RepairError {
    fn from(error: LoadError) -> Self {
        Self::Lookup(error.into())
    }
}

impl From<Corrupt> for RepairError {
    fn from(corrupt: Corrupt) -> Self {
        Self::Lookup(corrupt.into())
    }
}

/// One repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fix {
    /// What was wrong.
    pub problem: Problem,
    /// The name that went, if it was one and could be read.
    pub name: Vec<u8>,
}

impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.problem, self.problem.remedy())?;
        if self.name.is_empty() {
            return Ok(());
        }
        write!(f, " (name \"{}\")", self.name.escape_ascii())
    }
}

/// What a repair did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// What was repaired, in order; at most 1,000 of it.
    pub fixes: Vec<Fix>,
    /// Repairs in all.
    pub repaired: u64,
    /// Why it ended early.
    pub stopped: Option<RepairError>,
    /// The check after it.
    pub after: FsckReport,
}

impl RepairReport {
    /// As e2fsck's: 0 nothing was wrong, 1 all was repaired, 4 something is left, 8 it could not be done.
    #[must_use]
    pub const fn exit_code(&self) -> i32 {
        match (&self.stopped, self.after.is_clean(), self.repaired) {
            (_, true, 0) => 0,
            (_, true, _) => 1,
            (Some(_), false, 0) => 8,
            _ => 4,
        }
    }

    fn note(&mut self, problem: &Problem, name: Vec<u8>) {
        self.repaired += 1;
        if self.fixes.len() < 1000 && self.fixes.try_reserve(1).is_ok() {
            let problem = problem.clone();
            self.fixes.push(Fix { problem, name });
        }
    }
}

/// The order of repairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Superblock,
    Ring,
    State,
    Root,
    Entry,
    Inode,
    Overlap,
    Hole,
    Attribute,
    Unreachable,
    Links,
    Bytes,
    /// Nothing can be done.
    None,
}

const fn kind(problem: &Problem) -> Kind {
    match problem {
        Problem::Superblock(_) | Problem::Older { .. } => Kind::Superblock,
        Problem::Ring(_) | Problem::Record { .. } => Kind::Ring,
        Problem::State(_) => Kind::State,
        Problem::NoRoot { .. } => Kind::Root,
        Problem::Corrupt(Corrupt::Dentry {
            fault: DentryFault::Kind(_),
            ..
        })
        | Problem::Parent { .. } => Kind::Attribute,
        Problem::Corrupt(Corrupt::Dentry { .. } | Corrupt::DentryMedia { .. })
        | Problem::Name { .. }
        | Problem::Duplicate { .. }
        | Problem::SecondName { .. } => Kind::Entry,
        Problem::Corrupt(Corrupt::DirHole { .. }) | Problem::DirStorage { .. } => Kind::Hole,
        Problem::Corrupt(_) => Kind::Inode,
        Problem::Overlap { .. } => Kind::Overlap,
        Problem::Unreachable { .. } => Kind::Unreachable,
        Problem::Links { .. } => Kind::Links,
        Problem::OldBytes { .. } => Kind::Bytes,
        Problem::OutOfMemory(_) | Problem::More => Kind::None,
    }
}

/// Repairs the file system on `p`, which is not mounted. `backing` is what a mount of it would get.
pub fn repair<P: Pmem>(p: &P, backing: &Backing, tell: &mut dyn FnMut(Progress)) -> RepairReport {
    let mut report = RepairReport::default();
    for _ in 0..ROUNDS {
        report.after = fsck_with(p, tell);
        let Some(first) = report.after.problems.iter().map(|f| kind(&f.problem)).min() else {
            return report;
        };
        let before = report.repaired;
        if let Err(error) = round(p, backing, first, &mut report) {
            report.stopped = Some(error);
        }
        if report.stopped.is_some() || report.repaired == before {
            break;
        }
    }
    report.after = fsck_with(p, tell);
    report
}

/// Repairs all problems of one kind.
fn round<P: Pmem>(
    p: &P,
    backing: &Backing,
    which: Kind,
    report: &mut RepairReport,
) -> Result<(), RepairError> {
    if !p.writable() {
        return Err(RepairError::ReadOnly);
    }
    let problems = core::mem::take(&mut report.after.problems);
    let of_kind = problems
        .iter()
        .map(|Finding { problem, .. }| problem)
        .filter(|problem| kind(problem) == which);
    match which {
        Kind::None => Ok(()),
        Kind::Overlap | Kind::Hole | Kind::Unreachable => held::round(p, backing, of_kind, report),
        _ => bare::round(p, of_kind, report),
    }
}
