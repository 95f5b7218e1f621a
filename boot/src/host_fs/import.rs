//! `holdfast fs import`: a directory of the host, with all below it, into the image.
//!
//! Names, contents with their holes, symbolic links, hard links within the tree, pipes, sockets and devices, modes and times; owners on
//! request. What stands at a name is replaced, but directories are joined. The times of a directory are set when all is in it.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use dax::layout::{BreakReport, How};
use fs::error::LookupError;
use fs::{Ino, Kind, NewInode, Owner, SetAttr};
use nix::unistd::{Whence, lseek};

use super::mounted::{Mounted, Node, change};
use super::progress::Progress;

/// Bytes that are copied at once.
pub const PIECE: usize = 1 << 20;

/// Copies a directory of the host, with all below it, into a directory of the image.
#[derive(Args, Debug)]
pub struct Import {
    /// The image.
    image: PathBuf,
    /// The directory of the host.
    from: PathBuf,
    /// The directory in the image.
    #[arg(default_value = "/")]
    path: String,
    /// Keeps users and groups; without it all belongs to user 0.
    #[arg(long)]
    owners: bool,
}

impl Import {
    /// Does it.
    ///
    /// # Errors
    /// With what was wrong, and with which file; what came before it stays.
    pub fn run(&self) -> Result<()> {
        change(&self.image, |fs| {
            let to = fs.open(&self.path).with_context(|| self.path.clone())?;
            let mut copy = Copy {
                fs,
                owners: self.owners,
                progress: Progress::new(count(&self.from)?)?,
                links: HashMap::new(),
                buffer: vec![0; PIECE],
            };
            copy.entries(&self.from, &to)?;
            let (names, bytes) = copy.progress.end();
            println!("{names} names, {bytes} bytes");
            Ok(())
        })
    }
}

/// Names below a directory.
fn count(dir: &Path) -> Result<u64> {
    let mut names = 0;
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        names += 1;
        if entry.file_type()?.is_dir() {
            names += count(&entry.path())?;
        }
    }
    Ok(names)
}

struct Copy<'a> {
    fs: &'a Mounted,
    owners: bool,
    progress: Progress,
    /// Files with several names, by device and inode of the host.
    links: HashMap<(u64, u64), Ino>,
    buffer: Vec<u8>,
}

impl Copy<'_> {
    fn entries(&mut self, from: &Path, to: &Arc<Node>) -> Result<()> {
        for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
            let path = entry?.path();
            self.entry(&path, to)
                .with_context(|| path.display().to_string())?;
            self.progress.name();
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, dir: &Arc<Node>) -> Result<()> {
        let name = path.file_name().context("no name")?.as_bytes();
        let found = std::fs::symlink_metadata(path)?;
        let known = (found.dev(), found.ino());
        let kind = Kind::of_mode(found.mode() as u16).context("of no known kind")?;
        self.make_room(dir, name, kind)?;
        if let Some(&ino) = self.links.get(&known) {
            let first = self.fs.inode(ino)?;
            return Ok(self.fs.link_in(&first, dir, name)?);
        }
        let node = self.make(path, dir, name, &found, kind)?;
        if kind != Kind::Dir && found.nlink() > 1 {
            self.links.insert(known, node.ino());
        }
        Ok(self
            .fs
            .setattr(&node, &self.attributes(&found, kind))
            .map(drop)?)
    }

    /// Removes what stands at the name, unless both are directories.
    fn make_room(&self, dir: &Arc<Node>, name: &[u8], kind: Kind) -> Result<()> {
        let there = match self.fs.lookup(dir, name) {
            Err(LookupError::NotFound) => return Ok(()),
            there => there?.kind(),
        };
        match (there, kind) {
            (Kind::Dir, Kind::Dir) => Ok(()),
            (Kind::Dir, _) => bail!("the image has a directory of that name"),
            _ => Ok(self.fs.remove_in(dir, name, Kind::File)?),
        }
    }

    fn make(
        &mut self,
        path: &Path,
        dir: &Arc<Node>,
        name: &[u8],
        found: &Metadata,
        kind: Kind,
    ) -> Result<Arc<Node>> {
        let owner = self.owner(found);
        if kind == Kind::Symlink {
            let target = std::fs::read_link(path)?;
            let text = target.as_os_str().as_bytes();
            return Ok(self.fs.symlink_in(dir, name, text, owner)?);
        }
        let new = NewInode {
            rdev: found.rdev() as u32,
            ..NewInode::new(kind, 0o700).owned_by(owner)
        };
        let node = match self.fs.lookup(dir, name) {
            Ok(there) => there,
            Err(_) => self.fs.create_in(dir, name, &new)?,
        };
        match kind {
            Kind::Dir => self.entries(path, &node)?,
            Kind::File => self.content(&File::open(path)?, &node)?,
            _ => {}
        }
        Ok(node)
    }

    fn owner(&self, found: &Metadata) -> Owner {
        match self.owners {
            true => Owner {
                uid: found.uid(),
                gid: found.gid(),
            },
            false => Owner::default(),
        }
    }

    fn attributes(&self, found: &Metadata, kind: Kind) -> SetAttr {
        let ns = |seconds: i64, ns: i64| {
            let all = i128::from(seconds) * 1_000_000_000 + i128::from(ns);
            u64::try_from(all.max(0)).unwrap_or(u64::MAX)
        };
        let Owner { uid, gid } = self.owner(found);
        SetAttr {
            mode: (kind != Kind::Symlink).then_some(found.mode() as u16 & 0o7777),
            uid: Some(uid),
            gid: Some(gid),
            atime: Some(ns(found.atime(), found.atime_nsec())),
            mtime: Some(ns(found.mtime(), found.mtime_nsec())),
        }
    }

    /// Copies what is not a hole.
    fn content(&mut self, from: &File, to: &Arc<Node>) -> Result<()> {
        let (len, mut at) = (from.metadata()?.len(), 0);
        while let Ok(start) = lseek(from, at as i64, Whence::SeekData) {
            at = lseek(from, start, Whence::SeekHole)? as u64;
            self.piece(from, to, start as u64, at)?;
        }
        let mut report = BreakReport::default();
        self.fs.truncate(to, len, How::NoWait, &mut report)?;
        Ok(())
    }

    fn piece(&mut self, from: &File, to: &Arc<Node>, start: u64, end: u64) -> Result<()> {
        let mut at = start;
        while at < end {
            let most = PIECE.min((end - at) as usize);
            let n = from.read_at(&mut self.buffer[..most], at)?;
            if n == 0 {
                break;
            }
            self.fs.write(to, at, &self.buffer[..n])?;
            self.progress.bytes(n as u64);
            at += n as u64;
        }
        Ok(())
    }
}
