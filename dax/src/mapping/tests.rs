//! msync, holes that are filled, delayed faults, and the end of a mapping.

use super::*;
use crate::fake::{File, Process, zero_page};
use crate::mapping::breaking::{Breaker, MAX_DELAY_US, NOTED, gate_us, window_us};
use crate::xarray::{Mark, XArrayStats};
use mm::addr::PageSize;
use mm::sync::now_us;
use std::cell::RefCell;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

fn dirty(file: &File, page: u64) -> bool {
    file.mapping.pages.marked(page, Mark::Dirty)
}

#[test]
fn cleaning_takes_the_permission_then_flushes_then_clears_the_mark() {
    let file = File::full(8);
    let process = Process::new(&file, PageSize::Size4K);
    [1, 3, 6]
        .iter()
        .for_each(|p| assert!(process.write(*p).is_ok()));
    let flushed = RefCell::new(Vec::new());
    let count = file.mapping.clean_range(2..8, &|pfn, pages| {
        assert!(
            !process.tlb.may_write(pfn),
            "flushed while it can still be stored to"
        );
        assert!(
            dirty(&file, pfn.get() - file.pfn(0).get()),
            "clean before it is flushed"
        );
        flushed.borrow_mut().push((pfn, pages));
    });
    assert_eq!(*flushed.borrow(), [(file.pfn(3), 1), (file.pfn(6), 1)]);
    assert_eq!(
        (count, dirty(&file, 1), dirty(&file, 3), dirty(&file, 6)),
        (2, true, false, false)
    );
    assert!(!file.mapping.pages.marked(3, Mark::ToWrite));

    assert_eq!(file.mapping.clean_range(2..8, &|_, _| ()), 0);
    process.write(3).unwrap();
    assert!(dirty(&file, 3), "a store after the flush was not noticed");
}

/// A flush asks every CPU: one for each page would cost an interrupt round for each.
#[test]
fn cleaning_flushes_the_tlbs_once_for_a_run_of_pages() {
    let file = File::full(64);
    let process = Process::new(&file, PageSize::Size4K);
    let dirtied: Vec<u64> = (0..64).filter(|p| p % 5 != 4).collect();
    dirtied
        .iter()
        .for_each(|p| assert!(process.write(*p).is_ok()));
    let before = process.tlb.flushes();
    let flushed = RefCell::new(Vec::new());
    let count = file.mapping.clean_range(0..64, &|pfn, pages| {
        flushed
            .borrow_mut()
            .push((pfn.get() - file.pfn(0).get(), pages));
    });
    let rounds = process.tlb.flushes() - before;
    assert_eq!(count, dirtied.len() as u64);
    assert!((1..=2).contains(&rounds), "{rounds} rounds");
    assert!((0..64).all(|p| !dirty(&file, p) && !process.tlb.may_write(file.pfn(p))));
    let pages: Vec<u64> = flushed
        .borrow()
        .iter()
        .flat_map(|(at, n)| *at..at + n)
        .collect();
    assert_eq!(pages, dirtied);
    assert!(flushed.borrow().len() < 20, "{:?}", flushed.borrow());
}

#[test]
fn a_page_that_somebody_has_locked_ends_a_run_and_is_cleaned_after_it() {
    let file = File::full(8);
    let process = Process::new(&file, PageSize::Size4K);
    (0..8).for_each(|p| assert!(process.write(p).is_ok()));
    let ((tell, told), (locked, is_locked), (let_go, may_go)) =
        (mpsc::channel(), mpsc::channel(), mpsc::channel::<()>());
    let pages = &file.mapping.pages;
    thread::scope(|s| {
        s.spawn(move || {
            let held = pages.lock_existing(3);
            locked.send(held.is_some()).unwrap();
            may_go.recv().unwrap();
        });
        assert!(is_locked.recv().unwrap());
        let cleaner = s.spawn(|| {
            let flush = |pfn: Pfn, pages| {
                tell.send((pfn.get() - file.pfn(0).get(), pages)).unwrap();
            };
            file.mapping.clean_range(0..8, &flush)
        });
        assert_eq!(told.recv().unwrap(), (0, 3));
        // Nobody waits for an entry while it holds another: these are free again.
        drop(pages.lock_existing(1).unwrap());
        assert!(dirty(&file, 3) && dirty(&file, 5));
        let_go.send(()).unwrap();
        assert_eq!(cleaner.join().unwrap(), 8);
    });
    assert!((0..8).all(|p| !dirty(&file, p)));
}

/// The front that stays begins where the whole began.
#[test]
fn what_stays_of_a_mapping_that_was_cut_is_still_unmapped_with_the_file() {
    let file = File::full(8);
    let process = Process::new(&file, PageSize::Size4K);
    let tail = VaRange::new(process.va(5), 3).unwrap();
    process.space.unmap(tail).unwrap();
    assert_eq!(file.mapping.attachments(), 1);
    process.write(2).unwrap();
    file.mapping.unmap_range(0..8);
    assert_eq!(file.count(2), (0, 0));
    process.unmap();
    assert_eq!(file.mapping.attachments(), 0);
}

#[test]
fn a_pinned_page_stays_dirty() {
    let file = File::full(8);
    let process = Process::new(&file, PageSize::Size4K);
    let pin = process.pin(3);
    assert_eq!(file.mapping.clean_range(0..8, &|_, _| ()), 1);
    assert!(dirty(&file, 3));
    drop(pin);
    assert_eq!(file.mapping.clean_range(0..8, &|_, _| ()), 1);
    assert!(!dirty(&file, 3));
}

#[test]
fn a_pin_that_ends_during_the_flush_leaves_its_page_dirty() {
    let file = File::full(8);
    let process = Process::new(&file, PageSize::Size4K);
    let pin = RefCell::new(Some(process.pin(3)));
    // The device stores after the page was flushed, and then its driver unpins.
    let flush = |_: Pfn, _: u64| drop(pin.take());
    assert_eq!(file.mapping.clean_range(0..8, &flush), 1);
    assert_eq!(file.count(3).1, 0);
    assert!(dirty(&file, 3), "the stores of the device are forgotten");
    assert_eq!(file.mapping.clean_range(0..8, &|_, _| ()), 1);
    assert!(!dirty(&file, 3));
}

#[test]
fn a_store_during_the_flush_waits_and_is_dirty_again() {
    let file = File::full(8);
    let process = Process::new(&file, PageSize::Size4K);
    [3, 5]
        .iter()
        .for_each(|p| assert!(process.write(*p).is_ok()));
    thread::scope(|s| {
        file.mapping.clean_range(0..8, &|_, _| {
            s.spawn(|| {
                [5, 3]
                    .iter()
                    .for_each(|p| assert!(process.write(*p).is_ok()))
            });
            thread::sleep(Duration::from_millis(5));
        });
    });
    assert!(dirty(&file, 3) && dirty(&file, 5));
}

#[test]
fn a_filled_hole_shows_its_storage() {
    let file = File::holes(8);
    let process = Process::new(&file, PageSize::Size4K);
    assert_eq!(
        (process.read(2), process.read(5)),
        (Ok(zero_page()), Ok(zero_page()))
    );
    file.store(2, false);
    file.mapping.forget_holes(0..4);
    assert_eq!(
        (process.read(2), process.read(5)),
        (Ok(file.pfn(2)), Ok(zero_page()))
    );
    // Storage is not a hole: its mapping stays.
    file.mapping.forget_holes(0..8);
    assert_eq!(file.count(2), (1, 0));
}

#[test]
fn attachments_come_and_go_with_the_mappings() {
    let file = File::full(8);
    let (a, b) = (
        Process::new(&file, PageSize::Size4K),
        Process::new(&file, PageSize::Size4K),
    );
    assert_eq!(file.mapping.attachments(), 2);
    a.unmap();
    assert_eq!(file.mapping.attachments(), 1);
    b.read(0).unwrap();
    file.mapping.unmap_range(0..8);
    assert!(!b.tlb.reaches(file.pfn(0), 8));
}

#[test]
fn a_fault_is_delayed_only_in_the_range_and_only_to_the_next_gate() {
    let breaking = Breaking::new();
    let mut breaker = Breaker::new(&breaking);
    let before = now_us();
    breaker.waits(&(4..8));
    let since = now_us();
    let delay = |page, now| breaking.gate_us(page, now).map(|gate| gate - now);
    assert_eq!([3, 8].map(|p| delay(p, since)), [None, None]);
    for page in [4, 7] {
        assert!(delay(page, since).is_some_and(|us| (1..=1024).contains(&us)));
        // An old breaker's gates are far apart, and all that come between two of them pass together.
        let late = (before + 1_000_000).next_multiple_of(MAX_DELAY_US);
        assert_eq!(delay(page, late), Some(MAX_DELAY_US));
        assert_eq!(delay(page, late + MAX_DELAY_US - 1), Some(1));
    }
    let look = breaker.next_look_us(before + 1_000_000);
    assert_eq!(look % MAX_DELAY_US, MAX_DELAY_US / 4);
    drop(breaker);
    assert_eq!(delay(5, since), None);
}

#[test]
fn the_gates_of_a_young_breaker_are_among_those_of_an_older_one() {
    for age in (0..20).map(|n| 1 << n) {
        let (young, old) = (window_us(age), window_us(age * 2));
        assert!(old % young == 0 && old <= 2 * young && old <= MAX_DELAY_US);
        assert_eq!(gate_us(old, 12_345_678) % young, 0);
    }
    assert_eq!((window_us(0), window_us(u64::MAX)), (1024, MAX_DELAY_US));
}

/// The breaker does not end. On a thread of its own, so that blocking is a failure, not a hang.
#[test]
fn a_delayed_fault_goes_on_though_the_breaker_waits_on() {
    let (tell, hear) = mpsc::channel();
    thread::spawn(move || {
        let breaking = Breaking::new();
        let mut breaker = Breaker::new(&breaking);
        breaker.waits(&(0..1));
        thread::sleep(Duration::from_millis(80));
        let now = now_us();
        let gate = breaking.gate_us(0, now);
        breaking.delay_fault(0);
        tell.send((gate.map(|at| at.max(now)), now_us())).unwrap();
    });
    let (gate, end) = hear
        .recv_timeout(Duration::from_secs(5))
        .expect("the fault is blocked");
    assert!(gate.is_some_and(|gate| end >= gate), "{gate:?}, {end}");
}

/// Whether a fault in a long window goes on before its gate, once the breaker has ended.
fn delayed_until_the_end() -> bool {
    let breaking = Breaking::new();
    let mut breaker = Breaker::new(&breaking);
    breaker.waits(&(0..1));
    thread::sleep(Duration::from_millis(70));
    let gate = breaking.gate_us(0, now_us()).unwrap();
    thread::scope(|s| {
        let delayed = s.spawn(|| {
            breaking.delay_fault(0);
            now_us()
        });
        thread::sleep(Duration::from_millis(5));
        drop(breaker);
        delayed.join().unwrap() < gate
    })
}

#[test]
fn a_delayed_fault_goes_on_as_soon_as_the_breaker_ends() {
    // A busy machine may make some of the tries late; without the wake-up all of them are.
    assert!((0..10).any(|_| delayed_until_the_end()));
}

#[test]
fn any_number_of_breakers_delays_the_faults_of_all_their_ranges() {
    let breaking = Breaking::new();
    let mut all: Vec<_> = (0..50).map(|_| Breaker::new(&breaking)).collect();
    let delayed = || {
        (0..50)
            .filter(|p| breaking.gate_us(*p, now_us()).is_some())
            .count()
    };
    for (page, breaker) in (0..).zip(&mut all) {
        breaker.waits(&(page..page + 1));
    }
    assert_eq!(delayed(), 50);
    // Those with a note of their own end first; the others are still there, and one of them waits for more.
    all.drain(..NOTED);
    let ended = breaking.gate_us(NOTED as u64 - 1, now_us());
    assert_eq!((ended, delayed()), (None, 50 - NOTED));
    all[30].waits(&(60..61));
    assert!(breaking.gate_us(60, now_us()).is_some());
    all.drain(..all.len() - 1);
    assert!(breaking.gate_us(49, now_us()).is_some());
    let mut late = Breaker::new(&breaking);
    late.waits(&(100..101));
    assert!(breaking.gate_us(100, now_us()).is_some());
    drop(late);
    assert_eq!(breaking.gate_us(100, now_us()), None);
    drop(all);
    assert_eq!(delayed(), 0);
}

#[test]
fn the_pages_have_no_owner_after_the_mapping() {
    let file = File::full(600);
    let (pgmap, first) = (file.mapping.pgmap().clone(), file.pfn(0));
    let process = Process::new(&file, PageSize::Size2M);
    [0, 599]
        .iter()
        .for_each(|p| assert!(process.write(*p).is_ok()));
    assert_eq!(
        file.mapping.pages.stats(),
        XArrayStats {
            entries: 2,
            nodes: 2
        }
    );
    drop((process, file));
    let folios = [0, 599].map(|n| pgmap.folio(first.checked_add(n).unwrap()));
    assert!(
        folios
            .iter()
            .flatten()
            .all(|f| f.owner().is_none() && f.counts().is_idle())
    );
}
