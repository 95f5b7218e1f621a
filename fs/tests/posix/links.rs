//! Symbolic links.

use std::sync::Arc;

use dax::pmem::{Pmem, RamPmem};
use fs::error::{
    ChangeError, CreateError, LookupError, ReadError, ReadlinkError, RemoveError, WriteError,
};
use fs::media_inode::Corrupt;
use fs::{Fs, Kind, LINKS_MAX, TargetError, fsck};

use crate::common::*;

const MIB: u64 = 1 << 20;
type Ram = Arc<RamPmem>;

fn text(fs: &Fs<Ram>, path: &str) -> Vec<u8> {
    let link = fs.open_nofollow(path).expect("open");
    let mut buf = vec![0; 5000];
    let n = link.readlink(&mut buf).expect("readlink");
    buf.truncate(n);
    buf
}

#[test]
fn a_link_says_what_it_was_made_to_say_after_a_mount_too() {
    let (ram, backing) = formatted(4 * MIB);
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    let lengths = [1, 7, 8, 39, 40, 41, 80, 191, 192, 193, 4094, 4095];
    let target = |len: usize| -> Vec<u8> { (0..len).map(|i| 1 + (i % 251) as u8).collect() };
    for len in lengths {
        let path = format!("/{len}");
        let link = fs.symlink(&path, &target(len)).expect("symlink");
        let stat = link.stat();
        assert_eq!((stat.kind, stat.size), (Kind::Symlink, len as u64));
        assert_eq!((stat.mode, stat.nlink), (0o120_777, 1));
        assert_eq!(stat.blocks, u64::from(len > 192));
    }
    let check = |fs: &Fs<Ram>| {
        for len in lengths {
            assert_eq!(text(fs, &format!("/{len}")), target(len));
        }
        let mut short = [0; 5];
        let link = fs.open_nofollow("/4095").expect("open");
        assert_eq!(link.readlink(&mut short), Ok(5));
        assert_eq!(short[..], target(5));
    };
    check(&fs);
    drop(fs);
    let report = fsck(&ram);
    assert!(report.is_clean(), "{report}");
    let fs = Fs::mount(ram, backing).expect("mount again");
    check(&fs);
    let before = fs.statfs();
    for len in lengths {
        fs.unlink(&format!("/{len}")).expect("unlink");
    }
    fs.settle();
    assert_eq!(fs.statfs().space.free, before.space.free + 3);
    assert_eq!(fs.statfs().inodes_used, 1);
}

#[test]
fn a_number_that_was_a_link_becomes_another_inode_without_a_trace() {
    let (ram, backing) = formatted(4 * MIB);
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    let link = fs.symlink("/l", &[b'x'; 192]).expect("symlink").ino();
    fs.unlink("/l").expect("unlink");
    let f = fs.create("/f", 0o644).expect("create");
    assert_eq!(f.ino(), link);
    fs.write(&f, 8192, b"content").expect("write");
    let short = fs.symlink("/s", b"short").expect("symlink");
    assert_eq!(short.stat().size, 5);
    drop((f, short, fs));
    let fs = Fs::mount(ram.clone(), backing).expect("mount again");
    assert_eq!(content(&fs, "/f").len(), 8199);
    assert_eq!(text(&fs, "/s"), b"short");
    assert!(fsck(&ram).is_clean());
}

#[test]
fn paths_go_through_links() {
    let fs = mounted(4 * MIB);
    fs.mkdir("/a", 0o755).expect("mkdir");
    fs.mkdir("/a/b", 0o755).expect("mkdir");
    let f = fs.create("/a/b/f", 0o644).expect("create");
    for (path, target) in [
        ("/absolute", "/a/b"),
        ("/relative", "a/b"),
        ("/a/up", "../a/b"),
        ("/a/b/self", "."),
        ("/file", "a/b/f"),
        ("/slash", "a/b/"),
        ("/file with a slash", "a/b/f/"),
        ("/of a link", "relative"),
        ("/nowhere", "/a/x/y"),
    ] {
        fs.symlink(path, target.as_bytes()).expect("symlink");
    }
    for path in [
        "/absolute/f",
        "/relative/f",
        "/a/up/f",
        "/a/b/self/self/f",
        "/file",
        "/slash/f",
        "/of a link/f",
        "/a/../of a link/../b/f",
    ] {
        assert_eq!(fs.open(path).map(|i| i.ino()), Ok(f.ino()), "{path}");
    }
    assert_eq!(fs.stat("/file").map(|s| s.kind), Ok(Kind::File));
    let itself = fs.stat_nofollow("/file").expect("stat");
    assert_eq!(itself.kind, Kind::Symlink);
    // A slash behind it: what it leads to is wanted.
    let there = fs.stat_nofollow("/relative/").expect("stat");
    assert_eq!(there.kind, Kind::Dir);
    assert_eq!(
        fs.open("/file with a slash").err(),
        Some(LookupError::NotDir)
    );
    assert_eq!(fs.open("/file/").err(), Some(LookupError::NotDir));
    assert_eq!(fs.open("/file/f").err(), Some(LookupError::NotDir));
    assert_eq!(fs.open("/file/.").err(), Some(LookupError::NotDir));
    assert_eq!(fs.open("/file/..").err(), Some(LookupError::NotDir));
    assert_eq!(fs.open("/nowhere").err(), Some(LookupError::NotFound));
    // New names: the directory is found through links, the last name is not followed.
    fs.create("/of a link/g", 0o644).expect("create");
    assert_eq!(names(&fs, "/a/b"), ["f", "g", "self"]);
    assert!(matches!(fs.create("/nowhere", 0), Err(CreateError::Exists)));
    assert_eq!(fs.rmdir("/relative"), Err(RemoveError::NotDir));
    fs.link("/file", "/second").expect("link");
    assert_eq!(fs.stat_nofollow("/second").expect("stat").nlink, 2);
    assert_eq!(fs.stat("/file").expect("stat").nlink, 1);
    fs.unlink("/file").expect("unlink");
    assert!(fs.open("/a/b/f").is_ok());
}

#[test]
fn forty_links_are_followed_and_no_more() {
    let fs = mounted(4 * MIB);
    fs.create("/0", 0o644).expect("create");
    for i in 1..=LINKS_MAX + 1 {
        let target = format!("{}", i - 1);
        fs.symlink(&format!("/{i}"), target.as_bytes())
            .expect("symlink");
    }
    assert!(fs.open(&format!("/{LINKS_MAX}")).is_ok());
    let more = fs.open(&format!("/{}", LINKS_MAX + 1));
    assert_eq!(more.err(), Some(LookupError::Loop));
    fs.symlink("/ring", b"ring").expect("symlink");
    assert_eq!(fs.open("/ring").err(), Some(LookupError::Loop));
    let below = fs.create("/ring/x", 0o644).err();
    assert_eq!(below, Some(CreateError::Lookup(LookupError::Loop)));
    // Each turn makes the path longer: it ends all the same.
    fs.symlink("/grows", &[&b"/grows/"[..], &[b'/'; 4000]].concat())
        .expect("symlink");
    assert_eq!(fs.open("/grows").err(), Some(LookupError::Loop));
}

#[test]
fn what_is_no_target_and_no_link_is_refused() {
    let fs = mounted(4 * MIB);
    let refused = |target: &[u8]| fs.symlink("/l", target).err();
    assert_eq!(refused(b""), Some(TargetError::Empty.into()));
    let long = Some(TargetError::TooLong(4096).into());
    assert_eq!(refused(&[b'x'; 4096]), long);
    assert_eq!(refused(b"a\0b"), Some(TargetError::Zero.into()));
    let without = fs.create_as("/l", &fs::NewInode::new(Kind::Symlink, 0o777));
    assert_eq!(without.err(), Some(TargetError::Empty.into()));
    assert_eq!(names(&fs, "/"), Vec::<String>::new());
    let f = fs.create("/f", 0o644).expect("create");
    assert_eq!(f.readlink(&mut [0; 9]), Err(ReadlinkError::NotSymlink));
    let link = fs.symlink("/l", &[b'x'; 300]).expect("symlink");
    assert_eq!(fs.read(&link, 0, &mut [0; 9]), Err(ReadError::NotFile));
    assert_eq!(fs.write(&link, 0, b"x"), Err(WriteError::NotFile));
}

#[test]
fn a_long_target_on_a_full_disk_leaves_nothing_behind() {
    let fs = mounted(MIB);
    let fill = fs.create("/fill", 0o644).expect("create");
    let mut end = 0;
    while fs.write(&fill, end, &[2; 4096]).is_ok() {
        end += 4096;
    }
    let before = fs.statfs();
    let refused = fs.symlink("/l", &[b'x'; 300]).err();
    let full = matches!(
        refused,
        Some(CreateError::Change(ChangeError::NoSpace { .. }))
    );
    assert!(full, "{refused:?}");
    assert_eq!(fs.statfs(), before);
    assert_eq!(names(&fs, "/"), ["fill"]);
    fs.symlink("/l", &[b'x'; 192]).expect("needs no block");
}

#[test]
fn a_text_in_an_inode_that_changed_on_the_media_is_refused_at_mount() {
    let (ram, backing) = formatted(4 * MIB);
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    let link = fs.symlink("/l", &[b'x'; 100]).expect("symlink").ino();
    let at = fs.geometry().inode_off(link) + 64 + 96;
    drop(fs);
    let word = ram.load64(at).expect("heap");
    // Behind the text: nobody looks there.
    ram.store64(at + 8, 1);
    assert!(Fs::mount(ram.clone(), backing.clone()).is_ok());
    ram.store64(at, word ^ 1);
    let refused = Fs::mount(ram.clone(), backing).err().expect("refused");
    assert!(matches!(refused, fs::error::MountError::Corrupt(_)));
    assert!(!fsck(&ram).is_clean());
}

#[test]
fn a_text_that_changed_on_the_media_is_not_followed() {
    let (ram, backing) = formatted(4 * MIB);
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    let link = fs.symlink("/l", &[b'x'; 300]).expect("symlink");
    let block = fs.extents(&link).next().expect("a block").phys;
    drop((link, fs));
    ram.store64(block * 4096 + 288, 0x7878_7878_7879_7878);
    let fs = Fs::mount(ram, backing).expect("mount again");
    let link = fs.open_nofollow("/l").expect("open");
    let read = link.readlink(&mut [0; 10]);
    let wrong = matches!(read, Err(ReadlinkError::Corrupt(Corrupt::Text { .. })));
    assert!(wrong, "{read:?}");
    assert!(matches!(fs.open("/l").err(), Some(LookupError::Load(_))));
}
