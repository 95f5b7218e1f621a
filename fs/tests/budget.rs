//! What each operation costs the media: fences exactly; lines written back or stored past the caches, and bytes stored, at most.
//!
//! Each row runs on a tree of its own, right after an operation that leaves as many lines as any for the next fence to write back.
//! `cargo test -p fs --test suite budget:: -- --nocapture` prints what was counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::common::*;
use dax::layout::BreakReport;
use dax::pmem::{MediaError, Pmem, RamPmem};
use fs::{Fill, Fs, Kind, NewInode, SetAttr};

const MIB: u64 = 1 << 20;

/// A region that counts.
struct Counted {
    ram: Arc<RamPmem>,
    loads: AtomicU64,
    fences: AtomicU64,
    lines: AtomicU64,
    bytes: AtomicU64,
    /// Stored past the caches and not fenced yet: ordered with nothing.
    past: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    loads: u64,
    fences: u64,
    lines: u64,
    bytes: u64,
}

impl Counted {
    fn new(ram: Arc<RamPmem>) -> Self {
        let zero = || AtomicU64::new(0);
        let (loads, fences, lines, bytes, past) = (zero(), zero(), zero(), zero(), zero());
        Self {
            ram,
            loads,
            fences,
            lines,
            bytes,
            past,
        }
    }

    fn now(&self) -> Cost {
        Cost {
            loads: self.loads.load(Relaxed),
            fences: self.fences.load(Relaxed),
            lines: self.lines.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
        }
    }

    fn of(&self, work: impl FnOnce()) -> Cost {
        let before = self.now();
        work();
        let past = self.past.load(Relaxed);
        assert_eq!(
            past, 0,
            "another CPU may store there, and be overtaken by these bytes"
        );
        let after = self.now();
        Cost {
            loads: after.loads - before.loads,
            fences: after.fences - before.fences,
            lines: after.lines - before.lines,
            bytes: after.bytes - before.bytes,
        }
    }

    fn wrote(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    fn lines(&self, off: u64, len: u64) {
        if len > 0 {
            let lines = (off + len).div_ceil(64) - off / 64;
            self.lines.fetch_add(lines, Relaxed);
        }
    }
}

impl Pmem for Counted {
    fn len(&self) -> u64 {
        self.ram.len()
    }
    fn writable(&self) -> bool {
        true
    }
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<(), MediaError> {
        self.loads.fetch_add(buf.len().div_ceil(8) as u64, Relaxed);
        self.ram.read(off, buf)
    }
    fn load64(&self, off: u64) -> Result<u64, MediaError> {
        self.loads.fetch_add(1, Relaxed);
        self.ram.load64(off)
    }
    fn store64(&self, off: u64, v: u64) {
        self.wrote(8);
        self.ram.store64(off, v);
    }
    fn store(&self, off: u64, data: &[u8]) {
        self.wrote(data.len() as u64);
        self.ram.store(off, data);
    }
    fn copy_nt(&self, off: u64, data: &[u8]) {
        self.wrote(data.len() as u64);
        self.lines(off, data.len() as u64);
        self.past.fetch_add(data.len() as u64, Relaxed);
        self.ram.copy_nt(off, data);
    }
    fn zero_nt(&self, off: u64, len: u64) {
        self.wrote(len);
        self.lines(off, len);
        self.past.fetch_add(len, Relaxed);
        self.ram.zero_nt(off, len);
    }
    fn flush(&self, off: u64, len: u64) {
        self.lines(off, len);
        self.ram.flush(off, len);
    }
    fn fence(&self) {
        self.fences.fetch_add(1, Relaxed);
        self.past.store(0, Relaxed);
        self.ram.fence();
    }
}

type Disk = Fs<Arc<Counted>>;

/// An operation, and what it may cost: fences exactly, the others at most.
struct Row {
    name: &'static str,
    fences: u64,
    lines: u64,
    bytes: u64,
    op: fn(&Disk),
}

const fn row(name: &'static str, (fences, lines, bytes): (u64, u64, u64), op: fn(&Disk)) -> Row {
    Row {
        name,
        fences,
        lines,
        bytes,
        op,
    }
}

/// `/a` and `/b` with files, links and an empty directory each; `/f` with 20 blocks.
fn tree() -> (Arc<Counted>, Arc<Disk>) {
    let (ram, backing) = formatted(8 * MIB);
    let counted = Arc::new(Counted::new(ram));
    let fs = Fs::mount(counted.clone(), backing).expect("mount");
    for dir in ["/a", "/b"] {
        fs.mkdir(dir, 0o755).expect("mkdir");
        fs.mkdir(&format!("{dir}/d"), 0o755).expect("mkdir");
        fs.create(&format!("{dir}/f"), 0o644).expect("create");
        fs.create(&format!("{dir}/g"), 0o644).expect("create");
        fs.link(&format!("{dir}/f"), &format!("{dir}/l"))
            .expect("link");
    }
    let f = fs.create("/f", 0o644).expect("create");
    fs.write(&f, 0, &[1; 20 * 4096]).expect("write");
    let clean = fs.create("/clean", 0o644).expect("create");
    fs.write(&clean, 0, &[1; 4096]).expect("write");
    let holes = fs.create("/holes", 0o644).expect("create");
    fs.fallocate(&holes, 0, 16384, Fill::Unwritten)
        .expect("fallocate");
    // What the next fence writes back: as many lines as any record changes.
    fs.exchange("/a/g", "/b/g").expect("exchange");
    (counted, fs)
}

fn write(fs: &Disk, path: &str, off: u64, len: usize) {
    let inode = fs.open(path).expect("open");
    fs.write(&inode, off, &vec![7; len]).expect("write");
}

fn set(fs: &Disk, set: &SetAttr) {
    let inode = fs.open("/a/f").expect("open");
    fs.setattr(&inode, set).expect("setattr");
}

fn rows() -> Vec<Row> {
    // The record's four lines, and six that the operation before left.
    const ONE: (u64, u64, u64) = (1, 10, 408);
    vec![
        row("create", ONE, |fs| drop(fs.create("/a/new", 0o644))),
        row("create, name of 44 bytes", ONE, |fs| {
            drop(fs.create(&format!("/a/{}", "n".repeat(44)), 0o644));
        }),
        row("create, name of 45 bytes", (2, 15, 728), |fs| {
            drop(fs.create(&format!("/a/{}", "n".repeat(45)), 0o644));
        }),
        row("create, name of 255 bytes", (3, 22, 1176), |fs| {
            drop(fs.create(&format!("/a/{}", "n".repeat(255)), 0o644));
        }),
        row("create, device", ONE, |fs| {
            drop(fs.create_as("/a/new", &NewInode::new(Kind::CharDev, 0o600)));
        }),
        row("create in an empty directory", (3, 80, 4776), |fs| {
            drop(fs.create("/a/d/new", 0o644));
        }),
        row("mkdir", ONE, |fs| drop(fs.mkdir("/a/new", 0o755))),
        row("rmdir", ONE, |fs| fs.rmdir("/a/d").expect("rmdir")),
        row("unlink, the last name", ONE, |fs| {
            fs.unlink("/a/g").expect("unlink");
        }),
        row("unlink, one of two names", ONE, |fs| {
            fs.unlink("/a/l").expect("unlink");
        }),
        row("unlink, a file of 20 blocks", ONE, |fs| {
            fs.unlink("/f").expect("unlink");
        }),
        row("link", ONE, |fs| fs.link("/a/f", "/b/new").expect("link")),
        row("symlink, 40 bytes", ONE, |fs| {
            drop(fs.symlink("/a/new", &[b't'; 40]));
        }),
        row("symlink, 192 bytes", (2, 17, 816), |fs| {
            drop(fs.symlink("/a/new", &[b't'; 192]));
        }),
        row("symlink, 4095 bytes", (2, 75, 4480), |fs| {
            drop(fs.symlink("/a/new", &[b't'; 4095]));
        }),
        row("rename", ONE, |fs| {
            fs.rename("/a/f", "/a/new", false).expect("rename");
        }),
        row("rename, across directories", ONE, |fs| {
            fs.rename("/a/f", "/b/new", false).expect("rename");
        }),
        row("rename, replacing a file", ONE, |fs| {
            fs.rename("/a/g", "/b/g", true).expect("rename");
        }),
        row("rename, a directory", ONE, |fs| {
            fs.rename("/a/d", "/b/new", false).expect("rename");
        }),
        row("rename, replacing a directory", ONE, |fs| {
            fs.rename("/a/d", "/b/d", true).expect("rename");
        }),
        row("rename, exchanging", ONE, |fs| {
            fs.exchange("/a/d", "/b/f").expect("exchange");
        }),
        row("setattr, mode and owner", ONE, |fs| {
            let (mode, uid) = (Some(0o600), Some(7));
            let change = SetAttr {
                mode,
                uid,
                ..SetAttr::default()
            };
            set(fs, &change);
        }),
        row("setattr, times", ONE, |fs| {
            let (atime, mtime) = (Some(1), Some(2));
            let change = SetAttr {
                atime,
                mtime,
                ..SetAttr::default()
            };
            set(fs, &change);
        }),
        row("write 4 KiB in place", (1, 64, 4096), |fs| {
            write(fs, "/f", 8192, 4096);
        }),
        row("append 4 KiB", (2, 74, 4408), |fs| {
            write(fs, "/f", 20 * 4096, 4096);
        }),
        row("write 4 KiB into a hole", (2, 74, 4408), |fs| {
            write(fs, "/a/f", 40960, 4096);
        }),
        row("write 4 KiB, allocated before", (2, 74, 4432), |fs| {
            write(fs, "/holes", 4096, 4096);
        }),
        row("truncate down", ONE, |fs| truncate(fs, "/f", 4096)),
        row("truncate down, within a block", (1, 12, 400), |fs| {
            truncate(fs, "/f", 4000);
        }),
        row("truncate up", (2, 10, 320), |fs| {
            truncate(fs, "/f", 100 * 4096);
        }),
        row("punch, whole blocks", (1, 10, 320), |fs| {
            let f = fs.open("/f").expect("open");
            fs.punch(&f, 4096, 8192, forever(), &mut BreakReport::default())
                .expect("punch");
        }),
        row("fallocate, never written", (2, 10, 320), |fs| {
            let f = fs.open("/a/f").expect("open");
            fs.fallocate(&f, 0, 8192, Fill::Unwritten)
                .expect("fallocate");
        }),
        row("fsync, nothing to do", (0, 0, 0), |fs| {
            fs.fsync(&fs.open("/clean").expect("open")).expect("fsync");
        }),
        row("write in place, then fsync", (2, 11, 288), |fs| {
            write(fs, "/f", 8192, 8);
            fs.fsync(&fs.open("/f").expect("open")).expect("fsync");
        }),
        row("lookup, stat, readdir, readlink", (0, 0, 0), |fs| {
            fs.stat("/a/f").expect("stat");
            assert_eq!(names(fs, "/a").len(), 4);
        }),
    ]
}

#[test]
fn no_operation_costs_more_than_its_budget() {
    println!("fences  lines  bytes  operation");
    let mut over = Vec::new();
    for row in rows() {
        let (counted, fs) = tree();
        let Cost {
            fences,
            lines,
            bytes,
            ..
        } = counted.of(|| (row.op)(&fs));
        println!("{fences:6} {lines:6} {bytes:6}  {}", row.name);
        if fences != row.fences || lines > row.lines || bytes > row.bytes {
            let (f, l, b) = (row.fences, row.lines, row.bytes);
            over.push(format!(
                "{}: {fences} fences, {lines} lines, {bytes} bytes; budget {f}, {l}, {b}",
                row.name
            ));
        }
    }
    assert!(over.is_empty(), "{over:#?}");
}

/// An inode that each of several operations changes is written back when the last of them has a successor of another kind.
#[test]
fn what_the_next_record_stores_anew_is_not_written_back() {
    let (counted, fs) = tree();
    let of = |op: &dyn Fn()| {
        let cost = counted.of(op);
        (cost.fences, cost.lines)
    };
    let create = |path: &str| drop(fs.create(path, 0o644));
    create("/a/1");
    // The record; of the create before it the new inode and the entry, not the directory.
    assert_eq!(of(&|| create("/a/2")), (1, 6));
    // Now the directory too.
    assert_eq!(of(&|| create("/b/1")), (1, 7));
    let f = fs.open("/f").expect("open");
    let append = |page: u64| {
        fs.write(&f, page * 4096, &[7; 4096]).expect("write");
    };
    append(20);
    // The first makes an extent; from then on the same words of the inode change: the record and the content are all.
    append(21);
    assert_eq!(of(&|| append(22)), (2, 4 + 64));
    assert_eq!(of(&|| append(23)), (2, 4 + 64));
    // The attributes and the extent of the last append.
    let mode = SetAttr {
        mode: Some(0o600),
        ..SetAttr::default()
    };
    assert_eq!(of(&|| set(&fs, &mode)), (1, 6));
}

/// 100,000 names in one directory: what a create costs does not grow with it.
#[test]
fn a_create_costs_the_same_in_a_large_directory() {
    const MANY: u64 = 100_000;
    let len = 64 * MIB;
    let ram = Arc::new(RamPmem::new(len).expect("memory"));
    let options = fs::MkfsOptions {
        inodes: Some(MANY as u32 + 1000),
        ..options()
    };
    fs::mkfs(&ram, &options).expect("mkfs");
    let counted = Arc::new(Counted::new(ram));
    let fs = Fs::mount(counted.clone(), backing(len)).expect("mount");
    let dir = fs.mkdir("/d", 0o755).expect("mkdir");
    let file = NewInode::new(Kind::File, 0o644);
    let mut worst = 0;
    let all = counted.of(|| {
        for i in 0..MANY {
            let name = format!("file{i}");
            let one = counted.of(|| drop(fs.create_in(&dir, name.as_bytes(), &file)));
            worst = worst.max(one.loads);
        }
    });
    println!("{MANY} creates in one directory: {all:?}, at most {worst} words loaded by one");
    assert_eq!(fs.statfs().inodes_used, MANY + 2);
    // One fence each; two for each 256 inodes of the table; the growth of the directory in an eighth of itself each time.
    assert!(all.fences <= MANY + 2 * MANY / 256 + 300, "{all:?}");
    assert!(all.bytes <= MANY * (480 + 256 + 80), "{all:?}");
    // The generation of the inode; and the entry of a name with the same hash, now and then.
    assert!(worst <= 40 && all.loads <= 2 * MANY, "{all:?}");
    assert!(fs.extents(&dir).count() <= 60);
    // A hole in the middle is found again, and so is the lowest inode.
    let middle = fs.lookup(&dir, b"file50000").expect("lookup").ino();
    fs.remove_in(&dir, b"file50000", Kind::File)
        .expect("unlink");
    let again = counted.of(|| {
        let again = fs.create_in(&dir, b"again", &file).expect("create");
        assert_eq!(again.ino(), middle);
    });
    assert_eq!((again.fences, again.loads), (1, 1));
}
