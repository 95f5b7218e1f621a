//! Operations, a file system in memory that does them, and what both can be asked: a snapshot of the whole tree.

use std::collections::BTreeMap;
use std::fmt;

use dax::layout::BreakReport;
use dax::pmem::Pmem;
use fs::{Fill, Fs, Kind, NewInode, SetAttr, Stat};

use super::forever;
use super::walk::walk;

/// An operation, as a test names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Create(String),
    Mkdir(String),
    Rmdir(String),
    Unlink(String),
    Link(String, String),
    Rename(String, String, bool),
    /// Two names.
    Exchange(String, String),
    /// A path, and what the link there says.
    Symlink(String, String),
    /// A path, mode, user, group. Times are set to numbers made from them.
    SetAttr(String, u16, u32, u32),
    /// A pipe, socket or device: path, kind, device number.
    Special(String, Kind, u32),
    Write(String, u64, u64, u8),
    Truncate(String, u64),
    Punch(String, u64, u64),
    Fallocate(String, u64, u64, Fill),
    ZeroRange(String, u64, u64, Fill),
}

impl Op {
    /// Whether it changes content in place or piece by piece: a crash may leave a mixture there, and the size between.
    pub const fn is_data(&self) -> bool {
        matches!(
            self,
            Self::Write(..) | Self::Punch(..) | Self::Fallocate(..) | Self::ZeroRange(..)
        )
    }

    /// Does it. True: it went well.
    pub fn run<P: Pmem>(&self, fs: &Fs<P>) -> bool {
        let open = |path: &str| fs.open(path);
        let report = &mut BreakReport::default();
        match self {
            Self::Create(path) => fs.create(path, 0o644).is_ok(),
            Self::Mkdir(path) => fs.mkdir(path, 0o755).is_ok(),
            Self::Rmdir(path) => fs.rmdir(path).is_ok(),
            Self::Unlink(path) => fs.unlink(path).is_ok(),
            Self::Link(old, new) => fs.link(old, new).is_ok(),
            Self::Rename(old, new, replace) => fs.rename(old, new, *replace).is_ok(),
            Self::Exchange(one, other) => fs.exchange(one, other).is_ok(),
            Self::Symlink(path, target) => fs.symlink(path, target.as_bytes()).is_ok(),
            Self::SetAttr(path, mode, uid, gid) => {
                let set = SetAttr {
                    mode: Some(*mode),
                    uid: Some(*uid),
                    gid: Some(*gid),
                    atime: Some(times(*mode).0),
                    mtime: Some(times(*mode).1),
                };
                open(path).is_ok_and(|inode| fs.setattr(&inode, &set).is_ok())
            }
            Self::Special(path, kind, rdev) => {
                let new = NewInode {
                    rdev: *rdev,
                    ..NewInode::new(*kind, 0o600)
                };
                fs.create_as(path, &new).is_ok()
            }
            Self::Write(path, off, len, seed) => {
                open(path).is_ok_and(|f| fs.write(&f, *off, &pattern(*len, *seed)).is_ok())
            }
            Self::Truncate(path, size) => {
                open(path).is_ok_and(|f| fs.truncate(&f, *size, forever(), report).is_ok())
            }
            Self::Punch(path, off, len) => {
                open(path).is_ok_and(|f| fs.punch(&f, *off, *len, forever(), report).is_ok())
            }
            Self::Fallocate(path, off, len, fill) => {
                open(path).is_ok_and(|f| fs.fallocate(&f, *off, *len, *fill).is_ok())
            }
            Self::ZeroRange(path, off, len, fill) => open(path).is_ok_and(|f| {
                fs.zero_range(&f, *off, *len, *fill, forever(), report)
                    .is_ok()
            }),
        }
    }
}

/// Bytes that are not zero and differ from block to block.
pub fn pattern(len: u64, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| 1 + (i / 8 + i / 4096 + u64::from(seed) * 31) as u8 % 250)
        .collect()
}

/// Times (access, content) that only [`Op::SetAttr`] sets: later than any clock of a test.
pub const fn times(mode: u16) -> (u64, u64) {
    let set = SET_TIME + mode as u64;
    (set, set + 1)
}

const SET_TIME: u64 = 1 << 62;

/// A file, directory or other, as a walk finds it.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    pub nlink: u32,
    /// Content; of a symbolic link its text.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    /// If somebody set it.
    pub atime: Option<u64>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = fs::layout::crc32c(&self.data);
        write!(
            f,
            "{:?} {:o}, {} links, {} bytes, sum {sum:08x}, owner {}:{}, device {}, atime {:?}",
            self.kind,
            self.mode,
            self.nlink,
            self.data.len(),
            self.uid,
            self.gid,
            self.rdev,
            self.atime,
        )
    }
}

/// The attributes and the content as an entry.
fn entry(stat: &Stat, data: Vec<u8>) -> Entry {
    Entry {
        kind: stat.kind,
        nlink: stat.nlink,
        data,
        mode: stat.mode & 0o7777,
        uid: stat.uid,
        gid: stat.gid,
        rdev: stat.rdev,
        atime: (stat.atime >= SET_TIME).then_some(stat.atime),
    }
}

/// Every path and what is there.
pub type Snapshot = BTreeMap<String, Entry>;

/// Walks a mounted file system. An error is told with the path.
pub fn snapshot<P: Pmem>(fs: &Fs<P>) -> Result<Snapshot, String> {
    walk(fs, |inode, data| entry(&inode.stat(), data))
}

#[derive(Clone, Debug)]
struct Node {
    entry: Entry,
    names: BTreeMap<String, usize>,
}

impl Node {
    fn new(kind: Kind, mode: u16, data: &[u8]) -> Self {
        Self {
            entry: Entry {
                kind,
                nlink: if kind == Kind::Dir { 2 } else { 1 },
                data: data.to_vec(),
                mode,
                uid: 0,
                gid: 0,
                rdev: 0,
                atime: None,
            },
            names: BTreeMap::new(),
        }
    }

    fn dir(&self) -> bool {
        self.entry.kind == Kind::Dir
    }
}

/// The reference: a tree in memory, written without a look at the real one.
#[derive(Clone, Debug)]
pub struct Model {
    nodes: Vec<Node>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            nodes: vec![Node::new(Kind::Dir, 0o755, b"")],
        }
    }
}

impl Model {
    /// Walks `path` from the last of `way`, the directories from the root on; gives the way to what is there.
    fn walk(
        &self,
        mut way: Vec<usize>,
        path: &str,
        follow: bool,
        links: &mut u32,
    ) -> Option<Vec<usize>> {
        if path.starts_with('/') {
            way.truncate(1);
        }
        let follow = follow || path.ends_with('/');
        let mut names = path.split('/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            let here = &self.nodes[*way.last()?];
            if !here.dir() {
                return None;
            }
            if name == ".." {
                way.truncate((way.len() - 1).max(1));
                continue;
            }
            if name == "." {
                continue;
            }
            let child = *here.names.get(name)?;
            let entry = &self.nodes[child].entry;
            if entry.kind == Kind::Symlink && (follow || names.peek().is_some()) {
                *links += 1;
                if *links > 40 {
                    return None;
                }
                let text = String::from_utf8_lossy(&entry.data).into_owned();
                way = self.walk(way, &text, true, links)?;
            } else {
                way.push(child);
            }
        }
        (!path.ends_with('/') || self.nodes[*way.last()?].dir()).then_some(way)
    }

    fn find(&self, path: &str) -> Option<usize> {
        self.walk(vec![0], path, true, &mut 0)?.pop()
    }

    /// Whether there is something at `path`.
    pub fn has(&self, path: &str) -> bool {
        self.find(path).is_some()
    }

    /// The size of the file at `path`.
    pub fn size(&self, path: &str) -> Option<u64> {
        let node = &self.nodes[self.find(path)?];
        (node.entry.kind == Kind::File).then_some(node.entry.data.len() as u64)
    }

    fn place<'a>(&self, path: &'a str) -> Option<(usize, &'a str)> {
        let (dir, name) = path.rsplit_once('/')?;
        let dir = self.find(dir).filter(|dir| self.nodes[*dir].dir())?;
        (name.len() <= 255).then_some((dir, name))
    }

    /// A name in its directory, and what it names.
    fn named<'a>(&self, path: &'a str) -> Option<(usize, &'a str, usize)> {
        let (dir, name) = self.place(path)?;
        Some((dir, name, *self.nodes[dir].names.get(name)?))
    }

    fn file(&mut self, path: &str) -> Option<&mut Vec<u8>> {
        let at = self.find(path)?;
        let entry = &mut self.nodes[at].entry;
        (entry.kind == Kind::File).then_some(&mut entry.data)
    }

    fn add(&mut self, path: &str, mut node: Node) -> Option<()> {
        let (parent, name) = self.place(path)?;
        let place = &mut self.nodes[parent];
        if place.names.contains_key(name) {
            return None;
        }
        let dir = node.dir();
        if place.entry.mode & 0o2000 != 0 {
            node.entry.gid = place.entry.gid;
            node.entry.mode |= if dir { 0o2000 } else { 0 };
        }
        self.nodes.push(node);
        let at = self.nodes.len() - 1;
        self.nodes[parent].names.insert(name.into(), at);
        self.nodes[parent].entry.nlink += u32::from(dir);
        Some(())
    }

    fn remove(&mut self, path: &str, dir: bool) -> Option<()> {
        let (parent, name, at) = self.named(path)?;
        if self.nodes[at].dir() != dir || !self.nodes[at].names.is_empty() {
            return None;
        }
        self.nodes[parent].names.remove(name);
        self.nodes[parent].entry.nlink -= u32::from(dir);
        self.nodes[at].entry.nlink -= 1;
        Some(())
    }

    fn link(&mut self, old: &str, new: &str) -> Option<()> {
        let at = self.walk(vec![0], old, false, &mut 0)?.pop()?;
        let (parent, name) = self.place(new)?;
        if self.nodes[at].dir() || self.nodes[parent].names.contains_key(name) {
            return None;
        }
        self.nodes[parent].names.insert(name.into(), at);
        self.nodes[at].entry.nlink += 1;
        Some(())
    }

    fn rename(&mut self, old: &str, new: &str, replace: bool) -> Option<()> {
        let (from, from_name, at) = self.named(old)?;
        let (to, to_name) = self.place(new)?;
        if self.nodes[at].dir() && self.is_below(to, at) {
            return None;
        }
        let dir = u32::from(self.nodes[at].dir());
        if let Some(there) = self.nodes[to].names.get(to_name).copied() {
            if !replace {
                return None;
            }
            if there == at {
                return Some(());
            }
            if self.nodes[there].dir() != self.nodes[at].dir()
                || !self.nodes[there].names.is_empty()
            {
                return None;
            }
            self.nodes[to].entry.nlink -= dir;
            self.nodes[there].entry.nlink -= 1;
        }
        self.nodes[from].names.remove(from_name);
        self.nodes[from].entry.nlink -= dir;
        self.nodes[to].entry.nlink += dir;
        self.nodes[to].names.insert(to_name.into(), at);
        Some(())
    }

    fn exchange(&mut self, one: &str, other: &str) -> Option<()> {
        let (a_dir, a_name, a) = self.named(one)?;
        let (b_dir, b_name, b) = self.named(other)?;
        let (a_is, b_is) = (self.nodes[a].dir(), self.nodes[b].dir());
        if a_is && self.is_below(b_dir, a) || b_is && self.is_below(a_dir, b) {
            return None;
        }
        self.nodes[a_dir].names.insert(a_name.into(), b);
        self.nodes[b_dir].names.insert(b_name.into(), a);
        for (less, more, is) in [(a_dir, b_dir, a_is), (b_dir, a_dir, b_is)] {
            self.nodes[less].entry.nlink -= u32::from(is);
            self.nodes[more].entry.nlink += u32::from(is);
        }
        Some(())
    }

    fn set_attr(&mut self, path: &str, (mode, uid, gid): (u16, u32, u32)) -> Option<()> {
        let at = self.find(path)?;
        let entry = &mut self.nodes[at].entry;
        (entry.mode, entry.uid, entry.gid) = (mode & 0o7777, uid, gid);
        entry.atime = Some(times(mode).0);
        Some(())
    }

    fn is_below(&self, at: usize, top: usize) -> bool {
        at == top
            || self.nodes[top]
                .names
                .values()
                .any(|c| self.nodes[*c].dir() && self.is_below(at, *c))
    }

    /// Does an operation. True: it went well.
    pub fn run(&mut self, op: &Op) -> bool {
        let done = match op {
            Op::Create(path) => self.add(path, Node::new(Kind::File, 0o644, b"")),
            Op::Mkdir(path) => self.add(path, Node::new(Kind::Dir, 0o755, b"")),
            Op::Symlink(path, target) => (1..4096)
                .contains(&target.len())
                .then(|| self.add(path, Node::new(Kind::Symlink, 0o777, target.as_bytes())))
                .flatten(),
            Op::Special(path, kind, rdev) => {
                let mut node = Node::new(*kind, 0o600, b"");
                let device = matches!(kind, Kind::CharDev | Kind::BlockDev);
                node.entry.rdev = if device { *rdev } else { 0 };
                self.add(path, node)
            }
            Op::Rmdir(path) => self.remove(path, true),
            Op::Unlink(path) => self.remove(path, false),
            Op::Link(old, new) => self.link(old, new),
            Op::Rename(old, new, replace) => self.rename(old, new, *replace),
            Op::Exchange(one, other) => self.exchange(one, other),
            Op::SetAttr(path, mode, uid, gid) => self.set_attr(path, (*mode, *uid, *gid)),
            Op::Write(path, off, len, seed) => self.file(path).map(|data| {
                let end = (off + len) as usize;
                if *len > 0 {
                    data.resize(data.len().max(end), 0);
                    data[*off as usize..end].copy_from_slice(&pattern(*len, *seed));
                }
            }),
            Op::Truncate(path, size) => self.file(path).map(|data| data.resize(*size as usize, 0)),
            Op::Punch(path, off, len) => self.file(path).map(|data| {
                let end = ((off + len) as usize).min(data.len());
                let start = (*off as usize).min(end);
                data[start..end].fill(0);
            }),
            Op::Fallocate(path, _, _, Fill::KeepSize) => self.file(path).map(drop),
            Op::Fallocate(path, off, len, _) => self.file(path).map(|data| {
                data.resize(data.len().max((off + len) as usize), 0);
            }),
            Op::ZeroRange(path, off, len, fill) => self.file(path).map(|data| {
                let end = (off + len) as usize;
                if *fill != Fill::KeepSize {
                    data.resize(data.len().max(end), 0);
                }
                let end = end.min(data.len());
                data[(*off as usize).min(end)..end].fill(0);
            }),
        };
        done.is_some()
    }

    /// Every path and what is there.
    pub fn snapshot(&self) -> Snapshot {
        let mut out = Snapshot::new();
        let mut todo = vec![("/".to_string(), 0)];
        while let Some((path, at)) = todo.pop() {
            let Node { entry, names } = &self.nodes[at];
            let below = |name: &str| format!("{}/{name}", path.trim_end_matches('/'));
            todo.extend(names.iter().map(|(name, child)| (below(name), *child)));
            out.insert(path, entry.clone());
        }
        out
    }
}
