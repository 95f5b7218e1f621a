//! Media errors: of the block that is bad and of nothing else; told with structure and offset; mended by writing.

use std::sync::Arc;

use crate::common::process::Process;
use crate::common::*;
use dax::pmem::{Pmem, RamPmem};
use fs::error::{LookupError, MountError, ReadError};
use fs::{Fs, Inode, fsck};
use mm::aspace::{Access, FaultError};

const LEN: u64 = 1 << 20;
type Ram = Arc<RamPmem>;

/// A file of four blocks, one byte value each, and a file system with two directories.
fn sample() -> (Ram, fs::Backing, Arc<Fs<Ram>>) {
    let (ram, backing) = formatted(LEN);
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    let f = fs.create("/f", 0o644).expect("create");
    for block in 0..4 {
        fs.write(&f, block * 4096, &[1 + block as u8; 4096])
            .expect("write");
    }
    for dir in ["/d", "/e"] {
        fs.mkdir(dir, 0o755).expect("mkdir");
        fs.create(&format!("{dir}/x"), 0o644).expect("create");
    }
    drop(f);
    (ram, backing, fs)
}

/// Byte offset in the region of a block of a file.
fn place(fs: &Fs<Ram>, inode: &Inode<Ram>, block: u64) -> u64 {
    let extent = fs
        .extents(inode)
        .find(|e| e.file <= block && block < e.end());
    let extent = extent.expect("storage");
    (extent.phys + block - extent.file) * 4096
}

fn block(fs: &Fs<Ram>, inode: &Inode<Ram>, block: u64) -> Result<u8, ReadError> {
    let mut buf = [0; 4096];
    fs.read(inode, block * 4096, &mut buf)?;
    assert!(buf.iter().all(|byte| *byte == buf[0]));
    Ok(buf[0])
}

#[test]
fn an_error_in_data_is_of_that_block_and_a_whole_write_mends_it() {
    let (ram, _, fs) = sample();
    let f = fs.open("/f").expect("open");
    let bad = place(&fs, &f, 1) + 640;
    ram.poison(bad..bad + 64).expect("room");
    let error = block(&fs, &f, 1).expect_err("a bad line");
    assert!(
        matches!(error, ReadError::Media { at, .. } if at == 4096 + 640),
        "{error}"
    );
    for (at, byte) in [(0, 1), (2, 3), (3, 4)] {
        assert_eq!(block(&fs, &f, at), Ok(byte));
    }
    // Around the line, and a part of it: still bad.
    fs.write(&f, 4096, &[9; 640 + 63]).expect("write");
    fs.write(&f, 4096 + 704, &[9; 100]).expect("write");
    assert!(block(&fs, &f, 1).is_err());
    fs.write(&f, 4096, &[9; 4096]).expect("write");
    assert_eq!(block(&fs, &f, 1), Ok(9));
}

#[test]
fn new_storage_on_bad_lines_is_sound() {
    let (ram, _, fs) = sample();
    let data = fs.geometry().data_block() * 4096;
    // Everything that is free is bad.
    let used: u64 = ["/", "/d", "/e", "/f"]
        .iter()
        .flat_map(|path| {
            let inode = fs.open(path).expect("open");
            fs.extents(&inode)
                .map(|e| (e.phys + e.len) * 4096)
                .collect::<Vec<_>>()
        })
        .max()
        .expect("extents");
    assert!(used > data);
    ram.poison(used..LEN).expect("room");
    let g = fs.create("/g", 0o644).expect("create");
    fs.write(&g, 100, b"in the middle").expect("write");
    fs.fallocate(&g, 8192, 4096, fs::Fill::Zeroed)
        .expect("room");
    fs.fallocate(&g, 16_384, 4096, fs::Fill::Unwritten)
        .expect("room");
    let mut buf = [1; 5 * 4096];
    fs.read(&g, 0, &mut buf)
        .expect("all of it was written, or reads as zeroes");
    fs.write(&g, 16_384 + 100, b"into unwritten storage")
        .expect("write");
    let mut there = [1; 200];
    fs.read(&g, 16_384, &mut there).expect("filled around");
    assert_eq!(&there[100..104], b"into");
    assert_eq!(&buf[100..113], b"in the middle");
    assert!(buf[..100].iter().chain(&buf[113..]).all(|byte| *byte == 0));
    // A directory that grows onto a bad block.
    let before = fs.stat("/d").expect("stat").size;
    for i in 0..40 {
        fs.create(&format!("/d/{}{i}", "long".repeat(25)), 0o644)
            .expect("create");
    }
    assert!(fs.stat("/d").expect("stat").size > before);
    assert!(fsck(&ram).is_clean(), "{}", fsck(&ram));
}

#[test]
fn a_mapped_page_that_goes_bad_is_taken_away_and_comes_back_when_written() {
    let (ram, _, fs) = sample();
    let f = fs.open("/f").expect("open");
    let process = Process::new(&f, 4);
    for page in 0..4 {
        process.touch(page, Access::Write).expect("mapped");
    }
    let bad = place(&fs, &f, 2);
    ram.poison(bad + 64..bad + 128).expect("room");
    let lost = fs.lost(bad + 64..bad + 128);
    assert_eq!(
        (lost.unmapped, lost.pinned, lost.ino),
        (1, 0, Some(f.ino()))
    );
    for access in [Access::Read, Access::Write] {
        assert_eq!(process.touch(2, access), Err(FaultError::Io));
    }
    assert!(process.pin(2).is_err());
    for page in [0, 1, 3] {
        process.touch(page, Access::Write).expect("not that page");
        drop(process.pin(page).expect("not that page"));
    }
    fs.write(&f, 2 * 4096, &[7; 4096]).expect("write");
    process.touch(2, Access::Read).expect("mended");
    drop(process.pin(2).expect("mended"));
}

#[test]
fn a_pin_keeps_a_page_that_goes_bad() {
    let (ram, _, fs) = sample();
    let f = fs.open("/f").expect("open");
    let process = Process::new(&f, 4);
    let pinned = process.pin(0).expect("pin");
    let bad = place(&fs, &f, 0);
    ram.poison(bad..bad + 64).expect("room");
    assert_eq!(fs.lost(bad..bad + 64).pinned, 1);
    assert_eq!(process.touch(0, Access::Read), Err(FaultError::Io));
    drop(pinned);
    // A page that nobody ever mapped has no owner, and nothing to be taken from.
    let other = place(&fs, &f, 3);
    assert_eq!(fs.lost(other..other + 1).unmapped, 0);
    assert_eq!(fs.lost(LEN..LEN + 4096).unmapped, 0);
}

fn refused(ram: &Ram, backing: &fs::Backing) -> String {
    let error = Fs::mount(ram.clone(), backing.clone()).map(drop);
    error.expect_err("a media error").to_string()
}

#[test]
fn superblock_ring_and_state_are_named() {
    let (ram, backing, fs) = sample();
    let g = *fs.geometry();
    assert!(fs.unmount().is_ok());
    ram.poison(0..64).expect("room");
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("the second superblock");
    let told = fs.mount_report().superblock.expect("told").to_string();
    assert!(
        told.starts_with("superblock A at offset 0x0: media error"),
        "{told}"
    );
    drop(fs);
    assert!(fsck(&ram).to_string().contains(&told), "{}", fsck(&ram));
    ram.poison(4096..4160).expect("room");
    let told = refused(&ram, &backing);
    assert!(
        told.contains("superblock A at offset 0x0")
            && told.contains("superblock B at offset 0x1000"),
        "{told}"
    );
    ram.heal(0, 8192);
    for (off, what) in [
        (g.state_off(), "state block at offset 0x2000"),
        (g.slot_off(5), "record ring, slot 5 at offset 0x3500"),
        (g.inode_off(1), "inode 1 at offset 0x4100"),
    ] {
        ram.poison(off..off + 64).expect("room");
        let told = refused(&ram, &backing);
        assert!(
            told.starts_with(what) && told.contains("media error"),
            "{told}"
        );
        assert!(fsck(&ram).to_string().contains(what), "{}", fsck(&ram));
        ram.heal(off, 64);
    }
    assert!(fsck(&ram).is_clean());
}

#[test]
fn an_inode_that_cannot_be_read_makes_the_rest_read_only() {
    let (ram, backing, fs) = sample();
    let (f, x) = (
        fs.stat("/f").expect("stat").ino,
        fs.stat("/d/x").expect("stat").ino,
    );
    let off = fs.geometry().inode_off(f);
    assert!(fs.unmount().is_ok());
    ram.poison(off + 64..off + 128).expect("room");
    let fs = Fs::mount(ram.clone(), backing).expect("the rest works");
    let report = *fs.mount_report();
    assert!(report.read_only);
    let why = report.unreadable.expect("it says why").to_string();
    assert!(
        why.starts_with(&format!("inode {f} at offset {off:#x}: media error")),
        "{why}"
    );
    let error = fs.open("/f").map(drop).expect_err("that one");
    assert!(matches!(error, LookupError::Load(_)), "{error}");
    assert_eq!(fs.stat("/d/x").expect("another").ino, x);
    assert!(
        fs.create("/new", 0o644).is_err(),
        "nobody knows which blocks are free"
    );
    assert!(fsck(&ram).to_string().contains(&why), "{}", fsck(&ram));
}

#[test]
fn a_directory_that_cannot_be_read_is_the_only_one() {
    let (ram, backing, fs) = sample();
    let d = fs.open("/d").expect("open");
    let off = place(&fs, &d, 0);
    drop(d);
    assert!(fs.unmount().is_ok());
    ram.poison(off..off + 64).expect("room");
    let fs = Fs::mount(ram.clone(), backing).expect("directories are read when used");
    assert!(!fs.mount_report().read_only);
    let error = fs
        .open("/d/x")
        .map(drop)
        .expect_err("a bad block")
        .to_string();
    assert!(
        error.contains(&format!("slot 0 at offset {off:#x}: media error")),
        "{error}"
    );
    assert!(fs.create("/d/y", 0o644).is_err());
    fs.create("/e/y", 0o644).expect("another directory");
    assert_eq!(names(&fs, "/e"), ["x", "y"]);
    assert!(!fsck(&ram).is_clean());
}

#[test]
fn mount_errors_of_media_say_so() {
    let (ram, backing, fs) = sample();
    assert!(fs.unmount().is_ok());
    ram.poison(0..LEN).expect("room");
    let error = Fs::mount(ram.clone(), backing)
        .map(drop)
        .expect_err("nothing can be read");
    assert!(matches!(error, MountError::Superblocks { .. }));
    assert_eq!(fsck(&ram).problems.len(), 2);
}
