//! Why the stress test did not run.

use super::trouble::Trouble;
use crate::machine::{AddFailure, MountFailure, RemoveFailure, UmountFailure};
use crate::shell::Failure;
use crate::thread::SpawnError;
use alloc::borrow::Cow;
use fs::MkfsError;
use mm::mem::OutOfMemory;
use thiserror::Error;

/// Why the stress test did not run, or could not go on.
#[derive(Debug, Error)]
pub enum StressError {
    /// A file system is mounted, which the test would share.
    #[error("a file system is mounted")]
    Mounted,
    /// There is no device that can be written.
    #[error("there is no persistent memory that can be written")]
    NoPmem,
    /// The device is too small.
    #[error("{name} has room for {free} blocks, the test needs {least}")]
    TooSmall {
        /// The device.
        name: &'static str,
        /// Its free blocks.
        free: u64,
        /// The fewest that the test runs on.
        least: u64,
    },
    /// No file system was made.
    #[error(transparent)]
    Mkfs(#[from] MkfsError),
    /// It was not mounted.
    #[error(transparent)]
    Mount(#[from] MountFailure),
    /// It was not unmounted.
    #[error(transparent)]
    Umount(#[from] UmountFailure),
    /// The device was not removed.
    #[error(transparent)]
    Remove(#[from] RemoveFailure),
    /// It did not come back.
    #[error(transparent)]
    Add(#[from] AddFailure),
    /// The files could not be made.
    #[error("the files could not be made: {0:?}")]
    Files(Trouble),
    /// No thread for a worker.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// No memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// It ran, and found what must not be.
    #[error("{0} violations")]
    Violations(u64),
    /// It ran, and something that was to happen never did.
    #[error("never happened: {0}")]
    Missing(alloc::string::String),
}

impl<T: Into<Trouble>> From<T> for StressError
where
    T: IsTrouble,
{
    fn from(error: T) -> Self {
        StressError::Files(error.into())
    }
}

/// The errors of the file system that count as [`Trouble`] while the test is set up.
pub trait IsTrouble {}
impl IsTrouble for Trouble {}
impl IsTrouble for fs::error::CreateError {}
impl IsTrouble for fs::error::WriteError {}
impl IsTrouble for fs::error::RemoveError {}
impl IsTrouble for fs::error::LookupError {}

impl Failure for StressError {
    fn kind(&self) -> &'static str {
        match self {
            Self::Mounted => "mounted",
            Self::NoPmem => "no_pmem",
            Self::TooSmall { .. } => "too_small",
            Self::Mkfs(MkfsError::Exists) => "exists",
            Self::Mkfs(e) => e.kind(),
            Self::Mount(e) => e.kind(),
            Self::Umount(e) => e.kind(),
            Self::Remove(e) => e.kind(),
            Self::Add(e) => e.kind(),
            Self::Files(_) => "files",
            Self::Spawn(_) | Self::OutOfMemory(_) => "out_of_memory",
            Self::Violations(_) => "violations",
            Self::Missing(_) => "missing",
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        let advice = match self {
            Self::Mounted => "`umount` it first",
            Self::NoPmem => "start the machine with --pmem-size 64M",
            Self::TooSmall { .. } => "start the machine with a larger --pmem-size",
            Self::Mkfs(MkfsError::Exists) => "--force overwrites it, and everything in it",
            Self::Missing(_) => "give it more seconds",
            Self::Violations(_) => "each is told above, with the last events of its page",
            _ => return None,
        };
        Some(advice.into())
    }
}
