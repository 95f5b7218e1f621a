use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::*;
use crate::addr::{PAGE_SIZE, PageSize, Pfn};
use crate::aspace::testing::*;
use crate::aspace::{Access, Prot};
use crate::pgmap::PgmapOps;

const RW: Prot = Prot::WRITE;
const RO: Prot = Prot::empty();

type PinPages = fn(&AddressSpace, VirtAddr, usize, bool) -> Result<PinnedPages, GupError>;

macro_rules! by_both {
    ($($case:ident,)*) => {
        mod under_the_lock {
            $(#[test] fn $case() { super::$case(super::pin_user_pages); })*
        }
        mod without_a_lock {
            $(#[test] fn $case() { super::$case(super::pin_user_pages_fast); })*
        }
    };
}

by_both! {
    a_pin_outlives_the_mapping,
    scattered_pages_make_several_segments,
    pins_add_up,
    a_pin_for_writing_goes_through_the_write_fault,
    a_hole_is_filled_where_stores_are_allowed_and_refused_elsewhere,
    a_failure_half_way_leaves_no_pin,
    what_cannot_be_pinned_says_why,
    a_large_folio_is_pinned_whole_or_in_part,
    runs_over_several_large_folios_are_unpinned_folio_by_folio,
    a_range_over_two_files_keeps_both,
    the_last_unpin_finds_the_file_alive,
    concurrent_pins_and_zaps_keep_the_counts_exact,
    a_page_that_changed_hands_before_the_pin_is_let_go,
    a_page_that_became_idle_before_the_pin_is_faulted_in_again,
    a_pinned_page_never_belongs_to_somebody_else,
}

fn pinned(n: &World, frames: core::ops::Range<u64>) -> Vec<u32> {
    frames.map(|f| n.counts(f).pinned).collect()
}

fn assert_send_and_static<T: Send + 'static>(_: &T) {}

fn a_pin_outlives_the_mapping(pin: PinPages) {
    let w = World::new();
    let file = w.file(0, 3);
    let range = w.map(&file, 3, RW);
    let pins = pin(&w.space, range.start(), 3, true).unwrap();
    assert_send_and_static(&pins);
    assert_eq!(pins.pages(), 3);
    assert_eq!(
        pins.pfns().collect::<Vec<_>>(),
        [w.pfn(0), w.pfn(1), w.pfn(2)]
    );
    assert_eq!(
        pins.segments().collect::<Vec<_>>(),
        [(w.pfn(0).phys(), 3 * PAGE_SIZE)]
    );
    w.space.unmap(range).unwrap();
    assert_eq!(pinned(&w, 0..4), [1, 1, 1, 0]);
    assert!((0..3).all(|n| w.counts(n).mapped == 0));
    std::thread::spawn(move || drop(pins)).join().unwrap();
    assert!((0..3).all(|n| w.counts(n).is_idle()));
}

fn scattered_pages_make_several_segments(pin: PinPages) {
    let w = World::new();
    let file = w.file(0, 2);
    file.add_block(2, w.pfn(40), PageSize::Size4K);
    file.add_block(3, w.pfn(41), PageSize::Size4K);
    let range = w.map(&file, 4, RW);
    let pins = pin(&w.space, range.start() + PAGE_SIZE, 3, false).unwrap();
    let expected = [
        (w.pfn(1).phys(), PAGE_SIZE),
        (w.pfn(40).phys(), 2 * PAGE_SIZE),
    ];
    assert_eq!(pins.segments().collect::<Vec<_>>(), expected);
    assert_eq!(pinned(&w, 0..2), [0, 1]);
}

fn pins_add_up(pin: PinPages) {
    let w = World::new();
    let range = w.map(&w.file(0, 2), 2, RW);
    let a = pin(&w.space, range.start(), 2, false).unwrap();
    let b = pin(&w.space, range.start(), 1, true).unwrap();
    assert_eq!(pinned(&w, 0..2), [2, 1]);
    drop(a);
    assert_eq!(pinned(&w, 0..2), [1, 0]);
    drop(b);
    assert_eq!(pinned(&w, 0..2), [0, 0]);
}

fn a_pin_for_writing_goes_through_the_write_fault(pin: PinPages) {
    let w = World::new();
    let file = w.file(0, 1);
    let range = w.map(&file, 1, RW);
    w.touch(range, Access::Read);
    assert!(file.state().dirty.is_empty());
    let _pins = pin(&w.space, range.start(), 1, true).unwrap();
    assert!(file.state().dirty.contains(&0));
    w.space.write_protect(range);
    file.state().dirty.clear();
    let _again = pin(&w.space, range.start(), 1, true).unwrap();
    assert!(
        file.state().dirty.contains(&0),
        "after a sync the next pin marks it dirty again"
    );
}

fn a_hole_is_filled_where_stores_are_allowed_and_refused_elsewhere(pin: PinPages) {
    let w = World::new();
    let file = w.file(0, 1);
    let (writable, readable) = (w.map(&file, 3, RW), w.map(&file, 3, RO));
    let hole = GupError::Hole {
        at: readable.start() + PAGE_SIZE,
    };
    assert_eq!(pin(&w.space, readable.start(), 3, false).unwrap_err(), hole);
    assert_eq!(
        pinned(&w, 0..4),
        [0, 0, 0, 0],
        "page 0 was pinned and let go"
    );
    let pins = pin(&w.space, writable.start(), 3, false).unwrap();
    assert_eq!(
        pins.pfns().collect::<Vec<_>>(),
        [w.pfn(0), w.pfn(1), w.pfn(2)]
    );
    w.assert_order_kept();
}

fn a_failure_half_way_leaves_no_pin(pin: PinPages) {
    let w = World::new();
    let file = w.file(0, 8);
    let range = w.map(&file, 8, RW);
    file.state().broken.insert(5, FaultError::PastEof);
    let error = pin(&w.space, range.start(), 8, true).unwrap_err();
    assert_eq!(
        error,
        GupError::Fault {
            at: range.start() + 5 * PAGE_SIZE,
            why: FaultError::PastEof
        }
    );
    assert_eq!(pinned(&w, 0..8), [0; 8]);
    assert_eq!(w.counts(4).mapped, 1);
}

fn what_cannot_be_pinned_says_why(pin: PinPages) {
    let w = World::new();
    let range = w.map(&w.file(0, 2), 2, RO);
    let fails = |at, pages, write| pin(&w.space, at, pages, write).unwrap_err();
    assert_eq!(fails(range.start(), 0, false), GupError::BadRange);
    assert_eq!(fails(range.start() + 1_u64, 1, false), GupError::BadRange);
    assert_eq!(fails(range.start(), usize::MAX, false), GupError::BadRange);
    let fault = |at, why| GupError::Fault { at, why };
    assert_eq!(
        fails(range.start(), 1, true),
        fault(range.start(), FaultError::Permission)
    );
    assert_eq!(
        fails(range.start(), 3, false),
        fault(range.end(), FaultError::NoMapping)
    );
    crate::mem::inject::headroom(0);
    assert_eq!(fails(range.start(), 1, false), GupError::OutOfMemory);
    crate::mem::inject::headroom(usize::MAX);
    assert_eq!(pinned(&w, 0..2), [0, 0]);
}

fn a_large_folio_is_pinned_whole_or_in_part(pin: PinPages) {
    let w = World::new();
    let file = TestFile::new(&w.pgmap, 0);
    file.add_block(0, w.pfn(0), PageSize::Size2M);
    let range = w.space.map(file, 0, 512, RW, PageSize::Size2M).unwrap();
    let all = pin(&w.space, range.start(), 512, true).unwrap();
    assert_eq!(
        all.segments().collect::<Vec<_>>(),
        [(w.pfn(0).phys(), 512 * PAGE_SIZE)]
    );
    assert_eq!(w.counts(0).pinned, 512);
    let part = pin(&w.space, range.start() + 100 * PAGE_SIZE, 7, true).unwrap();
    assert_eq!(part.pfns().next(), Some(w.pfn(100)));
    assert_eq!(w.counts(0).pinned, 519);
    drop(all);
    assert_eq!(w.counts(0).pinned, 7);
    drop(part);
    assert_eq!(w.counts(0).pinned, 0);
}

/// Small entries over two neighbouring large folios join into one segment; each folio gets back what it gave.
fn runs_over_several_large_folios_are_unpinned_folio_by_folio(pin: PinPages) {
    let w = World::new();
    let file = TestFile::new(&w.pgmap, 0);
    file.add_block(0, w.pfn(0), PageSize::Size2M);
    file.add_block(512, w.pfn(512), PageSize::Size2M);
    let range = w.space.map(file, 509, 6, RW, PageSize::Size4K).unwrap();
    let pins = pin(&w.space, range.start(), 6, true).unwrap();
    assert_eq!(
        pins.segments().collect::<Vec<_>>(),
        [(w.pfn(509).phys(), 6 * PAGE_SIZE)]
    );
    assert_eq!((w.counts(0).pinned, w.counts(512).pinned), (3, 3));
    drop(pins);
    assert_eq!((w.counts(0).pinned, w.counts(512).pinned), (0, 0));
}

fn a_range_over_two_files_keeps_both(pin: PinPages) {
    let w = World::new();
    let (a, b) = (w.file(0, 2), w.file(20, 2));
    let (first, second) = (w.map(&a, 2, RW), w.map(&b, 2, RW));
    assert_eq!(first.end(), second.start());
    let pins = pin(&w.space, first.start(), 4, true).unwrap();
    w.space.unmap(w.space.window()).unwrap();
    let (a, b) = (gone_after(a), gone_after(b));
    assert!(a.upgrade().is_some() && b.upgrade().is_some());
    drop(pins);
    assert!(a.upgrade().is_none() && b.upgrade().is_none());
}

fn gone_after(file: Arc<TestFile>) -> Weak<TestFile> {
    Arc::downgrade(&file)
}

/// Notes, for each page that becomes idle, whether its file is alive.
struct OwnerAlive(Mutex<Option<Weak<TestFile>>>, AtomicU64, AtomicBool);

impl PgmapOps for OwnerAlive {
    fn page_idle(&self, _: Pfn, _: PageSize) {
        self.1.fetch_add(1, Ordering::Relaxed);
        if lock(&self.0).as_ref().is_none_or(|f| f.strong_count() == 0) {
            self.2.store(true, Ordering::Relaxed);
        }
    }
}

fn the_last_unpin_finds_the_file_alive(pin: PinPages) {
    let w = World::new();
    let ops = Arc::new(OwnerAlive(
        Mutex::default(),
        AtomicU64::new(0),
        AtomicBool::new(false),
    ));
    w.pgmap.set_ops(Some(ops.clone()));
    let file = w.file(0, 2);
    *lock(&ops.0) = Some(Arc::downgrade(&file));
    let range = w.map(&file, 2, RW);
    let pins = pin(&w.space, range.start(), 2, true).unwrap();
    w.space.unmap(range).unwrap();
    let gone = gone_after(file);
    drop(pins);
    assert_eq!(ops.1.load(Ordering::Relaxed), 2);
    assert!(
        !ops.2.load(Ordering::Relaxed),
        "a page became idle after its file was gone"
    );
    assert!(gone.upgrade().is_none());
}

fn concurrent_pins_and_zaps_keep_the_counts_exact(pin: PinPages) {
    let w = World::new();
    let range = w.map(&w.file(0, 12), 12, RW);
    let rounds = if cfg!(miri) { 3 } else { 2000 };
    std::thread::scope(|s| {
        for t in 0..3_u64 {
            let w = &w;
            s.spawn(move || {
                for i in 0..rounds {
                    let at = range.start() + (i + t) % 8 * PAGE_SIZE;
                    let pins = pin(&w.space, at, 4, i % 2 == 0).unwrap();
                    assert!(
                        pins.pfns()
                            .all(|p| w.pgmap.folio(p).unwrap().counts().pinned > 0)
                    );
                }
            });
        }
        s.spawn(|| (0..rounds).for_each(|_| w.space.zap(range)));
    });
    assert_eq!(pinned(&w, 0..12), [0; 12]);
    w.space.zap(range);
    assert!((0..12).all(|n| w.counts(n).is_idle()));
    w.assert_order_kept();
}

/// Between the reading of the entry and the pin the page goes to another file, which maps it: the pin succeeds, the
/// second reading tells, and the pin is undone.
fn a_page_that_changed_hands_before_the_pin_is_let_go(pin: PinPages) {
    let w = Arc::new(World::new());
    w.tlb.ignore_walkers();
    let (a, b) = (w.file(0, 1), w.file(1, 0));
    let (ours, theirs) = (w.map(&a, 1, RW), w.map(&b, 1, RW));
    w.touch(ours, Access::Write);
    let (world, from, to) = (w.clone(), a.clone(), b.clone());
    let hand_over_and_map = move || {
        hand_over(&world, &from, &to);
        world.touch(theirs, Access::Write);
    };
    let on_another_cpu = || std::thread::spawn(hand_over_and_map).join().unwrap();
    between::ONCE.set(Some(std::boxed::Box::new(on_another_cpu)));
    let gone = GupError::Fault {
        at: ours.start(),
        why: FaultError::PastEof,
    };
    assert_eq!(pin(&w.space, ours.start(), 1, true).unwrap_err(), gone);
    assert_eq!(
        w.counts(0),
        crate::page::Counts {
            mapped: 1,
            pinned: 0
        }
    );
    w.assert_order_kept();
}

/// As above, but the page has gone to nobody: it is idle, and cannot be pinned at all.
fn a_page_that_became_idle_before_the_pin_is_faulted_in_again(pin: PinPages) {
    let w = Arc::new(World::new());
    w.tlb.ignore_walkers();
    let file = w.file(0, 1);
    let range = w.map(&file, 1, RW);
    w.touch(range, Access::Write);
    let world = w.clone();
    between::ONCE.set(Some(std::boxed::Box::new(move || world.space.zap(range))));
    let faults = file.state().faults.len();
    let pins = pin(&w.space, range.start(), 1, true).unwrap();
    assert_eq!(
        (pinned(&w, 0..1), file.state().faults.len()),
        ([1].to_vec(), faults + 1)
    );
    drop(pins);
}

/// Two files take turns at one frame; a pin taken through a file holds a page that is that file's, as long as it
/// lasts.
fn a_pinned_page_never_belongs_to_somebody_else(pin: PinPages) {
    let w = World::new();
    let (a, b) = (w.file(0, 1), w.file(1, 0));
    let ranges = [w.map(&a, 1, RW), w.map(&b, 1, RW)];
    b.state().broken.insert(0, FaultError::PastEof);
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        for (file, range) in [(&a, ranges[0]), (&b, ranges[1])] {
            let (w, done) = (&w, &done);
            s.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let Ok(pins) = pin(&w.space, range.start(), 1, true) else {
                        continue;
                    };
                    let owner = |p| w.pgmap.folio(p).unwrap().owner().unwrap().inode;
                    assert!(pins.pfns().all(|p| owner(p) == file.inode));
                    core::hint::spin_loop();
                    assert!(pins.pfns().all(|p| owner(p) == file.inode));
                }
            });
        }
        let moves = if cfg!(miri) { 4 } else { 20_000 };
        for i in 0..moves {
            let (from, to) = if i % 2 == 0 { (&a, &b) } else { (&b, &a) };
            hand_over(&w, from, to);
        }
        done.store(true, Ordering::Relaxed);
    });
    w.assert_order_kept();
}

/// Takes the frame from one file, when nobody refers to it, and gives it to the other.
fn hand_over(w: &World, from: &Arc<TestFile>, to: &Arc<TestFile>) {
    loop {
        let _no_faults = (
            from.invalidate.write().unwrap(),
            to.invalidate.write().unwrap(),
        );
        from.zap(0..1);
        if w.counts(0).is_idle() {
            from.state().blocks.clear();
            from.state().broken.insert(0, FaultError::PastEof);
            w.pgmap
                .dissociate(w.pgmap.folio(w.pfn(0)).unwrap())
                .unwrap();
            to.add_block(0, w.pfn(0), PageSize::Size4K);
            to.state().broken.remove(&0);
            return;
        }
    }
}
