//! Each operation once, on a mounted file system, and what the next mount finds.

use crate::common::*;
use dax::layout::{BreakReport, How};
use fs::error::{
    ChangeError, CreateError, LookupError, RemoveError, RenameError, TruncateError, WriteError,
};
use fs::{Fill, Fs, Kind};

const MIB: u64 = 1 << 20;

#[test]
fn what_was_written_is_found_by_the_next_mount() {
    let (ram, backing) = formatted(4 * MIB);
    let data: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
    {
        let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
        fs.mkdir("/d", 0o755).expect("mkdir");
        let f = fs.create("/d/f", 0o644).expect("create");
        fs.write(&f, 5, &data).expect("write");
        let long = "n".repeat(255);
        fs.create(&format!("/d/{long}"), 0o600)
            .expect("a long name");
        // No unmount: the machine just stops.
    }
    let fs = Fs::mount(ram, backing).expect("mount again");
    let found = content(&fs, "/d/f");
    assert_eq!(found[..5], [0; 5]);
    assert_eq!(found[5..], data);
    assert_eq!(names(&fs, "/d"), ["f".to_string(), "n".repeat(255)]);
    assert_eq!(fs.stat("/d/..").expect("stat").ino, 1);
    assert_eq!(fs.stat("/").expect("stat").nlink, 3);
    assert_eq!(fs.stat("/d").expect("stat").kind, Kind::Dir);
}

#[test]
fn a_clean_unmount_leaves_nothing_to_replay() {
    let (ram, backing) = formatted(4 * MIB);
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    fs.create("/f", 0o644).expect("create");
    assert!(fs.unmount().is_ok());
    let fs = Fs::mount(ram, backing).expect("mount again");
    assert_eq!(fs.mount_report().replayed, 0);
    assert_eq!(names(&fs, "/"), ["f"]);
}

#[test]
fn errors_name_what_is_wrong() {
    let fs = mounted(4 * MIB);
    fs.mkdir("/d", 0o755).expect("mkdir");
    fs.create("/d/f", 0o644).expect("create");
    assert!(matches!(fs.open("/x"), Err(LookupError::NotFound)));
    assert!(matches!(fs.open("/d/f/g"), Err(LookupError::NotDir)));
    assert!(matches!(fs.create("/d/f", 0), Err(CreateError::Exists)));
    let long = format!("/{}", "x".repeat(256));
    assert!(matches!(
        fs.create(&long, 0),
        Err(CreateError::Lookup(LookupError::Name(_)))
    ));
    assert_eq!(fs.unlink("/d"), Err(RemoveError::IsDir));
    assert_eq!(fs.rmdir("/d/f"), Err(RemoveError::NotDir));
    assert_eq!(fs.rmdir("/d"), Err(RemoveError::NotEmpty));
    assert_eq!(fs.rename("/d", "/d/e", true), Err(RenameError::Cycle));
    assert_eq!(fs.rename("/d/f", "/d", true), Err(RenameError::IsDir));
    assert_eq!(fs.rename("/d", "/d/f", true), Err(RenameError::Cycle));
    let f = fs.open("/d/f").expect("open");
    assert_eq!(fs.write(&f, u64::MAX, b"x"), Err(WriteError::FileTooBig));
    let d = fs.open("/d").expect("open");
    assert_eq!(fs.write(&d, 0, b"x"), Err(WriteError::NotFile));
    let cut = fs.truncate(&f, u64::MAX, How::NoWait, &mut BreakReport::default());
    assert_eq!(cut, Err(TruncateError::FileTooBig));
}

#[test]
fn rename_replaces_moves_and_counts_links() {
    let (ram, backing) = formatted(4 * MIB);
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    for dir in ["/a", "/b", "/a/s", "/b/t"] {
        fs.mkdir(dir, 0o755).expect("mkdir");
    }
    for (file, text) in [("/a/f", "one"), ("/b/g", "two")] {
        let inode = fs.create(file, 0o644).expect("create");
        fs.write(&inode, 0, text.as_bytes()).expect("write");
    }
    assert_eq!(fs.rename("/a/f", "/b/g", false), Err(RenameError::Exists));
    fs.rename("/a/f", "/b/g", true).expect("replace");
    fs.rename("/a/s", "/b/t", true)
        .expect("replace a directory");
    let ino = |path: &str| fs.stat(path).expect("stat").ino;
    assert_eq!(ino("/b/t/.."), ino("/b"));
    fs.rename(
        "/b/t",
        "/a/very long name of a directory that needs a second slot",
        true,
    )
    .expect("move");
    let check = |fs: &Fs<_>| {
        assert_eq!(content(fs, "/b/g"), b"one");
        assert_eq!(names(fs, "/b"), ["g"]);
        assert_eq!(names(fs, "/a").len(), 1);
        assert_eq!(fs.stat("/a").expect("stat").nlink, 3);
        assert_eq!(fs.stat("/b").expect("stat").nlink, 2);
        let up = format!("/a/{}/..", names(fs, "/a")[0]);
        assert_eq!(
            fs.stat(&up).expect("stat").ino,
            fs.stat("/a").expect("stat").ino
        );
        // Root, /a, /b, /b/g and the directory in /a.
        assert_eq!(fs.statfs().inodes_used, 5);
    };
    check(&fs);
    drop(fs);
    check(&Fs::mount(ram, backing).expect("mount again"));
}

#[test]
fn links_share_and_the_last_one_frees() {
    let fs = mounted(4 * MIB);
    let before = fs.statfs();
    let f = fs.create("/f", 0o644).expect("create");
    fs.write(&f, 0, &[7; 9000]).expect("write");
    fs.link("/f", "/g").expect("link");
    assert_eq!(fs.stat("/g").expect("stat").nlink, 2);
    drop(f);
    fs.unlink("/f").expect("unlink");
    assert_eq!(content(&fs, "/g"), [7; 9000]);
    fs.unlink("/g").expect("unlink");
    let after = fs.statfs();
    assert_eq!(after.inodes_used, before.inodes_used);
    // One block stays with the root directory.
    assert_eq!(after.space.free + after.quarantined, before.space.free - 1);
}

#[test]
fn an_open_file_outlives_its_name_and_then_its_space_returns() {
    let (ram, backing) = formatted(4 * MIB);
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    let f = fs.create("/f", 0o644).expect("create");
    fs.write(&f, 0, &[9; 5000]).expect("write");
    fs.unlink("/f").expect("unlink");
    assert_eq!(fs.statfs().orphans, 1);
    fs.write(&f, 5000, &[8; 5000])
        .expect("an orphan can be written");
    let mut buf = [0; 10_000];
    assert_eq!(fs.read(&f, 0, &mut buf), Ok(10_000));
    assert_eq!((buf[0], buf[9999]), (9, 8));
    let used = fs.statfs();
    // A crash now: the next mount finds it free.
    let crashed = dax::pmem::RamPmem::new(4 * MIB).expect("memory");
    let mut image = vec![0; 4 << 20];
    dax::pmem::Pmem::read(&ram, 0, &mut image).expect("read");
    dax::pmem::Pmem::store(&crashed, 0, &image);
    let after = Fs::mount(crashed, crate::common::backing(4 * MIB))
        .expect("mount")
        .statfs();
    assert_eq!(after.space.free, used.space.free + used.quarantined + 3);
    assert_eq!(after.inodes_used, 1);
    drop(f);
    assert_eq!(fs.reap_orphans(), 1);
    let now = fs.statfs();
    assert_eq!((now.orphans, now.inodes_used), (0, 1));
    assert_eq!(now.space.free + now.quarantined, after.space.free);
}

#[test]
fn to_allocate_nothing_changes_nothing() {
    let fs = mounted(4 * MIB);
    let f = fs.create("/f", 0o644).expect("create");
    fs.fallocate(&f, 9000, 0, fs::Fill::Unwritten)
        .expect("fallocate");
    assert_eq!(fs.extents(&f).count(), 0);
    assert_eq!(content(&fs, "/f").len(), 0);
}

#[test]
fn truncate_cuts_and_what_was_behind_never_comes_back() {
    let fs = mounted(4 * MIB);
    let f = fs.create("/f", 0o644).expect("create");
    fs.write(&f, 0, &[0xff; 20_000]).expect("write");
    truncate(&fs, "/f", 5000);
    truncate(&fs, "/f", 20_000);
    let found = content(&fs, "/f");
    assert!(found[..5000].iter().all(|b| *b == 0xff));
    assert!(found[5000..].iter().all(|b| *b == 0));
    assert_eq!(fs.extents(&f).map(|e| e.len).sum::<u64>(), 2);
    fs.punch(&f, 100, 4500, forever(), &mut BreakReport::default())
        .expect("punch");
    let found = content(&fs, "/f");
    assert!(
        found[..100]
            .iter()
            .chain(&found[4600..5000])
            .all(|b| *b == 0xff)
    );
    assert!(found[100..4600].iter().all(|b| *b == 0));
}

#[test]
fn a_full_disk_says_so_and_loses_nothing() {
    let fs = mounted(MIB);
    let keep = fs.create("/keep", 0o644).expect("create");
    fs.write(&keep, 0, &[1; 4096]).expect("write");
    let fill = fs.create("/fill", 0o644).expect("create");
    let full = (0..)
        .map(|i| fs.write(&fill, i * 4096, &[2; 4096]))
        .find_map(Result::err);
    let Some(WriteError::Change(ChangeError::NoSpace { quarantined: 0 })) = full else {
        panic!("{full:?}");
    };
    assert_eq!(fs.statfs().space.free, 0);
    assert_eq!(content(&fs, "/keep"), [1; 4096]);
    drop(fill);
    fs.unlink("/fill").expect("unlink on a full disk");
    fs.fallocate(&keep, 4096, 100 * 4096, Fill::Zeroed)
        .expect("space is back");
    assert_eq!(content(&fs, "/keep")[4096..], [0; 100 * 4096]);
}

#[test]
fn blocks_of_a_removed_directory_return_even_when_nothing_else_is_free() {
    let fs = mounted(MIB);
    fs.mkdir("/d", 0o755).expect("mkdir");
    fs.create("/d/x", 0o644).expect("create");
    let fill = fs.create("/fill", 0o644).expect("create");
    let mut end = 0;
    while fs.write(&fill, end, &[2; 4096]).is_ok() {
        end += 4096;
    }
    fs.unlink("/d/x").expect("unlink");
    fs.rmdir("/d").expect("rmdir");
    fs.write(&fill, end, &[3; 4096])
        .expect("the directory's block");
    assert!(fs.write(&fill, end + 4096, &[3; 4096]).is_err());
}

#[test]
fn many_inodes_and_names_grow_table_and_directory() {
    let ram = std::sync::Arc::new(dax::pmem::RamPmem::new(8 * MIB).expect("memory"));
    let o = fs::MkfsOptions {
        inodes: Some(2048),
        ..options()
    };
    fs::mkfs(&ram, &o).expect("mkfs");
    let backing = backing(8 * MIB);
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    for i in 0..1500 {
        fs.create(&format!("/file{i}"), 0o644).expect("create");
    }
    for i in (0..1500).step_by(3) {
        fs.unlink(&format!("/file{i}")).expect("unlink");
    }
    drop(fs);
    let fs = Fs::mount(ram, backing).expect("mount again");
    assert_eq!(names(&fs, "/").len(), 1000);
    assert_eq!(fs.mount_report().inodes, 1001);
    assert!(fs.open("/file1499").is_ok());
    assert!(fs.open("/file1497").is_err());
}

#[test]
fn a_file_in_many_pieces_uses_leaves_and_gives_them_back() {
    let (ram, backing) = formatted(16 * MIB);
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    let before = fs.statfs();
    let f = fs.create("/f", 0o644).expect("create");
    let pieces = 1200u64;
    for i in 0..pieces {
        // Not in order, so that leaves are changed in the middle and split.
        let at = i * 7 % pieces;
        fs.write(&f, at * 8192, &at.to_le_bytes()).expect("write");
    }
    let stat = f.stat();
    assert!(
        stat.blocks > pieces && stat.blocks <= pieces + 12,
        "{stat:?}"
    );
    let check = |fs: &Fs<std::sync::Arc<dax::pmem::RamPmem>>| {
        let found = content(fs, "/f");
        for i in 0..pieces {
            assert_eq!(found[(i * 8192) as usize..][..8], i.to_le_bytes());
        }
    };
    check(&fs);
    drop((f, fs));
    let fs = Fs::mount(ram, backing).expect("mount again");
    check(&fs);
    truncate(&fs, "/f", 10 * 8192);
    // Ten pieces at once are more words than a record holds beside all attributes: they stay in one leaf.
    assert_eq!(fs.stat("/f").expect("stat").blocks, 10 + 1);
    fs.unlink("/f").expect("unlink");
    let after = fs.statfs();
    assert_eq!(after.space.free + after.quarantined, before.space.free - 1);
}

#[test]
fn large_files_get_large_pages() {
    let fs = mounted(64 * MIB);
    let f = fs.create_sized("/f", 0o644, 16 * MIB).expect("create");
    let extents: Vec<_> = fs.extents(&f).collect();
    assert_eq!(extents.len(), 1, "{extents:?}");
    let pfn = f.pfn(0).expect("storage");
    assert_eq!(pfn.get() % 512, 0);
    assert!(matches!(
        fs.create_sized("/g", 0o644, 100 * MIB),
        Err(fs::CreateSizedError::Allocate(WriteError::Change(
            ChangeError::NoSpace { .. }
        )))
    ));
    assert_eq!(names(&fs, "/"), ["f"]);
}

#[test]
fn unwritten_space_reads_as_zeroes_and_takes_writes() {
    let (ram, backing) = formatted(4 * MIB);
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    let g = fs.create("/g", 0o644).expect("create");
    fs.write(&g, 0, &[0xee; 100_000]).expect("dirty the space");
    drop(g);
    fs.unlink("/g").expect("unlink");
    let f = fs.create("/f", 0o644).expect("create");
    fs.fallocate(&f, 0, 100_000, Fill::Unwritten)
        .expect("fallocate");
    assert!(content(&fs, "/f").iter().all(|b| *b == 0));
    fs.write(&f, 50_001, b"hello").expect("write");
    drop((f, fs));
    let fs = Fs::mount(ram, backing).expect("mount again");
    let found = content(&fs, "/f");
    assert_eq!(found[50_001..50_006], *b"hello");
    assert_eq!(found.iter().filter(|b| **b != 0).count(), 5);
}

/// Holes leave an extent for each page, in leaves beyond 12. When few are left they go back into the inode, all of them new there:
/// more words than a record holds, unless they stay in a leaf.
#[test]
fn a_cut_that_leaves_few_extents_of_many_fits_into_a_record() {
    const EXTENTS: u64 = 30;
    for left in 1..=13 {
        let (ram, backing) = formatted(4 * MIB);
        let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
        let f = fs.create("/f", 0o644).expect("create");
        for page in 0..EXTENTS {
            fs.write(&f, page * 8192, &[page as u8 + 1]).expect("write");
        }
        let cut = EXTENTS - left;
        let punched = fs.punch(&f, 0, cut * 8192, forever(), &mut BreakReport::default());
        punched.expect("punch");
        let fs = Fs::mount(ram, backing).expect("mount again");
        let found = content(&fs, "/f");
        let first = |page: u64| found[page as usize * 8192];
        assert!((0..cut).all(|page| first(page) == 0));
        assert!((cut..EXTENTS).all(|page| first(page) == page as u8 + 1));
    }
}
