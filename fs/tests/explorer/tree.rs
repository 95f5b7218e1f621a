//! What a walk over a mounted file system finds, and what an operation on content may leave of it.

use std::collections::BTreeMap;
use std::fmt;

use dax::pmem::Pmem;
use fs::{Fs, Inode, Kind};

use crate::common::walk::walk;

/// A file, directory or symbolic link.
#[derive(Clone, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    pub mode: u16,
    pub nlink: u32,
    /// User, group, and of a device its number.
    pub owner: (u32, u32, u32),
    pub atime: u64,
    /// Of all but files, whose times of change may be only in memory.
    pub ctime: u64,
    pub mtime: u64,
    /// Content, or the text of a link.
    pub data: Vec<u8>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = fs::layout::crc32c(&self.data);
        let (kind, nlink, len) = (self.kind, self.nlink, self.data.len());
        let (mode, owner, ctime) = (self.mode, self.owner, self.ctime);
        write!(
            f,
            "{kind:?}, mode {mode:o}, {nlink} links, {len} bytes, sum {sum:08x}, owner {owner:?}, ctime {ctime}"
        )
    }
}

/// Every path and what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<String, Node>);

/// A fast hash, good enough to tell a few million trees apart.
struct Hash(u64);

impl Hash {
    fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
    }

    /// Four words at a time, which need not wait for each other.
    fn bytes(&mut self, bytes: &[u8]) {
        let (blocks, rest) = bytes.as_chunks::<32>();
        let mut lanes = [1, 2, 3, 4].map(Self);
        for block in blocks {
            for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
                lane.word(u64::from_le_bytes(*word));
            }
        }
        for Self(lane) in lanes {
            self.word(lane);
        }
        for byte in rest {
            self.word(u64::from(*byte) | 1 << 32);
        }
        self.word(bytes.len() as u64);
    }
}

impl Tree {
    /// Walks. An error is told with the path.
    pub fn walk<P: Pmem>(fs: &Fs<P>) -> Result<Self, String> {
        Ok(Self(walk(fs, |inode, data| Node::of(inode, data))?))
    }

    /// Equal trees have equal ones.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Hash(1);
        for (path, node) in &self.0 {
            hash.bytes(path.as_bytes());
            for word in [
                u64::from(node.mode) | u64::from(node.nlink) << 32,
                u64::from(node.owner.0) | u64::from(node.owner.1) << 32,
                u64::from(node.owner.2),
                node.ctime,
                node.atime,
                node.mtime,
            ] {
                hash.word(word);
            }
            hash.bytes(&node.data);
        }
        hash.0
    }

    /// Whether it is what an operation on content may leave: no name differs, and each file is a mixture of before and after.
    pub fn is_mixture(&self, before: &Self, after: &Self) -> bool {
        self.0.len() == before.0.len()
            && self.0.iter().all(|(path, found)| {
                let (a, b) = (before.0.get(path), after.0.get(path));
                a.zip(b).is_some_and(|(a, b)| found.is_mixture(a, b))
            })
    }
}

impl Node {
    fn of<P: Pmem>(inode: &Inode<P>, data: Vec<u8>) -> Self {
        let stat = inode.stat();
        let lazy = stat.kind == Kind::File;
        Self {
            kind: stat.kind,
            mode: stat.mode,
            nlink: stat.nlink,
            owner: (stat.uid, stat.gid, stat.rdev),
            ctime: if lazy { 0 } else { stat.ctime },
            atime: stat.atime,
            mtime: if lazy { 0 } else { stat.mtime },
            data,
        }
    }

    /// Each aligned 8 bytes are old or new (zeroes behind an end), the size lies between both, all else is old or new.
    fn is_mixture(&self, a: &Self, b: &Self) -> bool {
        if self == a || self == b {
            return true;
        }
        let size = self.data.len();
        let same = |at: usize| {
            let found = word(&self.data, at, size);
            found == word(&a.data, at, size) || found == word(&b.data, at, size)
        };
        let ends = [a.data.len(), b.data.len()];
        let sizes = ends[0].min(ends[1])..=ends[0].max(ends[1]);
        let rest = |other: &Self| {
            (self.kind, self.mode, self.nlink, self.owner)
                == (other.kind, other.mode, other.nlink, other.owner)
                && (self.ctime, self.atime, self.mtime) == (other.ctime, other.atime, other.mtime)
        };
        sizes.contains(&size) && (rest(a) || rest(b)) && (0..size).step_by(8).all(same)
    }
}

/// The 8 bytes at `at`; zeroes behind the end of the data and from `size` on.
fn word(data: &[u8], at: usize, size: usize) -> [u8; 8] {
    let end = data.len().min(size);
    match data[..end]
        .get(at..at + 8)
        .and_then(|bytes| bytes.try_into().ok())
    {
        Some(whole) => whole,
        None => std::array::from_fn(|i| data[..end].get(at + i).copied().unwrap_or(0)),
    }
}
