mod history;
mod large;
mod zap;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::vec::Vec;

use super::testing::*;
use super::*;
use crate::addr::PAGE_SIZE;
use crate::fake::HeapTables;
use crate::page::Counts;
use crate::sync::{Wait, held_by_current, now_us};

const RW: Prot = Prot::WRITE;
const RO: Prot = Prot::empty();
const PAGES_2M: u64 = 512;

fn mapped(n: u32) -> Counts {
    Counts {
        mapped: n,
        pinned: 0,
    }
}

#[test]
fn a_hole_reads_as_the_zero_page_until_the_first_store() {
    let w = World::new();
    let file = w.file(0, 0);
    let va = w.map(&file, 1, RW).start();
    assert_eq!(
        w.tlb.access(&w.space, va, Access::Read).unwrap().get(),
        ZERO_PAGE
    );
    let on_another_cpu = w.tlb.access_on(1, &w.space, va, Access::Read);
    assert_eq!(on_another_cpu.unwrap().get(), ZERO_PAGE);
    assert!(!w.space.translate(va).unwrap().counted);
    assert_eq!(w.tlb.access(&w.space, va, Access::Write), Ok(w.pfn(0)));
    assert_eq!(w.counts(0), mapped(1));
    assert!(
        !w.tlb.reaches(Pfn::new(ZERO_PAGE).unwrap(), 1),
        "the zero page was flushed before it was replaced"
    );
    assert_eq!(w.tlb.access_on(1, &w.space, va, Access::Read), Ok(w.pfn(0)));
}

/// An object whose end maps another one, as any thread may do when a range has just become free.
struct Successor(Arc<AddressSpace>, Arc<TestFile>, Arc<Mutex<Vec<VaRange>>>);

impl VmObject for Successor {
    fn fault(&self, _: &FaultAt, _: &FaultSink<'_>) -> Result<(), FaultError> {
        Err(FaultError::Io)
    }
    fn attach(&self, _: Attachment) -> Result<(), OutOfMemory> {
        Ok(())
    }
    fn detach(&self, _: SpaceId, _: VaRange) {}
}

impl Drop for Successor {
    fn drop(&mut self) {
        let at = self.0.map(self.1.clone(), 0, 2, RW, PageSize::Size4K);
        self.2.lock().unwrap().push(at.unwrap());
    }
}

#[test]
fn unmapping_leaves_alone_what_is_mapped_there_meanwhile() {
    let w = World::new();
    let (file, mapped_then) = (w.file(0, 2), Arc::new(Mutex::new(Vec::new())));
    let successor = Successor(w.space.clone(), file, mapped_then.clone());
    let range = w
        .space
        .map(Arc::new(successor), 0, 2, RW, PageSize::Size4K)
        .unwrap();
    w.space.unmap(range).unwrap();
    assert_eq!(*mapped_then.lock().unwrap(), [range], "the same addresses");
    w.touch(range, Access::Write);
    w.space.unmap(range).unwrap();
}

#[test]
fn each_mapping_holds_one_reference() {
    let w = World::new();
    let (file, other) = (w.file(0, 1), w.another_space());
    let (a, b) = (w.map(&file, 1, RW), w.map(&file, 1, RO));
    let c = other.map(file.clone(), 0, 1, RO, PageSize::Size4K).unwrap();
    w.touch(a, Access::Read);
    w.touch(a, Access::Write);
    w.touch(b, Access::Read);
    w.tlb.access(&other, c.start(), Access::Read).unwrap();
    assert_eq!(w.counts(0), mapped(3));
    w.space.unmap(a).unwrap();
    assert_eq!(w.counts(0), mapped(2));
    drop(other);
    assert_eq!(w.counts(0), mapped(1));
    w.space.unmap(b).unwrap();
    assert_eq!(w.counts(0), mapped(0));
    w.assert_order_kept();
}

#[test]
fn unmapping_the_middle_leaves_both_ends() {
    let w = World::new();
    let file = w.file(0, 9);
    let range = w.map(&file, 9, RW);
    w.touch(range, Access::Write);
    w.space.unmap(range.part(3, 3).unwrap()).unwrap();
    let held: Vec<u32> = (0..9).map(|n| w.counts(n).mapped).collect();
    assert_eq!(held, [1, 1, 1, 0, 0, 0, 1, 1, 1]);
    let pages: Vec<_> = file
        .state()
        .attachments
        .iter()
        .map(|a| a.file_pages())
        .collect();
    assert_eq!(pages, [0..3, 6..9]);
    assert_eq!(
        w.space
            .handle_fault(range.start() + 3 * PAGE_SIZE, Access::Read),
        Err(FaultError::NoMapping)
    );
    file.zap(7..8);
    assert_eq!(
        w.counts(7),
        mapped(0),
        "the attachment knows where page 7 is"
    );
    assert_eq!(
        w.tlb
            .access(&w.space, range.start() + 7 * PAGE_SIZE, Access::Read),
        Ok(w.pfn(7))
    );
    w.assert_order_kept();
}

#[test]
fn unmapping_takes_everything_in_the_range_and_reports_an_empty_one() {
    let w = World::new();
    let (a, b) = (w.file(0, 2), w.file(10, 2));
    let (first, second) = (w.map(&a, 2, RW), w.map(&b, 2, RW));
    assert_eq!(first.end(), second.start());
    w.space
        .unmap(VaRange::new(first.start() + PAGE_SIZE, 2).unwrap())
        .unwrap();
    assert_eq!(a.state().attachments[0].file_pages(), 0..1);
    assert_eq!(b.state().attachments[0].file_pages(), 1..2);
    assert_eq!(
        w.space
            .unmap(VaRange::new(first.start() + PAGE_SIZE, 2).unwrap()),
        Err(UnmapError::NotMapped)
    );
    w.space.unmap(w.space.window()).unwrap();
    assert!(a.state().attachments.is_empty() && b.state().attachments.is_empty());
}

#[test]
fn a_cut_that_cannot_be_recorded_changes_nothing() {
    let w = World::new();
    let file = w.file(0, 3);
    let range = w.map(&file, 3, RW);
    w.touch(range, Access::Write);
    file.state()
        .broken
        .insert(u64::MAX, FaultError::OutOfMemory);
    assert_eq!(
        w.space.unmap(range.part(1, 1).unwrap()),
        Err(UnmapError::OutOfMemory)
    );
    assert_eq!(w.counts(1), mapped(1));
    assert_eq!(file.state().attachments.len(), 1);
    w.space
        .unmap(range)
        .expect("whole mappings go without memory");
}

#[test]
fn empty_tables_go_with_the_mapping_after_the_flush() {
    let w = World::new();
    let (a, b) = (w.map(&w.file(0, 1), 1, RW), w.map(&w.file(1, 600), 600, RW));
    w.touch(a, Access::Read);
    w.touch(b, Access::Read);
    // So that the flush in the unmapping is the one for the tables.
    w.space.zap(b);
    assert_eq!(w.mem.live(), 5);
    let (mem, stale) = (w.mem.clone(), Arc::new(AtomicU64::new(0)));
    let live_in_flush = stale.clone();
    w.tlb
        .on_flush(move |_| live_in_flush.store(mem.live() as u64, Ordering::Relaxed));
    w.space.unmap(b).unwrap();
    assert_eq!(
        stale.load(Ordering::Relaxed),
        5,
        "detached tables stay allocated during the flush"
    );
    assert_eq!(w.mem.live(), 4, "the other mapping needs the rest");
    w.touch(a, Access::Read);
    w.space.unmap(a).unwrap();
    assert_eq!(w.mem.live(), 1);
}

#[test]
fn an_address_space_in_a_foreign_table_leaves_its_root_and_neighbours() {
    let w = World::new();
    let outer = crate::table::PageTable::new(w.mem.clone()).unwrap();
    let window = VaRange::new(VirtAddr::new(3 << 30), 1 << 18).unwrap();
    let (outside, phys) = (
        VirtAddr::new(window.start().as_u64() - PAGE_SIZE),
        crate::addr::PhysAddr::new(0x5000),
    );
    outer
        .map(
            outside,
            phys,
            PageSize::Size4K,
            crate::table::MapFlags::WRITABLE,
        )
        .unwrap();
    // SAFETY: nothing is mapped in the window, and the table outlives the address space.
    let space =
        unsafe { AddressSpace::with_root(w.mem.clone(), w.tlb.clone(), outer.root(), window) }
            .unwrap();
    let before = w.mem.live();
    let range = space.map(w.file(0, 4), 0, 4, RW, PageSize::Size4K).unwrap();
    w.tlb.access(&space, range.start(), Access::Write).unwrap();
    assert_eq!(
        outer.walk(range.start()).unwrap().pfn_at(range.start()),
        w.pfn(0)
    );
    drop(space);
    assert_eq!((w.counts(0), w.mem.live()), (mapped(0), before));
    assert!(outer.walk(outside).is_some());
    w.assert_order_kept();
}

#[test]
fn addresses_agree_with_the_file_offset() {
    let w = World::new();
    let file = w.file(0, 0);
    let map = |page, pages, align| {
        w.space
            .map(file.clone(), page, pages, RW, align)
            .unwrap()
            .start()
            .as_u64()
    };
    assert_eq!(map(0, 1, PageSize::Size4K), WINDOW_START);
    assert_eq!(map(3, 600, PageSize::Size2M), WINDOW_START + 3 * PAGE_SIZE);
    assert_eq!(map(0, 1, PageSize::Size2M) % PageSize::Size2M.bytes(), 0);
    assert_eq!(
        map(5 + (1 << 18), 1, PageSize::Size1G),
        WINDOW_START + (1 << 30) + 5 * PAGE_SIZE
    );
    assert_eq!(
        map(9, 2, PageSize::Size4K),
        WINDOW_START + PAGE_SIZE,
        "the first hole that fits"
    );
}

#[test]
fn what_cannot_be_mapped_says_why() {
    let w = World::new();
    let file = w.file(0, 0);
    let map = |page, pages| {
        w.space
            .map(file.clone(), page, pages, RW, PageSize::Size4K)
            .unwrap_err()
    };
    assert_eq!(map(0, 0), MapError::BadRange);
    assert_eq!(map(u64::MAX, 1), MapError::BadRange);
    assert_eq!(map(0, w.space.window().pages() + 1), MapError::NoRoom);
    assert_eq!(map(0, u64::MAX), MapError::NoRoom);
    crate::mem::inject::headroom(0);
    assert_eq!(map(0, 1), MapError::OutOfMemory);
    crate::mem::inject::headroom(usize::MAX);
    file.state()
        .broken
        .insert(u64::MAX, FaultError::OutOfMemory);
    assert_eq!(map(0, 1), MapError::OutOfMemory);
    assert_eq!(
        w.space.handle_fault(w.space.window().start(), Access::Read),
        Err(FaultError::NoMapping)
    );
}

#[test]
fn accesses_that_are_not_permitted_reach_no_object() {
    let w = World::new();
    let file = w.file(0, 1);
    let range = w.map(&file, 1, RO);
    assert_eq!(
        w.space.handle_fault(range.start(), Access::Write),
        Err(FaultError::Permission)
    );
    assert_eq!(
        w.space.handle_fault(range.start(), Access::Execute),
        Err(FaultError::Permission)
    );
    assert_eq!(
        w.space.handle_fault(range.end(), Access::Read),
        Err(FaultError::NoMapping)
    );
    assert_eq!(file.state().faults, []);
    file.state().broken.insert(0, FaultError::PastEof);
    assert_eq!(
        w.space.handle_fault(range.start(), Access::Read),
        Err(FaultError::PastEof)
    );
}

#[test]
fn a_fault_that_another_cpu_has_handled_reaches_no_object() {
    let w = World::new();
    let file = w.file(0, 1);
    let range = w.map(&file, 1, RW);
    w.space.handle_fault(range.start(), Access::Write).unwrap();
    w.space
        .handle_fault(range.start() + 8_u64, Access::Write)
        .unwrap();
    w.space.handle_fault(range.start(), Access::Read).unwrap();
    assert_eq!(file.state().faults, [(0, Access::Write)]);
}

#[test]
fn the_file_sees_where_the_fault_was() {
    let w = World::new();
    let file = w.file(0, 10);
    let range = w
        .space
        .map(file.clone(), 4, 6, RW, PageSize::Size4K)
        .unwrap();
    assert_eq!(
        w.tlb
            .access(&w.space, range.start() + 2 * PAGE_SIZE + 5, Access::Write),
        Ok(w.pfn(6))
    );
    assert_eq!(file.state().faults, [(6, Access::Write)]);
}

#[test]
fn no_memory_for_a_table_costs_no_reference() {
    let w = World::with(HeapTables::with_limit(3));
    let range = w.map(&w.file(0, 1), 1, RW);
    assert_eq!(
        w.space.handle_fault(range.start(), Access::Write),
        Err(FaultError::OutOfMemory)
    );
    assert_eq!(w.counts(0), mapped(0));
    let hole = w.map(&w.file(9, 0), 1, RW);
    assert_eq!(
        w.space.handle_fault(hole.start(), Access::Read),
        Err(FaultError::OutOfMemory)
    );
}

#[test]
fn a_dying_device_takes_no_new_mapping() {
    let w = World::new();
    let range = w.map(&w.file(0, 2), 2, RW);
    w.tlb.access(&w.space, range.start(), Access::Read).unwrap();
    w.pgmap.remove(|| {}, &Wait::until(now_us())).unwrap_err();
    assert_eq!(
        w.space
            .handle_fault(range.start() + PAGE_SIZE, Access::Read),
        Err(FaultError::Dying)
    );
    assert_eq!(w.counts(1), mapped(0));
    w.pgmap
        .remove(|| w.space.zap(range), &Wait::forever())
        .unwrap();
    w.assert_order_kept();
}

#[test]
fn the_end_of_an_address_space_drops_its_references_and_attachments() {
    let w = World::new();
    let file = w.file(0, 5);
    let range = w.map(&file, 5, RW);
    w.touch(range, Access::Write);
    let late = file.state().attachments[0].clone();
    let World { space, mem, .. } = &w;
    let (gone, mem) = (Arc::downgrade(space), mem.clone());
    let (tlb, watch) = (w.tlb.clone(), w.watch.clone());
    drop(w);
    assert!(gone.upgrade().is_none() && file.state().attachments.is_empty());
    assert_eq!(lock(&watch.idle).len(), 5);
    assert!(lock(&watch.early).is_empty() && !tlb.may_write(lock(&watch.idle)[0]));
    late.zap(0..5);
    drop(late);
    assert_eq!(
        mem.live(),
        0,
        "the last attachment keeps the root, no longer"
    );
}

/// An object whose end notes the locks that its thread holds.
struct LastWords(Arc<Mutex<Option<usize>>>);

impl VmObject for LastWords {
    fn fault(&self, _: &FaultAt, _: &FaultSink<'_>) -> Result<(), FaultError> {
        Err(FaultError::Io)
    }
    fn attach(&self, _: Attachment) -> Result<(), OutOfMemory> {
        Ok(())
    }
    fn detach(&self, _: SpaceId, _: VaRange) {}
}

impl Drop for LastWords {
    fn drop(&mut self) {
        *lock(&self.0) = Some(held_by_current().len());
    }
}

#[test]
fn the_last_reference_to_an_object_is_dropped_without_locks() {
    let (w, held) = (World::new(), Arc::new(Mutex::new(None)));
    let object = Arc::new(LastWords(held.clone()));
    let gone: Weak<LastWords> = Arc::downgrade(&object);
    let range = w.space.map(object, 0, 1, RO, PageSize::Size4K).unwrap();
    assert_eq!(
        w.space.handle_fault(range.start(), Access::Read),
        Err(FaultError::Io)
    );
    w.space.unmap(range).unwrap();
    assert!(gone.upgrade().is_none());
    assert_eq!(*lock(&held), Some(0));
}

/// Faults, zaps, write protection and unmapping from four threads: every count ends at 0, and no page is idle too
/// early.
#[test]
fn concurrent_faults_and_zaps_keep_the_counts_exact() {
    let w = World::new();
    let file = w.file(0, 70);
    let range = w.map(&file, 70, RW);
    let rounds = if cfg!(miri) { 2 } else { 400 };
    std::thread::scope(|s| {
        for access in [Access::Read, Access::Write] {
            let w = &w;
            s.spawn(move || (0..rounds / 4).for_each(|_| w.touch(range, access)));
        }
        s.spawn(|| (0..rounds).for_each(|i| w.space.zap(range.part(i % 60, 10).unwrap())));
        s.spawn(|| {
            (0..rounds).for_each(|i| w.space.write_protect(range.part(i % 60, 10).unwrap()))
        });
    });
    assert!((0..70).all(|n| w.counts(n).mapped
        == u32::from(w.space.translate(range.start() + n * PAGE_SIZE).is_some())));
    w.space.unmap(range).unwrap();
    assert!((0..70).all(|n| w.counts(n).is_idle()));
    assert_eq!(w.mem.live(), 1);
    w.assert_order_kept();
}
