mod model;

use super::*;
use crate::addr::PageSize::{Size1G, Size2M, Size4K};
use crate::sync::{Cancel, WaitError, now_us};
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const GIG: u64 = 1 << 18;

fn owner(index: u64) -> Owner {
    Owner { inode: 7, index }
}

fn scratch<L: LifePolicy>(pages: u64) -> Arc<Pgmap<L>> {
    Pgmap::new("test", scratch_range(pages), None).unwrap()
}

/// A live pgmap with one associated base page at its start.
fn one_page<L: LifePolicy>() -> (Arc<Pgmap<L>>, Pfn) {
    let map = scratch::<L>(1024);
    let pfn = map.range().start();
    map.associate(pfn, Size4K, owner(0)).unwrap();
    (map, pfn)
}

fn at(map: &Pgmap<impl LifePolicy>, page: u64) -> Pfn {
    map.range().start().checked_add(page).unwrap()
}

/// Runs a wait that a wake-up should end. A lost one shows as a wait that lasts to its deadline, though it may end well there.
fn promptly<R>(wait: impl FnOnce(&Wait<'static>) -> R) -> R {
    let start = now_us();
    let ended = wait(&Wait::until(start + 30_000_000));
    assert!(now_us() - start < 25_000_000, "no wake-up came");
    ended
}

#[test]
fn half_a_tebibyte_costs_a_root() {
    let map = scratch::<Sweep>(512 * GIG);
    let stats = map.stats();
    assert_eq!(stats.metadata_bytes, 4096);
    assert!(stats.metadata_bytes + (size_of::<Pgmap>() as u64) < 64 << 10);
    assert_eq!(
        stats,
        PgmapStats {
            pages: 512 * GIG,
            idle: 512 * GIG,
            metadata_bytes: 4096,
            ..PgmapStats::default()
        }
    );
    assert!(map.folio(at(&map, 12345)).is_none());
}

#[test]
fn counts_and_metadata_follow_use() {
    let (map, pfn) = one_page::<Sweep>();
    let folio = map.folio(pfn).unwrap();
    assert_eq!(map.try_pin(&folio, 1), Err(PinError::Idle));
    map.map_get(&folio).unwrap();
    map.map_get(&folio).unwrap();
    map.try_pin(&folio, 3).unwrap();
    assert_eq!(
        folio.counts(),
        Counts {
            mapped: 2,
            pinned: 3
        }
    );
    let stats = map.stats();
    assert_eq!((stats.idle, stats.mapped, stats.pinned), (1023, 1, 1));
    assert_eq!(
        (stats.populated_sections, stats.metadata_bytes),
        (3, 8 + (32 + 4096) + (32 + 8) + 512 * 32)
    );
    assert_eq!(map.first_pinned(map.range()), Some((pfn, folio.counts())));
    assert_eq!(
        map.dissociate(folio),
        Err(Busy {
            pfn,
            counts: folio.counts()
        })
    );
    map.unpin(&folio, 3);
    map.map_put(&folio);
    map.map_put(&folio);
    assert_eq!(map.first_pinned(map.range()), None);
    assert_eq!(map.stats().idle, 1024);
    map.dissociate(folio).unwrap();
    assert_eq!(map.folio(pfn).unwrap().owner(), None);
}

#[test]
fn huge_folios_are_found_from_their_tails() {
    let map = scratch::<Sweep>(3 * GIG);
    map.associate(at(&map, GIG), Size1G, owner(1000)).unwrap();
    map.associate(at(&map, 512), Size2M, owner(512)).unwrap();
    assert_eq!(map.stats().populated_sections, 3);
    let tail = map.folio(at(&map, GIG + 77777)).unwrap();
    assert_eq!((tail.pfn(), tail.size()), (at(&map, GIG), Size1G));
    assert_eq!(
        map.owner_of(at(&map, GIG + 77777)),
        Some(owner(1000 + 77777))
    );
    let tail = map.folio(at(&map, 1023)).unwrap();
    assert_eq!((tail.pfn(), tail.size()), (at(&map, 512), Size2M));
    assert!(map.folio(at(&map, 1024)).is_none());
    map.map_get(&tail).unwrap();
    map.try_pin(&tail, 512).unwrap();
    assert_eq!(map.stats().pinned, 512);
    let inside = PfnRange::new(at(&map, 600), 1).unwrap();
    assert_eq!(map.first_pinned(inside).unwrap().0, at(&map, 512));
    let beyond = PfnRange::new(at(&map, 1024), 4000).unwrap();
    assert_eq!(map.first_pinned(beyond), None);
    map.unpin(&tail, 512);
    map.map_put(&tail);
    map.dissociate(tail).unwrap();
    map.associate(at(&map, 513), Size4K, owner(3)).unwrap();
    assert_eq!(map.folio(at(&map, 513)).unwrap().size(), Size4K);
}

#[test]
fn overlapping_folios_are_refused() {
    let map = scratch::<Sweep>(2 * GIG);
    let in_use = |r: Result<Folio<'_>, AssociateError>| match r {
        Err(AssociateError::InUse { pfn, size, .. }) => Some((pfn, size)),
        _ => None,
    };
    let small = at(&map, 700);
    map.associate(small, Size4K, owner(1)).unwrap();
    assert!(map.associate(small, Size4K, owner(1)).is_ok());
    assert_eq!(
        in_use(map.associate(small, Size4K, owner(2))),
        Some((small, Size4K))
    );
    assert_eq!(
        in_use(map.associate(at(&map, 512), Size2M, owner(2))),
        Some((small, Size4K))
    );
    assert_eq!(
        in_use(map.associate(at(&map, 0), Size1G, owner(2))),
        Some((small, Size4K))
    );
    map.associate(at(&map, GIG), Size1G, owner(1)).unwrap();
    assert_eq!(
        in_use(map.associate(at(&map, GIG + 5), Size4K, owner(GIG))),
        Some((at(&map, GIG), Size1G))
    );
    assert_eq!(
        in_use(map.associate(at(&map, GIG + 512), Size2M, owner(9))),
        Some((at(&map, GIG), Size1G))
    );
}

#[test]
fn ranges_may_start_anywhere() {
    // The second DIMM of QEMU starts at 0x10FE00000 (2 MiB-aligned); and one that is not even that.
    for offset in [0xFE00, 0xFE01] {
        let base = scratch_range(2 * GIG).start();
        let start = base.checked_add(offset).unwrap();
        let range = PfnRange::new(start, GIG).unwrap();
        let map: Arc<Pgmap> = Pgmap::new("odd", range, None).unwrap();
        let first_whole = base.checked_add(0x10000).unwrap();
        map.associate(first_whole, Size2M, owner(0)).unwrap();
        let last = Pfn::new(range.end() - 1).unwrap();
        for pfn in [start, last] {
            let folio = map.associate(pfn, Size4K, owner(pfn.get())).unwrap();
            map.map_get(&folio).unwrap();
            assert_eq!(map.first_busy().unwrap().0, pfn);
            assert_eq!(map.stats().mapped, 1);
            map.map_put(&folio);
        }
        let gig = base.checked_add(GIG).unwrap();
        assert!(matches!(
            map.populate(gig, Size1G),
            Err(PopulateError::OutOfRange { .. })
        ));
        assert!(matches!(
            map.populate(base, Size4K),
            Err(PopulateError::OutOfRange { .. })
        ));
        assert!(matches!(
            map.populate(first_whole.checked_add(1).unwrap(), Size2M),
            Err(PopulateError::Misaligned { .. })
        ));
        assert!(
            map.folio(base).is_none() && map.folio(gig.checked_add(GIG - 1).unwrap()).is_none()
        );
    }
}

#[test]
fn the_registry_finds_and_refuses() {
    let range = scratch_range(4 * GIG);
    let inner = |from, n| PfnRange::new(range.start().checked_add(from).unwrap(), n).unwrap();
    let b: Arc<Pgmap> = Pgmap::new("b", inner(100, 100), None).unwrap();
    let a: Arc<Pgmap> = Pgmap::new("a", inner(0, 100), None).unwrap();
    let overlap = Pgmap::<Counted>::new("c", inner(199, 10), None).err();
    assert_eq!(
        overlap,
        Some(PgmapError::Overlap {
            wanted: inner(199, 10),
            other: inner(100, 100)
        })
    );
    assert!(Arc::ptr_eq(&find_pgmap(inner(99, 1).start()).unwrap(), &a));
    assert!(Arc::ptr_eq(&find_pgmap(inner(100, 1).start()).unwrap(), &b));
    assert!(find_pgmap(inner(200, 1).start()).is_none());
    assert!(find::<Counted>(inner(99, 1).start()).is_none());
    a.remove(|| {}, &Wait::forever()).unwrap();
    assert!(find_pgmap(inner(99, 1).start()).is_none());
    let next: Arc<Pgmap> = Pgmap::new("d", inner(0, 100), None).unwrap();
    a.remove(|| {}, &Wait::forever()).unwrap();
    assert!(Arc::ptr_eq(
        &find_pgmap(inner(0, 1).start()).unwrap(),
        &next
    ));
}

#[test]
fn out_of_memory_is_an_error_and_leaves_no_trace() {
    let map = scratch::<Sweep>(1024);
    let pfn = map.range().start();
    for made in 0..3 {
        crate::mem::inject::allocations(Some(made.min(1)));
        let got = map.associate(pfn, Size4K, owner(0)).map(drop);
        crate::mem::inject::allocations(None);
        assert_eq!(
            got,
            Err(AssociateError::Populate(PopulateError::OutOfMemory))
        );
        assert!(map.folio(pfn).is_none());
        // The nodes made before the failure stay, and are counted.
        assert_eq!(map.stats().populated_sections, made);
    }
    crate::mem::inject::allocations(Some(0));
    let refused = Pgmap::<Sweep>::new("none", scratch_range(1), None).err();
    crate::mem::inject::allocations(None);
    assert_eq!(refused, Some(PgmapError::OutOfMemory));
}

#[test]
fn an_unpin_ends_the_wait_although_the_page_stays_mapped() {
    let (map, pfn) = one_page::<Sweep>();
    let folio = map.folio(pfn).unwrap();
    map.map_get(&folio).unwrap();
    map.try_pin(&folio, 2).unwrap();
    thread::scope(|s| {
        let waiter = s.spawn(|| promptly(|w| map.wait_unpinned(pfn, w)));
        thread::sleep(Duration::from_millis(20));
        // A new fault during the wait: the sum only grows.
        map.map_get(&folio).unwrap();
        map.unpin(&folio, 1);
        thread::sleep(Duration::from_millis(20));
        assert!(!waiter.is_finished());
        map.unpin(&folio, 1);
        assert_eq!(waiter.join().unwrap(), Ok(()));
    });
    assert_eq!(
        folio.counts(),
        Counts {
            mapped: 2,
            pinned: 0
        }
    );
}

#[test]
fn the_wait_for_pins_can_end_early() {
    let (map, pfn) = one_page::<Sweep>();
    let folio = map.folio(pfn).unwrap();
    map.map_get(&folio).unwrap();
    map.try_pin(&folio, 1).unwrap();
    assert_eq!(
        map.wait_unpinned(pfn, &Wait::for_us(1000)),
        Err(WaitError::TimedOut)
    );
    let cancel = Cancel::new();
    thread::scope(|s| {
        let waiter = s.spawn(|| map.wait_unpinned(pfn, &Wait::forever().or_cancelled(&cancel)));
        thread::sleep(Duration::from_millis(10));
        cancel.cancel();
        assert_eq!(waiter.join().unwrap(), Err(WaitError::Cancelled));
    });
    assert_eq!(map.wait_unpinned(at(&map, 1), &Wait::until(0)), Ok(()));
}

/// Records the folios that came to rest.
#[derive(Default)]
struct Recorder(std::sync::Mutex<Vec<(u64, PageSize)>>);

impl PgmapOps for Recorder {
    fn page_idle(&self, pfn: Pfn, size: PageSize) {
        self.0.lock().unwrap().push((pfn.get(), size));
    }
}

#[test]
fn the_user_hears_of_idle_pages_until_it_leaves() {
    fn round<L: LifePolicy>() {
        let seen = Arc::new(Recorder::default());
        let map = Pgmap::<L>::new("ops", scratch_range(1024), Some(seen.clone())).unwrap();
        let folio = map.associate(at(&map, 512), Size2M, owner(0)).unwrap();
        map.map_get(&folio).unwrap();
        map.try_pin(&folio, 5).unwrap();
        map.map_put(&folio);
        map.unpin(&folio, 4);
        assert!(seen.0.lock().unwrap().is_empty());
        map.unpin(&folio, 1);
        assert_eq!(*seen.0.lock().unwrap(), [(at(&map, 512).get(), Size2M)]);
        map.set_ops(None);
        assert_eq!(Arc::strong_count(&seen), 1);
        map.map_get(&folio).unwrap();
        map.map_put(&folio);
        assert_eq!(seen.0.lock().unwrap().len(), 1);
        assert_eq!(map.held(), 0);
    }
    round::<Sweep>();
    round::<Counted>();
}

/// The invariant broken: the pgmap was dead while this page had a count.
type Violation = Option<(Pfn, Counts)>;

fn violation<L: LifePolicy>(map: &Pgmap<L>) -> Violation {
    (map.state() == State::Dead)
        .then(|| map.first_busy())
        .flatten()
}

/// A page is still mapped, or pinned, when the device goes.
fn removal_with_a_reference_left<L: LifePolicy>(pinned: bool) -> Violation {
    let (map, pfn) = one_page::<L>();
    let folio = map.folio(pfn).unwrap();
    map.map_get(&folio).unwrap();
    if pinned {
        map.try_pin(&folio, 1).unwrap();
        map.map_put(&folio);
    }
    let first = map.remove(|| {}, &Wait::until(0));
    let found = violation(&map);
    assert_eq!(first.is_err(), found.is_none());
    if pinned {
        map.unpin(&folio, 1);
    } else {
        map.map_put(&folio);
    }
    assert_eq!(map.remove(|| {}, &Wait::until(0)), Ok(()));
    found
}

/// The removal sleeps until the last reference goes, and is woken by it.
fn removal_waits<L: LifePolicy>() {
    let (map, pfn) = one_page::<L>();
    let folio = map.folio(pfn).unwrap();
    map.map_get(&folio).unwrap();
    map.try_pin(&folio, 1).unwrap();
    let (dying, started) = mpsc::channel();
    thread::scope(|s| {
        let remover = s.spawn(|| promptly(|w| map.remove(move || dying.send(()).unwrap(), w)));
        started.recv().unwrap();
        assert_eq!(map.state(), State::Dying);
        map.map_put(&folio);
        thread::sleep(Duration::from_millis(10));
        assert_eq!(map.state(), State::Dying);
        map.unpin(&folio, 1);
        assert_eq!(remover.join().unwrap(), Ok(()));
    });
    assert_eq!((map.state(), map.first_busy()), (State::Dead, None));
}

/// A fault arrives after the device has gone.
fn mapping_after_removal<L: LifePolicy>() -> Violation {
    let (map, pfn) = one_page::<L>();
    let folio = map.folio(pfn).unwrap();
    promptly(|w| map.remove(|| {}, w)).unwrap();
    let got = map.map_get(&folio);
    let found = violation(&map);
    if got.is_ok() {
        map.map_put(&folio);
    }
    found
}

/// Threads map, pin and unmap as fast as they can, through the removal and beyond.
fn removal_in_a_storm<L: LifePolicy>(rounds: u32) -> Violation {
    (0..rounds).find_map(|_| {
        let (map, pfn) = one_page::<L>();
        let stop = AtomicBool::new(false);
        thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| storm(&map, pfn, &stop));
            }
            thread::sleep(Duration::from_micros(50));
            promptly(|w| map.remove(|| {}, w)).unwrap();
            let found = (0..200).find_map(|_| violation(&map));
            stop.store(true, Ordering::Relaxed);
            found
        })
    })
}

fn storm<L: LifePolicy>(map: &Pgmap<L>, pfn: Pfn, stop: &AtomicBool) {
    let folio = map.folio(pfn).unwrap();
    while !stop.load(Ordering::Relaxed) {
        if map.map_get(&folio).is_ok() {
            if map.try_pin(&folio, 1).is_ok() {
                map.unpin(&folio, 1);
            }
            map.map_put(&folio);
        } else {
            thread::yield_now();
        }
    }
}

fn keeps_the_invariant<L: LifePolicy>() {
    assert_eq!(removal_with_a_reference_left::<L>(false), None);
    assert_eq!(removal_with_a_reference_left::<L>(true), None);
    removal_waits::<L>();
    assert_eq!(mapping_after_removal::<L>(), None);
    assert_eq!(
        removal_in_a_storm::<L>(if cfg!(miri) { 3 } else { 30 }),
        None
    );
}

#[test]
fn sweep_never_lets_the_device_go_first() {
    keeps_the_invariant::<Sweep>();
}

#[test]
fn counted_never_lets_the_device_go_first() {
    keeps_the_invariant::<Counted>();
}

/// The test of the tests: the historical mistake must be caught by the same functions.
#[test]
fn legacy_is_caught() {
    let mapped = Counts {
        mapped: 1,
        pinned: 0,
    };
    assert_eq!(
        removal_with_a_reference_left::<Legacy>(false).map(|v| v.1),
        Some(mapped)
    );
    assert_eq!(mapping_after_removal::<Legacy>().map(|v| v.1), Some(mapped));
    // What it did get right, and why nobody noticed for so long: a pin holds the device.
    assert_eq!(removal_with_a_reference_left::<Legacy>(true), None);
}

#[test]
fn a_removal_that_times_out_goes_on_later() {
    fn round<L: LifePolicy>() {
        let (map, pfn) = one_page::<L>();
        let folio = map.folio(pfn).unwrap();
        map.map_get(&folio).unwrap();
        let unfinished = map.remove(|| {}, &Wait::for_us(1000)).unwrap_err();
        assert_eq!(
            (unfinished.why, unfinished.first),
            (WaitError::TimedOut, Some((pfn, folio.counts())))
        );
        assert_eq!(map.state(), State::Dying);
        assert_eq!(
            map.map_get(&folio),
            Err(GetError::Dying),
            "not even while the count is above 0"
        );
        assert!(find::<L>(pfn).is_some());
        map.map_put(&folio);
        promptly(|w| map.remove(|| {}, w)).unwrap();
        assert!(find::<L>(pfn).is_none());
    }
    round::<Sweep>();
    round::<Counted>();
}

#[test]
fn the_sweep_waits_for_each_size() {
    let map = scratch::<Sweep>(4 * GIG);
    let pages = [
        (0, Size4K),
        (512, Size2M),
        (2 * GIG, Size1G),
        (4 * GIG - 1, Size4K),
    ];
    let folios = pages.map(|(p, size)| map.associate(at(&map, p), size, owner(p)).unwrap());
    folios.iter().for_each(|f| map.map_get(f).unwrap());
    for folio in folios {
        let left = map.remove(|| {}, &Wait::until(0)).unwrap_err();
        assert_eq!(left.first.unwrap().0, folio.pfn());
        map.map_put(&folio);
    }
    assert_eq!(map.remove(|| {}, &Wait::until(0)), Ok(()));
}

/// How often an ops call was under way after `set_ops(None)` had returned.
#[test]
fn no_call_of_former_ops_is_under_way() {
    struct Slow {
        inside: AtomicBool,
        calls: AtomicU64,
    }
    impl PgmapOps for Slow {
        fn page_idle(&self, _: Pfn, _: PageSize) {
            self.inside.store(true, Ordering::SeqCst);
            thread::sleep(Duration::from_micros(200));
            self.calls.fetch_add(1, Ordering::SeqCst);
            self.inside.store(false, Ordering::SeqCst);
        }
    }
    let (map, pfn) = one_page::<Sweep>();
    let slow = Arc::new(Slow {
        inside: AtomicBool::new(false),
        calls: AtomicU64::new(0),
    });
    let stop = AtomicBool::new(false);
    thread::scope(|s| {
        s.spawn(|| storm(&map, pfn, &stop));
        for _ in 0..20 {
            let before = slow.calls.load(Ordering::SeqCst);
            map.set_ops(Some(slow.clone()));
            while slow.calls.load(Ordering::SeqCst) == before {
                thread::yield_now();
            }
            map.set_ops(None);
            assert!(!slow.inside.load(Ordering::SeqCst));
        }
        stop.store(true, Ordering::Relaxed);
    });
}
