//! Operations, a file system in memory that does them, and what both can be asked: a snapshot of the whole tree.

use std::collections::BTreeMap;
use std::fmt;

use dax::layout::BreakReport;
use dax::pmem::Pmem;
use fs::{Fill, Fs, Kind};

use super::forever;

/// An operation, as a test names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Create(String),
    Mkdir(String),
    Rmdir(String),
    Unlink(String),
    Link(String, String),
    Rename(String, String, bool),
    Write(String, u64, u64, u8),
    Truncate(String, u64),
    Punch(String, u64, u64),
    Fallocate(String, u64, u64, bool),
}

impl Op {
    /// Whether it changes content in place or piece by piece: a crash may leave a mixture there, and the size between.
    pub const fn is_data(&self) -> bool {
        matches!(
            self,
            Self::Write(..) | Self::Punch(..) | Self::Fallocate(..)
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
            Self::Write(path, off, len, seed) => {
                open(path).is_ok_and(|f| fs.write(&f, *off, &pattern(*len, *seed)).is_ok())
            }
            Self::Truncate(path, size) => {
                open(path).is_ok_and(|f| fs.truncate(&f, *size, forever(), report).is_ok())
            }
            Self::Punch(path, off, len) => {
                open(path).is_ok_and(|f| fs.punch(&f, *off, *len, forever(), report).is_ok())
            }
            Self::Fallocate(path, off, len, zeroed) => {
                let fill = if *zeroed {
                    Fill::Zeroed
                } else {
                    Fill::Unwritten
                };
                open(path).is_ok_and(|f| fs.fallocate(&f, *off, *len, fill).is_ok())
            }
        }
    }
}

/// Bytes that are not zero and differ from block to block.
pub fn pattern(len: u64, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| 1 + (i / 8 + i / 4096 + u64::from(seed) * 31) as u8 % 250)
        .collect()
}

/// A file or directory, as a walk finds it.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    pub dir: bool,
    pub nlink: u32,
    pub data: Vec<u8>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = fs::layout::crc32c(&self.data);
        write!(
            f,
            "{}, {} links, {} bytes, sum {sum:08x}",
            if self.dir { "dir" } else { "file" },
            self.nlink,
            self.data.len()
        )
    }
}

/// Every path and what is there.
pub type Snapshot = BTreeMap<String, Entry>;

/// Walks a mounted file system. An error is told with the path.
pub fn snapshot<P: Pmem>(fs: &Fs<P>) -> Result<Snapshot, String> {
    let mut out = Snapshot::new();
    let mut todo = vec![("/".to_string(), fs.root().map_err(|e| e.to_string())?)];
    while let Some((path, inode)) = todo.pop() {
        let stat = inode.stat();
        let mut data = Vec::new();
        if stat.kind == Kind::Dir {
            let mut cookie = 0;
            while let Some(entry) = fs
                .readdir(&inode, cookie)
                .map_err(|e| format!("{path}: {e}"))?
            {
                cookie = entry.cookie;
                let name = String::from_utf8_lossy(entry.name.as_bytes()).into_owned();
                let below = format!("{}/{name}", path.trim_end_matches('/'));
                let child = fs.inode(entry.ino).map_err(|e| format!("{below}: {e}"))?;
                if child.kind() != entry.kind {
                    return Err(format!("{below}: the name says {:?}", entry.kind));
                }
                let parent = fs.lookup(&inode, entry.name.as_bytes());
                if parent.map(|i| i.ino()) != Ok(entry.ino) {
                    return Err(format!("{below}: lookup disagrees with readdir"));
                }
                todo.push((below, child));
            }
        } else {
            data = vec![0x55; stat.size as usize];
            fs.read(&inode, 0, &mut data)
                .map_err(|e| format!("{path}: {e}"))?;
        }
        let (dir, nlink) = (stat.kind == Kind::Dir, stat.nlink);
        if out
            .insert(path.clone(), Entry { dir, nlink, data })
            .is_some()
        {
            return Err(format!("{path} is there twice"));
        }
    }
    Ok(out)
}

#[derive(Clone, Debug)]
struct Node {
    dir: bool,
    nlink: u32,
    data: Vec<u8>,
    names: BTreeMap<String, usize>,
}

/// The reference: a tree in memory, written without a look at the real one.
#[derive(Clone, Debug)]
pub struct Model {
    nodes: Vec<Node>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            nodes: vec![Node {
                dir: true,
                nlink: 2,
                data: Vec::new(),
                names: BTreeMap::new(),
            }],
        }
    }
}

impl Model {
    fn find(&self, path: &str) -> Option<usize> {
        let mut names = path.split('/').filter(|name| !name.is_empty());
        names.try_fold(0, |at, name| self.nodes[at].names.get(name).copied())
    }

    fn place<'a>(&self, path: &'a str) -> Option<(usize, &'a str)> {
        let (dir, name) = path.rsplit_once('/')?;
        let dir = self.find(dir).filter(|dir| self.nodes[*dir].dir)?;
        (name.len() <= 255).then_some((dir, name))
    }

    fn file(&mut self, path: &str) -> Option<&mut Vec<u8>> {
        let at = self.find(path)?;
        let node = &mut self.nodes[at];
        (!node.dir).then_some(&mut node.data)
    }

    fn add(&mut self, path: &str, dir: bool) -> Option<()> {
        let (parent, name) = self.place(path)?;
        if self.nodes[parent].names.contains_key(name) {
            return None;
        }
        let nlink = if dir { 2 } else { 1 };
        self.nodes.push(Node {
            dir,
            nlink,
            data: Vec::new(),
            names: BTreeMap::new(),
        });
        let at = self.nodes.len() - 1;
        self.nodes[parent].names.insert(name.into(), at);
        self.nodes[parent].nlink += u32::from(dir);
        Some(())
    }

    fn remove(&mut self, path: &str, dir: bool) -> Option<()> {
        let (parent, name) = self.place(path)?;
        let at = *self.nodes[parent].names.get(name)?;
        if self.nodes[at].dir != dir || !self.nodes[at].names.is_empty() {
            return None;
        }
        self.nodes[parent].names.remove(name);
        self.nodes[parent].nlink -= u32::from(dir);
        self.nodes[at].nlink -= 1;
        Some(())
    }

    fn link(&mut self, old: &str, new: &str) -> Option<()> {
        let at = self.find(old).filter(|at| !self.nodes[*at].dir)?;
        let (parent, name) = self.place(new)?;
        if self.nodes[parent].names.contains_key(name) {
            return None;
        }
        self.nodes[parent].names.insert(name.into(), at);
        self.nodes[at].nlink += 1;
        Some(())
    }

    fn rename(&mut self, old: &str, new: &str, replace: bool) -> Option<()> {
        let (from, from_name) = self.place(old)?;
        let at = *self.nodes[from].names.get(from_name)?;
        let (to, to_name) = self.place(new)?;
        if self.nodes[at].dir && self.is_below(to, at) {
            return None;
        }
        let dir = u32::from(self.nodes[at].dir);
        if let Some(there) = self.nodes[to].names.get(to_name).copied() {
            if !replace {
                return None;
            }
            if there == at {
                return Some(());
            }
            if self.nodes[there].dir != self.nodes[at].dir || !self.nodes[there].names.is_empty() {
                return None;
            }
            self.nodes[to].nlink -= dir;
            self.nodes[there].nlink -= 1;
        }
        self.nodes[from].names.remove(from_name);
        self.nodes[from].nlink -= dir;
        self.nodes[to].nlink += dir;
        self.nodes[to].names.insert(to_name.into(), at);
        Some(())
    }

    fn is_below(&self, at: usize, top: usize) -> bool {
        at == top
            || self.nodes[top]
                .names
                .values()
                .any(|c| self.nodes[*c].dir && self.is_below(at, *c))
    }

    /// Does an operation. True: it went well.
    pub fn run(&mut self, op: &Op) -> bool {
        let done = match op {
            Op::Create(path) => self.add(path, false),
            Op::Mkdir(path) => self.add(path, true),
            Op::Rmdir(path) => self.remove(path, true),
            Op::Unlink(path) => self.remove(path, false),
            Op::Link(old, new) => self.link(old, new),
            Op::Rename(old, new, replace) => self.rename(old, new, *replace),
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
            Op::Fallocate(path, off, len, _) => self.file(path).map(|data| {
                data.resize(data.len().max((off + len) as usize), 0);
            }),
        };
        done.is_some()
    }

    /// Every path and what is there.
    pub fn snapshot(&self) -> Snapshot {
        let mut out = Snapshot::new();
        let mut todo = vec![("/".to_string(), 0)];
        while let Some((path, at)) = todo.pop() {
            let Node {
                dir,
                nlink,
                data,
                names,
            } = &self.nodes[at];
            let below = |name: &str| format!("{}/{name}", path.trim_end_matches('/'));
            todo.extend(names.iter().map(|(name, child)| (below(name), *child)));
            out.insert(
                path,
                Entry {
                    dir: *dir,
                    nlink: *nlink,
                    data: data.clone(),
                },
            );
        }
        out
    }
}
