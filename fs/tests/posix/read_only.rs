//! A region that may not be written: everything can be read, nothing is stored, and each change says why.

use std::sync::Arc;

use dax::layout::BreakReport;
use dax::pmem::RamPmem;
use fs::error::{ChangeError, CreateError, RemoveError, RenameError, SetAttrError};
use fs::{Fill, Fs, MkfsError, MountReport, RenameMode, SetAttr, mkfs};

use crate::common::unarmed::Unarmed;
use crate::common::*;

const MIB: u64 = 1 << 20;

fn filled() -> (Arc<RamPmem>, fs::Backing) {
    let (ram, backing) = formatted(4 * MIB);
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    fs.mkdir("/d", 0o755).expect("mkdir");
    let f = fs.create("/d/f", 0o644).expect("create");
    fs.write(&f, 0, &[5; 9000]).expect("write");
    fs.symlink("/l", b"d/f").expect("symlink");
    drop(f);
    assert!(fs.unmount().is_ok());
    (ram, backing)
}

#[test]
fn a_read_only_region_is_mounted_read_only() {
    let (ram, backing) = filled();
    let fs = Fs::mount(Unarmed(ram.clone()), backing).expect("mount");
    let report: &MountReport = fs.mount_report();
    assert!(report.read_only && report.replayed == 0);
    assert_eq!(content(&fs, "/l"), [5; 9000]);
    assert_eq!(names(&fs, "/"), ["d", "l"]);
    let no = ChangeError::ReadOnly;
    let create = Some(CreateError::Change(no));
    assert_eq!(fs.create("/x", 0o644).err(), create);
    assert_eq!(fs.create("/d", 0o644).err(), create, "before anything else");
    assert_eq!(fs.mkdir("/x", 0o755).err(), create);
    assert_eq!(fs.symlink("/x", b"d").err(), create);
    assert_eq!(fs.link("/d/f", "/x").err(), create);
    assert_eq!(fs.unlink("/d/f"), Err(RemoveError::Change(no)));
    assert_eq!(fs.rmdir("/d"), Err(RemoveError::Change(no)));
    assert_eq!(fs.rename("/d", "/x", true), Err(RenameError::Change(no)));
    assert_eq!(fs.exchange("/d", "/l"), Err(RenameError::Change(no)));
    let d = fs.open("/d").expect("open");
    let moved = fs.rename_in(&d, b"f", &d, b"g", RenameMode::NoReplace);
    assert_eq!(moved, Err(RenameError::Change(no)));
    let f = fs.open("/d/f").expect("open");
    let set = fs.setattr(&f, &SetAttr::default());
    assert_eq!(set, Err(SetAttrError::Change(no)));
    assert_eq!(fs.write(&f, 0, b"x"), Err(no.into()));
    assert_eq!(fs.fallocate(&f, 0, 9, Fill::Unwritten), Err(no.into()));
    let report = || BreakReport::default();
    for size in [0, 5000, 90_000] {
        let cut = fs.truncate(&f, size, forever(), &mut report());
        assert_eq!(cut.err(), Some(no.into()));
    }
    let punched = fs.punch(&f, 0, 5000, forever(), &mut report());
    assert_eq!(punched.err(), Some(no.into()));
    assert!(!f.takes_stores());
    fs.fsync(&f).expect("nothing to do");
    fs.sync().expect("nothing to do");
    fs.settle();
    assert_eq!(fs.statfs().inodes_used, 4);
    drop((d, f));
    assert!(fs.unmount().is_ok());
    assert_eq!(mkfs(&Unarmed(ram), &options()), Err(MkfsError::ReadOnly));
}

#[test]
fn a_read_only_region_that_must_be_replayed_is_refused() {
    let (ram, backing) = filled();
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    fs.create("/pending", 0o644).expect("create");
    drop(fs);
    let refused = Fs::mount(Unarmed(ram.clone()), backing.clone()).err();
    let why = refused.expect("refused").to_string();
    assert!(why.contains("read-only"), "{why}");
    // Mounted writable once, it is in order.
    assert!(Fs::mount(ram.clone(), backing.clone()).is_ok_and(|fs| fs.unmount().is_ok()));
    let fs = Fs::mount(Unarmed(ram), backing).expect("mount");
    assert!(fs.open("/pending").is_ok());
}
