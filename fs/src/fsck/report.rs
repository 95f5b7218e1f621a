//! What a check found.

use alloc::vec::Vec;
use core::fmt;

use mm::mem::OutOfMemory;
use thiserror::Error;

use crate::commit::RecoverError;
use crate::layout::SuperblockFaultKind;
use crate::layout::{BLOCK_SIZE, Block, Ino, InodeFault, NodeFault, SuperblockFault};
use crate::media_inode::{Corrupt, DentryFault, LoadError, StateFault};

/// Problems after which the check stops listing.
const MOST: usize = 1000;

/// A step of the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "lowercase")
)]
#[repr(u8)]
pub enum Pass {
    /// Both superblocks.
    Superblocks,
    /// The record ring, and the word that says how many inodes are initialised.
    Ring,
    /// Every initialised inode, with its extents.
    Inodes,
    /// Blocks that two inodes claim.
    Overlaps,
    /// Directories: entries, and the tree that they make.
    Tree,
    /// Link counts.
    Links,
    /// Inodes without a link.
    Orphans,
    /// What stands behind the ends of files.
    Ends,
    /// Free space and fragments.
    Statistics,
}

impl Pass {
    /// Its number, 0 to 8.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// A kind of structure on the media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "lowercase")
)]
pub enum Structure {
    /// A superblock.
    Superblock,
    /// A slot of the record ring.
    Record,
    /// The state block.
    State,
    /// An inode.
    Inode,
    /// A node of extents.
    Node,
    /// A directory's entry.
    Entry,
    /// A block of a file or directory.
    Block,
    /// None: the check itself.
    Check,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// A superblock is not whole.
    #[error(transparent)]
    Superblock(#[from] SuperblockFault),
    /// A superblock is whole, and not the one in force.
    #[error(
        "superblock {name} at offset {offset:#x}: generation {found}, but the other one has {expected} and other content"
    )]
    Older {
        /// A or B.
        name: char,
        /// Byte offset.
        offset: u64,
        /// Its generation.
        found: u64,
        /// That of the one in force.
        expected: u64,
    },
    /// The ring cannot be recovered from.
    #[error(transparent)]
    Ring(#[from] RecoverError),
    /// A record that is not needed is not whole, and no crash leaves one there.
    #[error("record ring, slot {slot} at offset {offset:#x}: damaged; nothing needs it")]
    Record {
        /// Slot number.
        slot: u64,
        /// Byte offset.
        offset: u64,
    },
    /// The state block is wrong.
    #[error(transparent)]
    State(#[from] StateFault),
    /// An inode, node of extents or directory entry is wrong.
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
    #[error("inode 1 at offset {offset:#x}: the root directory is missing")]
    NoRoot {
        /// Byte offset of its inode.
        offset: u64,
    },
    /// A directory has storage behind its end.
    #[error(
        "directory {dir} at offset {offset:#x}: storage for {found} blocks, but its size is {expected}"
    )]
    DirStorage {
        /// The directory.
        dir: Ino,
        /// Byte offset of its inode.
        offset: u64,
        /// Blocks of storage.
        found: u64,
        /// Blocks by its size.
        expected: u64,
    },
    /// An entry's name is none that can be made.
    #[error("directory {dir}, slot {slot} at offset {offset:#x}: not a name that can be made")]
    Name {
        /// The directory.
        dir: Ino,
        /// Slot number in the directory.
        slot: u32,
        /// Byte offset of the entry.
        offset: u64,
    },
    /// A name stands twice in a directory.
    #[error("directory {dir}, slot {slot} at offset {offset:#x}: the same name as in slot {first}")]
    Duplicate {
        /// The directory.
        dir: Ino,
        /// The slot that has it first.
        first: u32,
        /// The other.
        slot: u32,
        /// Byte offset of the other.
        offset: u64,
    },
    /// A second name of a directory.
    #[error(
        "directory {dir}, slot {slot} at offset {offset:#x}: directory {ino} has a name already"
    )]
    SecondName {
        /// Where it stands.
        dir: Ino,
        /// Slot number there.
        slot: u32,
        /// Byte offset of the entry.
        offset: u64,
        /// The directory that is named.
        ino: Ino,
    },
    /// A directory names another parent than the one it stands in.
    #[error(
        "inode {ino} at offset {offset:#x}: it stands in directory {expected}, but names {found} as its parent"
    )]
    Parent {
        /// The directory.
        ino: Ino,
        /// Byte offset of its inode.
        offset: u64,
        /// What it says.
        found: Ino,
        /// Where it stands.
        expected: Ino,
    },
    /// An inode in use that the tree does not reach.
    #[error("inode {ino} at offset {offset:#x}: it is in use, and no path leads to it")]
    Unreachable {
        /// The inode.
        ino: Ino,
        /// Its byte offset.
        offset: u64,
        /// An entry names it, that no path leads to either.
        named: bool,
    },
    /// The number of links is wrong.
    #[error("inode {ino} at offset {offset:#x}: {found} links, should be {expected}")]
    Links {
        /// The inode.
        ino: Ino,
        /// Its byte offset.
        offset: u64,
        /// On the media.
        found: u32,
        /// As counted.
        expected: u32,
    },
    /// A block wholly behind the end of its file would show old bytes if the file grew.
    #[error(
        "inode {ino}: its block {block} at offset {offset:#x} lies behind the end and is not zero"
    )]
    OldBytes {
        /// The file.
        ino: Ino,
        /// Block of the file.
        block: u64,
        /// Byte offset in the region.
        offset: u64,
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

impl Problem {
    /// What kind of structure is wrong.
    #[must_use]
    pub const fn structure(&self) -> Structure {
        match self {
            Self::Superblock(_) | Self::Older { .. } => Structure::Superblock,
            Self::Ring(_) | Self::Record { .. } => Structure::Record,
            Self::State(_) => Structure::State,
            Self::Corrupt(corrupt) => of_corrupt(corrupt),
            Self::Overlap { .. } | Self::OldBytes { .. } => Structure::Block,
            Self::Name { .. } | Self::Duplicate { .. } | Self::SecondName { .. } => {
                Structure::Entry
            }
            Self::NoRoot { .. }
            | Self::DirStorage { .. }
            | Self::Parent { .. }
            | Self::Unreachable { .. }
            | Self::Links { .. } => Structure::Inode,
            Self::OutOfMemory(_) | Self::More => Structure::Check,
        }
    }

    /// Where it stands, in bytes from the start of the region.
    #[must_use]
    pub const fn offset(&self) -> Option<u64> {
        match self {
            Self::Superblock(SuperblockFault { offset, .. })
            | Self::Older { offset, .. }
            | Self::Record { offset, .. }
            | Self::NoRoot { offset }
            | Self::DirStorage { offset, .. }
            | Self::Name { offset, .. }
            | Self::Duplicate { offset, .. }
            | Self::SecondName { offset, .. }
            | Self::Parent { offset, .. }
            | Self::Unreachable { offset, .. }
            | Self::Links { offset, .. }
            | Self::OldBytes { offset, .. } => Some(*offset),
            Self::Ring(error) => of_ring(error),
            Self::State(
                StateFault::Media { offset, .. }
                | StateFault::Check { offset, .. }
                | StateFault::Inodes { offset, .. },
            ) => Some(*offset),
            Self::Corrupt(corrupt) => offset_of(corrupt),
            Self::Overlap { block, .. } => Some(*block * BLOCK_SIZE),
            Self::OutOfMemory(_) | Self::More => None,
        }
    }

    /// The number that was read and the one that should be there, where both are numbers.
    #[must_use]
    pub fn readings(&self) -> Option<(u64, u64)> {
        let sums = |found: u32, expected: u32| Some((found.into(), expected.into()));
        match self {
            Self::Superblock(SuperblockFault {
                kind: SuperblockFaultKind::Checksum { found, expected },
                ..
            })
            | Self::State(StateFault::Check {
                found, expected, ..
            })
            | Self::Parent {
                found, expected, ..
            }
            | Self::Links {
                found, expected, ..
            }
            | Self::Corrupt(
                Corrupt::Text {
                    found, expected, ..
                }
                | Corrupt::Inode {
                    fault: InodeFault::Checksum { found, expected },
                    ..
                }
                | Corrupt::Node {
                    fault: NodeFault::Checksum { found, expected },
                    ..
                }
                | Corrupt::Dentry {
                    fault:
                        DentryFault::Checksum { found, expected }
                        | DentryFault::Hash { found, expected },
                    ..
                },
            ) => sums(*found, *expected),
            Self::Older {
                found, expected, ..
            }
            | Self::DirStorage {
                found, expected, ..
            } => Some((*found, *expected)),
            _ => None,
        }
    }

    /// What a repair does about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::Superblock(_) | Self::Older { .. } => {
                "copied from the other superblock, if that one is whole"
            }
            Self::Ring(_) => {
                "the whole records that follow the floor are replayed, the others given up"
            }
            Self::Record { .. } => "the slot is emptied",
            Self::State(_) => "the table is searched for its last inode, and the word written anew",
            Self::Corrupt(corrupt) => remedy_of(corrupt),
            Self::Overlap { .. } => "the second owner loses the block: it reads as zeroes there",
            Self::NoRoot { .. } => {
                "an empty root directory is made; what was in it goes to /lost+found"
            }
            Self::DirStorage { .. } => "its size is made to cover its storage",
            Self::Name { .. } => "the entry goes, and its inode to /lost+found",
            Self::Duplicate { .. } | Self::SecondName { .. } => {
                "the entry goes; an inode that loses its last name goes to /lost+found"
            }
            Self::Parent { .. } => "the parent is written into the directory",
            Self::Unreachable { .. } => "it gets a name in /lost+found",
            Self::Links { .. } => "the number is written into the inode",
            Self::OldBytes { .. } => "the block is zeroed",
            Self::OutOfMemory(_) => "check with more memory",
            Self::More => "repair, and check again",
        }
    }
}

const fn of_corrupt(corrupt: &Corrupt) -> Structure {
    match corrupt {
        Corrupt::InodeMedia { .. } | Corrupt::Inode { .. } | Corrupt::DirHole { .. } => {
            Structure::Inode
        }
        Corrupt::NoText(_) => Structure::Inode,
        Corrupt::TextMedia { .. } | Corrupt::Text { .. } => Structure::Block,
        Corrupt::NodeMedia { .. } | Corrupt::Node { .. } => Structure::Node,
        Corrupt::DentryMedia { .. } | Corrupt::Dentry { .. } => Structure::Entry,
    }
}

const fn offset_of(corrupt: &Corrupt) -> Option<u64> {
    match corrupt {
        Corrupt::InodeMedia { offset, .. }
        | Corrupt::Inode { offset, .. }
        | Corrupt::NodeMedia { offset, .. }
        | Corrupt::Node { offset, .. }
        | Corrupt::TextMedia { offset, .. }
        | Corrupt::Text { offset, .. }
        | Corrupt::DentryMedia { offset, .. }
        | Corrupt::Dentry { offset, .. } => Some(*offset),
        Corrupt::DirHole { .. } | Corrupt::NoText(_) => None,
    }
}

const fn of_ring(error: &RecoverError) -> Option<u64> {
    match error {
        RecoverError::Media { offset, .. }
        | RecoverError::Record { offset, .. }
        | RecoverError::Empty { offset }
        | RecoverError::Gap { offset, .. } => Some(*offset),
        RecoverError::ReadOnly { .. } | RecoverError::OutOfMemory(_) => None,
    }
}

const fn remedy_of(corrupt: &Corrupt) -> &'static str {
    match corrupt {
        Corrupt::DirHole { .. } => "an empty block is put there",
        Corrupt::Dentry {
            fault: DentryFault::Kind(_),
            ..
        } => "the kind of the inode is written into the entry",
        Corrupt::DentryMedia { .. } | Corrupt::Dentry { .. } => {
            "the entry goes; an inode that loses its last name goes to /lost+found"
        }
        Corrupt::TextMedia { .. }
        | Corrupt::Text { .. }
        | Corrupt::NoText(_)
        | Corrupt::InodeMedia { .. }
        | Corrupt::Inode { .. }
        | Corrupt::NodeMedia { .. }
        | Corrupt::Node { .. } => {
            "the inode is cleared after the entries that name it: its content is lost"
        }
    }
}

/// A problem, and the pass that found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// When.
    pub pass: Pass,
    /// What.
    pub problem: Problem,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem.fmt(f)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Finding {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let readings = self.problem.readings();
        let mut s = to.serialize_struct("Finding", 8)?;
        s.serialize_field("pass", &self.pass.number())?;
        s.serialize_field("name", &self.pass)?;
        s.serialize_field("structure", &self.problem.structure())?;
        s.serialize_field("offset", &self.problem.offset())?;
        s.serialize_field("found", &readings.map(|(found, _)| found))?;
        s.serialize_field("expected", &readings.map(|(_, expected)| expected))?;
        s.serialize_field("problem", &format_args!("{}", self.problem))?;
        s.serialize_field("remedy", self.problem.remedy())?;
        s.end()
    }
}

/// Space and fragments, as the last pass counts them. Alignment is that of the offset in the region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Statistics {
    /// Blocks that nobody claims.
    pub free: u64,
    /// Of them, in whole aligned runs of 2 MiB.
    pub free_mega: u64,
    /// Of them, in whole aligned runs of 1 GiB.
    pub free_gib: u64,
    /// Blocks of the longest free run.
    pub longest: u64,
    /// Runs that the free blocks lie in.
    pub free_runs: u64,
    /// Extents of all files and directories.
    pub extents: u64,
    /// Files and directories with more than one extent.
    pub fragmented: u64,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct FsckReport {
    /// What is wrong, at most 1,000 of it.
    pub problems: Vec<Finding>,
    /// Files and symbolic links.
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
    /// Records that are not whole: at most one is what a crash leaves, in the slot after the newest.
    pub torn: u64,
    /// Whole records that no mount needs.
    pub stale: u64,
    /// Files with bytes behind their end, in their last block; a mapping may leave them, and growing zeroes them.
    pub tails: u64,
    /// Blocks of storage wholly behind the ends of files.
    pub beyond: u64,
    /// Space and fragments.
    pub statistics: Statistics,
}

impl FsckReport {
    /// Nothing is wrong.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn add(&mut self, pass: Pass, problem: impl Into<Problem>) {
        let problem = if self.problems.len() + 1 < MOST {
            problem.into()
        } else {
            Problem::More
        };
        if self.problems.len() < MOST && self.problems.try_reserve(1).is_ok() {
            self.problems.push(Finding { pass, problem });
        }
    }
}

impl fmt::Display for FsckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { pass, problem } in &self.problems {
            writeln!(f, "pass {}: {problem}", pass.number())?;
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
