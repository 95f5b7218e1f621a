//! Times, modes and owners.

use std::cell::Cell;
use std::sync::Arc;

use dax::layout::BreakReport;
use dax::pmem::RamPmem;
use fs::{Fs, Kind, NewInode, Owner, SetAttr, Stat};

use mm::aspace::Access;

use crate::common::process::Process;
use crate::common::*;

const MIB: u64 = 1 << 20;
type Ram = Arc<RamPmem>;

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(1000) };
}

fn clock() -> u64 {
    NOW.get()
}

/// Mounted with a clock that stands until it is moved on.
fn ticking() -> Arc<Fs<Ram>> {
    let fs = mounted(4 * MIB);
    fs.set_clock(clock);
    for dir in ["/a", "/b", "/b/d"] {
        fs.mkdir(dir, 0o755).expect("mkdir");
    }
    for file in ["/a/f", "/b/g"] {
        let f = fs.create(file, 0o644).expect("create");
        fs.write(&f, 0, &[1; 9000]).expect("write");
    }
    fs
}

/// Which times of which paths an operation moves: `m` content, `c` attributes.
fn moved(fs: &Fs<Ram>, op: impl FnOnce(&Fs<Ram>)) -> Vec<String> {
    let paths = ["/a", "/a/f", "/b", "/b/g", "/b/d"];
    let inodes = paths.map(|path| fs.open(path).expect("open"));
    let before = inodes.each_ref().map(|inode| inode.stat());
    NOW.set(NOW.get() + 10);
    op(fs);
    let each = paths.iter().zip(&inodes).zip(before);
    each.filter_map(|((path, inode), before)| {
        let now: Stat = inode.stat();
        assert_eq!(now.atime, before.atime, "{path}: nobody set it");
        let time = |old: u64, new: u64, name: &str| {
            assert!(new == old || new == NOW.get(), "{path}: {old} {new}");
            if new == old {
                String::new()
            } else {
                name.into()
            }
        };
        let m = time(before.mtime, now.mtime, "m");
        let c = time(before.ctime, now.ctime, "c");
        let any = m.len() + c.len() > 0;
        any.then(|| format!("{path} {m}{c}"))
    })
    .collect()
}

#[test]
fn each_operation_moves_the_times_that_it_should() {
    let report = || BreakReport::default();
    let check = |expected: &[&str], op: fn(&Fs<Ram>)| {
        let fs = ticking();
        assert_eq!(moved(&fs, op), expected);
    };
    let none: &[&str] = &[];
    check(&["/a mc"], |fs| {
        drop(fs.create("/a/new", 0o644).expect("create"))
    });
    check(&["/a mc"], |fs| {
        drop(fs.mkdir("/a/new", 0o755).expect("mkdir"))
    });
    check(&["/a mc"], |fs| {
        drop(fs.symlink("/a/new", b"x").expect("symlink"))
    });
    check(&["/a/f c", "/b mc"], |fs| {
        fs.link("/a/f", "/b/new").expect("link")
    });
    check(&["/a mc", "/a/f c"], |fs| {
        fs.unlink("/a/f").expect("unlink")
    });
    check(&["/b mc", "/b/d c"], |fs| fs.rmdir("/b/d").expect("rmdir"));
    check(&["/a mc", "/a/f c"], |fs| {
        fs.rename("/a/f", "/a/new", true).expect("rename");
    });
    check(&["/a mc", "/a/f c", "/b mc"], |fs| {
        fs.rename("/a/f", "/b/new", true).expect("rename");
    });
    check(&["/a mc", "/a/f c", "/b mc", "/b/g c"], |fs| {
        fs.rename("/a/f", "/b/g", true).expect("rename");
    });
    check(&["/a mc", "/a/f c", "/b mc", "/b/d c"], |fs| {
        fs.exchange("/a/f", "/b/d").expect("exchange");
    });
    check(&["/b mc", "/b/g c", "/b/d c"], |fs| {
        fs.exchange("/b/g", "/b/d").expect("exchange");
    });
    check(&["/a/f mc"], |fs| {
        fs.write(&fs.open("/a/f").expect("open"), 5, b"in place")
            .expect("write");
    });
    check(&["/a/f mc"], |fs| {
        fs.write(&fs.open("/a/f").expect("open"), 50_000, b"more")
            .expect("write");
    });
    check(&["/a/f mc"], |fs| truncate(fs, "/a/f", 100));
    check(&["/a/f mc"], |fs| truncate(fs, "/a/f", 90_000));
    check(&["/a/f c"], |fs| {
        let mode = Some(0o600);
        let set = SetAttr {
            mode,
            ..SetAttr::default()
        };
        fs.setattr(&fs.open("/a/f").expect("open"), &set)
            .expect("setattr");
    });
    check(none, |fs| {
        assert_eq!(content(fs, "/a/f").len(), 9000);
        assert_eq!(names(fs, "/b"), ["d", "g"]);
        fs.stat("/a/f").expect("stat");
        fs.sync().expect("sync");
    });
    // What fails moves nothing.
    check(none, |fs| {
        assert!(fs.create("/a/f", 0o644).is_err());
        assert!(fs.rmdir("/b").is_err());
        assert!(fs.rename("/b", "/b/d", true).is_err());
        assert!(fs.link("/a/f", "/b/g").is_err());
    });
    let fs = ticking();
    let f = fs.open("/a/f").expect("open");
    let punched = moved(&fs, |fs| {
        fs.punch(&f, 0, 100, forever(), &mut report())
            .expect("punch");
    });
    assert_eq!(punched, ["/a/f mc"]);
}

#[test]
fn what_was_set_is_found_by_the_next_mount() {
    let (ram, backing) = formatted(4 * MIB);
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    let f = fs.create("/f", 0o644).expect("create");
    let all = SetAttr {
        mode: Some(0o7751),
        uid: Some(u32::MAX - 1),
        gid: Some(5),
        atime: Some(1),
        mtime: Some(u64::MAX),
    };
    let answer = fs.setattr(&f, &all).expect("setattr");
    let stat = f.stat();
    assert_eq!(answer, stat);
    assert_eq!((stat.mode, stat.kind), (0o107_751, Kind::File));
    assert_eq!((stat.uid, stat.gid), (u32::MAX - 1, 5));
    assert_eq!((stat.atime, stat.mtime), (1, u64::MAX));
    // One at a time: the others stay.
    let gid = Some(6);
    let one = SetAttr {
        gid,
        ..SetAttr::default()
    };
    let stat = fs.setattr(&f, &one).expect("setattr");
    assert_eq!(
        (stat.uid, stat.gid, stat.mode),
        (u32::MAX - 1, 6, 0o107_751)
    );
    // The type is not an attribute that one sets.
    let mode = Some(0o040_600);
    let kind = SetAttr {
        mode,
        ..SetAttr::default()
    };
    assert_eq!(fs.setattr(&f, &kind).expect("setattr").mode, 0o100_600);
    let stat = f.stat();
    drop((f, fs));
    let fs = Fs::mount(ram, backing).expect("mount again");
    assert_eq!(fs.stat("/f"), Ok(stat));
}

#[test]
fn a_time_that_is_set_wins_over_a_write_before_it_and_not_over_one_after() {
    let fs = ticking();
    let f = fs.open("/a/f").expect("open");
    fs.write(&f, 0, b"lazy").expect("write in place");
    let mtime = Some(77);
    let set = SetAttr {
        mtime,
        ..SetAttr::default()
    };
    assert_eq!(fs.setattr(&f, &set).expect("setattr").mtime, 77);
    fs.fsync(&f).expect("fsync");
    assert_eq!(f.stat().mtime, 77);
    NOW.set(NOW.get() + 10);
    fs.write(&f, 0, b"later").expect("write in place");
    assert_eq!((f.stat().mtime, f.stat().ctime), (NOW.get(), NOW.get()));
}

#[test]
fn a_store_through_a_mapping_moves_the_times_when_it_is_durable() {
    let fs = ticking();
    let f = fs.open("/a/f").expect("open");
    let process = Process::new(&f, 2);
    process.touch(0, Access::Read).expect("fault");
    NOW.set(NOW.get() + 10);
    let before = f.stat();
    fs.fsync(&f).expect("fsync");
    assert_eq!(f.stat(), before, "only read");
    process.touch(1, Access::Write).expect("fault");
    assert_eq!(f.msync(0, 8192), Ok(1));
    assert_eq!((f.stat().mtime, f.stat().ctime), (NOW.get(), NOW.get()));
}

#[test]
fn new_inodes_belong_to_who_made_them() {
    let fs = mounted(4 * MIB);
    let root = fs.root().expect("root");
    let owner = Owner { uid: 7, gid: 8 };
    let file = NewInode::new(Kind::File, 0o106_755).owned_by(owner);
    let f = fs.create_in(&root, b"f", &file).expect("create").stat();
    assert_eq!((f.uid, f.gid, f.mode), (7, 8, 0o106_755));
    let l = fs.symlink_in(&root, b"l", b"f", owner).expect("symlink");
    assert_eq!((l.stat().uid, l.stat().gid), (7, 8));
    // A directory with the set-group-id bit hands its group on, and the bit to directories.
    let dir = NewInode::new(Kind::Dir, 0o2775).owned_by(Owner { uid: 1, gid: 50 });
    let d = fs.create_in(&root, b"d", &dir).expect("mkdir");
    let f = fs.create_in(&d, b"f", &file).expect("create").stat();
    assert_eq!((f.uid, f.gid), (7, 50));
    let below = NewInode::new(Kind::Dir, 0o755).owned_by(owner);
    let e = fs.create_in(&d, b"e", &below).expect("mkdir").stat();
    assert_eq!((e.uid, e.gid, e.mode), (7, 50, 0o042_755));
}

#[test]
fn an_inode_without_a_name_can_still_be_changed() {
    let fs = mounted(4 * MIB);
    let f = fs.create("/f", 0o644).expect("create");
    fs.unlink("/f").expect("unlink");
    let mode = Some(0o600);
    let set = SetAttr {
        mode,
        ..SetAttr::default()
    };
    let stat = fs.setattr(&f, &set).expect("setattr");
    assert_eq!((stat.mode, stat.nlink), (0o100_600, 0));
    drop(f);
    fs.settle();
    assert_eq!(fs.statfs().inodes_used, 1);
}
