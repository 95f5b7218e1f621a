//! Zeroing a range, and storage behind the end of a file.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::common::process::Process;
use crate::common::*;
use dax::layout::{BreakError, BreakReport, How};
use dax::pmem::RamPmem;
use fs::error::{ChangeError, TruncateError};
use fs::{Fill, Fs, Inode, fsck};
use mm::aspace::Access;

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
type Ram = Arc<RamPmem>;

/// `/f`: six blocks of 1 to 6.
fn with_file() -> (Arc<Fs<Ram>>, Arc<Inode<Ram>>) {
    let fs = mounted(2 * MIB);
    let f = fs.create("/f", 0o644).expect("create");
    for i in 0..6u8 {
        fs.write(&f, u64::from(i) * PAGE, &[i + 1; PAGE as usize])
            .expect("write");
    }
    (fs, f)
}

fn zero(fs: &Fs<Ram>, f: &Inode<Ram>, off: u64, len: u64, fill: Fill) {
    let report = &mut BreakReport::default();
    let done = fs.zero_range(f, off, len, fill, forever(), report);
    done.expect("zero range");
}

fn sound(fs: Arc<Fs<Ram>>) {
    let ram = fs.pmem().clone();
    fs.unmount().map_err(|(_, error)| error).expect("unmount");
    let report = fsck(&ram);
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_zeroed_range_is_zero_and_keeps_its_storage() {
    for fill in [Fill::Unwritten, Fill::Zeroed, Fill::KeepSize] {
        let (fs, f) = with_file();
        let blocks: Vec<_> = (0..6).map(|page| f.pfn(page)).collect();
        let mut expected = content(&fs, "/f");
        expected[100..5 * PAGE as usize + 7].fill(0);
        zero(&fs, &f, 100, 5 * PAGE + 7 - 100, fill);
        assert_eq!(content(&fs, "/f"), expected, "{fill:?}");
        for (page, before) in (0..6).zip(blocks) {
            let extent = fs.extents(&f).find(|e| e.file <= page && page < e.end());
            let extent = extent.expect("storage");
            let base = fs.pgmap().range().start().get();
            let block = extent.phys + page - extent.file;
            assert_eq!(Some(base + block), before.map(|pfn| pfn.get()));
            let whole = (1..5).contains(&page) && fill != Fill::Zeroed;
            assert_eq!(extent.unwritten, whole, "page {page}, {fill:?}");
        }
        drop(f);
        sound(fs);
    }
}

#[test]
fn a_zeroed_range_moves_the_end_unless_it_is_to_stay() {
    for (fill, size) in [(Fill::Unwritten, 40_000), (Fill::KeepSize, 6 * PAGE)] {
        let (fs, f) = with_file();
        zero(&fs, &f, 5 * PAGE + 10, 40_000 - 5 * PAGE - 10, fill);
        assert_eq!(f.stat().size, size);
        assert_eq!(fs.extents(&f).map(|e| e.len).sum::<u64>(), 10);
        let found = content(&fs, "/f");
        assert!(found[5 * PAGE as usize..][..10].iter().all(|b| *b == 6));
        assert!(found[5 * PAGE as usize + 10..].iter().all(|b| *b == 0));
        drop(f);
        sound(fs);
    }
}

/// Later than any uptime.
static NOW: AtomicU64 = AtomicU64::new(1 << 60);

#[test]
fn zeroing_and_cutting_to_the_same_size_move_the_times() {
    type Way = fn(&Fs<Ram>, &Inode<Ram>);
    let ways: [Way; 3] = [
        |fs, f| zero(fs, f, 10, 20, Fill::Unwritten),
        |fs, f| zero(fs, f, PAGE, PAGE, Fill::KeepSize),
        |fs, _| truncate(fs, "/f", 6 * PAGE),
    ];
    let (fs, f) = with_file();
    fs.set_clock(|| NOW.load(Relaxed));
    for way in ways {
        let now = NOW.fetch_add(1000, Relaxed) + 1000;
        way(&fs, &f);
        assert_eq!((f.stat().mtime, f.stat().ctime), (now, now));
    }
}

#[test]
fn who_has_a_zeroed_page_mapped_sees_zeroes_and_can_store() {
    let (fs, f) = with_file();
    let process = Process::new(&f, 6);
    let before = process.touch(2, Access::Write).expect("fault");
    zero(&fs, &f, PAGE, 3 * PAGE, Fill::Unwritten);
    let read = process.touch(2, Access::Read).expect("fault");
    assert_ne!(read, before, "the old page is still mapped");
    let stored = process.touch(2, Access::Write).expect("fault");
    assert_eq!(Some(stored), f.pfn(2));
    assert!(
        content(&fs, "/f")[PAGE as usize..][..3 * PAGE as usize]
            .iter()
            .all(|b| *b == 0)
    );
}

#[test]
fn a_pinned_page_is_not_zeroed_behind_its_holder() {
    let (fs, f) = with_file();
    let process = Process::new(&f, 6);
    let pin = process.pin(2).expect("pin");
    let before = content(&fs, "/f");
    let report = &mut BreakReport::default();
    let late = fs.zero_range(&f, 0, 6 * PAGE, Fill::Unwritten, How::NoWait, report);
    assert!(
        matches!(late, Err(TruncateError::Break(BreakError::WouldBlock(_)))),
        "{late:?}"
    );
    assert_eq!(content(&fs, "/f"), before);
    drop(pin);
    zero(&fs, &f, 0, 6 * PAGE, Fill::Unwritten);
}

#[test]
fn what_has_no_content_is_not_zeroed() {
    let fs = mounted(2 * MIB);
    let report = &mut BreakReport::default();
    let root = fs.root().expect("root");
    let error = fs.zero_range(&root, 0, PAGE, Fill::Unwritten, forever(), report);
    assert_eq!(error.err(), Some(TruncateError::NotFile));
}

/// Storage behind the end is never shown before it is written, however the end comes to lie behind it.
#[test]
fn storage_behind_the_end_shows_zeroes_when_the_end_moves() {
    type Way = fn(&Fs<Ram>, &Inode<Ram>);
    let ways: [Way; 4] = [
        |fs, _| truncate(fs, "/f", 10 * PAGE),
        |fs, f| fs.write(f, 10 * PAGE - 1, &[0]).expect("write"),
        |fs, f| {
            fs.fallocate(f, 9 * PAGE, PAGE, Fill::Unwritten)
                .expect("more")
        },
        |fs, f| zero(fs, f, 9 * PAGE, PAGE, Fill::Zeroed),
    ];
    for way in ways {
        let (fs, f) = with_file();
        // All free blocks hold bytes.
        let dirt = fs.create("/dirt", 0o644).expect("create");
        while fs.write(&dirt, dirt.stat().size, &[0xee; 4096]).is_ok() {}
        drop(dirt);
        fs.unlink("/dirt").expect("unlink");
        fs.settle();
        fs.fallocate(&f, 5 * PAGE + 100, 4 * PAGE, Fill::KeepSize)
            .expect("behind");
        assert_eq!(f.stat().size, 6 * PAGE);
        assert_eq!(fs.extents(&f).map(|e| e.len).sum::<u64>(), 10);
        way(&fs, &f);
        assert_eq!(f.stat().size, 10 * PAGE);
        assert!(
            content(&fs, "/f")[6 * PAGE as usize..]
                .iter()
                .all(|b| *b == 0)
        );
        drop(f);
        sound(fs);
    }
}

#[test]
fn a_cut_takes_the_storage_behind_the_end_too() {
    let (fs, f) = with_file();
    let free = fs.statfs().space.free;
    fs.fallocate(&f, 20 * PAGE, 30 * PAGE, Fill::KeepSize)
        .expect("behind");
    assert_eq!(fs.statfs().space.free, free - 30);
    truncate(&fs, "/f", 6 * PAGE);
    assert_eq!(
        fs.extents(&f).map(|e| e.len).sum::<u64>(),
        36,
        "the end stays"
    );
    truncate(&fs, "/f", 6 * PAGE - 1);
    assert_eq!(fs.extents(&f).map(|e| e.len).sum::<u64>(), 6);
    drop(f);
    sound(fs);
}

/// A file of 40 extents, each second block of them, and then no free block.
#[test]
fn zeroing_in_a_file_of_many_extents_on_a_full_disk_ends_as_before_or_after() {
    let fs = mounted(2 * MIB);
    let f = fs.create("/f", 0o644).expect("create");
    for i in 0..40 {
        fs.write(&f, i * 4 * PAGE, &[7; 3 * PAGE as usize])
            .expect("write");
    }
    let g = fs.create("/g", 0o644).expect("create");
    while fs.write(&g, g.stat().size, &[9; PAGE as usize]).is_ok() {}
    for i in 0..40 {
        let off = (4 * i + 1) * PAGE;
        let report = &mut BreakReport::default();
        let done = fs.zero_range(&f, off, PAGE, Fill::Unwritten, forever(), report);
        let found = content(&fs, "/f");
        let (start, page) = ((4 * i * PAGE) as usize, PAGE as usize);
        let middle = if done.is_ok() { 0 } else { 7 };
        if let Err(error) = done {
            let full = matches!(error, TruncateError::Change(ChangeError::NoSpace { .. }));
            assert!(full, "{error}");
        }
        assert!(found[start..][..page].iter().all(|b| *b == 7));
        assert!(found[start + page..][..page].iter().all(|b| *b == middle));
        assert!(found[start + 2 * page..][..page].iter().all(|b| *b == 7));
    }
    drop((f, g));
    sound(fs);
}
