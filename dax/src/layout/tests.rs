//! Breakers against pins, faults, munmap and each other; threads as actors.

mod leases;

use super::*;
use crate::fake::{File, INODE, Process};
use crate::heap_watch::allocations;
use crate::mapping::DeleteError;
use mm::addr::PageSize;
use mm::page::Owner;
use mm::sync::{Cancel, now_us};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Long enough that only a lost wake-up reaches it.
fn patient() -> How<'static> {
    How::Wait(Wait::for_us(8_000_000))
}

fn setup(pages: u64) -> (Arc<File>, Process) {
    let file = File::full(pages);
    let process = Process::new(&file, PageSize::Size4K);
    (file, process)
}

fn try_break<'a>(
    file: &'a File,
    pages: Range<u64>,
    how: How<'_>,
) -> Result<Idle<'a, u64>, BreakError> {
    break_layouts(
        &file.inode,
        &file.mapping,
        pages,
        how,
        &mut BreakReport::default(),
    )
}

/// Deletes entries of which nothing needs to be flushed.
fn delete(file: &File, idle: &Idle<'_, u64>, pages: Range<u64>) -> Result<u64, DeleteError> {
    let no_flush = |pfn, pages| panic!("{pages} pages from {pfn:?} are flushed");
    file.mapping.delete_entries(idle, pages, &no_flush)
}

/// Breaks `pages` on a thread of its own and runs `while_waiting` once, as soon as it waits.
fn break_during(file: &File, pages: Range<u64>, while_waiting: impl FnOnce(Held)) -> u32 {
    let (tell, hear) = mpsc::channel();
    thread::scope(|s| {
        let breaker = s.spawn(move || {
            let observer = move |event| {
                if let BreakEvent::Waiting { held, locks_held } = event {
                    assert!(locks_held.is_empty(), "waits with {locks_held:?}");
                    let _ = tell.send(held);
                }
            };
            let mut report = BreakReport::observed(&observer);
            let idle = break_layouts(&file.inode, &file.mapping, pages, patient(), &mut report);
            idle.map(|_idle| ()).unwrap();
            report.retries
        });
        while_waiting(
            hear.recv_timeout(Duration::from_secs(10))
                .expect("the breaker did not wait"),
        );
        breaker.join().unwrap()
    })
}

#[test]
fn an_idle_range_is_proved_and_its_entries_deleted() {
    let (file, process) = setup(8);
    (0..8).for_each(|p| assert!(process.write(p).is_ok()));
    let mut idle = try_break(&file, 2..8, How::NoWait).unwrap();
    assert!(file.inode.try_lock().is_none() && file.mapping.invalidate.try_read().is_none());
    assert!(!process.tlb.reaches(file.pfn(2), 6));
    *idle.inode() += 1;
    assert_eq!(delete(&file, &idle, 2..8), Ok(6));
    drop(idle);
    let owner = |page| {
        file.mapping
            .pgmap()
            .folio(file.pfn(page))
            .and_then(|f| f.owner())
    };
    assert_eq!(
        (owner(1), owner(2)),
        (
            Some(Owner {
                inode: INODE,
                index: 1
            }),
            None
        )
    );
    assert_eq!((file.count(1), file.count(2)), ((1, 0), (0, 0)));
    assert_eq!(process.read(2), Ok(file.pfn(2)));
}

#[test]
fn a_proof_is_good_for_its_own_mapping_and_range_only() {
    let ((file, process), (other, _process)) = (setup(8), setup(8));
    (0..8).for_each(|p| assert!(process.read(p).is_ok()));
    let idle = try_break(&file, 2..4, How::NoWait).unwrap();
    assert_eq!(delete(&other, &idle, 2..4), Err(DeleteError::NotProved));
    for range in [1..4, 2..5, 0..8] {
        assert_eq!(delete(&file, &idle, range), Err(DeleteError::NotProved));
    }
    assert_eq!(delete(&file, &idle, 3..4), Ok(1));
}

#[test]
fn a_range_inside_a_large_entry_is_widened_to_it() {
    let file = File::full(1024);
    let process = Process::new(&file, PageSize::Size2M);
    process.write(700).unwrap();
    let pin = process.pin(513);
    let refused = try_break(&file, 900..901, How::NoWait).err().unwrap();
    assert_eq!(
        (refused.held().index, refused.held().pfn),
        (512, file.pfn(512))
    );
    drop(pin);
    let idle = try_break(&file, 900..901, How::NoWait).unwrap();
    assert_eq!(idle.range(), 512..1024);
    let flushed = RefCell::new(Vec::new());
    let flush = |pfn, pages| flushed.borrow_mut().push((pfn, pages));
    assert_eq!(file.mapping.delete_entries(&idle, 900..901, &flush), Ok(1));
    let kept = [(file.pfn(512), 900 - 512), (file.pfn(901), 1024 - 901)];
    assert_eq!(
        *flushed.borrow(),
        kept,
        "stores to the pages that the file keeps are lost"
    );
}

#[test]
fn nowait_names_the_page_and_who_holds_it() {
    let (file, process) = setup(8);
    let pin = process.pin(5);
    let refused = try_break(&file, 0..8, How::NoWait).err();
    let counts = Counts {
        mapped: 0,
        pinned: 1,
    };
    let held = Held {
        inode: INODE,
        index: 5,
        pfn: file.pfn(5),
        counts,
        holder: None,
    };
    assert_eq!(refused, Some(BreakError::WouldBlock(held)));
    assert!(file.inode.try_lock().is_some() && file.mapping.invalidate.try_write().is_some());
    assert_eq!(
        process.read(5),
        Ok(file.pfn(5)),
        "the file is not as it was"
    );
    drop(pin);
    let _idle = try_break(&file, 0..8, How::NoWait).unwrap();
}

#[test]
fn a_breaker_waits_without_locks_and_is_woken_by_the_last_unpin() {
    let (file, process) = setup(8);
    let pin = process.pin(5);
    let retries = break_during(&file, 0..6, |held| {
        assert_eq!((held.index, held.counts.pinned), (5, 1));
        *file.inode.lock() += 1;
        assert_eq!(
            (process.read(7), process.write(2)),
            (Ok(file.pfn(7)), Ok(file.pfn(2)))
        );
        drop(pin);
    });
    assert!(retries >= 1);
}

#[test]
fn the_deadline_gives_up_and_leaves_the_file_as_it_was() {
    let (file, process) = setup(8);
    let _pin = process.pin(5);
    let mut report = BreakReport::default();
    let how = How::Wait(Wait::for_us(20_000));
    let start = Instant::now();
    let gave_up = break_layouts(&file.inode, &file.mapping, 0..8, how, &mut report).err();
    assert!(
        matches!(gave_up, Some(BreakError::TimedOut(held)) if held.index == 5 && held.counts.pinned == 1)
    );
    assert!(start.elapsed() >= Duration::from_millis(20) && report.waited_us >= 19_000);
    assert_eq!(report.last_held.map(|h| h.index), Some(5));
    assert!(file.inode.try_lock().is_some() && file.mapping.invalidate.try_write().is_some());
    assert_eq!(process.write(5), Ok(file.pfn(5)));
}

#[test]
fn a_cancelled_breaker_gives_up_at_once() {
    let (file, process) = setup(8);
    let (_pin, cancel) = (process.pin(5), Cancel::new());
    thread::scope(|s| {
        s.spawn(|| {
            thread::sleep(Duration::from_millis(10));
            cancel.cancel();
        });
        let how = How::Wait(Wait::forever().or_cancelled(&cancel));
        assert!(
            matches!(try_break(&file, 0..8, how), Err(BreakError::Cancelled(held)) if held.index == 5)
        );
    });
}

/// The liveness hole of Linux: its waiter waits for the sum of mappings and pins.
#[test]
fn a_page_faulted_in_during_the_wait_does_not_keep_the_breaker_asleep() {
    let (file, process) = setup(8);
    let pin = process.pin(5);
    break_during(&file, 0..8, |_| {
        process.write(5).unwrap();
        assert_eq!(file.count(5), (1, 1));
        drop(pin);
    });
}

/// DMA from one page of the file to another: the holder of one page needs a second page of the range before it can let go.
#[test]
fn the_holder_of_a_page_may_pin_another_page_of_the_range_meanwhile() {
    let (file, process) = setup(8);
    let first = process.pin(5);
    break_during(&file, 0..8, |_| {
        let start = Instant::now();
        let second = process.pin(6);
        assert!(start.elapsed() < Duration::from_secs(5));
        drop((first, second));
    });
}

#[test]
fn a_pin_counts_although_nobody_maps_the_file_any_more() {
    let (file, process) = setup(8);
    let pin = process.pin(5);
    process.unmap();
    assert_eq!((file.mapping.attachments(), file.count(5)), (0, (0, 1)));
    assert!(matches!(
        try_break(&file, 0..8, How::NoWait),
        Err(BreakError::WouldBlock(_))
    ));
    drop((process, pin));
    let _idle = try_break(&file, 0..8, How::NoWait).unwrap();
}

#[test]
fn the_owner_is_known_while_a_breaker_waits() {
    let (file, process) = setup(8);
    let pin = process.pin(5);
    break_during(&file, 0..8, |held| {
        let owner = file.mapping.pgmap().folio(held.pfn).and_then(|f| f.owner());
        assert_eq!(
            owner,
            Some(Owner {
                inode: INODE,
                index: 5
            })
        );
        assert_eq!(file.mapping.load(5).and_then(|f| f.pfn()), Some(held.pfn));
        drop(pin);
    });
}

#[test]
fn two_breakers_of_one_file_both_finish() {
    let (file, process) = setup(8);
    let (low, high) = (process.pin(1), process.pin(6));
    thread::scope(|s| {
        let both = [0..4, 4..8]
            .map(|range| s.spawn(|| try_break(&file, range, patient()).map(|_| ()).unwrap()));
        thread::sleep(Duration::from_millis(5));
        drop((high, low));
        both.into_iter().for_each(|b| b.join().unwrap());
    });
}

/// A munmap on another CPU has cleared its entry and not yet flushed: the page is still reachable there.
#[test]
fn a_page_that_munmap_is_still_flushing_is_not_idle() {
    let (file, process) = setup(8);
    process.write(5).unwrap();
    let (go, may_go) = mpsc::channel::<()>();
    let (tell, hear) = mpsc::channel();
    let proved = AtomicBool::new(false);
    let may_go = std::sync::Mutex::new(may_go);
    process.tlb.on_flush(move |_| {
        let _ = tell.send(());
        let _ = may_go.lock().unwrap().recv_timeout(Duration::from_secs(10));
    });
    thread::scope(|s| {
        s.spawn(|| process.unmap());
        hear.recv_timeout(Duration::from_secs(10)).unwrap();
        let breaker = s.spawn(|| {
            let idle = try_break(&file, 0..8, patient()).unwrap();
            proved.store(true, Ordering::SeqCst);
            assert!(!process.tlb.reaches(file.pfn(5), 1));
            drop(idle);
        });
        thread::sleep(Duration::from_millis(20));
        assert!(
            !proved.load(Ordering::SeqCst),
            "idle while another CPU can still reach the page"
        );
        drop(go);
        breaker.join().unwrap();
    });
}

#[test]
fn delayed_faults_go_on_at_once_when_the_breaker_gives_up() {
    let (file, process) = setup(8);
    let _pin = process.pin(5);
    thread::scope(|s| {
        let breaker = s.spawn(|| try_break(&file, 0..8, How::Wait(Wait::for_us(30_000))).is_err());
        thread::sleep(Duration::from_millis(5));
        let start = Instant::now();
        (0..4).for_each(|p| assert!(process.read(p).is_ok()));
        assert!(start.elapsed() < Duration::from_secs(2));
        assert!(breaker.join().unwrap());
    });
    let gate = file.mapping.breaking.gate_us(6, now_us());
    assert_eq!(gate, None, "delayed after the end");
}

/// Ends the threads of a test also when it fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn breaking_waiting_and_deleting_allocate_nothing() {
    let (file, process) = setup(200);
    (0..200).for_each(|p| assert!(process.write(p).is_ok()));
    let pin = process.pin(70);
    let seen = allocations(|| {
        let how = How::Wait(Wait::for_us(2_000));
        assert!(try_break(&file, 0..200, How::NoWait).is_err());
        assert!(try_break(&file, 0..200, how).is_err());
        drop(pin);
        file.mapping.clean_range(0..200, &|_, _| ());
        let idle = try_break(&file, 0..200, patient()).unwrap();
        assert_eq!(delete(&file, &idle, 0..200), Ok(200));
    });
    assert_eq!((seen, file.mapping.pages.stats().nodes), (0, 0));
}

/// New pins of a mapped page pass without a fault: the breaker hears of the mapping, and takes it away.
#[test]
fn a_page_mapped_anew_is_unmapped_again_though_its_pin_is_held() {
    let (file, process) = setup(8);
    let pin = process.pin(5);
    let (tell, hear) = mpsc::channel();
    thread::scope(|s| {
        let file = &file;
        let breaker = s.spawn(move || {
            let observer = move |event| {
                if let BreakEvent::Retry = event {
                    let _ = tell.send(());
                }
            };
            let mut report = BreakReport::observed(&observer);
            let idle = break_layouts(&file.inode, &file.mapping, 0..8, patient(), &mut report);
            idle.map(|_idle| ()).unwrap();
        });
        thread::sleep(Duration::from_millis(50));
        process.write(5).unwrap();
        let again = hear.recv_timeout(Duration::from_secs(4));
        drop(pin);
        breaker.join().unwrap();
        assert!(
            again.is_ok(),
            "the page stays mapped while the breaker sleeps"
        );
    });
}

/// Pins that overlap: without a breaker the page is never without one.
#[test]
fn a_breaker_gets_through_a_stream_of_pins() {
    let (file, process) = setup(4);
    let (done, pins) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|s| {
        let _stop = Stop(&done);
        for n in 0..10 {
            let (process, done, pins) = (&process, &done, &pins);
            s.spawn(move || {
                thread::sleep(Duration::from_micros(2_500) * n);
                while !done.load(Ordering::Relaxed) {
                    let pin = process.pin(1);
                    thread::sleep(Duration::from_millis(25));
                    drop(pin);
                    pins.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(40));
            let idle = try_break(&file, 0..4, patient());
            assert!(idle.is_ok(), "the breaker starves");
        }
    });
    assert!(pins.into_inner() > 8, "nobody pinned");
}

/// While an `Idle` lives nothing is mapped or pinned, whatever others try.
#[test]
fn idle_means_idle_under_fire() {
    let (file, process) = setup(4);
    let (done, proofs) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|s| {
        let _stop = Stop(&done);
        for _ in 0..3 {
            s.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    drop(process.pin(1));
                    let _ = process.write(2);
                }
            });
        }
        let end = Instant::now() + Duration::from_secs(20);
        while proofs.load(Ordering::Relaxed) < 40 && Instant::now() < end {
            let Ok(idle) = try_break(&file, 0..4, patient()) else {
                panic!("a breaker starved")
            };
            for _ in 0..20 {
                assert!(
                    (0..4).all(|p| file.counts(p).is_idle()),
                    "in use while proved idle"
                );
                assert!(
                    !process.tlb.reaches(file.pfn(0), 4),
                    "reachable while proved idle"
                );
                thread::yield_now();
            }
            drop(idle);
            proofs.fetch_add(1, Ordering::Relaxed);
        }
    });
    assert_eq!(proofs.into_inner(), 40, "breakers starve");
}
