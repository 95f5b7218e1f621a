//! What each error of the file system is called by a POSIX system: one error, one number.
//!
//! The matches name every variant, so that a new error does not compile until somebody has decided.

use dax::layout::BreakError;
use fs::TargetError;
use fs::dir::NameError;
use fs::error::{
    ChangeError, CreateError, LookupError, ReadError, ReadlinkError, RemoveError, RenameError,
    SetAttrError, TruncateError, WriteError,
};
use fs::media_inode::LoadError;
use nix::errno::Errno;

/// An error that has a number.
pub trait ToErrno {
    /// The number.
    fn errno(&self) -> Errno;
}

impl ToErrno for NameError {
    fn errno(&self) -> Errno {
        match self {
            Self::TooLong(_) => Errno::ENAMETOOLONG,
            Self::Invalid => Errno::EINVAL,
        }
    }
}

impl ToErrno for TargetError {
    fn errno(&self) -> Errno {
        match self {
            Self::Empty => Errno::ENOENT,
            Self::TooLong(_) => Errno::ENAMETOOLONG,
            Self::Zero => Errno::EINVAL,
        }
    }
}

impl ToErrno for ReadlinkError {
    fn errno(&self) -> Errno {
        match self {
            Self::Gone(_) => Errno::ENODEV,
            Self::NotSymlink => Errno::EINVAL,
            Self::Corrupt(_) => Errno::EIO,
        }
    }
}

impl ToErrno for SetAttrError {
    fn errno(&self) -> Errno {
        match self {
            Self::Change(change) => change.errno(),
        }
    }
}

impl ToErrno for LoadError {
    fn errno(&self) -> Errno {
        match self {
            Self::Corrupt(_) => Errno::EIO,
            Self::OutOfMemory(_) => Errno::ENOMEM,
        }
    }
}

impl ToErrno for ChangeError {
    fn errno(&self) -> Errno {
        match self {
            Self::Gone(_) => Errno::ENODEV,
            Self::ReadOnly => Errno::EROFS,
            Self::NoSpace { .. } | Self::NoInodes => Errno::ENOSPC,
            Self::TooFragmented(_) | Self::RecordFull(_) => Errno::EFBIG,
            Self::OutOfMemory(_) => Errno::ENOMEM,
            Self::Corrupt(_) => Errno::EIO,
        }
    }
}

impl ToErrno for LookupError {
    fn errno(&self) -> Errno {
        match self {
            Self::Gone(_) => Errno::ENODEV,
            Self::NotFound => Errno::ENOENT,
            Self::NotDir => Errno::ENOTDIR,
            Self::Loop => Errno::ELOOP,
            Self::Name(name) => name.errno(),
            Self::Load(load) => load.errno(),
        }
    }
}

impl ToErrno for CreateError {
    fn errno(&self) -> Errno {
        match self {
            Self::Lookup(lookup) => lookup.errno(),
            Self::Exists => Errno::EEXIST,
            Self::Target(target) => target.errno(),
            Self::IsDir => Errno::EPERM,
            Self::TooManyLinks => Errno::EMLINK,
            Self::Change(change) => change.errno(),
        }
    }
}

impl ToErrno for RemoveError {
    fn errno(&self) -> Errno {
        match self {
            Self::Lookup(lookup) => lookup.errno(),
            Self::IsDir => Errno::EISDIR,
            Self::NotDir => Errno::ENOTDIR,
            Self::NotEmpty => Errno::ENOTEMPTY,
            Self::Change(change) => change.errno(),
        }
    }
}

impl ToErrno for RenameError {
    fn errno(&self) -> Errno {
        match self {
            Self::Lookup(lookup) => lookup.errno(),
            Self::Exists => Errno::EEXIST,
            Self::IsDir => Errno::EISDIR,
            Self::NotDir => Errno::ENOTDIR,
            Self::NotEmpty => Errno::ENOTEMPTY,
            Self::Cycle => Errno::EINVAL,
            Self::TooManyLinks => Errno::EMLINK,
            Self::Change(change) => change.errno(),
        }
    }
}

impl ToErrno for ReadError {
    fn errno(&self) -> Errno {
        match self {
            Self::Gone(_) => Errno::ENODEV,
            Self::IsDir => Errno::EISDIR,
            Self::NotFile => Errno::EINVAL,
            Self::Media { .. } => Errno::EIO,
        }
    }
}

impl ToErrno for WriteError {
    fn errno(&self) -> Errno {
        match self {
            Self::NotFile => Errno::EINVAL,
            Self::FileTooBig => Errno::EFBIG,
            Self::Change(change) => change.errno(),
        }
    }
}

impl ToErrno for TruncateError {
    fn errno(&self) -> Errno {
        match self {
            Self::NotFile => Errno::EINVAL,
            Self::FileTooBig => Errno::EFBIG,
            Self::Break(BreakError::Cancelled(_)) => Errno::EINTR,
            Self::Break(BreakError::WouldBlock(_) | BreakError::TimedOut(_)) => Errno::EBUSY,
            Self::Change(change) => change.errno(),
        }
    }
}
