//! Zap and write protection: the order of their steps, how often they flush, and two of them at once.

use super::*;

/// The order of the zap: while the flush runs the entries are gone and every reference is still there.
#[test]
fn no_reference_is_dropped_before_the_flush_is_done() {
    let w = World::new();
    let range = w.map(&w.file(0, 200), 200, RW);
    w.touch(range, Access::Write);
    let (pgmap, space, seen) = (
        w.pgmap.clone(),
        Arc::downgrade(&w.space),
        Arc::new(AtomicU64::new(0)),
    );
    let flushed = seen.clone();
    w.tlb.on_flush(move |part| {
        let Some(space) = space.upgrade() else { return };
        for page in 0..part.pages() {
            assert_eq!(
                space.translate(part.start() + page * PAGE_SIZE),
                None,
                "cleared before the flush"
            );
            let pfn = pgmap
                .range()
                .start()
                .checked_add(range.page_of(part.start()) + page)
                .unwrap();
            assert_eq!(
                pgmap.folio(pfn).unwrap().counts(),
                mapped(1),
                "referenced until after the flush"
            );
        }
        flushed.fetch_add(part.pages(), Ordering::Relaxed);
    });
    w.space.zap(range);
    assert_eq!(seen.load(Ordering::Relaxed), 200);
    assert_eq!(lock(&w.watch.idle).len(), 200);
    assert!((0..200).all(|n| w.counts(n).is_idle()));
    w.assert_order_kept();
}

#[test]
fn a_zap_flushes_once_for_storage_in_one_piece_and_not_at_all_if_nothing_was_mapped() {
    let w = World::new();
    let range = w.map(&w.file(0, 1500), 1500, RW);
    w.space.zap(range);
    assert_eq!(w.tlb.flushes(), 0);
    w.touch(range, Access::Read);
    w.space.zap(range);
    assert_eq!(w.tlb.flushes(), 1);
    assert!((0..1500).all(|n| w.counts(n).is_idle()));
}

/// A file of which no page follows another in storage: one segment for each.
fn scattered(w: &World, first: u64, pages: u64) -> Arc<TestFile> {
    let file = TestFile::new(&w.pgmap, first);
    (0..pages).for_each(|p| file.add_block(p, w.pfn(first + 2 * p), PageSize::Size4K));
    file
}

#[test]
fn a_zap_of_scattered_pages_flushes_as_often_as_its_room_is_full() {
    let w = World::new();
    let range = w.map(&scattered(&w, 0, 1200), 1200, RW);
    w.touch(range, Access::Read);
    w.space.zap(range);
    let room = (gather::NEAR + gather::ROOM) as u64;
    assert_eq!(w.tlb.flushes(), 1200_u64.div_ceil(room));
    assert_eq!(lock(&w.watch.idle).len(), 1200);
    w.assert_order_kept();
}

/// A second zap of the same address space while the first flushes: the room is lent out, and the stack serves.
#[test]
fn a_zap_without_the_room_flushes_in_smaller_batches() {
    let w = Arc::new(World::new());
    let range = w.map(&scattered(&w, 0, 100), 100, RW);
    w.touch(range, Access::Read);
    let (first, second) = (range.part(0, 20).unwrap(), range.part(20, 80).unwrap());
    let (other, nested) = (Arc::downgrade(&w), AtomicU64::new(0));
    w.tlb.on_flush(move |_| {
        if let Some(w) = other.upgrade()
            && nested.fetch_add(1, Ordering::Relaxed) == 0
        {
            w.space.zap(second);
        }
    });
    w.space.zap(first);
    // The first; the batches of the second; the flush of the second for the first, which has not ended.
    assert_eq!(
        w.tlb.flushes(),
        1 + 80_u64.div_ceil(gather::NEAR as u64) + 1
    );
    assert_eq!(lock(&w.watch.idle).len(), 100);
    w.assert_order_kept();
}

#[test]
fn a_zap_leaves_the_mapping_and_what_lies_beside_it() {
    let w = World::new();
    let range = w.map(&w.file(0, 6), 6, RW);
    w.touch(range, Access::Write);
    w.space.zap(range.part(2, 2).unwrap());
    let held: Vec<u32> = (0..6).map(|n| w.counts(n).mapped).collect();
    assert_eq!(held, [1, 1, 0, 0, 1, 1]);
    w.touch(range, Access::Read);
    assert_eq!(w.counts(2), mapped(1));
}

#[test]
fn after_write_protection_no_cpu_can_store_without_a_fault() {
    let w = World::new();
    let file = w.file(0, 3);
    let range = w.map(&file, 3, RW);
    w.touch(range, Access::Write);
    w.space.write_protect(range.part(1, 1).unwrap());
    let may_write: Vec<bool> = (0..3).map(|n| w.tlb.may_write(w.pfn(n))).collect();
    assert_eq!(may_write, [true, false, true]);
    file.state().faults.clear();
    w.touch(range, Access::Read);
    assert_eq!(file.state().faults, [], "reading goes on");
    w.touch(range, Access::Write);
    assert_eq!(file.state().faults, [(1, Access::Write)]);
    assert_eq!(w.counts(1), mapped(1));
}

/// One CPU has taken the entry away and is still flushing; what `other` does meanwhile must leave no stale
/// translation.
fn while_a_zap_is_flushing(other: impl Fn(&World, VaRange)) {
    let w = World::new();
    let range = w.map(&w.file(0, 1), 1, RW);
    w.touch(range, Access::Write);
    let (first, entered) = (AtomicBool::new(true), Arc::new(AtomicBool::new(false)));
    let gate = Arc::new(Mutex::new(()));
    let (gate_of_zap, zap_entered) = (gate.clone(), entered.clone());
    let closed = lock(&gate);
    w.tlb.on_flush(move |_| {
        if first.swap(false, Ordering::SeqCst) {
            zap_entered.store(true, Ordering::SeqCst);
            drop(lock(&gate_of_zap));
        }
    });
    std::thread::scope(|s| {
        s.spawn(|| w.space.zap(range));
        while !entered.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        assert!(w.tlb.may_write(w.pfn(0)), "the zap is still flushing");
        other(&w, range);
        assert!(!w.tlb.reaches(w.pfn(0), 1));
        assert_eq!(
            w.counts(0),
            mapped(1),
            "the reference is the first zap's to drop"
        );
        drop(closed);
    });
    assert_eq!(w.counts(0), mapped(0));
}

#[test]
fn write_protection_does_not_trust_a_flush_that_is_under_way() {
    while_a_zap_is_flushing(|w, range| w.space.write_protect(range));
}

#[test]
fn a_zap_does_not_trust_a_flush_that_is_under_way() {
    while_a_zap_is_flushing(|w, range| w.space.zap(range));
}
