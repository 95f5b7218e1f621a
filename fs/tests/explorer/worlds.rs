//! Lists of operations, and the tree that each begins with.
//!
//! [`ace`] follows the operations of ACE's `pm` set, as Chipmunk used it: their numbers are 16 rename, 12 link, 6 falloc, 5 unlink, 5
//! remove, 4 truncate, 4 direct write, 2 creat, 1 mkdir, 1 rmdir. As there, the files that an operation needs come to be right before it.
//! [`own`] is wider and begins with a tree that has been used: blocks that held other content, files with holes, nodes of extents, long
//! names, second links.

use std::sync::Arc;

use fs::Fill::{KeepSize, Unwritten, Zeroed};
use fs::layout::Geometry;
use fs::{Fs, mkfs};

use super::act::Act;
use super::lab::now;
use super::region::Region;
use crate::common::model::{Model, Op};
use crate::common::{backing, options};

/// Bytes of the test region.
const REGION: u64 = 512 << 10;

/// Where workloads begin, and what they are made of.
pub struct World {
    pub name: &'static str,
    pub base: Vec<u64>,
    pub geometry: Geometry,
    pub model: Model,
    pub acts: Vec<Act>,
    /// What an operation needs is made before it.
    needs: bool,
}

fn s(path: &str) -> String {
    path.to_string()
}

/// A name of `len` bytes in a directory.
fn long(dir: &str, len: usize) -> String {
    format!("{dir}/{}", "n".repeat(len))
}

impl World {
    /// A file system of `bytes` after `setup`, unmounted.
    pub fn new(
        name: &'static str,
        bytes: u64,
        setup: Vec<Op>,
        acts: Vec<Act>,
        needs: bool,
    ) -> Arc<Self> {
        // What was on the media before is not zero.
        let old = vec![0x5a5a_0000_0000_5a5a; bytes as usize / 8];
        let region = Arc::new(Region::new(&old, 0..0));
        mkfs(&*region, &options()).expect("mkfs");
        let fs = Fs::mount(region.clone(), backing(bytes)).expect("mount");
        fs.set_clock(now);
        let mut model = Model::default();
        for op in &setup {
            assert!(op.run(&fs) && model.run(op), "{op:?}");
        }
        let geometry = *fs.geometry();
        assert!(fs.unmount().is_ok());
        Arc::new(Self {
            name,
            base: region.copy(),
            geometry,
            model,
            acts,
            needs,
        })
    }

    /// What has to be there, or must not be, for `act` to do something.
    pub fn needs(&self, model: &Model, act: &Act) -> Vec<Act> {
        let mut out = Vec::new();
        if let Act::Op(op) = act
            && self.needs
        {
            needs(model, op, &mut out);
        }
        out.into_iter().map(Act::Op).collect()
    }
}

/// Directories of the ACE set; every other name is a file's.
const DIRS: [&str; 4] = ["/A", "/B", "/A/C", "/B/C"];

fn needs(model: &Model, op: &Op, out: &mut Vec<Op>) {
    match op {
        Op::Create(new) => {
            parents(model, new, out);
            absent(model, new, out);
        }
        Op::Mkdir(new) => parents(model, new, out),
        Op::Link(old, new) => {
            present(model, old, out);
            parents(model, new, out);
            absent(model, new, out);
        }
        Op::Rename(old, new, _) => {
            present(model, old, out);
            parents(model, new, out);
        }
        Op::Rmdir(path)
        | Op::Unlink(path)
        | Op::Write(path, ..)
        | Op::Truncate(path, _)
        | Op::Fallocate(path, ..)
        | Op::Punch(path, ..)
        | Op::ZeroRange(path, ..) => present(model, path, out),
        _ => {}
    }
}

fn parents(model: &Model, path: &str, out: &mut Vec<Op>) {
    let dir = &path[..path.rfind('/').unwrap_or(0)];
    if !dir.is_empty() {
        present(model, dir, out);
    }
}

fn present(model: &Model, path: &str, out: &mut Vec<Op>) {
    let made = |op: &Op| matches!(op, Op::Create(p) | Op::Mkdir(p) if p == path);
    if model.has(path) || out.iter().any(made) {
        return;
    }
    parents(model, path, out);
    if DIRS.contains(&path) {
        out.push(Op::Mkdir(s(path)));
    } else {
        out.push(Op::Create(s(path)));
        out.push(Op::Write(s(path), 0, 6000, 9));
    }
}

fn absent(model: &Model, path: &str, out: &mut Vec<Op>) {
    if model.has(path) {
        out.push(Op::Unlink(s(path)));
    }
}

/// Something that was freed, so that new blocks are not zero by chance.
fn dirt() -> Vec<Op> {
    vec![
        Op::Create(s("/dirt")),
        Op::Write(s("/dirt"), 0, 200_000, 77),
        Op::Unlink(s("/dirt")),
    ]
}

/// ACE's fallocate with each of its modes, of which the `pm` set has one: the same files and ranges.
pub fn ace_modes() -> Arc<World> {
    let mut ops = Vec::new();
    for file in ["/foo", "/A/foo"].map(s) {
        for (off, len) in [(16_384, 4096), (5000, 4096), (4000, 9000)] {
            ops.push(Op::ZeroRange(file.clone(), off, len, Unwritten));
            ops.push(Op::ZeroRange(file.clone(), off, len, KeepSize));
            ops.push(Op::Punch(file.clone(), off, len));
            ops.push(Op::Fallocate(file.clone(), off, len, KeepSize));
            ops.push(Op::Fallocate(file.clone(), off, len, Unwritten));
        }
        ops.push(Op::Write(file.clone(), 12_000, 6000, 4));
        ops.push(Op::Truncate(file, 20_000));
    }
    let acts = ops.into_iter().map(Act::Op).collect();
    World::new("ace-modes", REGION, dirt(), acts, true)
}

/// The 56 operations of the ACE set.
pub fn ace() -> Arc<World> {
    let files = ["/foo", "/A/foo", "/bar", "/A/bar"];
    let mut ops = Vec::new();
    for old in files {
        for new in files.into_iter().filter(|new| *new != old) {
            ops.push(Op::Rename(s(old), s(new), true));
            ops.push(Op::Link(s(old), s(new)));
        }
    }
    for (old, new) in [("/A", "/B"), ("/B", "/A"), ("/A/C", "/B"), ("/B", "/A/C")] {
        ops.push(Op::Rename(s(old), s(new), true));
    }
    for file in &files[..2] {
        for (off, len) in [(16_384, 4096), (5000, 4096), (4000, 9000)] {
            ops.push(Op::Fallocate(s(file), off, len, Unwritten));
        }
        ops.extend([0, 256].map(|size| Op::Truncate(s(file), size)));
        ops.push(Op::Write(s(file), 16_384, 4096, 3));
        ops.push(Op::Write(s(file), 0, 4096, 4));
        ops.push(Op::Create(s(file)));
    }
    // unlink, and remove, which for a file is the same.
    for file in files.into_iter().chain(["/A/C/foo"]) {
        ops.push(Op::Unlink(s(file)));
        ops.push(Op::Unlink(s(file)));
    }
    ops.push(Op::Mkdir(s("/A")));
    ops.push(Op::Rmdir(s("/A")));
    let acts = ops.into_iter().map(Act::Op).collect();
    World::new("ace", REGION, dirt(), acts, true)
}

fn own_setup() -> Vec<Op> {
    let mut ops = dirt();
    ops.extend([
        Op::Mkdir(s("/A")),
        Op::Mkdir(s("/B")),
        Op::Create(s("/A/foo")),
        Op::Write(s("/A/foo"), 0, 9000, 1),
        Op::Create(s("/bar")),
        Op::Write(s("/bar"), 0, 700, 2),
        Op::Mkdir(s("/A/sub")),
        Op::Link(s("/bar"), s("/A/bar2")),
        // Directories that were used have blocks to lose.
        Op::Create(s("/A/sub/x")),
        Op::Unlink(s("/A/sub/x")),
        Op::Create(s("/B/x")),
        Op::Unlink(s("/B/x")),
        // Storage that was never written.
        Op::Create(s("/pre")),
        Op::Fallocate(s("/pre"), 0, 12_288, Unwritten),
        Op::Create(long("/A", 60)),
        Op::Symlink(s("/link"), s("/A/foo")),
        Op::Create(s("/frag")),
    ]);
    // More extents than an inode holds.
    ops.extend((0..14).map(|i| Op::Write(s("/frag"), i * 8192, 64, 3)));
    ops
}

fn own_names() -> Vec<Op> {
    vec![
        Op::Create(s("/new")),
        Op::Create(s("/A/new")),
        Op::Create(long("", 100)),
        Op::Create(long("/B", 255)),
        Op::Mkdir(s("/new")),
        Op::Mkdir(s("/A/sub/deep")),
        Op::Rmdir(s("/B")),
        Op::Rmdir(s("/A/sub")),
        Op::Unlink(s("/bar")),
        Op::Unlink(s("/A/bar2")),
        Op::Unlink(s("/A/foo")),
        Op::Unlink(long("/A", 60)),
        Op::Unlink(s("/frag")),
        Op::Link(s("/A/foo"), s("/new")),
        Op::Link(s("/bar"), long("/B", 90)),
        Op::Rename(s("/bar"), s("/new"), true),
        Op::Rename(s("/bar"), s("/A/foo"), true),
        Op::Rename(s("/A/foo"), s("/bar"), true),
        Op::Rename(s("/A/foo"), s("/B/moved"), true),
        Op::Rename(s("/A/sub"), s("/B"), true),
        Op::Rename(s("/B"), s("/A/sub"), true),
        Op::Rename(s("/A/sub"), s("/B/sub"), true),
        Op::Rename(s("/A"), s("/B/A"), true),
        Op::Rename(s("/A"), s("/A2"), true),
        Op::Rename(s("/A/foo"), long("/B", 130), true),
        Op::Rename(long("/A", 60), s("/short"), true),
        Op::Rename(s("/bar"), s("/A/bar2"), true),
        Op::Exchange(s("/bar"), s("/A/foo")),
        Op::Exchange(s("/A/sub"), s("/B")),
        Op::Exchange(s("/A/foo"), s("/B")),
        Op::Symlink(s("/new"), s("/A/foo")),
        Op::Symlink(s("/B/new"), "t".repeat(300)),
        Op::Unlink(s("/link")),
        Op::SetAttr(s("/A/foo"), 0o600, 7, 8),
        Op::SetAttr(s("/B"), 0o700, 9, 10),
        Op::Special(s("/pipe"), fs::Kind::Fifo, 0),
    ]
}

fn own_content() -> Vec<Op> {
    vec![
        Op::Write(s("/A/foo"), 0, 4096, 4),
        Op::Write(s("/A/foo"), 100, 300, 5),
        Op::Write(s("/A/foo"), 4095, 2, 6),
        Op::Write(s("/A/foo"), 9000, 300, 7),
        Op::Write(s("/A/foo"), 8999, 5000, 8),
        Op::Write(s("/A/foo"), 20_000, 5000, 9),
        Op::Write(s("/bar"), 0, 6000, 10),
        Op::Write(s("/pre"), 4096, 100, 11),
        Op::Write(s("/pre"), 0, 12_288, 12),
        Op::Write(s("/new"), 0, 6000, 13),
        Op::Write(s("/frag"), 4096, 4096, 14),
        Op::Truncate(s("/A/foo"), 0),
        Op::Truncate(s("/A/foo"), 5000),
        Op::Truncate(s("/A/foo"), 4096),
        Op::Truncate(s("/A/foo"), 30_000),
        Op::Truncate(s("/bar"), 2000),
        Op::Truncate(s("/frag"), 8192),
        Op::Punch(s("/A/foo"), 0, 5000),
        Op::Punch(s("/A/foo"), 4096, 4096),
        Op::Punch(s("/A/foo"), 100, 200),
        Op::Punch(s("/A/foo"), 5000, 100_000),
        Op::Punch(s("/frag"), 8192, 8192),
        Op::Fallocate(s("/A/foo"), 4096, 20_000, Unwritten),
        Op::Fallocate(s("/A/foo"), 4096, 20_000, Zeroed),
        Op::Fallocate(s("/pre"), 0, 8192, Zeroed),
        Op::Fallocate(s("/frag"), 0, 12_288, Unwritten),
        Op::Fallocate(s("/A/foo"), 4096, 20_000, KeepSize),
        Op::Fallocate(s("/bar"), 0, 30_000, KeepSize),
        Op::ZeroRange(s("/A/foo"), 100, 8000, Unwritten),
        Op::ZeroRange(s("/A/foo"), 4096, 4096, Unwritten),
        Op::ZeroRange(s("/bar"), 300, 9000, Unwritten),
        Op::ZeroRange(s("/bar"), 300, 9000, KeepSize),
        Op::ZeroRange(s("/frag"), 0, 20_000, Zeroed),
    ]
}

/// The own list.
pub fn own() -> Arc<World> {
    let ops = own_names().into_iter().chain(own_content());
    let mut acts: Vec<Act> = ops.map(Act::Op).collect();
    acts.extend([
        Act::Map(s("/A/foo"), 0, 4096, 20),
        Act::Map(s("/A/foo"), 4000, 200, 21),
        Act::Map(s("/pre"), 4096, 4096, 22),
        Act::Map(s("/frag"), 4096, 64, 23),
        Act::Map(s("/A/foo"), 8990, 300, 24),
        Act::Remount,
        Act::Sync,
    ]);
    World::new("own", REGION, own_setup(), acts, false)
}

/// Of the own list: what moves the end of a file and what is around it.
pub fn tails() -> Arc<World> {
    let ops = [
        Op::Truncate(s("/A/foo"), 5000),
        Op::Truncate(s("/A/foo"), 30_000),
        Op::Write(s("/A/foo"), 20_000, 5000, 9),
        Op::Write(s("/A/foo"), 9500, 300, 7),
        Op::Fallocate(s("/A/foo"), 4096, 20_000, Unwritten),
        Op::Fallocate(s("/A/foo"), 4096, 20_000, Zeroed),
        Op::Write(s("/pre"), 4096, 100, 11),
        Op::Punch(s("/A/foo"), 100, 8000),
        Op::Fallocate(s("/A/foo"), 4096, 20_000, KeepSize),
        Op::ZeroRange(s("/A/foo"), 8900, 9000, Unwritten),
    ];
    let mut acts: Vec<Act> = ops.into_iter().map(Act::Op).collect();
    acts.extend([
        Act::Map(s("/A/foo"), 8990, 300, 24),
        Act::Map(s("/pre"), 4096, 4096, 22),
        Act::Map(s("/frag"), 4096, 64, 23),
    ]);
    World::new("tails", REGION, own_setup(), acts, false)
}

/// The operations of the own list that change no content.
pub fn metadata() -> Arc<World> {
    let acts = own_names().into_iter().map(Act::Op).collect();
    World::new("metadata", REGION, own_setup(), acts, false)
}

/// A small region, nearly full, of which all initialised inodes but one are in use: for long sequences, in which blocks and inodes
/// are used again and again, directories come and go, the table grows and the ring wraps.
pub fn crowded() -> Arc<World> {
    let mut setup = vec![Op::Mkdir(s("/A")), Op::Mkdir(s("/B"))];
    for i in 0..10 {
        setup.push(Op::Create(format!("/A/{i}")));
    }
    setup.push(Op::Create(s("/fill")));
    setup.push(Op::Write(s("/fill"), 0, 34 * 4096, 1));
    let mut ops = vec![
        Op::Mkdir(s("/A/d")),
        Op::Rmdir(s("/A/d")),
        Op::Mkdir(s("/B/d")),
        Op::Rmdir(s("/B/d")),
        Op::Rename(s("/A/d"), s("/B/d"), true),
        Op::Exchange(s("/A/1"), s("/B")),
    ];
    for name in ["/A/d/x", "/B/x", "/A/new", "/B/d/y"] {
        ops.push(Op::Create(s(name)));
        ops.push(Op::Unlink(s(name)));
        ops.push(Op::Write(s(name), 0, 4096, 2));
        ops.push(Op::Write(s(name), 3000, 2000, 3));
        ops.push(Op::Truncate(s(name), 0));
    }
    ops.push(Op::Rename(s("/B/x"), s("/A/new"), true));
    ops.push(Op::Rename(s("/A/new"), long("/B", 60), true));
    ops.push(Op::Unlink(long("/B", 60)));
    ops.push(Op::Punch(s("/fill"), 8192, 4096));
    ops.push(Op::Write(s("/fill"), 8192, 4096, 4));
    let mut acts: Vec<Act> = ops.into_iter().map(Act::Op).collect();
    acts.extend([Act::Remount, Act::Sync]);
    World::new("crowded", 256 << 10, setup, acts, false)
}

/// A file whose extents stand in two levels of nodes: storage behind its end, so that nothing is to be read, with a hole after each block.
pub fn deep() -> Arc<World> {
    let file = || s("/deep");
    let mut setup = vec![Op::Create(file()), Op::Write(file(), 0, 5000, 1)];
    setup.extend((1..2800).map(|i| Op::Fallocate(file(), i * 8192, 4096, KeepSize)));
    let ops = [
        Op::Fallocate(file(), 1400 * 8192 + 4096, 4096, KeepSize),
        Op::Fallocate(file(), 1401 * 8192 + 4096, 4096, KeepSize),
        Op::Fallocate(file(), 3000 * 8192, 4096, KeepSize),
        Op::ZeroRange(file(), 4000, 30_000, KeepSize),
        Op::Write(file(), 2 * 8192, 4096, 2),
        Op::Punch(file(), 700 * 8192, 4096),
        Op::Punch(file(), 700 * 8192, 900 * 8192),
        Op::Punch(file(), 0, 2790 * 8192),
        Op::Truncate(file(), 20 * 8192),
        Op::Truncate(file(), 100),
        Op::Unlink(file()),
    ];
    let acts = ops.into_iter().map(Act::Op).collect();
    World::new("deep", 13 << 20, setup, acts, false)
}

/// An operation to go on with after a crash; whether it succeeds depends on the state.
pub fn followers(number: u64) -> Act {
    let ops = [
        Op::Mkdir(s("/more")),
        Op::Write(s("/A/foo"), 8900, 300, 50),
        Op::Rename(s("/bar"), s("/A/foo"), true),
        Op::Create(s("/more")),
        Op::Unlink(s("/A/foo")),
        Op::Truncate(s("/A/foo"), 100),
        Op::Link(s("/A/foo"), s("/more")),
    ];
    Act::Op(ops[(number % ops.len() as u64) as usize].clone())
}
