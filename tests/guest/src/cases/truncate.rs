//! The project's reason to exist: a block is never given to someone else while anybody holds its page.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dax::layout::{BreakError, BreakReport, How};
use fs::Fill;
use fs::error::TruncateError;
use kernel::thread;
use mm::addr::PAGE_SIZE;
use mm::aspace::FaultError;
use mm::sync::{Cancel, Wait, now_us, sleep_us};

use super::fixture::{File, Map, Mounted, fresh, numbered};
use crate::case;

/// Truncates to nothing without waiting.
fn at_once(fs: &Mounted, file: &File) -> Result<fs::TruncateReport, TruncateError> {
    fs.truncate(file, 0, How::NoWait, &mut BreakReport::default())
}

case! {
    fn a_truncate_of_a_mapped_file_takes_the_pages_out_of_the_mapping() {
        let fs = fresh();
        let file = fs.file("/f", 2, 1);
        let map = Map::new(&file, 2);
        assert_eq!(map.load(PAGE_SIZE), Ok(1));
        fs.truncate(&file, PAGE_SIZE, How::NoWait, &mut BreakReport::default()).expect("nobody holds a page");
        assert_eq!(map.load(PAGE_SIZE), Err(FaultError::PastEof));
        assert_eq!(map.load(0), Ok(1));
    }
}

case! {
    /// The freed block goes to another file; the old mapping shows an error, then zeroes, and never that file.
    fn a_mapping_never_shows_the_file_that_got_the_block() {
        let fs = fresh();
        let file = fs.file("/f", 4, 0x11);
        let map = Map::new(&file, 4);
        assert_eq!(map.load(0), Ok(0x11));
        let old: [_; 4] = core::array::from_fn(|page| file.pfn(page as u64));
        at_once(&fs, &file).expect("nobody holds a page");
        let rest = fs.unused();
        let next = fs.file("/next", 64, 0x22);
        assert!(fs.unused() < rest);
        for page in 0..4 {
            assert_eq!(map.load(page * PAGE_SIZE), Err(FaultError::PastEof));
        }
        fs.truncate(&file, 4 * PAGE_SIZE, How::NoWait, &mut BreakReport::default()).expect("it grows");
        assert_eq!(map.load(0), Ok(0));
        map.store(PAGE_SIZE, 0x33).expect("a store");
        assert!(fs.content("/next").iter().all(|b| *b == 0x22));
        let given_on = (0..64).filter(|page| old.contains(&next.pfn(*page))).count();
        crate::control::log(format_args!("{given_on} of the old blocks belong to the other file now"));
    }
}

case! {
    fn a_truncate_waits_for_a_pin_and_holds_no_lock_meanwhile() {
        let fs = fresh();
        let file = fs.file("/f", 4, 1);
        let map = Map::new(&file, 4);
        let pinned = map.pin(1).expect("a pin");
        let truncating = fs.truncating(&file, 0);
        let (held, locks) = truncating.until_it_waits();
        assert_eq!((held.inode, held.index, held.counts.pinned), (u64::from(file.ino()), 1, 1));
        assert!(locks.is_empty(), "{locks:?}");
        // Whatever needs the same locks goes on: another file, and this one.
        fs.file("/other", 2, 5);
        assert_eq!(fs.write(&file, 0, &[9]), Ok(()));
        assert_eq!((file.stat().size, truncating.is_over()), (4 * PAGE_SIZE, false));
        drop(pinned);
        let report = truncating.end().expect("the pin is gone");
        assert!(report.retries >= 1 && report.waited_us > 0, "{report:?}");
        assert_eq!((file.stat().size, map.load(0)), (0, Err(FaultError::PastEof)));
    }
}

case! {
    fn a_pinned_pages_file_is_known_while_a_truncate_waits() {
        let fs = fresh();
        let file = fs.file("/f", 2, 1);
        let map = Map::new(&file, 2);
        let pinned = map.pin(1).expect("a pin");
        let pfn = pinned.pfns().next().expect("one page");
        let truncating = fs.truncating(&file, 0);
        truncating.until_it_waits();
        let owner = fs.pgmap().owner_of(pfn).expect("an owner");
        assert_eq!((owner.inode, owner.index), (u64::from(file.ino()), 1));
        drop(pinned);
        truncating.end().expect("the pin is gone");
        assert_eq!(fs.pgmap().owner_of(pfn), None);
    }
}

case! {
    fn without_waiting_a_truncate_names_the_page_and_changes_nothing() {
        let fs = fresh();
        let file = fs.file("/f", 4, 6);
        let map = Map::new(&file, 4);
        let pinned = map.pin(2).expect("a pin");
        let refused = at_once(&fs, &file);
        let Err(TruncateError::Break(BreakError::WouldBlock(held))) = refused else { panic!("{refused:?}") };
        assert_eq!((held.index, Some(held.pfn)), (2, pinned.pfns().next()));
        assert_eq!(fs.content("/f"), [6; 4 * PAGE_SIZE as usize]);
        drop(pinned);
        assert_eq!(at_once(&fs, &file).expect("the pin is gone").freed_blocks, 4);
    }
}

case! {
    fn at_its_deadline_a_truncate_gives_up_and_leaves_the_file_as_it_was() {
        let fs = fresh();
        let file = fs.file("/f", 2, 6);
        let map = Map::new(&file, 2);
        let _pinned = map.pin(0).expect("a pin");
        let before = now_us();
        let how = How::Wait(Wait::for_us(50_000));
        let refused = fs.truncate(&file, 0, how, &mut BreakReport::default());
        let Err(TruncateError::Break(BreakError::TimedOut(held))) = refused else { panic!("{refused:?}") };
        assert_eq!((held.index, held.counts.pinned), (0, 1));
        assert!(now_us() - before >= 50_000);
        assert_eq!(fs.content("/f"), [6; 2 * PAGE_SIZE as usize]);
        assert_eq!(map.load(0), Ok(6));
    }
}

case! {
    fn a_truncate_that_waits_can_be_cancelled() {
        let fs = fresh();
        let file = fs.file("/f", 1, 6);
        let map = Map::new(&file, 1);
        let _pinned = map.pin(0).expect("a pin");
        let cancel = Arc::new(Cancel::new());
        let theirs = cancel.clone();
        let canceller = thread::spawn("canceller", move || {
            sleep_us(20_000);
            theirs.cancel();
        }).expect("a thread");
        let how = How::Wait(Wait::forever().or_cancelled(&cancel));
        let refused = fs.truncate(&file, 0, how, &mut BreakReport::default());
        assert!(matches!(refused, Err(TruncateError::Break(BreakError::Cancelled(_)))), "{refused:?}");
        canceller.join();
        assert_eq!(fs.content("/f"), [6; PAGE_SIZE as usize]);
    }
}

case! {
    /// A transfer from one page of a file to another needs both: whoever has the first must get the second, though a truncate
    /// of both waits.
    fn who_holds_one_page_can_pin_another_while_a_truncate_waits() {
        let fs = fresh();
        let file = fs.file("/f", 4, 1);
        let map = Map::new(&file, 4);
        let from = map.pin(0).expect("a pin");
        let truncating = fs.truncating(&file, 0);
        truncating.until_it_waits();
        let before = now_us();
        let to = map.pin(3).expect("a pin, after a delay");
        assert!(now_us() - before < 2_000_000, "the delay has no bound");
        assert!(!truncating.is_over());
        drop((from, to));
        truncating.end().expect("both pins are gone");
        assert_eq!(file.stat().size, 0);
    }
}

case! {
    /// Threads that touch the range again and again must not keep the truncate waiting after the pin is gone.
    fn new_faults_do_not_starve_a_truncate() {
        let fs = fresh();
        let file = fs.file("/f", 8, 1);
        let map = Arc::new(Map::new(&file, 8));
        let (stop, touched) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let pinned = map.pin(0).expect("a pin");
        let touchers: [_; 3] = core::array::from_fn(|n| {
            let (map, stop, touched) = (map.clone(), stop.clone(), touched.clone());
            // Relaxed: a flag and a number; nothing else is told by them.
            thread::spawn("toucher", move || while !stop.load(Ordering::Relaxed) {
                touched.fetch_add(u64::from(map.load(n as u64 * PAGE_SIZE).is_ok()), Ordering::Relaxed);
            }).expect("a thread")
        });
        let truncating = fs.truncating(&file, 0);
        truncating.until_it_waits();
        sleep_us(100_000);
        drop(pinned);
        truncating.end().expect("the pin is gone");
        stop.store(true, Ordering::Relaxed);
        touchers.into_iter().for_each(|t| t.join());
        assert!(touched.load(Ordering::Relaxed) > 0);
        assert_eq!((map.load(0), file.stat().size), (Err(FaultError::PastEof), 0));
    }
}

case! {
    /// Nobody waits at an eviction: the pin keeps the file alive, without a name, and its end frees the blocks.
    fn a_file_unlinked_while_pinned_lives_until_the_pin_ends() {
        let fs = fresh();
        let empty = fs.unused();
        let file = fs.file("/f", 16, 3);
        let map = Map::new(&file, 16);
        let pinned = map.pin(5).expect("a pin");
        let pfn = pinned.pfns().next().expect("one page");
        fs.unlink("/f").expect("unlink");
        drop((map, file));
        assert!(fs.open("/f").is_err());
        fs.reap_orphans();
        assert!(fs.unused() < empty);
        assert!(fs.pgmap().owner_of(pfn).is_some());
        drop(pinned);
        fs.reap_orphans();
        assert_eq!(fs.unused(), empty);
        assert_eq!(fs.pgmap().owner_of(pfn), None);
    }
}

case! {
    machine = "--pmem-size 32M", seconds = 60,
    /// Rather no space than a block whose page is held.
    fn a_held_block_is_not_given_out_though_the_disk_is_full() {
        let fs = fresh();
        let file = fs.file("/f", 8, 0x44);
        let map = Map::new(&file, 8);
        let pinned = map.pin(3).expect("a pin");
        let pfn = pinned.pfns().next().expect("one page");
        fs.unlink("/f").expect("unlink");
        drop((map, file));
        let mut files = alloc::vec::Vec::new();
        while let Ok(file) = fs.create_sized(&numbered(files.len()), 0o644, 16 * PAGE_SIZE) {
            files.push(file);
        }
        while let Ok(file) = fs.create_sized(&numbered(files.len()), 0o644, PAGE_SIZE) {
            files.push(file);
        }
        assert!(files.len() > 100, "{} files", files.len());
        for file in &files {
            let blocks = file.stat().size / PAGE_SIZE;
            assert!((0..blocks).all(|page| file.pfn(page) != Some(pfn)), "the held page is in a new file");
        }
        drop(pinned);
        fs.reap_orphans();
        assert!(fs.create_sized("/last", 0o644, PAGE_SIZE).is_ok(), "its block has not come back");
    }
}

case! {
    machine = "--pmem-size 32M", seconds = 30,
    /// And are given out again: at the end one file takes all but a few.
    fn all_blocks_come_back() {
        let fs = fresh();
        let empty = fs.unused();
        for round in 0..20 {
            let file = fs.file("/f", 16, round);
            let map = Map::new(&file, 16);
            let pinned = map.pin(u64::from(round) % 16).expect("a pin");
            let truncating = fs.truncating(&file, 0);
            truncating.until_it_waits();
            drop(pinned);
            truncating.end().expect("the pin is gone");
            fs.unlink("/f").expect("unlink");
        }
        fs.reap_orphans();
        assert_eq!(fs.unused(), empty);
        let all = fs.create("/all", 0o644).expect("create");
        fs.fallocate(&all, 0, (empty - 16) * PAGE_SIZE, Fill::Unwritten).expect("all blocks are there");
    }
}
