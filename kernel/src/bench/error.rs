//! Why a benchmark has no figure.

use dax::layout::BreakError;
use fs::CreateSizedError;
use fs::error::{CreateError, ReadError, RemoveError, TruncateError, WriteError};
use mm::aspace::{FaultError, MapError, UnmapError};
use mm::gup::GupError;
use mm::mem::OutOfMemory;
use mm::pgmap::{AssociateError, GetError, PgmapError, RemoveError as PgmapRemoveError};
use thiserror::Error;

use crate::shell::Failure;
use crate::thread::SpawnError;

/// Why a benchmark has no figure.
#[derive(Debug, Error)]
pub enum BenchError {
    /// A file was not made.
    #[error(transparent)]
    CreateSized(#[from] CreateSizedError),
    /// A file was not made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// A file was not removed.
    #[error(transparent)]
    Remove(#[from] RemoveError),
    /// A file was not read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file was not written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A file was not truncated.
    #[error(transparent)]
    Truncate(#[from] TruncateError),
    /// A layout was not broken.
    #[error(transparent)]
    Break(#[from] BreakError),
    /// Nothing was mapped.
    #[error(transparent)]
    Map(#[from] MapError),
    /// Something stayed mapped.
    #[error(transparent)]
    Unmap(#[from] UnmapError),
    /// A page could not be made accessible.
    #[error(transparent)]
    Fault(#[from] FaultError),
    /// Pages were not pinned.
    #[error(transparent)]
    Gup(#[from] GupError),
    /// No pgmap was made.
    #[error(transparent)]
    Pgmap(#[from] PgmapError),
    /// A page was not tied to a file.
    #[error(transparent)]
    Associate(#[from] AssociateError),
    /// A page was not mapped.
    #[error(transparent)]
    Get(#[from] GetError),
    /// A pgmap was not removed.
    #[error(transparent)]
    PgmapRemove(#[from] PgmapRemoveError),
    /// No thread was made.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// No memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// A mapping came in pages of another size than the benchmark is about: the free space has no aligned 2 MiB.
    #[error("the file could not be mapped in pages of the size that is measured")]
    OtherPageSize,
}

impl Failure for BenchError {
    fn kind(&self) -> &'static str {
        "bench"
    }
}

/// No benchmark has such a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no benchmark's name contains it")]
pub struct NoSuchBench;

impl Failure for NoSuchBench {
    fn kind(&self) -> &'static str {
        "no_such_bench"
    }

    fn advice(&self) -> Option<alloc::borrow::Cow<'static, str>> {
        Some("`bench --list` names them".into())
    }
}
