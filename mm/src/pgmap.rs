//! A device's pages.

use crate::addr::{PageSize, Pfn, PfnRange};
use crate::life::Gate;
pub use crate::life::{Counted, GetError, Legacy, LifePolicy, State, Sweep};
use crate::mem::OutOfMemory;
pub use crate::page::{Counts, Owner, Page, PinError};
use crate::sync::{Wait, WaitError, WaitTable};
use alloc::sync::Arc;
use core::marker::PhantomData;
use thiserror::Error;

/// Waiters for pages, keyed by the pfn of the folio's head.
pub static PAGE_WAITERS: WaitTable = WaitTable::new();

/// One folio: a block that a single page-table entry can map, its count kept at the head.
#[derive(Clone, Copy)]
pub struct Folio<'a> {
    head: &'a Page,
    pfn: Pfn,
    size: PageSize,
}

impl<'a> Folio<'a> {
    /// The metadata.
    pub const fn head(&self) -> &'a Page {
        self.head
    }
    /// The first frame.
    pub const fn pfn(&self) -> Pfn {
        self.pfn
    }
    /// The size.
    pub const fn size(&self) -> PageSize {
        self.size
    }
    /// The count.
    pub fn counts(&self) -> Counts {
        self.head.counts()
    }
    /// The file page of the first frame.
    pub fn owner(&self) -> Option<Owner> {
        self.head.owner()
    }
}

/// What the user of a pgmap's pages is told.
pub trait PgmapOps: Send + Sync {
    /// The folio's total count reached 0. Any context: no sleep, no allocation, no call of [`Pgmap::set_ops`]. A hint: the
    /// folio may have left 0 again.
    fn page_idle(&self, pfn: Pfn, size: PageSize);
}

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

/// Totals of a pgmap, in base pages unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PgmapStats {
    /// Pages in the range.
    pub pages: u64,
    /// Pages whose count is 0.
    pub idle: u64,
    /// Pages of folios that are mapped.
    pub mapped: u64,
    /// Pages of folios that are pinned.
    pub pinned: u64,
    /// Nodes of the sparse page map.
    pub populated_sections: u64,
    /// Bytes of metadata, the root included.
    pub metadata_bytes: u64,
}

/// A range of device pages.
pub struct Pgmap<L: LifePolicy = Sweep> {
    name: &'static str,
    range: PfnRange,
    gate: Gate,
    policy: PhantomData<fn() -> L>,
}

impl<L: LifePolicy> Pgmap<L> {
    /// Makes and registers the pgmap of `range`.
    pub fn new(
        _name: &'static str,
        _range: PfnRange,
        _ops: Option<Arc<dyn PgmapOps>>,
    ) -> Result<Arc<Self>, PgmapError> {
        todo!()
    }
    /// Sets who is told of idle pages; `None` clears it. When this returns, no call of the former ops is under way or will
    /// begin.
    pub fn set_ops(&self, _ops: Option<Arc<dyn PgmapOps>>) {
        todo!()
    }
    /// The name of the device.
    pub fn name(&self) -> &'static str {
        self.name
    }
    /// The pages.
    pub fn range(&self) -> PfnRange {
        self.range
    }
    /// Where the pgmap is in its life.
    pub fn state(&self) -> State {
        self.gate.state()
    }
    /// Totals, by a walk over the populated sections.
    pub fn stats(&self) -> PgmapStats {
        todo!()
    }
    /// Makes the metadata of a folio exist, all zero if new.
    pub fn populate(&self, _pfn: Pfn, _size: PageSize) -> Result<Folio<'_>, PopulateError> {
        todo!()
    }
    /// The folio in use that contains `pfn`, else the base page; `None` when it has no metadata, that is, is idle.
    pub fn folio(&self, _pfn: Pfn) -> Option<Folio<'_>> {
        todo!()
    }
    /// Ties a folio to a file page, under the entry lock; populates.
    pub fn associate(
        &self,
        _pfn: Pfn,
        _size: PageSize,
        _owner: Owner,
    ) -> Result<Folio<'_>, AssociateError> {
        todo!()
    }
    /// Undoes [`Pgmap::associate`], under the entry lock, at count 0.
    pub fn dissociate(&self, _folio: Folio<'_>) -> Result<(), Busy> {
        todo!()
    }
    /// Adds one mapping.
    pub fn map_get(&self, _folio: &Folio<'_>) -> Result<(), GetError> {
        todo!()
    }
    /// Drops one mapping.
    pub fn map_put(&self, _folio: &Folio<'_>) {
        todo!()
    }
    /// Adds `n` pins unless the count is 0.
    pub fn try_pin(&self, _folio: &Folio<'_>, _n: u32) -> Result<(), PinError> {
        todo!()
    }
    /// Drops `n` pins.
    pub fn unpin(&self, _folio: &Folio<'_>, _n: u32) {
        todo!()
    }
    /// The first folio overlapping `range` that is pinned.
    pub fn first_pinned(&self, _range: PfnRange) -> Option<(Pfn, Counts)> {
        todo!()
    }
    /// Waits until the folio that contains `pfn` is not pinned.
    pub fn wait_unpinned(&self, _pfn: Pfn, _wait: &Wait) -> Result<(), WaitError> {
        todo!()
    }
    /// Removes the device.
    pub fn remove(&self, _unmap_all: impl FnMut(), _wait: &Wait) -> Result<(), RemoveError> {
        todo!()
    }
}

/// The pgmap that contains `pfn`.
pub fn find_pgmap(_pfn: Pfn) -> Option<Arc<Pgmap>> {
    todo!()
}

/// A range of frame numbers that no other call returns, 1 GiB-aligned: for host tests, which share one registry.
#[cfg(not(target_os = "none"))]
pub fn scratch_range(_pages: u64) -> PfnRange {
    todo!()
}
