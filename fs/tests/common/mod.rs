//! A file system on the heap, for tests.
#![allow(dead_code, reason = "each test program uses its own part")]

pub mod model;
pub mod patched;
pub mod process;
pub mod sample;
pub mod sparse;
pub mod unarmed;
pub mod undo;
pub mod walk;
pub mod words;

use std::sync::Arc;

use dax::layout::{BreakReport, How};
use dax::pmem::{Pmem, RamPmem};
use dax::xarray::NodePool;
use fs::{Backing, Fs, MkfsOptions, mkfs};
use mm::addr::PfnRange;
use mm::pgmap::{Pgmap, scratch_range};
use mm::sync::Wait;

pub const UUID: [u8; 16] = *b"fs under test 01";

/// A pgmap for a region of `len` bytes, and what else a mount needs.
pub fn backing(len: u64) -> Backing {
    backing_at(scratch_range(len / 4096))
}

pub fn backing_at(range: PfnRange) -> Backing {
    Backing {
        pgmap: Pgmap::new("test", range, None).expect("room in the registry"),
        nodes: NodePool::new(256).expect("memory"),
        zero_page: scratch_range(1).start(),
    }
}

pub fn options() -> MkfsOptions {
    MkfsOptions {
        ring_slots: 16,
        inodes: Some(64),
        ..MkfsOptions::new(UUID)
    }
}

/// A formatted region of `len` bytes, and its backing.
pub fn formatted(len: u64) -> (Arc<RamPmem>, Backing) {
    let ram = Arc::new(RamPmem::new(len).expect("memory"));
    mkfs(&ram, &options()).expect("mkfs");
    (ram, backing(len))
}

pub fn mounted(len: u64) -> Arc<Fs<Arc<RamPmem>>> {
    let (ram, backing) = formatted(len);
    Fs::mount(ram, backing).expect("mount")
}

pub fn forever() -> How<'static> {
    How::Wait(Wait::forever())
}

/// Truncates, waiting as long as it takes.
pub fn truncate<P: Pmem>(fs: &Fs<P>, path: &str, size: u64) {
    let inode = fs.open(path).expect("open");
    fs.truncate(&inode, size, forever(), &mut BreakReport::default())
        .expect("truncate");
}

/// The whole content.
pub fn content<P: Pmem>(fs: &Fs<P>, path: &str) -> Vec<u8> {
    let inode = fs.open(path).expect("open");
    let mut buf = vec![0xaa; inode.stat().size as usize];
    assert_eq!(fs.read(&inode, 0, &mut buf), Ok(buf.len()));
    buf
}

/// The names in a directory, sorted.
pub fn names<P: Pmem>(fs: &Fs<P>, path: &str) -> Vec<String> {
    let dir = fs.open(path).expect("open");
    let mut names = Vec::new();
    let mut cookie = 0;
    while let Some(entry) = fs.readdir(&dir, cookie).expect("readdir") {
        names.push(String::from_utf8_lossy(entry.name.as_bytes()).into_owned());
        cookie = entry.cookie;
    }
    names.sort();
    names
}
