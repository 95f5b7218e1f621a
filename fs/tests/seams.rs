//! Where the file system meets mappings, read-only regions, full disks and short memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::common::process::Process;
use crate::common::*;
use dax::pmem::{MediaError, Pmem, RamPmem};
use fs::layout::INLINE_EXTENTS;
use fs::{Fill, Fs};
use mm::aspace::{Access, FaultError};
use mm::gup::{GupError, pin_user_pages};

const MIB: u64 = 1 << 20;

/// A region on the heap that may be read-only, and that knows whether something was written and not fenced.
struct Watched {
    ram: Arc<RamPmem>,
    writable: bool,
    unfenced: AtomicBool,
    stores: AtomicU64,
}

impl Watched {
    fn new(ram: &Arc<RamPmem>, writable: bool) -> Arc<Self> {
        Arc::new(Self {
            ram: ram.clone(),
            writable,
            unfenced: AtomicBool::new(false),
            stores: AtomicU64::new(0),
        })
    }

    fn wrote(&self) {
        assert!(self.writable, "a store to a read-only region");
        self.unfenced.store(true, Ordering::Relaxed);
        self.stores.fetch_add(1, Ordering::Relaxed);
    }

    /// `change` fails, after it has stored something, and leaves nothing of that on its way.
    fn fails_late_and_fenced(&self, change: impl FnOnce() -> bool) {
        self.fence();
        let stores = self.stores.load(Ordering::Relaxed);
        assert!(change(), "it did not fail");
        let stored = self.stores.load(Ordering::Relaxed) > stores;
        assert!(stored, "it failed before it stored anything");
        let unfenced = self.unfenced.load(Ordering::Relaxed);
        assert!(!unfenced, "what it stored may still be on its way");
    }
}

impl Pmem for Watched {
    fn len(&self) -> u64 {
        self.ram.len()
    }
    fn writable(&self) -> bool {
        self.writable
    }
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<(), MediaError> {
        self.ram.read(off, buf)
    }
    fn load64(&self, off: u64) -> Result<u64, MediaError> {
        self.ram.load64(off)
    }
    fn store64(&self, off: u64, v: u64) {
        self.wrote();
        self.ram.store64(off, v);
    }
    fn store(&self, off: u64, data: &[u8]) {
        self.wrote();
        self.ram.store(off, data);
    }
    fn copy_nt(&self, off: u64, data: &[u8]) {
        self.wrote();
        self.ram.copy_nt(off, data);
    }
    fn zero_nt(&self, off: u64, len: u64) {
        self.wrote();
        self.ram.zero_nt(off, len);
    }
    fn flush(&self, off: u64, len: u64) {
        self.ram.flush(off, len);
    }
    fn fence(&self) {
        self.unfenced.store(false, Ordering::Relaxed);
        self.ram.fence();
    }
}

#[test]
fn storage_that_fallocate_zeroed_is_seen_by_who_read_it_before() {
    let fs = mounted(2 * MIB);
    let f = fs.create("/f", 0o644).expect("create");
    fs.fallocate(&f, 0, 4 * 4096, Fill::Unwritten)
        .expect("fallocate");
    let process = Process::new(&f, 4);
    let zero = process.touch(1, Access::Read).expect("zero page");
    fs.fallocate(&f, 0, 4 * 4096, Fill::Zeroed)
        .expect("convert");
    fs.write(&f, 4096, b"now").expect("in place");
    let pfn = process.touch(1, Access::Read).expect("fault");
    assert_ne!(pfn, zero, "the mapping still shows zeroes");
    assert_eq!(Some(pfn), f.pfn(1));
}

#[test]
fn a_store_or_a_pin_for_one_is_refused_on_a_read_only_region() {
    let (ram, backing) = formatted(2 * MIB);
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    let f = fs.create("/f", 0o644).expect("create");
    fs.write(&f, 0, &[1; 4096]).expect("write");
    fs.fallocate(&f, 4096, 4096, Fill::Unwritten).expect("more");
    truncate(&fs, "/f", 3 * 4096);
    drop(f);
    assert!(fs.unmount().is_ok());
    let fs = Fs::mount(Watched::new(&ram, false), backing).expect("mount read-only");
    let f = fs.open("/f").expect("open");
    let process = Process::new(&f, 3);
    for page in 0..3 {
        assert!(process.touch(page, Access::Read).is_ok());
        assert_eq!(
            process.touch(page, Access::Write),
            Err(FaultError::Permission),
            "page {page}"
        );
    }
    let pin = pin_user_pages(&process.space, process.at.start(), 1, true);
    assert!(matches!(
        pin,
        Err(GupError::Fault {
            why: FaultError::Permission,
            ..
        })
    ));
    let read = pin_user_pages(&process.space, process.at.start(), 1, false);
    assert_eq!(read.expect("pin to read").pages(), 1);
    drop((process, f));
    assert!(fs.unmount().is_ok());
}

/// Fills the disk but for `spare` blocks.
fn fill_up<P: Pmem>(fs: &Fs<P>, spare: u64) {
    let fill = fs.create("/fill", 0o644).expect("create");
    let mut end = 0;
    while fs.statfs().space.free > spare {
        fs.write(&fill, end, &[7; 4096]).expect("room");
        end += 4096;
    }
}

#[test]
fn what_a_write_did_before_it_ran_out_of_space_is_durable() {
    let (ram, backing) = formatted(2 * MIB);
    let pmem = Watched::new(&ram, true);
    let fs = Fs::mount(pmem.clone(), backing).expect("mount");
    let f = fs.create("/f", 0o644).expect("create");
    fs.write(&f, 0, &[1; 4096 + 100]).expect("write");
    fill_up(&fs, 0);
    // The settled end of the last record.
    fs.sync().expect("sync");
    pmem.fence();
    assert!(fs.write(&f, 0, &[2; 5 * 4096]).is_err());
    assert!(
        !pmem.unfenced.load(Ordering::Relaxed) || f.stat().size == 2 * 4096,
        "bytes were written in place and not fenced"
    );
    // The file says how far it came.
    assert_eq!(f.stat().size, 2 * 4096);
    assert_eq!(content(&fs, "/f"), [2; 2 * 4096]);
}

#[test]
fn blocks_come_back_unpublished_only_when_what_was_stored_to_them_has_arrived() {
    let (ram, backing) = formatted(2 * MIB);
    let pmem = Watched::new(&ram, true);
    let fs = Fs::mount(pmem.clone(), backing).expect("mount");
    let f = fs.create("/f", 0o644).expect("create");
    // As many extents as an inode holds; one more wants a node.
    let end = (0..INLINE_EXTENTS as u64).fold(0, |at, _| {
        fs.write(&f, at, &[1; 4096]).expect("write");
        at + 2 * 4096
    });
    fill_up(&fs, 1);
    fs.sync().expect("sync");
    let free = fs.statfs().space.free;
    // There is no room for the node, which is found out after the content was stored.
    pmem.fails_late_and_fenced(|| fs.write(&f, end, &[2; 4096]).is_err());
    assert_eq!(fs.statfs().space.free, free);
}

#[test]
fn zeroes_behind_the_end_have_arrived_also_when_no_space_is_left_for_what_comes_after_them() {
    let (ram, backing) = formatted(2 * MIB);
    let pmem = Watched::new(&ram, true);
    let fs = Fs::mount(pmem.clone(), backing).expect("mount");
    let f = fs.create("/f", 0o644).expect("create");
    fs.write(&f, 0, &[1; 100]).expect("write");
    fill_up(&fs, 0);
    fs.sync().expect("sync");
    pmem.fails_late_and_fenced(|| fs.write(&f, 4 * 4096, &[2; 4096]).is_err());
    pmem.fails_late_and_fenced(|| fs.fallocate(&f, 4 * 4096, 4096, Fill::Unwritten).is_err());
    assert_eq!(f.stat().size, 100);
}

#[test]
fn a_fallocate_that_ran_out_of_space_leaves_no_storage_behind_the_end() {
    let fs = mounted(2 * MIB);
    for fill in [Fill::Zeroed, Fill::Unwritten] {
        let name = format!("/{fill:?}");
        let f = fs.create(&name, 0o644).expect("create");
        fs.write(&f, 0, &[1; 10]).expect("write");
        assert!(fs.fallocate(&f, 0, 4 * MIB, fill).is_err());
        let size = f.stat().size;
        assert!(size > 4096, "{size}");
        for extent in fs.extents(&f) {
            assert!(
                extent.end() * 4096 <= size.next_multiple_of(4096),
                "{extent:?}"
            );
        }
        let found = content(&fs, &name);
        assert!(found[..10] == [1; 10] && found[10..].iter().all(|b| *b == 0));
        drop(f);
        fs.unlink(&name).expect("unlink");
    }
}

#[test]
fn a_sized_create_that_ran_out_of_space_leaves_nothing() {
    let fs = mounted(2 * MIB);
    // The first name takes a block of the directory.
    fs.create("/first", 0o644).expect("create");
    let before = fs.statfs();
    assert!(fs.create_sized("/f", 0o644, 4 * MIB).is_err());
    let after = fs.statfs();
    assert_eq!((after.orphans, after.inodes_used), (0, before.inodes_used));
    let room = |s: &fs::StatFs| s.space.free + s.quarantined;
    assert_eq!(room(&after), room(&before));
    assert_eq!(names(&fs, "/"), ["first"]);
}

#[test]
fn a_create_that_fails_for_memory_has_made_nothing() {
    // The time is asked for between the checks and the commit.
    fn starve() -> u64 {
        mm::mem::inject::headroom(0);
        1
    }
    let fs = mounted(2 * MIB);
    fs.set_clock(starve);
    let made = fs.create("/f", 0o644).map(|inode| inode.ino());
    mm::mem::inject::headroom(usize::MAX);
    assert_eq!(made.is_ok(), names(&fs, "/") == ["f"], "{made:?}");
}
