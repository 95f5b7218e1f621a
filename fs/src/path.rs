//! Paths: names between slashes, from the root, with symbolic links on the way.
//!
//! A walk holds no lock between two names; each look-up is one moment under the commit lock. At most 40 links are followed, so that
//! a ring of links ends, and with it every walk: each link adds at most 4,096 bytes of path.

use alloc::borrow::Cow;
use alloc::sync::Arc;
use alloc::vec::Vec;

use dax::pmem::Pmem;
use mm::mem::OutOfMemory;

use crate::dir::Name;
use crate::error::LookupError;
use crate::fs::Fs;
use crate::inode::{Inode, Stat};
use crate::layout::{Kind, ROOT, TEXT_MAX};
use crate::names::Place;

/// Most symbolic links that one path follows.
pub const LINKS_MAX: usize = 40;

/// What a walk does with a symbolic link at the end of the path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Follow,
    Stay,
}

impl<P: Pmem> Fs<P> {
    /// The root directory.
    pub fn root(&self) -> Result<Arc<Inode<P>>, LookupError> {
        self.inode(ROOT)
    }

    /// The inode at `path`: names between slashes, from the root; empty names and `.` say nothing, `..` goes up. Symbolic links
    /// are followed, at most [`LINKS_MAX`] of them. A path that ends in a slash leads to a directory or nowhere.
    pub fn open(&self, path: &str) -> Result<Arc<Inode<P>>, LookupError> {
        self.walk(path.as_bytes(), Last::Follow)
    }

    /// As [`Fs::open`], but a symbolic link at the end is the answer itself.
    pub fn open_nofollow(&self, path: &str) -> Result<Arc<Inode<P>>, LookupError> {
        self.walk(path.as_bytes(), Last::Stay)
    }

    /// The attributes of what `path` leads to; follows links.
    pub fn stat(&self, path: &str) -> Result<Stat, LookupError> {
        Ok(self.open(path)?.stat())
    }

    /// As [`Fs::stat`], but of a symbolic link at the end itself.
    pub fn stat_nofollow(&self, path: &str) -> Result<Stat, LookupError> {
        Ok(self.open_nofollow(path)?.stat())
    }

    /// The directory that holds `dir`; of the root itself.
    pub fn parent(&self, dir: &Inode<P>) -> Result<Arc<Inode<P>>, LookupError> {
        if dir.kind() != Kind::Dir {
            return Err(LookupError::NotDir);
        }
        // Read first: looking the inode up takes sleeping locks.
        let parent = dir.attr.lock().image.core.parent;
        self.inode(parent)
    }

    fn walk(&self, path: &[u8], last: Last) -> Result<Arc<Inode<P>>, LookupError> {
        let mut text = Cow::Borrowed(path);
        let (mut at, mut pos, mut links) = (self.root()?, 0, 0);
        while let Some((name, rest)) = component(&text[pos..]) {
            let next = self.step(&at, name)?;
            let ends = rest.is_empty() && last == Last::Stay;
            if next.kind() != Kind::Symlink || ends {
                pos = text.len() - rest.len();
                at = next;
                continue;
            }
            links += 1;
            if links > LINKS_MAX {
                return Err(LookupError::Loop);
            }
            text = Cow::Owned(spliced(&next, rest)?);
            pos = 0;
            if text.starts_with(b"/") {
                at = self.root()?;
            }
        }
        if text.ends_with(b"/") && at.kind() != Kind::Dir {
            return Err(LookupError::NotDir);
        }
        Ok(at)
    }

    fn step(&self, at: &Arc<Inode<P>>, name: &[u8]) -> Result<Arc<Inode<P>>, LookupError> {
        match name {
            b"." if at.kind() == Kind::Dir => Ok(at.clone()),
            b"." => Err(LookupError::NotDir),
            b".." => self.parent(at),
            name => self.lookup(at, name),
        }
    }

    /// The directory of `path`, and its last name, which is not followed.
    pub(crate) fn parent_of<'a>(&self, path: &'a str) -> Result<Parent<'a, P>, LookupError> {
        let path = path.trim_end_matches('/').as_bytes();
        let cut = path.iter().rposition(|byte| *byte == b'/');
        let (dir, name) = cut.map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
        let name = Name::new(name)?;
        let dir = self.walk(dir, Last::Follow)?;
        if dir.kind() != Kind::Dir {
            return Err(LookupError::NotDir);
        }
        Ok(Parent { dir, name })
    }
}

/// The directory that a path leads to, and its last name.
pub(crate) struct Parent<'a, P: Pmem> {
    dir: Arc<Inode<P>>,
    name: Name<'a>,
}

impl<P: Pmem> Parent<'_, P> {
    /// The place that the path names.
    pub const fn place(&self) -> Place<'_, P> {
        Place {
            dir: &self.dir,
            name: self.name,
        }
    }
}

/// The first name of a path, and what follows it, slashes included; `None` when there is none.
fn component(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = path.iter().position(|byte| *byte != b'/')?;
    let path = &path[start..];
    let end = path.iter().position(|byte| *byte == b'/');
    Some(path.split_at(end.unwrap_or(path.len())))
}

/// The text of `link`, then `rest`, which is empty or begins with a slash.
fn spliced<P: Pmem>(link: &Inode<P>, rest: &[u8]) -> Result<Vec<u8>, LookupError> {
    let len = (link.stat().size as usize).min(TEXT_MAX);
    let mut text = Vec::new();
    text.try_reserve_exact(len + rest.len())
        .map_err(|_| OutOfMemory)?;
    text.resize(len, 0);
    let got = link.readlink(&mut text)?;
    text.truncate(got);
    text.extend_from_slice(rest);
    Ok(text)
}
