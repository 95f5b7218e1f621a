//! Directories as the kernel reads them: `.` and `..` first, then the entries, each with the place where to go on.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fs::dir::DirEntry;
use fs::{Kind, ROOT};
use fuser::{INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::attr::file_type;
use super::volume::{Answer, Volume, number};
use super::{GENERATION, TTL};
use crate::host_fs::mounted::Node;

/// Places in front of the first entry: `.` and `..`.
const DOTS: u64 = 2;

impl Volume {
    /// Fills `reply` from place `offset` on.
    pub fn list(&self, dir: INodeNo, offset: u64, reply: &mut ReplyDirectory) -> Answer<()> {
        let dir = self.node(dir)?;
        for (place, ino, name) in self.dots(&dir) {
            let next = place + 1;
            let kind = file_type(Kind::Dir);
            if place >= offset && reply.add(INodeNo(ino.into()), next, kind, name) {
                return Ok(());
            }
        }
        self.each_entry(&dir, offset, |entry| {
            let (ino, name) = (INodeNo(entry.ino.into()), name_of(entry));
            reply.add(ino, entry.cookie + DOTS, file_type(entry.kind), name)
        })
    }

    /// As [`Volume::list`], with attributes: each entry is a look-up.
    pub fn list_plus(
        &self,
        dir: INodeNo,
        offset: u64,
        reply: &mut ReplyDirectoryPlus,
    ) -> Answer<()> {
        let dir = self.node(dir)?;
        for (place, ino, name) in self.dots(&dir) {
            // The kernel takes no look-up from these two.
            let attr = super::attr::attr(&self.node(INodeNo(ino.into()))?.stat());
            let ino = INodeNo(ino.into());
            if place >= offset && reply.add(ino, place + 1, name, &TTL, &attr, GENERATION) {
                return Ok(());
            }
        }
        self.each_entry(&dir, offset, |entry| {
            // Gone since it was read: the kernel does without.
            let Ok(node) = self.fs.inode(entry.ino) else {
                return false;
            };
            let (ino, attr) = (INodeNo(entry.ino.into()), super::attr::attr(&node.stat()));
            let (next, name) = (entry.cookie + DOTS, name_of(entry));
            // Before the kernel can forget it.
            self.told(&node);
            let full = reply.add(ino, next, name, &TTL, &attr, GENERATION);
            if full {
                self.forget(ino, 1);
            }
            full
        })
    }

    /// `.` and `..` with their places.
    fn dots(&self, dir: &Arc<Node>) -> [(u64, u32, &'static OsStr); 2] {
        let parent = self.fs.parent(dir).map_or(ROOT, |parent| parent.ino());
        [
            (0, dir.ino(), OsStr::new(".")),
            (1, parent, OsStr::new("..")),
        ]
    }

    /// Calls `full` with each entry from place `offset` on, until it says so.
    fn each_entry(
        &self,
        dir: &Node,
        offset: u64,
        mut full: impl FnMut(&DirEntry) -> bool,
    ) -> Answer<()> {
        let mut cookie = offset.saturating_sub(DOTS);
        while let Some(entry) = self.fs.readdir(dir, cookie).map_err(number)? {
            if full(&entry) {
                break;
            }
            cookie = entry.cookie;
        }
        Ok(())
    }
}

fn name_of(entry: &DirEntry) -> &OsStr {
    OsStr::from_bytes(entry.name.as_bytes())
}
