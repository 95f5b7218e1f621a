//! What can go wrong with a pgmap, one small enum for each operation.

use crate::addr::{PageSize, Pfn, PfnRange};
use crate::mem::OutOfMemory;
use crate::page::{Counts, Owner};
use crate::sync::WaitError;
use thiserror::Error;

/// Why a pgmap could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PgmapError {
    /// Another pgmap covers some of the range.
    #[error("{wanted} overlaps the pgmap of {other}")]
    Overlap {
        /// The range asked for.
        wanted: PfnRange,
        /// The range of the pgmap that is there.
        other: PfnRange,
    },
    /// No memory.
    #[error("out of memory")]
    OutOfMemory,
    /// There are as many pgmaps as there may be.
    #[error("too many pgmaps")]
    Full,
}

impl From<OutOfMemory> for PgmapError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Why metadata could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PopulateError {
    /// The folio does not lie in the pgmap.
    #[error("{pfn} ({size}) is not in {range}")]
    OutOfRange {
        /// The first frame.
        pfn: Pfn,
        /// The size.
        size: PageSize,
        /// The pgmap's range.
        range: PfnRange,
    },
    /// The first frame is not aligned to the size.
    #[error("{pfn} is not aligned for {size}")]
    Misaligned {
        /// The first frame.
        pfn: Pfn,
        /// The size.
        size: PageSize,
    },
    /// No memory.
    #[error("out of memory")]
    OutOfMemory,
}

impl From<OutOfMemory> for PopulateError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Why a folio could not be associated with a file page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AssociateError {
    /// No metadata.
    #[error(transparent)]
    Populate(#[from] PopulateError),
    /// Some of the block belongs to a file page already, or is in use.
    #[error("{pfn} ({size}) is in use: {counts}")]
    InUse {
        /// The head of the folio in the way.
        pfn: Pfn,
        /// Its size.
        size: PageSize,
        /// Its owner.
        owner: Option<Owner>,
        /// Its count.
        counts: Counts,
    },
}

/// A folio cannot be dissociated: somebody refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{pfn} is in use: {counts}")]
pub struct Busy {
    /// The folio's first frame.
    pub pfn: Pfn,
    /// Its count.
    pub counts: Counts,
}

/// Why a removal has not ended. The pgmap stays dying; removing it again goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{why}; {held} page references remain, the first at {first:?}")]
pub struct RemoveError {
    /// What ended the wait.
    pub why: WaitError,
    /// The folio waited for.
    pub first: Option<(Pfn, Counts)>,
    /// References that the policy counts; 0 under Sweep.
    pub held: u64,
}
