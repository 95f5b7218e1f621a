//! Files that are mapped and pinned: a block is never given to someone else while anybody still holds its page.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use crate::common::process::Process;
use crate::common::*;
use dax::layout::{BreakError, BreakEvent, BreakReport, How};
use dax::pmem::{Pmem, RamPmem};
use fs::error::{ChangeError, TruncateError, UnmountError, WriteError};
use fs::{Fs, Inode};
use mm::addr::Pfn;
use mm::aspace::{Access, FaultError};
use mm::page::Owner;
use mm::sync::Wait;

const MIB: u64 = 1 << 20;
type Ram = Arc<RamPmem>;

/// A mounted file system with `/f`: four blocks of 1, 2, 3 and 4.
fn with_file() -> (Arc<Fs<Ram>>, Arc<Inode<Ram>>) {
    with_file_on(2 * MIB)
}

fn with_file_on(len: u64) -> (Arc<Fs<Ram>>, Arc<Inode<Ram>>) {
    let fs = mounted(len);
    let f = fs.create("/f", 0o644).expect("create");
    for i in 0..4u8 {
        fs.write(&f, u64::from(i) * 4096, &[i + 1; 4096])
            .expect("write");
    }
    (fs, f)
}

fn owner(fs: &Fs<Ram>, pfn: Pfn) -> Option<Owner> {
    fs.pgmap().folio(pfn).and_then(|folio| folio.owner())
}

#[test]
fn a_fault_reaches_the_bytes_that_were_written() {
    let (fs, f) = with_file();
    let process = Process::new(&f, 4);
    let pfn = process.touch(2, Access::Read).expect("fault");
    let block = pfn.get() - fs.pgmap().range().start().get();
    let mut bytes = [0; 4096];
    fs.pmem().read(block * 4096, &mut bytes).expect("heap");
    assert_eq!(bytes, [3; 4096]);
    assert_eq!(process.touch(4, Access::Read), Err(FaultError::NoMapping));
}

#[test]
fn after_a_truncate_the_pages_are_gone() {
    let (fs, f) = with_file();
    let process = Process::new(&f, 4);
    let pfn = process.touch(3, Access::Write).expect("fault");
    truncate(&fs, "/f", 4096 + 10);
    assert_eq!(process.touch(3, Access::Read), Err(FaultError::PastEof));
    assert!(process.touch(1, Access::Read).is_ok());
    assert_eq!(owner(&fs, pfn), None);
    assert_eq!(
        fs.pgmap().first_busy().map(|(pfn, _)| Some(pfn)),
        Some(f.pfn(1))
    );
}

#[test]
fn truncate_waits_for_a_pin_holding_no_lock() {
    let (fs, f) = with_file();
    let other = fs.create("/other", 0o644).expect("create");
    let process = Process::new(&f, 4);
    let pin = process.pin(2).expect("pin");
    let pfn = f.pfn(2).expect("storage");
    let free = fs.statfs();
    let (tell, told) = channel();
    thread::scope(|scope| {
        let cut = scope.spawn(|| {
            let observer = |event: BreakEvent| {
                if let BreakEvent::Waiting { held, locks_held } = event {
                    tell.send((held, locks_held.len())).expect("listening");
                }
            };
            let report = &mut BreakReport::observed(&observer);
            fs.truncate(&f, 0, forever(), report).expect("truncate")
        });
        let (held, locks) = told
            .recv_timeout(Duration::from_secs(10))
            .expect("it waits");
        assert_eq!(
            (held.pfn, held.index, held.counts.pinned, locks),
            (pfn, 2, 1, 0)
        );
        // The file is as it was, its page has an owner, and everything else goes on.
        assert_eq!(f.stat().size, 4 * 4096);
        let (inode, index) = (u64::from(f.ino()), 2);
        assert_eq!(owner(&fs, pfn), Some(Owner { inode, index }));
        fs.write(&other, 0, &[9; 5000]).expect("another file");
        fs.write(&f, 0, &[8; 10]).expect("the same file");
        assert!(fs.mkdir("/d", 0o755).is_ok());
        thread::sleep(Duration::from_millis(5));
        assert!(!cut.is_finished(), "truncate did not wait for the pin");
        drop(pin);
        let report = cut.join().expect("no panic");
        assert!(report.retries >= 1 && report.waited_us > 0, "{report:?}");
        assert_eq!(report.freed_blocks, 4);
    });
    assert_eq!(f.stat().size, 0);
    let now = fs.statfs();
    assert_eq!(
        now.space.free + now.quarantined,
        free.space.free + free.quarantined + 4 - 2
    );
}

#[test]
fn who_does_not_wait_is_told_the_page_and_changes_nothing() {
    let (fs, f) = with_file();
    let process = Process::new(&f, 4);
    let pin = process.pin(3).expect("pin");
    let before: Vec<_> = fs.extents(&f).collect();
    let report = &mut BreakReport::default();
    let Err(TruncateError::Break(BreakError::WouldBlock(held))) =
        fs.truncate(&f, 5, How::NoWait, report)
    else {
        panic!("truncated a pinned page");
    };
    assert_eq!((held.inode, held.index), (u64::from(f.ino()), 3));
    let soon = How::Wait(Wait::for_us(3000));
    let late = fs.truncate(&f, 5, soon, report);
    assert!(
        matches!(late, Err(TruncateError::Break(BreakError::TimedOut(_)))),
        "{late:?}"
    );
    let punched = fs.punch(&f, 0, 4 * 4096, How::NoWait, report);
    assert!(matches!(punched, Err(TruncateError::Break(_))));
    assert_eq!(f.stat().size, 4 * 4096);
    assert_eq!(fs.extents(&f).collect::<Vec<_>>(), before);
    assert_eq!(content(&fs, "/f")[3 * 4096..], [4; 4096]);
    // What lies outside the cut does not matter.
    fs.punch(&f, 0, 3 * 4096, How::NoWait, report)
        .expect("the other pages");
    drop(pin);
    fs.truncate(&f, 5, How::NoWait, report)
        .expect("now it is free");
}

#[test]
fn the_block_of_a_pinned_page_is_not_handed_out_though_the_disk_is_full() {
    // So small that all extents fit into an inode, and no block is kept for nodes: full means that every block is taken.
    let (fs, f) = with_file_on(20 * 4096);
    assert_eq!(fs.statfs().reserved, 0);
    let process = Process::new(&f, 4);
    let pin = process.pin(1).expect("pin");
    let pinned = f.pfn(1).expect("storage");
    process.space.unmap(process.at).expect("unmap");
    fs.unlink("/f").expect("unlink");
    drop(f);
    let fill = fs.create("/fill", 0o644).expect("create");
    let mut end = 0;
    let full = loop {
        match fs.write(&fill, end, &[7; 4096]) {
            Ok(()) => end += 4096,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(full, WriteError::Change(ChangeError::NoSpace { .. })),
        "{full:?}"
    );
    let full = fs.statfs();
    assert_eq!((full.orphans, full.space.free), (1, 0));
    let base = fs.pgmap().range().start().get();
    let taken = |block: u64| {
        fs.extents(&fill)
            .any(|e| (e.phys..e.phys + e.len).contains(&block))
    };
    assert!(
        !taken(pinned.get() - base),
        "the block of a pinned page was handed out"
    );
    drop(pin);
    for i in 0..4 {
        fs.write(&fill, end + i * 4096, &[7; 4096])
            .expect("its blocks are free now");
    }
    assert!(taken(pinned.get() - base));
    assert!(fs.write(&fill, end + 4 * 4096, &[7; 4096]).is_err());
}

#[test]
fn a_store_into_a_hole_is_durable_storage_before_the_fault_returns() {
    let (ram, backing) = formatted(2 * MIB);
    let fs = Fs::mount(ram.clone(), backing).expect("mount");
    let f = fs.create("/f", 0o644).expect("create");
    truncate(&fs, "/f", 8 * 4096);
    let process = Process::new(&f, 8);
    let hole = process.touch(5, Access::Read).expect("zero page");
    let pfn = process.touch(5, Access::Write).expect("fault");
    assert_ne!(pfn, hole);
    assert_eq!(f.pfn(5), Some(pfn));
    assert_eq!(process.touch(5, Access::Read), Ok(pfn));
    // A crash now.
    let crashed = RamPmem::new(2 * MIB).expect("memory");
    let mut image = vec![0; 2 << 20];
    ram.read(0, &mut image).expect("heap");
    crashed.store(0, &image);
    let again = Fs::mount(crashed, crate::common::backing(2 * MIB)).expect("mount");
    let found = again.open("/f").expect("open");
    assert!(found.pfn(5).is_some() && found.pfn(4).is_none());
    assert_eq!(content(&again, "/f"), [0; 8 * 4096]);
}

#[test]
fn a_write_into_a_hole_is_seen_by_who_has_it_mapped() {
    let fs = mounted(2 * MIB);
    let f = fs.create("/f", 0o644).expect("create");
    truncate(&fs, "/f", 8 * 4096);
    let process = Process::new(&f, 8);
    let hole = process.touch(3, Access::Read).expect("zero page");
    fs.write(&f, 3 * 4096 + 7, b"now").expect("write");
    let pfn = process.touch(3, Access::Read).expect("fault");
    assert_ne!(pfn, hole);
    assert_eq!(Some(pfn), f.pfn(3));
}

#[test]
fn a_file_in_use_keeps_the_file_system_mounted() {
    let (fs, f) = with_file();
    let process = Process::new(&f, 4);
    process.touch(0, Access::Write).expect("fault");
    let ino = f.ino();
    drop(f);
    let Err((fs, UnmountError::Busy(busy))) = fs.unmount() else {
        panic!("unmounted a mapped file");
    };
    assert_eq!((busy.ino, busy.orphan), (ino, false));
    assert_eq!(busy.page.map(|page| page.index), Some(0));
    process.space.unmap(process.at).expect("unmap");
    assert!(fs.unmount().is_ok());
}

#[test]
fn faults_and_writes_fill_the_same_holes_without_losing_either() {
    let fs = mounted(8 * MIB);
    let f = fs.create("/f", 0o644).expect("create");
    let pages = 200;
    truncate(&fs, "/f", pages * 4096);
    let process = Process::new(&f, pages);
    thread::scope(|scope| {
        scope.spawn(|| (0..pages).for_each(|p| assert!(process.touch(p, Access::Write).is_ok())));
        scope.spawn(|| {
            for p in (0..pages).rev() {
                fs.write(&f, p * 4096 + 8, &p.to_le_bytes()).expect("write");
            }
        });
    });
    let found = content(&fs, "/f");
    for p in 0..pages {
        assert_eq!(found[(p * 4096 + 8) as usize..][..8], p.to_le_bytes());
        assert_eq!(process.touch(p, Access::Read).ok(), f.pfn(p));
    }
    assert_eq!(fs.extents(&f).map(|e| e.len).sum::<u64>(), pages);
}

/// Who has the last page mapped may store behind the end of the file; a crash may leave there what a truncate had not zeroed yet.
#[test]
fn bytes_behind_the_end_never_become_part_of_the_file() {
    type Way = fn(&Fs<Ram>, &Inode<Ram>);
    let ways: [Way; 3] = [
        |fs, _| truncate(fs, "/f", 3 * 4096),
        |fs, f| fs.write(f, 9000, b"end").expect("write"),
        |fs, f| {
            fs.fallocate(f, 4096, 8192, fs::Fill::Zeroed)
                .expect("fallocate")
        },
    ];
    for (way, extend) in ways.iter().enumerate() {
        let (fs, f) = with_file();
        truncate(&fs, "/f", 5000);
        let at = f.pfn(1).expect("storage").get() - fs.pgmap().range().start().get();
        fs.pmem().store(at * 4096 + 1000, &[0xee; 3000]);
        extend(&fs, &f);
        let found = content(&fs, "/f");
        assert!(found.len() > 8192);
        assert!(found[5000..8192].iter().all(|byte| *byte == 0), "way {way}");
    }
}
