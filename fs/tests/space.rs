//! Storage: files in very many pieces, full disks, and the largest files and regions.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::common::sparse::Sparse;
use crate::common::{backing, content, forever, formatted, options, truncate};
use dax::layout::BreakReport;
use dax::pmem::{Pmem, RamPmem};
use fs::error::{TruncateError, WriteError};
use fs::layout::crc32c;
use fs::{Fill, Fs, Inode, MkfsError, MkfsOptions, fsck, mkfs};

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
const PAGE: u64 = 4096;

fn sound<P: Pmem>(p: &P) {
    let report = fsck(p);
    assert!(report.is_clean(), "{report}");
}

fn punch<P: Pmem>(fs: &Fs<P>, file: &Inode<P>, off: u64, len: u64) -> u64 {
    let report = &mut BreakReport::default();
    let punched = fs.punch(file, off, len, forever(), report);
    punched.expect("punch").freed_blocks
}

/// A file system with `version` in its superblocks, sound otherwise.
fn of_version(version: u32) -> Arc<RamPmem> {
    let (ram, _) = formatted(2 * MIB);
    for block in [0, PAGE] {
        let mut bytes = [0; 256];
        ram.read(block, &mut bytes).expect("readable");
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        let sum = crc32c(&bytes[..252]);
        bytes[252..].copy_from_slice(&sum.to_le_bytes());
        ram.store(block, &bytes);
    }
    ram
}

#[test]
fn another_version_is_named_and_not_overwritten() {
    for version in [1, 99] {
        let ram = of_version(version);
        let error = Fs::mount(ram.clone(), backing(2 * MIB)).err();
        let text = error.expect("refused").to_string();
        assert!(
            text.contains(&format!("format version {version}")),
            "{text}"
        );
        assert!(!fsck(&ram).is_clean());
        assert_eq!(mkfs(&ram, &options()).err(), Some(MkfsError::Exists));
        let force = MkfsOptions {
            force: true,
            ..options()
        };
        mkfs(&ram, &force).expect("forced");
        sound(&ram);
    }
}

/// Gives a file the blocks that are free.
fn take_all<P: Pmem>(fs: &Fs<P>, file: &Inode<P>) {
    // In pieces: the file may come to need blocks for nodes.
    for most in [MIB * 1024, MIB, PAGE] {
        loop {
            let len = most.min(fs.statfs().space.free * PAGE);
            let more = fs.fallocate(file, file.stat().size, len, Fill::Unwritten);
            if len == 0 || more.is_err() {
                break;
            }
        }
    }
    // The last ones do not suffice for an extent and the nodes that name it.
    assert!(fs.statfs().space.free <= 4);
}

/// Every second page of a file: as many extents as pieces. What one more costs does not depend on how many there are.
#[test]
fn a_file_in_a_hundred_thousand_pieces_costs_no_more_for_each() {
    const PIECES: u64 = 100_000;
    let len = 420 * MIB;
    let region = Arc::new(Sparse::new(len));
    mkfs(&region, &options()).expect("mkfs");
    let fs = Fs::mount(region.clone(), backing(len)).expect("mount");
    let f = fs.create("/f", 0o644).expect("create");
    for i in 0..PIECES {
        // Not in order, so that nodes split in the middle.
        let at = i * 7919 % PIECES;
        let before = region.streamed.load(Relaxed);
        fs.fallocate(&f, at * 2 * PAGE, PAGE, Fill::Unwritten)
            .expect("fallocate");
        let streamed = region.streamed.load(Relaxed) - before;
        assert!(streamed <= 6 * PAGE, "{streamed} bytes for piece {i}");
    }
    let nodes = f.stat().blocks - PIECES;
    assert!(nodes < PIECES / 64, "{nodes} nodes");
    for at in (0..PIECES).step_by(97) {
        fs.write(&f, at * 2 * PAGE, &at.to_le_bytes())
            .expect("write");
    }
    // No block is left.
    let g = fs.create("/g", 0o644).expect("create");
    take_all(&fs, &g);
    drop((f, g, fs));
    sound(&region);
    let fs = Fs::mount(region.clone(), backing(len)).expect("mount again");
    let f = fs.open("/f").expect("open");
    assert_eq!(fs.extents(&f).count() as u64, PIECES);
    for at in 0..PIECES {
        let mut word = [1; 8];
        fs.read(&f, at * 2 * PAGE, &mut word).expect("read");
        let expected = if at % 97 == 0 { at } else { 0 };
        assert_eq!(u64::from_le_bytes(word), expected);
    }
    for left in (0..PIECES).rev().step_by(9_973) {
        let fences = region.fences.load(Relaxed);
        truncate(&fs, "/f", left * 2 * PAGE + 1);
        // One record, with its new nodes; the tail of the last block.
        assert!(region.fences.load(Relaxed) - fences <= 3);
        assert_eq!(fs.extents(&f).count() as u64, left + 1);
        fs.settle();
        // Somebody takes at once what is free.
        take_all(&fs, &fs.open("/g").expect("open"));
    }
    println!("{PIECES} extents in {nodes} nodes");
    drop(f);
    fs.unlink("/f").expect("unlink");
    fs.unlink("/g").expect("unlink");
    fs.settle();
    let space = fs.statfs();
    assert_eq!(space.space.free + space.reserved, space.blocks - 1);
    drop(fs);
    sound(&region);
}

/// The byte that fills a piece; never 0.
const fn stamp(piece: u64) -> u8 {
    (piece % 251) as u8 + 1
}

/// Fills the disk with pieces behind each other, and what is left with another file.
fn full(len: u64) -> (Arc<RamPmem>, Arc<Fs<Arc<RamPmem>>>, u64) {
    let (ram, backing) = formatted(len);
    let fs = Fs::mount(ram.clone(), backing).expect("mount");
    let f = fs.create("/f", 0o644).expect("create");
    let mut pieces = 0;
    // Three pages each: what is punched out of the middle splits an extent.
    while fs
        .write(&f, pieces * 4 * PAGE, &[stamp(pieces); 3 * PAGE as usize])
        .is_ok()
    {
        pieces += 1;
    }
    let g = fs.create("/g", 0o644).expect("create");
    let mut at = 0;
    while fs.write(&g, at, &[0xee; 10]).is_ok() {
        at += PAGE;
    }
    assert_eq!(fs.statfs().space.free, 0);
    (ram, fs, pieces)
}

/// Every punch on a full disk succeeds, also when another file takes at once what the last one freed.
#[test]
fn a_full_disk_can_always_be_punched() {
    let (ram, fs, pieces) = full(8 * MIB);
    let (f, g) = (fs.open("/f").expect("open"), fs.open("/g").expect("open"));
    assert!(pieces > 400, "{pieces}");
    let mut end = g.stat().size;
    for i in 0..pieces {
        // All over the file, so that many nodes fill up before one splits.
        let piece = i * 101 % pieces;
        assert_eq!(punch(&fs, &f, (piece * 4 + 1) * PAGE, PAGE), 1);
        while fs.write(&g, end, &[0xdd; 10]).is_ok() {
            end += PAGE;
        }
    }
    drop((f, g));
    let found = content(&fs, "/f");
    for i in 0..pieces {
        let page = |n: u64| &found[((4 * i + n) * PAGE) as usize..][..PAGE as usize];
        assert!(
            page(0).iter().chain(page(2)).all(|b| *b == stamp(i)),
            "piece {i}"
        );
        assert!(page(1).iter().all(|b| *b == 0), "piece {i}");
    }
    fs.unmount().map_err(|(_, error)| error).expect("unmount");
    sound(&ram);
}

#[test]
fn a_full_disk_can_always_be_truncated() {
    let (ram, fs, pieces) = full(8 * MIB);
    let f = fs.open("/f").expect("open");
    for piece in (0..pieces).rev() {
        truncate(&fs, "/f", piece * 4 * PAGE + 100);
        assert!(fs.extents(&f).all(|extent| extent.end() <= piece * 4 + 1));
    }
    drop(f);
    fs.unlink("/f").expect("unlink");
    fs.unlink("/g").expect("unlink");
    fs.unmount().map_err(|(_, error)| error).expect("unmount");
    sound(&ram);
}

/// The largest region, and the largest file on it.
#[test]
fn sixteen_tebibytes_are_the_end() {
    let region = Arc::new(Sparse::new(16 * TIB));
    let options = MkfsOptions {
        inodes: None,
        ..options()
    };
    mkfs(&region, &options).expect("mkfs");
    let fs = Fs::mount(region.clone(), backing(16 * TIB)).expect("mount");
    let f = fs.create("/f", 0o644).expect("create");
    let last = 16 * TIB - 8;
    fs.write(&f, last, b"the end.").expect("write");
    assert_eq!(f.stat().size, 16 * TIB);
    assert_eq!(
        fs.write(&f, last, b"beyond the end"),
        Err(WriteError::FileTooBig)
    );
    let beyond = fs.truncate(&f, 16 * TIB + 1, forever(), &mut BreakReport::default());
    assert_eq!(beyond.err(), Some(TruncateError::FileTooBig));
    let beyond = fs.fallocate(&f, 16 * TIB, 1, Fill::Unwritten);
    assert_eq!(beyond, Err(WriteError::FileTooBig));
    // Nearly all of it at once: extents longer than the format's 2³¹ − 1 blocks do not exist.
    fs.fallocate(&f, 0, 15 * TIB, Fill::Unwritten)
        .expect("room");
    assert!(f.stat().blocks >= 15 * TIB / PAGE);
    fs.write(&f, 9 * TIB + 5, b"in between").expect("write");
    drop((f, fs));
    sound(&region);
    let fs = Fs::mount(region.clone(), backing(16 * TIB)).expect("mount again");
    let f = fs.open("/f").expect("open");
    let mut found = [0xaa; 20];
    fs.read(&f, 9 * TIB, &mut found).expect("read");
    assert_eq!(&found, b"\0\0\0\0\0in between\0\0\0\0\0");
    fs.read(&f, last - 2, &mut found[..10]).expect("read");
    assert_eq!(&found[..10], b"\0\0the end.");
    assert!(
        region.pages() < 1000,
        "{} pages were touched",
        region.pages()
    );
    // A region one block longer is none.
    let longer = mkfs(&Sparse::new(16 * TIB + PAGE), &options).err();
    assert!(matches!(longer, Some(MkfsError::Geometry(_))), "{longer:?}");
}
