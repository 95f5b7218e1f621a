//! Rename in its forms, links of directories, special files.

use std::sync::Arc;

use dax::pmem::RamPmem;
use fs::error::{CreateError, LookupError, RemoveError, RenameError};
use fs::{Fs, Kind, NewInode, RenameMode, fsck};

use crate::common::*;

const MIB: u64 = 1 << 20;
type Ram = Arc<RamPmem>;

fn ino(fs: &Fs<Ram>, path: &str) -> u32 {
    fs.stat_nofollow(path).expect("stat").ino
}

fn links(fs: &Fs<Ram>, path: &str) -> u32 {
    fs.stat_nofollow(path).expect("stat").nlink
}

/// `/a/f`, `/b/g` files, `/a/d`, `/b/e` directories with a file each, `/a/l` a link.
fn tree(fs: &Fs<Ram>) {
    for dir in ["/a", "/b", "/a/d", "/b/e"] {
        fs.mkdir(dir, 0o755).expect("mkdir");
    }
    for file in ["/a/f", "/b/g", "/a/d/x", "/b/e/y"] {
        fs.create(file, 0o644).expect("create");
    }
    fs.symlink("/a/l", b"d").expect("symlink");
}

#[test]
fn exchange_swaps_any_two_names() {
    let pairs = [
        ("/a/f", "/b/g"),
        ("/a/f", "/a/l"),
        ("/a/d", "/b/e"),
        ("/a/d", "/b/g"),
        ("/a/f", "/b/e"),
        ("/a/d", "/a/f"),
        ("/a/d/x", "/b"),
        ("/a", "/b/e/y"),
    ];
    for (one, other) in pairs {
        let (ram, backing) = formatted(4 * MIB);
        let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
        tree(&fs);
        let (first, second) = (ino(&fs, one), ino(&fs, other));
        fs.exchange(one, other).expect("exchange");
        drop(fs);
        // Links, parents and kinds of entries.
        let report = fsck(&ram);
        assert!(report.is_clean(), "{one} {other}: {report}");
        let fs = Fs::mount(ram, backing).expect("mount again");
        let reaches = |path: &str| fs.stat_nofollow(path).map(|s| s.ino);
        if !other.starts_with("/b/e/") {
            assert_eq!(reaches(one), Ok(second), "{one} {other}");
        }
        if !one.starts_with("/a/d/") {
            assert_eq!(reaches(other), Ok(first), "{one} {other}");
        }
    }
}

#[test]
fn exchange_counts_directories_in_both_parents() {
    let fs = mounted(4 * MIB);
    tree(&fs);
    fs.exchange("/a/d", "/b/g").expect("exchange");
    assert_eq!((links(&fs, "/a"), links(&fs, "/b")), (2, 4));
    let up = fs.parent(&fs.open("/b/g").expect("open")).expect("parent");
    assert_eq!(up.ino(), ino(&fs, "/b"));
    let inside = fs.stat_nofollow("/b/g/x/").err();
    assert_eq!(inside, Some(LookupError::NotDir));
}

#[test]
fn exchange_refuses_what_cannot_be() {
    let fs = mounted(4 * MIB);
    tree(&fs);
    assert_eq!(fs.exchange("/a", "/a/d"), Err(RenameError::Cycle));
    assert_eq!(fs.exchange("/a/d/x", "/a"), Err(RenameError::Cycle));
    let missing = Err(RenameError::Lookup(LookupError::NotFound));
    assert_eq!(fs.exchange("/a/f", "/new"), missing);
    assert_eq!(fs.exchange("/new", "/a/f"), missing);
    fs.link("/a/f", "/again").expect("link");
    let before = fs.stat("/again").expect("stat");
    assert_eq!(fs.exchange("/a/f", "/again"), Ok(()));
    assert_eq!(
        fs.stat("/again"),
        Ok(before),
        "the same inode: nothing happens"
    );
}

#[test]
fn rename_by_directory_does_as_by_path() {
    let fs = mounted(4 * MIB);
    tree(&fs);
    let (a, b) = (fs.open("/a").expect("open"), fs.open("/b").expect("open"));
    let rename = |old: &[u8], new: &[u8], mode| fs.rename_in(&a, old, &b, new, mode);
    let no = RenameMode::NoReplace;
    assert_eq!(rename(b"f", b"g", no), Err(RenameError::Exists));
    assert_eq!(rename(b"f", b"h", no), Ok(()));
    assert_eq!(rename(b"l", b"g", RenameMode::Replace), Ok(()));
    assert_eq!(rename(b"d", b"e", RenameMode::Exchange), Ok(()));
    assert_eq!(names(&fs, "/a"), ["d"]);
    assert_eq!(names(&fs, "/b"), ["e", "g", "h"]);
    assert_eq!(names(&fs, "/a/d"), ["y"]);
    let bad = rename(b"d", b"..", RenameMode::Replace);
    assert!(matches!(
        bad,
        Err(RenameError::Lookup(LookupError::Name(_)))
    ));
    // Into a directory that is gone.
    fs.rmdir("/b").expect_err("not empty");
    let gone = fs.mkdir("/gone", 0o755).expect("mkdir");
    fs.rmdir("/gone").expect("rmdir");
    let lost = fs.rename_in(&a, b"d", &gone, b"d", RenameMode::Replace);
    assert_eq!(lost, Err(RenameError::Lookup(LookupError::NotFound)));
    let file = NewInode::new(Kind::File, 0o644);
    let lost = fs.create_in(&gone, b"x", &file).err();
    assert_eq!(lost, Some(CreateError::Lookup(LookupError::NotFound)));
    let f = fs.open("/b/h").expect("open");
    let lost = fs.link_in(&f, &gone, b"x").err();
    assert_eq!(lost, Some(CreateError::Lookup(LookupError::NotFound)));
    // A second name for what has none left.
    fs.unlink("/b/h").expect("unlink");
    let lost = fs.link_in(&f, &a, b"x").err();
    assert_eq!(lost, Some(CreateError::Lookup(LookupError::NotFound)));
}

#[test]
fn a_directory_replaces_only_an_empty_directory() {
    let fs = mounted(4 * MIB);
    tree(&fs);
    assert_eq!(fs.rename("/a/d", "/b/e", true), Err(RenameError::NotEmpty));
    assert_eq!(fs.rename("/a/d", "/b/g", true), Err(RenameError::NotDir));
    assert_eq!(fs.rename("/a/l", "/b/e", true), Err(RenameError::IsDir));
    assert_eq!(fs.rename("/a/d/x", "/a", true), Err(RenameError::IsDir));
    fs.unlink("/b/e/y").expect("unlink");
    fs.rename("/a/d", "/b/e", true).expect("rename");
    assert_eq!((links(&fs, "/a"), links(&fs, "/b")), (2, 3));
    assert_eq!(names(&fs, "/b/e"), ["x"]);
}

#[test]
fn special_files_have_kind_and_number_and_no_content() {
    let (ram, backing) = formatted(4 * MIB);
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    let kinds = [Kind::Fifo, Kind::Socket, Kind::CharDev, Kind::BlockDev];
    for (at, kind) in kinds.into_iter().enumerate() {
        let new = NewInode {
            rdev: 0x0012_3400 + at as u32,
            ..NewInode::new(kind, 0o640)
        };
        let made = fs.create_as(&format!("/{at}"), &new).expect("create");
        assert!(fs.write(&made, 0, b"x").is_err());
        assert!(fs.read(&made, 0, &mut [0; 4]).is_err());
    }
    fs.link("/3", "/again").expect("link");
    drop(fs);
    assert!(fsck(&ram).is_clean());
    let fs = Fs::mount(ram, backing).expect("mount again");
    for (at, kind) in kinds.into_iter().enumerate() {
        let stat = fs.stat(&format!("/{at}")).expect("stat");
        let number = if at < 2 { 0 } else { 0x0012_3400 + at as u32 };
        assert_eq!((stat.kind, stat.rdev), (kind, number));
        assert_eq!(stat.mode, kind.bits() | 0o640);
        fs.unlink(&format!("/{at}")).expect("unlink");
    }
    assert_eq!(names(&fs, "/"), ["again"]);
    assert_eq!(fs.rmdir("/again"), Err(RemoveError::NotDir));
}

#[test]
fn names_are_bytes_and_end_at_255() {
    let fs = mounted(4 * MIB);
    let root = fs.root().expect("root");
    let file = NewInode::new(Kind::File, 0o644);
    for len in 1..=255u8 {
        let name = vec![len; usize::from(len)];
        let made = fs.create_in(&root, &name, &file);
        // A slash is no part of a name.
        assert_eq!(made.is_ok(), len != b'/', "{len}");
        if let Ok(made) = made {
            assert_eq!(fs.lookup(&root, &name).map(|i| i.ino()), Ok(made.ino()));
        }
        let _ = fs.remove_in(&root, &name, Kind::File);
    }
    assert!(fs.create_in(&root, &[b'x'; 256], &file).is_err());
    assert!(fs.create_in(&root, b"a\0b", &file).is_err());
}
