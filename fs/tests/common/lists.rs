//! Lists of operations, with handles that outlive names, and a tree in memory that does the same: for the differential test and the
//! fuzzer. Needs nothing of the other modules.

#![allow(dead_code, reason = "the test and the fuzzer each use their own part")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use dax::layout::{BreakReport, How};
use dax::pmem::RamPmem;
use dax::xarray::NodePool;
use fs::{Backing, Fill, Fs, Inode, Kind, MkfsOptions, fsck, mkfs};
use mm::pgmap::{Pgmap, scratch_range};
use mm::sync::Wait;

/// Up to three names, 0 ends.
pub type Path = (u8, u8, u8);
/// A handle.
pub type H = u8;

pub const HANDLES: usize = 5;
const LONG: &str = "a name so long that it takes more than one slot of a directory";

#[derive(Clone, Copy, Debug)]
pub enum Step {
    Create(Path),
    Mkdir(Path),
    Rmdir(Path),
    Unlink(Path),
    Link(Path, Path),
    Rename(Path, Path, bool),
    Open(H, Path),
    Close(H),
    Read(H, u64, u64),
    Write(H, u64, u64, u8),
    Truncate(H, u64),
    Punch(H, u64, u64),
    Fallocate(H, u64, u64, Fill),
    ZeroRange(H, u64, u64, Fill),
    Sync,
    Remount,
}

use Step::*;

/// Bytes that are not zero and differ from block to block.
fn pattern(len: u64, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| 1 + (i / 8 + i / 4096 + u64::from(seed) * 31) as u8 % 250)
        .collect()
}

fn forever() -> How<'static> {
    How::Wait(Wait::forever())
}

/// Backings that nobody uses now, by length of the region.
static KEPT: Mutex<BTreeMap<u64, Vec<Backing>>> = Mutex::new(BTreeMap::new());

/// A backing for a region of `len` bytes: one that was used before, or a new one.
fn backing(len: u64) -> Backing {
    let mut kept = KEPT
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(backing) = kept.entry(len).or_default().pop() {
        return backing;
    }
    Backing {
        pgmap: Pgmap::new("lists", scratch_range(len / 4096), None).expect("room in the registry"),
        nodes: NodePool::new(256).expect("memory"),
        zero_page: scratch_range(1).start(),
    }
}

fn names(path: Path) -> Vec<String> {
    let name = |index: u8| match index {
        1 => "a".to_string(),
        2 => "b".into(),
        3 => LONG.into(),
        _ => "z".repeat(255),
    };
    let all = [path.0, path.1, path.2];
    all.into_iter().take_while(|n| *n != 0).map(name).collect()
}

fn text(path: Path) -> String {
    format!("/{}", names(path).join("/"))
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    Refused,
    /// No block, no inode, or no room in a record: the image is too small for it.
    Full,
}

fn end<T, E: Debug>(result: Result<T, E>) -> End {
    let Err(error) = result else { return End::Done };
    let said = format!("{error:?}");
    let full = ["NoSpace", "NoInodes", "RecordFull", "TooFragmented"];
    if full.iter().any(|word| said.contains(word)) {
        End::Full
    } else {
        End::Refused
    }
}

#[derive(Default)]
struct Node {
    dir: bool,
    nlink: u32,
    data: Vec<u8>,
    names: BTreeMap<String, usize>,
}

/// The reference.
struct Model {
    nodes: Vec<Node>,
    open: [Option<usize>; HANDLES],
}

impl Model {
    fn new() -> Self {
        let root = Node {
            dir: true,
            nlink: 2,
            ..Node::default()
        };
        Self {
            nodes: vec![root],
            open: [None; HANDLES],
        }
    }

    fn find(&self, names: &[String]) -> Option<usize> {
        names
            .iter()
            .try_fold(0, |at, name| self.nodes[at].names.get(name).copied())
    }

    /// The directory of a path, and its last name.
    fn place(&self, path: Path) -> Option<(usize, String)> {
        let mut names = names(path);
        let name = names.pop()?;
        let dir = self.find(&names)?;
        self.nodes[dir].dir.then_some((dir, name))
    }

    fn add(&mut self, path: Path, dir: bool) -> Option<()> {
        let (parent, name) = self.place(path)?;
        let (at, nlink) = (self.nodes.len(), if dir { 2 } else { 1 });
        if self.nodes[parent].names.contains_key(&name) {
            return None;
        }
        self.nodes.push(Node {
            dir,
            nlink,
            ..Node::default()
        });
        self.nodes[parent].names.insert(name, at);
        self.nodes[parent].nlink += u32::from(dir);
        Some(())
    }

    fn remove(&mut self, path: Path, dir: bool) -> Option<()> {
        let (parent, name) = self.place(path)?;
        let at = *self.nodes[parent].names.get(&name)?;
        if self.nodes[at].dir != dir || !self.nodes[at].names.is_empty() {
            return None;
        }
        self.nodes[parent].names.remove(&name);
        self.nodes[parent].nlink -= u32::from(dir);
        self.nodes[at].nlink -= if dir { 2 } else { 1 };
        Some(())
    }

    fn link(&mut self, old: Path, new: Path) -> Option<()> {
        let at = self.find(&names(old)).filter(|at| !self.nodes[*at].dir)?;
        let (parent, name) = self.place(new)?;
        if self.nodes[parent].names.contains_key(&name) {
            return None;
        }
        self.nodes[parent].names.insert(name, at);
        self.nodes[at].nlink += 1;
        Some(())
    }

    fn is_below(&self, at: usize, top: usize) -> bool {
        let dirs = |c: &&usize| self.nodes[**c].dir;
        at == top
            || self.nodes[top]
                .names
                .values()
                .filter(dirs)
                .any(|c| self.is_below(at, *c))
    }

    fn rename(&mut self, old: Path, new: Path, replace: bool) -> Option<()> {
        let (from, from_name) = self.place(old)?;
        let at = *self.nodes[from].names.get(&from_name)?;
        let (to, to_name) = self.place(new)?;
        let dir = self.nodes[at].dir;
        if dir && self.is_below(to, at) {
            return None;
        }
        if let Some(there) = self.nodes[to].names.get(&to_name).copied() {
            if !replace {
                return None;
            }
            if there == at {
                return Some(());
            }
            if self.nodes[there].dir != dir || !self.nodes[there].names.is_empty() {
                return None;
            }
            self.nodes[to].nlink -= u32::from(dir);
            self.nodes[there].nlink -= if dir { 2 } else { 1 };
        }
        self.nodes[from].names.remove(&from_name);
        self.nodes[from].nlink -= u32::from(dir);
        self.nodes[to].nlink += u32::from(dir);
        self.nodes[to].names.insert(to_name, at);
        Some(())
    }

    fn data(&mut self, h: H) -> Option<&mut Vec<u8>> {
        let at = self.open[usize::from(h)]?;
        let node = &mut self.nodes[at];
        (!node.dir).then_some(&mut node.data)
    }

    fn run(&mut self, step: Step) -> Option<()> {
        match step {
            Create(path) => self.add(path, false),
            Mkdir(path) => self.add(path, true),
            Rmdir(path) => self.remove(path, true),
            Unlink(path) => self.remove(path, false),
            Link(old, new) => self.link(old, new),
            Rename(old, new, replace) => self.rename(old, new, replace),
            Open(h, path) => {
                let found = self.find(&names(path));
                self.open[usize::from(h)] = found;
                found.map(drop)
            }
            Close(h) => self.open[usize::from(h)].take().map(drop),
            Read(h, ..) => self.data(h).map(drop),
            Write(h, off, len, seed) => self.data(h).map(|data| {
                let (off, end) = (off as usize, (off + len) as usize);
                data.resize(data.len().max(end), 0);
                data[off..end].copy_from_slice(&pattern(len, seed));
            }),
            Truncate(h, size) => self.data(h).map(|data| data.resize(size as usize, 0)),
            Punch(h, off, len) => self.data(h).map(|data| {
                let end = ((off + len) as usize).min(data.len());
                data[(off as usize).min(end)..end].fill(0);
            }),
            Fallocate(h, _, _, Fill::KeepSize) => self.data(h).map(drop),
            Fallocate(h, off, len, _) => self.data(h).map(|data| {
                data.resize(data.len().max((off + len) as usize), 0);
            }),
            ZeroRange(h, off, len, fill) => self.data(h).map(|data| {
                let end = (off + len) as usize;
                if fill != Fill::KeepSize {
                    data.resize(data.len().max(end), 0);
                }
                let end = end.min(data.len());
                data[(off as usize).min(end)..end].fill(0);
            }),
            Sync => Some(()),
            Remount => {
                self.open = [None; HANDLES];
                Some(())
            }
        }
    }
}

type Ram = Arc<RamPmem>;

/// The file system, and what is open.
struct Real {
    ram: Ram,
    backing: fs::Backing,
    fs: Arc<Fs<Ram>>,
    open: [Option<Arc<Inode<Ram>>>; HANDLES],
}

impl Real {
    fn with<T, E: Debug>(&self, h: H, f: impl FnOnce(&Inode<Ram>) -> Result<T, E>) -> End {
        let open = self.open[usize::from(h)].as_ref();
        open.map_or(End::Refused, |inode| end(f(inode)))
    }

    fn run(&mut self, step: Step) -> End {
        let fs = self.fs.clone();
        let report = &mut BreakReport::default();
        match step {
            Create(path) => end(fs.create(&text(path), 0o644)),
            Mkdir(path) => end(fs.mkdir(&text(path), 0o755)),
            Rmdir(path) => end(fs.rmdir(&text(path))),
            Unlink(path) => end(fs.unlink(&text(path))),
            Link(old, new) => end(fs.link(&text(old), &text(new))),
            Rename(old, new, replace) => end(fs.rename(&text(old), &text(new), replace)),
            Open(h, path) => {
                let found = fs.open(&text(path));
                let answer = end(found.as_ref().map(drop));
                self.open[usize::from(h)] = found.ok();
                answer
            }
            Close(h) => self.open[usize::from(h)]
                .take()
                .map_or(End::Refused, |_| End::Done),
            Read(h, off, len) => {
                let mut buf = vec![0; len as usize];
                self.with(h, |f| fs.read(f, off, &mut buf))
            }
            Write(h, off, len, seed) => self.with(h, |f| fs.write(f, off, &pattern(len, seed))),
            Truncate(h, size) => self.with(h, |f| fs.truncate(f, size, forever(), report)),
            Punch(h, off, len) => self.with(h, |f| fs.punch(f, off, len, forever(), report)),
            Fallocate(h, off, len, fill) => self.with(h, |f| fs.fallocate(f, off, len, fill)),
            ZeroRange(h, off, len, fill) => {
                self.with(h, |f| fs.zero_range(f, off, len, fill, forever(), report))
            }
            Sync => end(fs.sync()),
            Remount => {
                drop(fs);
                self.remount();
                End::Done
            }
        }
    }

    /// As after a crash that lost nothing: orphans end.
    fn remount(&mut self) {
        self.open = Default::default();
        self.fs = Fs::mount(self.ram.clone(), self.backing.clone()).expect("mount again");
    }

    fn content(&self, inode: &Inode<Ram>) -> Vec<u8> {
        let mut data = vec![0x55; inode.stat().size as usize];
        let n = self.fs.read(inode, 0, &mut data).expect("read");
        assert_eq!(n, data.len());
        data
    }
}

/// After an operation that found no room: what it did must be a part of what it was to do. The model takes it over.
fn take_over(model: &mut Model, real: &Real, step: Step) {
    let (h, off, len, seed) = match step {
        Write(h, off, len, seed) => (h, off, len, Some(seed)),
        Fallocate(h, off, len, _) | Punch(h, off, len) | ZeroRange(h, off, len, _) => {
            (h, off, len, None)
        }
        _ => return,
    };
    let open = real.open[usize::from(h)].as_ref().expect("it was found");
    let now = real.content(open);
    let data = model.data(h).expect("it was found");
    assert!(data.len() <= now.len() && now.len() <= data.len().max((off + len) as usize));
    let new = seed.map_or(vec![0; len as usize], |seed| pattern(len, seed));
    for (at, byte) in now.iter().enumerate() {
        let old = data.get(at).copied().unwrap_or(0);
        let written = (at as u64)
            .checked_sub(off)
            .and_then(|i| new.get(i as usize));
        let may = *byte == old || Some(byte) == written;
        assert!(may, "byte {at} is {byte:#x}: neither old nor new");
    }
    *data = now;
}

fn compare(model: &Model, real: &Real) {
    let root = real.fs.root().expect("root");
    compare_at(model, real, 0, &root, "/");
    for (node, inode) in model.open.iter().zip(&real.open) {
        let (Some(node), Some(inode)) = (node, inode) else {
            assert!(node.is_none() && inode.is_none());
            continue;
        };
        if !model.nodes[*node].dir {
            assert!(
                real.content(inode) == model.nodes[*node].data,
                "an open file"
            );
        }
        assert_eq!(inode.stat().nlink, model.nodes[*node].nlink);
    }
}

fn compare_at(model: &Model, real: &Real, at: usize, inode: &Arc<Inode<Ram>>, path: &str) {
    let node = &model.nodes[at];
    assert_eq!(inode.stat().nlink, node.nlink, "links of {path}");
    assert_eq!(inode.kind() == Kind::Dir, node.dir, "kind of {path}");
    if !node.dir {
        assert!(real.content(inode) == node.data, "content of {path}");
        return;
    }
    let (mut cookie, mut seen) = (0, 0);
    while let Some(entry) = real.fs.readdir(inode, cookie).expect("readdir") {
        cookie = entry.cookie;
        seen += 1;
        let name = String::from_utf8_lossy(entry.name.as_bytes()).into_owned();
        let below = *node
            .names
            .get(&name)
            .unwrap_or_else(|| panic!("{path}{name}: not in the model"));
        let child = real
            .fs
            .lookup(inode, name.as_bytes())
            .expect("what readdir gave");
        assert_eq!((child.ino(), child.kind()), (entry.ino, entry.kind));
        compare_at(model, real, below, &child, &format!("{path}{name}/"));
    }
    assert_eq!(seen, node.names.len(), "entries of {path}");
}

/// An image: its bytes, and how many blocks are free at the start (all without a number).
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub len: u64,
    pub free: Option<u64>,
}

fn start(room: Room) -> (Model, Real) {
    let ram = Arc::new(RamPmem::new(room.len).expect("memory"));
    let options = MkfsOptions {
        ring_slots: 16,
        inodes: Some(64),
        ..MkfsOptions::new(*b"lists of actions")
    };
    mkfs(&ram, &options).expect("mkfs");
    let backing = backing(room.len);
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    let open = Default::default();
    let mut real = Real {
        ram,
        backing,
        fs,
        open,
    };
    let mut model = Model::new();
    if let Some(left) = room.free {
        for step in [Create((4, 0, 0)), Open(0, (4, 0, 0))] {
            assert_eq!((real.run(step), model.run(step)), (End::Done, Some(())));
        }
        let fill = Fallocate(
            0,
            0,
            (real.fs.statfs().space.free - left) * 4096,
            Fill::Unwritten,
        );
        assert_eq!((real.run(fill), model.run(fill)), (End::Done, Some(())));
    }
    (model, real)
}

/// Does all steps on both; panics where they differ.
pub fn run(room: Room, steps: &[Step]) {
    let (mut model, mut real) = start(room);
    for (number, step) in steps.iter().enumerate() {
        let ended = real.run(*step);
        if ended == End::Full {
            assert!(
                room.len < 1 << 20,
                "step {number}, {step:?}: an image with room is full"
            );
            take_over(&mut model, &real, *step);
        } else {
            let expected = model.run(*step).map_or(End::Refused, |()| End::Done);
            assert_eq!(ended, expected, "step {number}, {step:?}");
        }
        if number % 16 == 15 {
            compare(&model, &real);
        }
    }
    compare(&model, &real);
    real.open = Default::default();
    real.fs.settle();
    let before = real.fs.statfs();
    let report = fsck(&real.ram);
    assert!(report.is_clean(), "{report}");
    model.run(Remount);
    real.remount();
    compare(&model, &real);
    let after = real.fs.statfs();
    let all = |s: &fs::StatFs| s.space.free + s.reserved + s.quarantined;
    assert_eq!(all(&after), all(&before));
    assert_eq!(after.inodes_used, before.inodes_used);
    let Real { backing, fs, .. } = real;
    drop(fs);
    let mut kept = KEPT
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    kept.entry(room.len).or_default().push(backing);
}

/// What bytes of a fuzzer say: the image, and at most `most` steps.
pub fn parse(bytes: &[u8], most: usize) -> (Room, Vec<Step>) {
    let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let free = first.checked_sub(8).map(|free| u64::from(free % 4));
    let small = free.is_some() || first % 2 == 1;
    let len = if small { 160 << 10 } else { 1 << 20 };
    let steps = rest.chunks_exact(6).take(most).map(step).collect();
    (Room { len, free }, steps)
}

const FILLS: [Fill; 3] = [Fill::Unwritten, Fill::Zeroed, Fill::KeepSize];

fn step(c: &[u8]) -> Step {
    let name = |byte: u8| byte % 5;
    let path = |byte: u8| (1 + byte % 4, name(byte / 4), name(byte / 20));
    let (h, p, q) = (c[1] % HANDLES as u8, path(c[1]), path(c[2]));
    let off = u64::from(u16::from_le_bytes([c[2], c[3]])) % 40_000;
    let len = 1 + u64::from(u16::from_le_bytes([c[4], c[5]])) % 20_000;
    match c[0] % 16 {
        0 => Create(p),
        1 => Mkdir(p),
        2 => Rmdir(p),
        3 => Unlink(p),
        4 => Link(p, q),
        5 => Rename(p, q, c[3].is_multiple_of(2)),
        6 => Open(c[4] % HANDLES as u8, p),
        7 => Close(h),
        8 => Read(h, off, len),
        9 => Write(h, off, len, c[1]),
        10 => Truncate(h, off),
        11 => Punch(h, off, len),
        12 => Fallocate(h, off, len, FILLS[usize::from(c[1]) % 3]),
        13 => Sync,
        14 => ZeroRange(h, off, len, FILLS[usize::from(c[1]) % 3]),
        _ => Remount,
    }
}
