//! Numbers of inodes: reuse, and their end.

use std::sync::Arc;

use dax::pmem::RamPmem;
use fs::error::{ChangeError, CreateError};
use fs::{Fs, MkfsOptions, fsck, mkfs};

use crate::common::*;

const MIB: u64 = 1 << 20;

#[test]
fn a_number_that_is_used_again_has_another_generation() {
    let (ram, backing) = formatted(4 * MIB);
    let mut fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    let mut last = None;
    for round in 0..6 {
        let f = fs.create("/f", 0o644).expect("create");
        let (ino, generation) = (f.ino(), f.stat().generation);
        if let Some((was, before)) = last.replace((ino, generation)) {
            assert_eq!((ino, generation), (was, before + 1), "round {round}");
        }
        drop(f);
        fs.unlink("/f").expect("unlink");
        if round % 2 == 1 {
            drop(fs);
            fs = Fs::mount(ram.clone(), backing.clone()).expect("mount again");
        }
    }
}

#[test]
fn without_a_free_inode_nothing_is_made_and_nothing_lost() {
    let ram = Arc::new(RamPmem::new(4 * MIB).expect("memory"));
    let options = MkfsOptions {
        inodes: Some(64),
        ..options()
    };
    mkfs(&ram, &options).expect("mkfs");
    let backing = backing(4 * MIB);
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    let mut made = 0;
    let refused = loop {
        match fs.create(&format!("/{made}"), 0o644) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    // 64, less number 0 and the root.
    assert_eq!(
        (made, refused),
        (62, CreateError::Change(ChangeError::NoInodes))
    );
    assert_eq!(fs.statfs().inodes_used, fs.statfs().inodes);
    let again = [
        fs.mkdir("/d", 0o755).err(),
        fs.symlink("/l", &[b'x'; 300]).err(),
    ];
    assert!(again.iter().all(|error| *error == Some(refused)));
    let space = fs.statfs().space;
    // An open one keeps its number, a closed one gives it back.
    let open = fs.open("/7").expect("open");
    fs.unlink("/7").expect("unlink");
    assert_eq!(fs.create("/new", 0o644).err(), Some(refused));
    drop(open);
    fs.create("/new", 0o644).expect("create");
    assert_eq!(fs.statfs().space, space);
    drop(fs);
    assert!(fsck(&ram).is_clean());
    let fs = Fs::mount(ram, backing).expect("mount again");
    assert_eq!(names(&fs, "/").len(), 62);
}

#[test]
fn a_full_disk_makes_no_directory_grow_and_loses_no_name() {
    let ram = Arc::new(RamPmem::new(MIB).expect("memory"));
    let options = MkfsOptions {
        inodes: Some(1024),
        ..options()
    };
    mkfs(&ram, &options).expect("mkfs");
    let fs = Fs::mount(ram.clone(), backing(MIB)).expect("mount");
    let fill = fs.create("/fill", 0o644).expect("create");
    let mut end = 0;
    while fs.write(&fill, end, &[2; 4096]).is_ok() {
        end += 4096;
    }
    let mut made = 0;
    let refused = loop {
        match fs.create(&format!("/{made}"), 0o644) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    let full = matches!(refused, CreateError::Change(ChangeError::NoSpace { .. }));
    assert!(full, "{refused:?}");
    // The block of the root has 64 slots.
    assert_eq!(made, 63);
    assert_eq!(names(&fs, "/").len(), 64);
    // A name of the same length takes the place of one that goes.
    fs.rename("/5", "/x", false)
        .expect_err("needs a second slot");
    fs.unlink("/6").expect("unlink");
    fs.rename("/5", "/x", false).expect("rename");
    truncate(&fs, "/fill", 4096);
    fs.create("/more", 0o644).expect("space is back");
    drop((fill, fs));
    assert!(fsck(&ram).is_clean());
}
