//! What may go wrong in a worker's operation, and what may not.

use crate::machine::MapFailure;
use crate::virtio::blk::SubmitError;
use alloc::format;
use alloc::string::String;
use dax::layout::BreakError;
use fs::error::{
    ChangeError, CreateError, LookupError, ReadError, RemoveError, TruncateError, WriteError,
};
use fs::{CreateSizedError, Gone};
use mm::aspace::{FaultError, MapError};
use mm::gup::GupError;
use mm::mem::OutOfMemory;

/// Why an operation came to nothing.
#[derive(Debug)]
pub enum Trouble {
    /// No block was free.
    NoSpace,
    /// The device is being removed.
    Gone,
    /// The page lies behind the end of the file, which somebody moved.
    PastEnd,
    /// A held page, and the operation was not to wait.
    WouldBlock,
    /// A held page, and time ran out.
    TimedOut,
    /// The kernel's memory is short, or more of the same is under way than there is room for.
    Short,
    /// What must not happen.
    Unexpected(String),
}

fn unexpected(error: impl core::fmt::Display) -> Trouble {
    Trouble::Unexpected(format!("{error}"))
}

impl From<FaultError> for Trouble {
    fn from(error: FaultError) -> Self {
        match error {
            FaultError::PastEof => Trouble::PastEnd,
            FaultError::NoSpace => Trouble::NoSpace,
            FaultError::Dying => Trouble::Gone,
            FaultError::OutOfMemory => Trouble::Short,
            other => unexpected(other),
        }
    }
}

impl From<GupError> for Trouble {
    fn from(error: GupError) -> Self {
        match error {
            GupError::Fault { why, .. } => why.into(),
            GupError::OutOfMemory => Trouble::Short,
            other => unexpected(other),
        }
    }
}

impl From<ChangeError> for Trouble {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::NoSpace { .. } | ChangeError::NoInodes => Trouble::NoSpace,
            ChangeError::Gone(_) => Trouble::Gone,
            ChangeError::OutOfMemory(_) => Trouble::Short,
            other => unexpected(other),
        }
    }
}

impl From<Gone> for Trouble {
    fn from(_: Gone) -> Self {
        Trouble::Gone
    }
}

impl From<OutOfMemory> for Trouble {
    fn from(_: OutOfMemory) -> Self {
        Trouble::Short
    }
}

impl From<LookupError> for Trouble {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::Gone(_) => Trouble::Gone,
            other => unexpected(other),
        }
    }
}

impl From<ReadError> for Trouble {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Gone(_) => Trouble::Gone,
            other => unexpected(other),
        }
    }
}

impl From<WriteError> for Trouble {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Change(change) => change.into(),
            other => unexpected(other),
        }
    }
}

impl From<TruncateError> for Trouble {
    fn from(error: TruncateError) -> Self {
        match error {
            TruncateError::Change(change) => change.into(),
            TruncateError::Break(BreakError::WouldBlock(_)) => Trouble::WouldBlock,
            TruncateError::Break(BreakError::TimedOut(_)) => Trouble::TimedOut,
            other => unexpected(other),
        }
    }
}

impl From<CreateError> for Trouble {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::Change(change) => change.into(),
            CreateError::Lookup(lookup) => lookup.into(),
            other => unexpected(other),
        }
    }
}

impl From<CreateSizedError> for Trouble {
    fn from(error: CreateSizedError) -> Self {
        match error {
            CreateSizedError::Create(create) => create.into(),
            CreateSizedError::Allocate(write) => write.into(),
        }
    }
}

impl From<RemoveError> for Trouble {
    fn from(error: RemoveError) -> Self {
        match error {
            RemoveError::Change(change) => change.into(),
            RemoveError::Lookup(lookup) => lookup.into(),
            other => unexpected(other),
        }
    }
}

impl From<MapError> for Trouble {
    fn from(error: MapError) -> Self {
        match error {
            MapError::OutOfMemory => Trouble::Short,
            other => unexpected(other),
        }
    }
}

impl From<MapFailure> for Trouble {
    fn from(error: MapFailure) -> Self {
        match error {
            MapFailure::Map(map) => map.into(),
            MapFailure::OutOfMemory(_) => Trouble::Short,
            other => unexpected(other),
        }
    }
}

impl From<SubmitError> for Trouble {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::OutOfMemory(_) => Trouble::Short,
            other => unexpected(other),
        }
    }
}
