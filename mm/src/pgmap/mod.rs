//! pgmap: a range of device pages and the life of the device behind them.
//!
//! Invariant, kept here and owed to no caller: *a pgmap is never torn down while a page of it has a non-zero count.* A registered
//! pgmap is owned by the registry; only [`Pgmap::remove`] takes it out, and only after every page has come to rest:
//!
//! 1. the gate turns Dying: from here on [`Pgmap::map_get`] fails;
//! 2. the caller's `unmap_all` takes the pages out of every page table;
//! 3. the policy waits until nothing is in use: Sweep looks once at every populated page and waits for each that has a count,
//!    Counted waits for its own count. Why one look is enough, and why no page can leave 0 behind it: `life`.
//! 4. the gate turns Dead and the registry lets go. The metadata is freed with the last `Arc`, so a holder of a [`Folio`] never
//!    looks at freed memory, however late.
//!
//! # Who waits for what
//! [`Pgmap::wait_unpinned`] waits for the pins of a folio, not for the sum: a mapping made meanwhile does not keep the waiter
//! asleep, and the last unpin wakes it whatever is mapped. Waiters are keyed by the head's pfn in [`PAGE_WAITERS`]. Puts change
//! the count, then look for waiters; waiters enter the table, then look at the count (`sync::wait`).
//!
//! # Building folios
//! [`Pgmap::associate`] and [`Pgmap::dissociate`] write a folio's order and owner. Their callers hold the entry lock of the file
//! page; blocks of storage belong to one file page at a time, so no two callers work on one block.
//!
//! Locks: the registry's spin lock, and a spin lock around the ops, which [`Pgmap::set_ops`] waits for. No lock on the way of a
//! count that does not reach 0.

mod error;
mod ops;
mod registry;
mod remove;
mod runs;

pub use self::error::{AssociateError, Busy, PgmapError, PopulateError, RemoveError};
pub use self::ops::PgmapOps;
#[cfg(not(target_os = "none"))]
pub use self::registry::scratch_range;
pub use self::registry::{MAX_PGMAPS, find, find_pgmap};
pub(crate) use self::registry::{Peeked, peek_pgmap};
pub use crate::life::{Counted, GetError, Legacy, LifePolicy, State, Sweep};
pub use crate::page::{Counts, Owner, Page, PinError};

use self::ops::OpsSlot;
use crate::addr::{PageSize, Pfn, PfnRange};
use crate::life::Gate;
use crate::sparse::{HeapMeta, MetaAlloc, SparseMap};
use crate::sync::{Wait, WaitError, WaitQueue, WaitTable};
use crate::trace::{self, Kind, What};
use alloc::sync::Arc;
use core::marker::PhantomData;
use core::ops::ControlFlow;

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

/// A range of device pages, the ops of their user, and the policy `L` that keeps the device alive while they are in use.
pub struct Pgmap<L: LifePolicy = Sweep> {
    name: &'static str,
    map: SparseMap,
    gate: Gate,
    ops: OpsSlot,
    /// Woken when the gate's own count came to 0 during a removal.
    drained: WaitQueue,
    policy: PhantomData<fn() -> L>,
}

impl<L: LifePolicy> Pgmap<L> {
    /// Makes and registers the pgmap of `range`, its metadata in RAM. The range may start at any frame.
    ///
    /// Cost: 8 bytes for each GiB. Errors: the range overlaps a registered pgmap; memory is out; [`MAX_PGMAPS`] exist.
    pub fn new(
        name: &'static str,
        range: PfnRange,
        ops: Option<Arc<dyn PgmapOps>>,
    ) -> Result<Arc<Self>, PgmapError> {
        crate::mem::check_headroom()?;
        Self::with_metadata(name, range, ops, Arc::new(HeapMeta))
    }

    /// As [`Pgmap::new`], with the metadata where `mem` puts it ([`crate::sparse::DeviceMeta`]: on the device itself).
    pub fn with_metadata(
        name: &'static str,
        range: PfnRange,
        ops: Option<Arc<dyn PgmapOps>>,
        mem: Arc<dyn MetaAlloc>,
    ) -> Result<Arc<Self>, PgmapError> {
        crate::mem::check_headroom()?;
        let map = SparseMap::new(range, mem)?;
        let (gate, ops, drained) = (Gate::new(), OpsSlot::new(ops), WaitQueue::new());
        let this = Arc::new(Self {
            name,
            map,
            gate,
            ops,
            drained,
            policy: PhantomData,
        });
        registry::add(range, this.clone())?;
        Ok(this)
    }

    /// Sets who is told of idle pages; `None` clears it. When this returns, no call of the former ops is under way or will
    /// begin. Spins while calls are under way; not from within such a call.
    pub fn set_ops(&self, ops: Option<Arc<dyn PgmapOps>>) {
        self.ops.set(ops);
    }

    /// The name of the device.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The pages.
    pub fn range(&self) -> PfnRange {
        self.map.range()
    }

    /// Where the pgmap is in its life.
    pub fn state(&self) -> State {
        self.gate.state()
    }

    /// What the policy is called.
    pub fn policy(&self) -> &'static str {
        L::NAME
    }

    /// References that the policy itself counts: pages in use under Counted, pins under Legacy, 0 under Sweep.
    pub fn held(&self) -> u64 {
        self.gate.held()
    }

    /// Totals, by a walk over the populated sections. Exact when nobody changes counts meanwhile.
    pub fn stats(&self) -> PgmapStats {
        let pages = self.range().pages();
        let (mut busy, mut mapped, mut pinned) = (0, 0, 0);
        let _: ControlFlow<()> = self.map.visit(self.range(), |_, size, page| {
            let (counts, n) = (page.counts(), size.pages());
            busy += if counts.is_idle() { 0 } else { n };
            mapped += if counts.mapped > 0 { n } else { 0 };
            pinned += if counts.pinned > 0 { n } else { 0 };
            ControlFlow::Continue(())
        });
        PgmapStats {
            pages,
            idle: pages.saturating_sub(busy),
            mapped,
            pinned,
            populated_sections: self.map.populated_sections(),
            metadata_bytes: self.map.metadata_bytes(),
        }
    }

    /// Makes the metadata of a folio exist, so that a later [`Pgmap::associate`] of it cannot run out of memory.
    ///
    /// The folio's order is not recorded: only an associated folio can be mapped. Never sleeps.
    pub fn populate(&self, pfn: Pfn, size: PageSize) -> Result<Folio<'_>, PopulateError> {
        let range = self.range();
        if !pfn.is_aligned(size) {
            return Err(PopulateError::Misaligned { pfn, size });
        }
        if !PfnRange::new(pfn, size.pages()).is_some_and(|block| range.contains_range(block)) {
            return Err(PopulateError::OutOfRange { pfn, size, range });
        }
        let head = self
            .map
            .populate(pfn, size)?
            .ok_or(PopulateError::OutOfRange { pfn, size, range })?;
        Ok(Folio { head, pfn, size })
    }

    /// The folio in use that contains `pfn`, else the base page; `None` when it has no metadata (it is idle) or is not in the
    /// range. Lock-free, any context.
    pub fn folio(&self, pfn: Pfn) -> Option<Folio<'_>> {
        let (pfn, size, head) = self.map.find(pfn)?;
        Some(Folio { head, pfn, size })
    }

    /// The file page that `pfn` holds, also for a tail of a folio.
    pub fn owner_of(&self, pfn: Pfn) -> Option<Owner> {
        let folio = self.folio(pfn)?;
        let Owner { inode, index } = folio.owner()?;
        Some(Owner {
            inode,
            index: index + (pfn.get() - folio.pfn.get()),
        })
    }

    /// Ties a folio to a file page: records owner and order, and populates. The caller holds the entry lock.
    ///
    /// The same folio with the same owner again is no error. Errors: no metadata; or some of the block belongs to another
    /// file page, or to this one in another size, or has a count. Never sleeps. Costs a look at each populated page of
    /// the block.
    pub fn associate(
        &self,
        pfn: Pfn,
        size: PageSize,
        owner: Owner,
    ) -> Result<Folio<'_>, AssociateError> {
        let folio = self.populate(pfn, size)?;
        if folio.head.order() == size.order() && folio.owner() == Some(owner) {
            return Ok(folio);
        }
        if let Some(other) = self.in_the_way(&folio) {
            let Folio { pfn, size, .. } = other;
            return Err(AssociateError::InUse {
                pfn,
                size,
                owner: other.owner(),
                counts: other.counts(),
            });
        }
        folio.head.write(Some(owner), size.order());
        note_owner(Kind::EntryInsert, &folio, owner);
        Ok(folio)
    }

    /// A folio that shares a frame with `wanted` and has an owner or a count.
    fn in_the_way(&self, wanted: &Folio<'_>) -> Option<Folio<'_>> {
        let block = PfnRange::new(wanted.pfn, wanted.size.pages())?;
        let found = self.map.visit(block, |pfn, size, head| {
            let free = head.owner().is_none() && head.refs().is_settled_idle();
            if free {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(Folio { head, pfn, size })
            }
        });
        found.break_value()
    }

    /// Undoes [`Pgmap::associate`]: the folio has no owner and is no folio any more. The caller holds the entry lock, and
    /// knows that nobody maps the folio meanwhile. Errors: it has a count.
    pub fn dissociate(&self, folio: Folio<'_>) -> Result<(), Busy> {
        if !folio.head.refs().is_settled_idle() {
            return Err(Busy {
                pfn: folio.pfn,
                counts: folio.counts(),
            });
        }
        if let Some(owner) = folio.owner() {
            note_owner(Kind::EntryDelete, &folio, owner);
        }
        folio.head.write(None, 0);
        Ok(())
    }

    /// Adds one mapping: the one function that takes a folio from count 0, and the only one that asks whether the pgmap is
    /// alive. The caller then writes the page-table entry. Never sleeps.
    pub fn map_get(&self, folio: &Folio<'_>) -> Result<(), GetError> {
        debug_assert_eq!(
            folio.head.order(),
            folio.size.order(),
            "{} is not associated at this size",
            folio.pfn
        );
        let got = L::get(&self.gate, folio.head.refs());
        if got == Err(GetError::Dying) {
            // A claim or a hold that a removal waited for has gone.
            PAGE_WAITERS.wake_all(folio.pfn.get());
            self.drained.wake_all();
        }
        if got.is_ok() {
            self.note(Kind::MapGet, folio, |c| c.mapped);
        }
        got
    }

    /// Drops one mapping, after the page-table entry is gone from memory and from every TLB. Any context.
    pub fn map_put(&self, folio: &Folio<'_>) {
        self.note(Kind::MapPut, folio, |c| c.mapped.saturating_sub(1));
        if folio.head.refs().put_mapped().is_idle() {
            self.came_to_rest(folio);
            PAGE_WAITERS.wake_all(folio.pfn.get());
        }
    }

    /// Adds `n` pins unless the count is 0: one compare-and-exchange. The caller then reads the page-table entry again, and
    /// unpins if it changed. Any context, no lock.
    pub fn try_pin(&self, folio: &Folio<'_>, n: u32) -> Result<(), PinError> {
        L::pin(&self.gate, n)?;
        let pinned = folio.head.refs().try_pin(n);
        match pinned {
            Ok(()) => self.note(Kind::Pin, folio, |_| n),
            Err(_) => self.released(L::unpin(&self.gate, n)),
        }
        pinned
    }

    /// Drops `n` pins; wakes those who wait for the folio's pins when none is left. Any context.
    pub fn unpin(&self, folio: &Folio<'_>, n: u32) {
        self.note(Kind::Unpin, folio, |_| n);
        let left = folio.head.refs().put_pinned(n);
        if left.is_idle() {
            self.came_to_rest(folio);
        }
        self.released(L::unpin(&self.gate, n));
        if left.pinned == 0 {
            PAGE_WAITERS.wake_all(folio.pfn.get());
        }
    }

    /// The count reached 0. The user hears of it before the device can go.
    fn came_to_rest(&self, folio: &Folio<'_>) {
        self.ops.page_idle(folio.pfn, folio.size);
        self.released(L::idle(&self.gate));
    }

    #[inline(always)]
    fn note(&self, kind: Kind, folio: &Folio<'_>, value: impl FnOnce(Counts) -> u32) {
        trace::note(kind, || {
            let value = u64::from(value(folio.counts()));
            What::pages(folio.pfn, folio.size.pages()).with(value)
        });
    }

    fn released(&self, drained: bool) {
        if drained {
            self.drained.wake_all();
        }
    }

    /// The first folio that overlaps `range` and is pinned. Skips what has no metadata.
    pub fn first_pinned(&self, range: PfnRange) -> Option<(Pfn, Counts)> {
        self.first(range, |c| c.pinned > 0)
    }

    /// The first folio that overlaps `range` and is mapped or pinned. Skips what has no metadata.
    pub fn first_in_use(&self, range: PfnRange) -> Option<(Pfn, Counts)> {
        self.first(range, |c| !c.is_idle())
    }

    /// The first folio of the pgmap that has a count: what the invariant forbids once the pgmap is dead.
    pub fn first_busy(&self) -> Option<(Pfn, Counts)> {
        self.first(self.range(), |c| !c.is_idle())
    }

    fn first(&self, range: PfnRange, wanted: impl Fn(Counts) -> bool) -> Option<(Pfn, Counts)> {
        let found = self.map.visit(range, |pfn, _, page| {
            let counts = page.counts();
            if wanted(counts) {
                ControlFlow::Break((pfn, counts))
            } else {
                ControlFlow::Continue(())
            }
        });
        found.break_value()
    }

    /// Sleeps until the folio that contains `pfn` has no pins, whatever is mapped. No lock held by the caller is needed, and
    /// break_layouts holds none. Allocates nothing.
    pub fn wait_unpinned(&self, pfn: Pfn, wait: &Wait) -> Result<(), WaitError> {
        self.wait_counts(pfn, |counts| counts.pinned == 0, wait)
    }

    /// Sleeps until the counts of the folio that contains `pfn` are as `wanted`. Who sleeps is woken when the last pin goes and when
    /// the folio comes to rest; whoever changes something else that `wanted` looks at wakes [`PAGE_WAITERS`] itself. As
    /// [`Pgmap::wait_unpinned`] otherwise.
    pub fn wait_counts(
        &self,
        pfn: Pfn,
        wanted: impl Fn(Counts) -> bool,
        wait: &Wait,
    ) -> Result<(), WaitError> {
        let Some(folio) = self.folio(pfn) else {
            return Ok(());
        };
        PAGE_WAITERS.wait_until(folio.pfn.get(), || wanted(folio.counts()), wait)
    }
}

#[inline(always)]
fn note_owner(kind: Kind, folio: &Folio<'_>, owner: Owner) {
    let what = What::pages(folio.pfn, folio.size.pages());
    trace::note(kind, || what.file(owner.inode, owner.index));
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
