//! Directories as the kernel reads them: `.` and `..` first, then the entries, each with the place where to go on.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fs::dir::DirEntry;
use fs::{Kind, ROOT, Stat};
use fuser::{Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::TTL;
use super::attr::{attr, file_type};
use super::volume::{Answer, Volume, number};
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
            let ino = INodeNo(ino.into());
            let stat = self.node(ino)?.stat();
            if place >= offset && add(reply, ino, place + 1, name, &stat) {
                return Ok(());
            }
        }
        self.each_entry(&dir, offset, |entry| {
            // Gone since it was read: the kernel does without.
            let Ok(node) = self.fs.inode(entry.ino) else {
                return false;
            };
            let ino = INodeNo(entry.ino.into());
            let (next, name) = (entry.cookie + DOTS, name_of(entry));
            // Before the kernel can forget it.
            self.told(&node);
            let full = add(reply, ino, next, name, &node.stat());
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

/// Adds an entry; returns whether there was no room. With another generation than a look-up gives, the kernel would take the number for
/// reused, and fail whoever has the file open.
fn add(reply: &mut ReplyDirectoryPlus, ino: INodeNo, next: u64, name: &OsStr, stat: &Stat) -> bool {
    let generation = Generation(stat.generation.into());
    reply.add(ino, next, name, &TTL, &attr(stat), generation)
}

fn name_of(entry: &DirEntry) -> &OsStr {
    OsStr::from_bytes(entry.name.as_bytes())
}
