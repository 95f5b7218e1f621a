//! What a run of blocks is at each moment of its life, as a type.
//!
//! ```text
//! Free ──allocator──► Fresh ──fence──► Durable ──publish, commit──► in a file ──commit──► Freed ──quarantine──► Free
//! ```

use arrayvec::ArrayVec;
use dax::layout::Idle;
use dax::pmem::Pmem;

use super::{Applied, Media, Tx};
use crate::layout::{BLOCK_SIZE, Block, Ino};

/// A run of adjacent blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// First block.
    pub block: Block,
    /// Number of blocks.
    pub len: u64,
}

impl Run {
    /// First block after the run.
    #[must_use]
    pub const fn end(&self) -> Block {
        self.block + self.len
    }
}

/// What a block was used for; decides what its quarantine waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// File content (and nodes of extents, which no record ever targets): may be mapped and pinned.
    Data,
    /// Directory blocks: old records may target them (rule R6).
    Meta,
}

/// New runs of one operation: its data, and the new nodes of a file.
const SET: usize = crate::extents::plan::MOST_NODES + 1;

/// Blocks that belong to nobody yet: this holder may write them, no record names them.
///
/// Dropped without being published or abandoned they are lost until the next mount.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "publish it, or give it back with `abandon`"]
pub struct Fresh(Run);

/// Blocks whose content is durable, or which the record will call never written: it may publish them (rule R4).
#[derive(Debug, PartialEq, Eq)]
#[must_use = "publish it, or give it back with `abandon`"]
pub struct Durable(Run);

/// Blocks that a durable record has taken out of their file; on their way to quarantine.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "put it into quarantine"]
pub struct Freed {
    pub(crate) run: Run,
    pub(crate) class: Class,
    pub(crate) seq: u64,
}

/// An inode whose last name a durable record has removed: its blocks are free once nobody in memory uses them.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "put it on the list of orphans"]
pub struct Unlinked {
    ino: Ino,
    seq: u64,
}

impl Fresh {
    /// By the allocator only.
    pub(crate) const fn new(run: Run) -> Self {
        Self(run)
    }

    /// Where it is.
    #[must_use]
    pub const fn run(&self) -> Run {
        self.0
    }

    /// Zeroes bytes; durable with the set's fence.
    pub fn zero<P: Pmem>(&self, media: &Media<P>, at: u64, len: u64) {
        media.zero_data(self.0, at, len);
    }

    /// Writes bytes; durable with the set's fence.
    pub fn write<P: Pmem>(&self, media: &Media<P>, at: u64, data: &[u8]) {
        media.write_data(self.0, at, data);
    }

    /// Writes `data` at byte `at`, and zeroes all else.
    pub fn fill_around<P: Pmem>(&self, media: &Media<P>, at: u64, data: &[u8]) {
        let end = at + data.len() as u64;
        media.zero_data(self.0, 0, at);
        media.write_data(self.0, at, data);
        media.zero_data(self.0, end, self.0.len * BLOCK_SIZE - end);
        media.filled(self.0);
    }
}

/// The fresh runs of one operation, made durable by one fence; and whether anything was stored that the fence is for.
#[derive(Debug, Default)]
#[must_use = "make it durable"]
pub struct FreshSet {
    runs: ArrayVec<Fresh, SET>,
    stored: bool,
}

impl FreshSet {
    /// No runs.
    pub const fn new() -> Self {
        Self {
            runs: ArrayVec::new_const(),
            stored: false,
        }
    }

    /// A set of one run.
    pub fn of(fresh: Fresh) -> Self {
        let mut this = Self::untouched(fresh);
        this.stored = true;
        this
    }

    /// A set of one run that the record will say was never written, made by an operation that has stored nothing else: no fence for it.
    pub fn untouched(fresh: Fresh) -> Self {
        let mut this = Self::new();
        this.runs.push(fresh);
        this
    }

    /// No runs, but data was written in place that must be durable before the record.
    pub const fn written_in_place() -> Self {
        Self {
            runs: ArrayVec::new_const(),
            stored: true,
        }
    }

    /// Adds a run; a full set gives it back.
    pub fn add(&mut self, fresh: Fresh) -> Result<(), Fresh> {
        self.stored = true;
        self.runs.try_push(fresh).map_err(|full| full.element())
    }

    /// How many runs it has.
    pub const fn count(&self) -> usize {
        self.runs.len()
    }

    /// Fences, unless nothing was stored: what was written to the runs (and all else that this CPU wrote) is durable.
    pub fn fence<P: Pmem>(self, media: &Media<P>) -> impl Iterator<Item = Durable> {
        if self.stored {
            media.fence();
        }
        self.runs.into_iter().map(|fresh| Durable(fresh.0))
    }
}

impl Durable {
    /// Where it is.
    #[must_use]
    pub const fn run(&self) -> Run {
        self.0
    }

    pub(super) const fn into_run(self) -> Run {
        self.0
    }

    /// Gives it back unpublished.
    pub fn abandon(self) -> Fresh {
        Fresh(self.0)
    }
}

impl Unlinked {
    pub(super) const fn new(ino: Ino, seq: u64) -> Self {
        Self { ino, seq }
    }

    /// The orphan.
    #[must_use]
    pub const fn ino(&self) -> Ino {
        self.ino
    }

    /// The record that took its last name.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// A run of data of the orphan goes. `idle` covers all its pages.
    pub fn freed_data<T>(&self, run: Run, _idle: &Idle<'_, T>) -> Freed {
        let (class, seq) = (Class::Data, self.seq);
        Freed { run, class, seq }
    }

    /// A node of the orphan goes; never mapped, never targeted by a record.
    pub fn freed_node(&self, block: Block) -> Freed {
        let (run, class, seq) = (Run { block, len: 1 }, Class::Data, self.seq);
        Freed { run, class, seq }
    }

    /// A run of directory blocks of the orphan goes; never mapped.
    pub fn freed_meta(&self, run: Run) -> Freed {
        let (class, seq) = (Class::Meta, self.seq);
        Freed { run, class, seq }
    }
}

impl Tx<'_, Applied> {
    /// A run of data went with this record. `idle` covers its pages: truncating without it does not compile.
    ///
    /// ```compile_fail,E0061
    /// # use fs::commit::{Applied, Run, Tx};
    /// # fn f(tx: &Tx<'_, Applied>, run: Run) {
    /// let _ = tx.freed_data(run); // what says that nobody holds these pages?
    /// # }
    /// ```
    pub fn freed_data<T>(&self, run: Run, _idle: &Idle<'_, T>) -> Freed {
        let (class, seq) = (Class::Data, self.seq());
        Freed { run, class, seq }
    }

    /// A node was replaced by this record; never mapped, never targeted by a record.
    pub fn freed_node(&self, block: Block) -> Freed {
        let (run, class, seq) = (Run { block, len: 1 }, Class::Data, self.seq());
        Freed { run, class, seq }
    }

    /// The last name of `ino` went with this record.
    pub fn unlinked(&self, ino: Ino) -> Unlinked {
        Unlinked::new(ino, self.seq())
    }
}
