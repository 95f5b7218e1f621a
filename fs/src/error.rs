//! What can go wrong, by operation.

use core::fmt;

use dax::layout::{BreakError, Held};
use dax::pmem::MediaError;
use mm::mem::OutOfMemory;
use thiserror::Error;

use crate::commit::{RecordFull, RecoverError};
use crate::dir::NameError;
use crate::gate::Gone;
use crate::layout::{Block, Ino, SuperblockFault};
use crate::media_inode::{Corrupt, LoadError, StateFault};
use crate::path::LINKS_MAX;
use crate::symlink::TargetError;

/// Nothing could be changed: what every changing operation has in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ChangeError {
    /// The device is gone, or going.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// The file system is mounted read-only.
    #[error("the file system is read-only")]
    ReadOnly,
    /// No block is free, and none in quarantine may be handed out yet.
    #[error("no space left ({quarantined} blocks wait in quarantine)")]
    NoSpace {
        /// Blocks that are freed but still referenced.
        quarantined: u64,
    },
    /// The inode table is full.
    #[error("no inode left")]
    NoInodes,
    /// The file has more pieces than the extent tree holds.
    #[error("the file is in more than {0} pieces")]
    TooFragmented(usize),
    /// No memory. Nothing has changed.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// Metadata on the media is wrong.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The operation changes more words than a record holds. Nothing has changed.
    #[error(transparent)]
    RecordFull(#[from] RecordFull),
}

impl From<LoadError> for ChangeError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Corrupt(corrupt) => Self::Corrupt(corrupt),
            LoadError::OutOfMemory(error) => Self::OutOfMemory(error),
        }
    }
}

/// Why a path or number leads nowhere (open, stat, readdir).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LookupError {
    /// The device is gone, or going.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// No such name.
    #[error("not found")]
    NotFound,
    /// A part of the path is no directory.
    #[error("not a directory")]
    NotDir,
    /// More symbolic links than a path may follow, most likely a ring of them.
    #[error("more than {LINKS_MAX} symbolic links on the way")]
    Loop,
    /// A part of the path is no name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The media is wrong, or there is no memory.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl From<Corrupt> for LookupError {
    fn from(corrupt: Corrupt) -> Self {
        Self::Load(LoadError::Corrupt(corrupt))
    }
}

impl From<OutOfMemory> for LookupError {
    fn from(error: OutOfMemory) -> Self {
        Self::Load(LoadError::OutOfMemory(error))
    }
}

/// Why the text of a symbolic link could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReadlinkError {
    /// The device is gone, or going.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// It is something else.
    #[error("not a symbolic link")]
    NotSymlink,
    /// The media is wrong, or does not answer.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

impl From<ReadlinkError> for LookupError {
    fn from(error: ReadlinkError) -> Self {
        match error {
            ReadlinkError::Gone(gone) => Self::Gone(gone),
            ReadlinkError::NotSymlink => Self::NotFound,
            ReadlinkError::Corrupt(corrupt) => corrupt.into(),
        }
    }
}

/// Why attributes were not changed. They are as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SetAttrError {
    /// The change could not be made.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl From<RecordFull> for SetAttrError {
    fn from(error: RecordFull) -> Self {
        Self::Change(error.into())
    }
}

/// Why no name was made (create, mkdir, symlink, link).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CreateError {
    /// The directory was not found.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The name exists.
    #[error("it exists already")]
    Exists,
    /// The target of a symbolic link is none.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A directory cannot have a second name.
    #[error("a directory cannot have a second name")]
    IsDir,
    /// The inode or the directory has as many links as a number holds.
    #[error("too many links")]
    TooManyLinks,
    /// The change could not be made.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// Why a name was not removed (unlink, rmdir).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RemoveError {
    /// Not found.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// `unlink` of a directory.
    #[error("it is a directory")]
    IsDir,
    /// `rmdir` of something else.
    #[error("it is not a directory")]
    NotDir,
    /// The directory has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The change could not be made.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// Why nothing was renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RenameError {
    /// A part of a path was not found.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The new name exists, and the caller does not want it replaced.
    #[error("the new name exists already")]
    Exists,
    /// The new name is a directory, the old one is not.
    #[error("the new name is a directory")]
    IsDir,
    /// The old name is a directory, the new one is not.
    #[error("the new name is not a directory")]
    NotDir,
    /// The directory at the new name has entries.
    #[error("the directory at the new name is not empty")]
    NotEmpty,
    /// A directory cannot move into itself.
    #[error("a directory cannot move below itself")]
    Cycle,
    /// The new parent has as many links as a number holds.
    #[error("too many links")]
    TooManyLinks,
    /// The change could not be made.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// Derives the conversions of what lies below [`ChangeError`] and [`LookupError`].
macro_rules! through {
    ($($error:ty),*) => {$(
        impl From<Gone> for $error {
            fn from(gone: Gone) -> Self {
                Self::Change(gone.into())
            }
        }
        impl From<Corrupt> for $error {
            fn from(error: Corrupt) -> Self {
                Self::Change(error.into())
            }
        }
        impl From<LoadError> for $error {
            fn from(error: LoadError) -> Self {
                Self::Change(error.into())
            }
        }
        impl From<OutOfMemory> for $error {
            fn from(error: OutOfMemory) -> Self {
                Self::Change(error.into())
            }
        }
        impl From<RecordFull> for $error {
            fn from(error: RecordFull) -> Self {
                Self::Change(error.into())
            }
        }
        impl From<NameError> for $error {
            fn from(error: NameError) -> Self {
                Self::Lookup(error.into())
            }
        }
    )*};
}

through!(CreateError, RemoveError, RenameError);

/// Why nothing was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// The device is gone, or going.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// Directories are read by `readdir`.
    #[error("it is a directory")]
    IsDir,
    /// Only files have content: a symbolic link is read by `readlink`.
    #[error("it is not a file")]
    NotFile,
    /// The media could not give the bytes.
    #[error("inode {ino}, file offset {at:#x}: {source}")]
    Media {
        /// The file.
        ino: Ino,
        /// Where in the file the bad bytes begin.
        at: u64,
        /// What the region said.
        source: MediaError,
    },
}

/// Why nothing more was written or allocated (write, fallocate). What went before stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WriteError {
    /// Only files have content.
    #[error("it is not a file")]
    NotFile,
    /// Beyond 16 TiB.
    #[error("a file cannot be that big")]
    FileTooBig,
    /// The change could not be made.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl From<Gone> for WriteError {
    fn from(gone: Gone) -> Self {
        Self::Change(gone.into())
    }
}

impl From<OutOfMemory> for WriteError {
    fn from(error: OutOfMemory) -> Self {
        Self::Change(error.into())
    }
}

/// Why a file was not cut (truncate, punch), or not zeroed. Unless it was to be zeroed, it is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TruncateError {
    /// Only files have content.
    #[error("it is not a file")]
    NotFile,
    /// Beyond 16 TiB.
    #[error("a file cannot be that big")]
    FileTooBig,
    /// A page of the range is held.
    #[error(transparent)]
    Break(#[from] BreakError),
    /// The change could not be made.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl From<Gone> for TruncateError {
    fn from(gone: Gone) -> Self {
        Self::Change(gone.into())
    }
}

impl From<WriteError> for TruncateError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::NotFile => Self::NotFile,
            WriteError::FileTooBig => Self::FileTooBig,
            WriteError::Change(error) => Self::Change(error),
        }
    }
}

impl From<OutOfMemory> for TruncateError {
    fn from(error: OutOfMemory) -> Self {
        Self::Change(error.into())
    }
}

/// Why no file system was mounted. The region is as it was, but for records that were replayed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MountError {
    /// Neither superblock is whole.
    #[error("no file system: {a}; {b}")]
    Superblocks {
        /// What is wrong with the first.
        a: SuperblockFault,
        /// What is wrong with the second.
        b: SuperblockFault,
    },
    /// The region has more blocks than the pgmap has pages.
    #[error("the file system has {blocks} blocks, but the pgmap only {pages} pages")]
    Pgmap {
        /// Blocks of the file system.
        blocks: u64,
        /// Pages of the pgmap.
        pages: u64,
    },
    /// The ring cannot be recovered from.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// The state block is wrong.
    #[error(transparent)]
    State(#[from] StateFault),
    /// An inode in use is wrong.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The root directory is missing, or none.
    #[error("inode 1 at offset {offset:#x}: the root directory is missing")]
    NoRoot {
        /// Byte offset of its inode.
        offset: u64,
    },
    /// Two files claim the same block.
    #[error("block {block} at offset {offset:#x} belongs to inode {first} and to inode {second}")]
    Overlap {
        /// The block.
        block: Block,
        /// Its byte offset.
        offset: u64,
        /// One owner.
        first: Ino,
        /// The other.
        second: Ino,
    },
    /// No memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

impl From<LoadError> for MountError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Corrupt(corrupt) => Self::Corrupt(corrupt),
            LoadError::OutOfMemory(error) => Self::OutOfMemory(error),
        }
    }
}

/// An inode that is open, mapped or pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// Its number.
    pub ino: Ino,
    /// It has no name any more.
    pub orphan: bool,
    /// A page of it that is mapped or pinned.
    pub page: Option<Held>,
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.orphan { " without a name" } else { "" };
        match self.page {
            Some(page) => write!(f, "a file{name} is in use: {page}"),
            None => write!(f, "a file{name} is in use: inode {} is open", self.ino),
        }
    }
}

impl core::error::Error for Busy {}

/// Why the file system is still mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UnmountError {
    /// An inode is open, mapped or pinned.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// Somebody else holds the file system itself.
    #[error("the file system is in use")]
    InUse,
    /// A lazy change could not be written.
    #[error(transparent)]
    Change(#[from] ChangeError),
}
