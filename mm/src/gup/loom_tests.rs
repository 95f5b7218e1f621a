//! gup-fast, by loom, over the shipped page table, list of mappings, gather and counts. Bounds: two threads, one or two pages; the number
//! of forced switches stands in each test.

#![expect(unsafe_code, reason = "reads and writes what loom watches")]

use super::fast::pin_ahead;
use super::pinned::PinnedPages;
use crate::addr::{PAGE_SIZE, PageSize, Pfn, VirtAddr};
use crate::aspace::{
    Access, AddressSpace, Attachment, FaultAt, FaultError, FaultSink, Prot, SpaceId, VaRange,
    VmObject,
};
use crate::fake::{HeapTables, ModelTlb};
use crate::mem::OutOfMemory;
use crate::page::{Counts, Owner};
use crate::pgmap::{Pgmap, scratch_range};
use crate::sync::Wait;
use crate::sync::model::{Bounds, JoinHandle, check, spawn};
use crate::table::PageTable;
use std::sync::Arc;

/// Written when the page changes hands or is called clean, read by its holders: loom fails the model if the two are not ordered.
#[derive(Default)]
struct Changed(loom::cell::UnsafeCell<bool>);

// SAFETY: loom checks every access.
unsafe impl Sync for Changed {}
// SAFETY: as above.
unsafe impl Send for Changed {}

impl Changed {
    fn set(&self) {
        // SAFETY: exclusive, or loom fails the model.
        self.0.with_mut(|f| unsafe { *f = true });
    }

    fn is_set(&self) -> bool {
        // SAFETY: nobody writes, or loom fails the model.
        self.0.with(|f| unsafe { *f })
    }
}

/// A file in one piece from the first frame of its device on.
struct File(Arc<Pgmap>);

impl VmObject for File {
    fn fault(&self, at: &FaultAt, sink: &FaultSink<'_>) -> Result<(), FaultError> {
        let index = at.file_page;
        let pfn = self.0.range().start().checked_add(index).unwrap();
        let owner = Owner { inode: 1, index };
        let folio = self.0.associate(pfn, PageSize::Size4K, owner).unwrap();
        sink.install(at.va, &folio, &self.0, true).map(drop)
    }

    fn attach(&self, _: Attachment) -> Result<(), OutOfMemory> {
        Ok(())
    }

    fn detach(&self, _: SpaceId, _: VaRange) {}
}

struct World {
    space: Arc<AddressSpace>,
    tlb: Arc<ModelTlb>,
    pgmap: Arc<Pgmap>,
    range: VaRange,
    /// Another mapping of the same pages.
    elsewhere: VaRange,
    changed: Changed,
}

impl World {
    /// Two mappings of two pages, the first page of the first mapping present.
    fn new() -> Arc<Self> {
        let pgmap = Pgmap::new("loom", scratch_range(8), None).unwrap();
        let window = VaRange::new(VirtAddr::new(1 << 40), 64).unwrap();
        let tlb = ModelTlb::new();
        let tables = HeapTables::new();
        let root = PageTable::new(tables.clone()).unwrap().root();
        // SAFETY: the root is new and nobody else's. It outlives the address space with `tables`; a part of a root has no tables of its
        // own to be looked through and freed, which would take an atomic for each entry.
        let space = unsafe { AddressSpace::with_root(tables, tlb.clone(), root, window) }.unwrap();
        let map = || {
            let file = Arc::new(File(pgmap.clone()));
            space.map(file, 0, 2, Prot::WRITE, PageSize::Size4K)
        };
        let (range, elsewhere) = (map().unwrap(), map().unwrap());
        space.handle_fault(range.start(), Access::Write).unwrap();
        let changed = Changed::default();
        Arc::new(Self {
            space,
            tlb,
            pgmap,
            range,
            elsewhere,
            changed,
        })
    }

    /// A thread that pins the first page, and looks whether it may hold it.
    fn holder(self: &Arc<Self>) -> JoinHandle<()> {
        let w = self.clone();
        spawn(move || {
            let pins = w.pin(0);
            if pins.pages() > 0 {
                assert!(!w.changed.is_set(), "a pin through an entry that had gone");
            }
        })
    }

    /// Maps one page after the other until there are `mappings`.
    fn fill(&self, mappings: u64) {
        for n in self.space.mappings() as u64..mappings {
            let file = Arc::new(File(self.pgmap.clone()));
            self.space
                .map(file, n, 1, Prot::WRITE, PageSize::Size4K)
                .unwrap();
        }
    }

    /// The device goes, so that the next execution finds none.
    fn end(&self) {
        let unmap = || self.space.zap(self.space.window());
        self.pgmap.remove(unmap, &Wait::forever()).unwrap();
    }

    fn pfn(&self, n: u64) -> Pfn {
        self.pgmap.range().start().checked_add(n).unwrap()
    }

    fn counts(&self, n: u64) -> Counts {
        self.pgmap.folio(self.pfn(n)).unwrap().counts()
    }

    /// Pins without a lock what it can from page `first` on.
    fn pin(&self, first: u64) -> PinnedPages {
        let at = self.range.start() + first * PAGE_SIZE;
        let mut pinned = PinnedPages::empty();
        pin_ahead(&self.space, at, self.range.end(), true, &mut pinned).unwrap();
        pinned
    }
}

/// The law: who zapped a page and then reads a count of 0 may free it and give it to somebody else, who maps it; no pin exists then, nor
/// appears, for those who came through the old entry.
fn a_pin_against_a_zap(preemptions: usize, flush_waits: bool) {
    check(Bounds::preemptions(preemptions).objects(256), move || {
        let w = World::new();
        if !flush_waits {
            w.tlb.ignore_walkers();
        }
        let pinner = w.holder();
        w.space.zap(w.range);
        if w.counts(0).is_idle() {
            w.changed.set();
            w.space
                .handle_fault(w.elsewhere.start(), Access::Write)
                .unwrap();
        }
        pinner.join().unwrap();
        assert_eq!(w.counts(0).pinned, 0);
        w.end();
    });
}

#[test]
fn a_pin_is_seen_by_a_zap_whose_flush_waits_for_nobody() {
    a_pin_against_a_zap(3, false);
}

#[test]
fn a_pin_is_seen_by_a_zap() {
    a_pin_against_a_zap(2, true);
}

/// The law: who takes the permission to store away and then reads no pin may call the page clean; no pin for stores exists then, nor
/// appears, for those who came through the writable entry.
fn a_pin_against_a_write_protection(preemptions: usize, flush_waits: bool) {
    check(Bounds::preemptions(preemptions).objects(256), move || {
        let w = World::new();
        if !flush_waits {
            w.tlb.ignore_walkers();
        }
        let pinner = w.holder();
        w.space.write_protect(w.range);
        if w.counts(0).pinned == 0 {
            w.changed.set();
        }
        pinner.join().unwrap();
        assert_eq!(w.counts(0).pinned, 0);
        w.end();
    });
}

#[test]
fn a_pin_is_seen_by_a_write_protection_whose_flush_waits_for_nobody() {
    a_pin_against_a_write_protection(3, false);
}

#[test]
fn a_pin_is_seen_by_a_write_protection() {
    a_pin_against_a_write_protection(2, true);
}

/// A mapping is removed and freed while a walker looks for it: it is found whole, or not at all, and never after it was freed. Nothing
/// of it is present, so nothing else flushes.
#[test]
fn a_mapping_is_freed_behind_its_walkers() {
    check(Bounds::preemptions(2).objects(256), || {
        let w = World::new();
        let walker = {
            let w = w.clone();
            spawn(move || assert_eq!(w.pin(1).pages(), 0))
        };
        // The first page stays, and with it the list's other mapping.
        w.space.unmap(w.range.part(1, 1).unwrap()).unwrap();
        walker.join().unwrap();
        w.end();
    });
}

/// The list grows, and the array that became too small is freed, while a walker searches it.
#[test]
fn a_list_grows_behind_its_walkers() {
    check(Bounds::preemptions(2).objects(256), || {
        let w = World::new();
        w.fill(8);
        let walker = {
            let w = w.clone();
            spawn(move || assert_eq!(w.pin(0).pages(), 1))
        };
        w.fill(9);
        walker.join().unwrap();
        w.end();
    });
}
