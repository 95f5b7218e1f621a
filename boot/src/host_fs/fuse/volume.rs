//! The file system as the calls see it: inodes by the kernel's numbers, errors as numbers.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fs::{Ino, Kind};
use fuser::INodeNo;
use nix::errno::Errno;

use super::nodes::Nodes;
use crate::host_fs::errno::ToErrno;
use crate::host_fs::mounted::{Mounted, Node};

/// What a call comes to.
pub type Answer<T> = Result<T, Errno>;

/// The number of an error.
pub fn number<E: ToErrno>(error: E) -> Errno {
    error.errno()
}

/// A mounted image and what the kernel knows of it.
pub struct Volume {
    /// The file system.
    pub fs: Arc<Mounted>,
    nodes: Nodes<Node>,
}

impl Volume {
    /// The file system, of which the kernel knows nothing yet.
    pub fn new(fs: Arc<Mounted>) -> Self {
        let nodes = Nodes::default();
        Self { fs, nodes }
    }

    /// The inode that the kernel calls `ino`.
    pub fn node(&self, ino: INodeNo) -> Answer<Arc<Node>> {
        let ino = number_of(ino)?;
        match self.nodes.get(ino) {
            Some(node) => Ok(node),
            None => self.fs.inode(ino).map_err(|_| Errno::ESTALE),
        }
    }

    /// The kernel is told of `node`.
    pub fn told(&self, node: &Arc<Node>) {
        self.nodes.look_up(node.ino(), node);
    }

    /// The kernel gives back some look-ups. If it was the last to use a file without a name, the next operation that wants space ends it.
    pub fn forget(&self, ino: INodeNo, lookups: u64) {
        if let Ok(ino) = number_of(ino) {
            drop(self.nodes.forget(ino, lookups));
        }
    }

    /// The kernel is gone.
    pub fn end(&self) {
        self.nodes.clear();
    }

    /// What `name` leads to.
    pub fn lookup(&self, dir: INodeNo, name: &OsStr) -> Answer<Arc<Node>> {
        let dir = self.node(dir)?;
        self.fs.lookup(&dir, name.as_bytes()).map_err(number)
    }

    /// Removes a name.
    pub fn remove(&self, dir: INodeNo, name: &OsStr, kind: Kind) -> Answer<()> {
        let dir = self.node(dir)?;
        self.fs
            .remove_in(&dir, name.as_bytes(), kind)
            .map_err(number)
    }
}

fn number_of(ino: INodeNo) -> Answer<Ino> {
    Ino::try_from(ino.0).map_err(|_| Errno::ESTALE)
}
