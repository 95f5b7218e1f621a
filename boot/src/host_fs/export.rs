//! `holdfast fs export`: a directory of the image, with all below it, into the host; the other way round of [`super::import`].
//!
//! Nothing on the host is written over: a name that is there is an error, but directories are joined.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use fs::dir::DirEntry;
use fs::{Ino, Kind, Stat};
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;

use super::import::PIECE;
use super::mounted::{Mounted, Node, look};
use super::progress::Progress;
use super::sparse::next_data;

/// Copies a directory of the image, with all below it, into a directory of the host; changes nothing in the image.
#[derive(Args, Debug)]
pub struct Export {
    /// The image.
    image: PathBuf,
    /// The directory of the host; it is made if it is missing.
    to: PathBuf,
    /// The directory in the image.
    #[arg(default_value = "/")]
    path: String,
    /// Keeps users and groups, for which one must be root.
    #[arg(long)]
    owners: bool,
}

impl Export {
    /// Does it.
    ///
    /// # Errors
    /// With what was wrong, and with which file; what came before it stays.
    pub fn run(&self) -> Result<()> {
        look(&self.image, |fs| {
            let from = fs.open(&self.path).with_context(|| self.path.clone())?;
            let mut copy = Copy {
                fs,
                owners: self.owners,
                progress: Progress::new(count(fs, &from)?)?,
                links: HashMap::new(),
                buffer: vec![0; PIECE],
            };
            copy.entries(&from, &self.to)?;
            let (names, bytes) = copy.progress.end();
            println!("{names} names, {bytes} bytes");
            Ok(())
        })
    }
}

/// Names below a directory.
fn count(fs: &Mounted, dir: &Arc<Node>) -> Result<u64> {
    let (mut names, mut cookie) = (0, 0);
    while let Some(entry) = fs.readdir(dir, cookie)? {
        (names, cookie) = (names + 1, entry.cookie);
        if entry.kind == Kind::Dir {
            names += count(fs, &fs.inode(entry.ino)?)?;
        }
    }
    Ok(names)
}

struct Copy<'a> {
    fs: &'a Mounted,
    owners: bool,
    progress: Progress,
    /// Where the first name of a file with several went.
    links: HashMap<Ino, PathBuf>,
    buffer: Vec<u8>,
}

impl Copy<'_> {
    fn entries(&mut self, from: &Arc<Node>, to: &Path) -> Result<()> {
        if !to.is_dir() {
            std::fs::create_dir(to).with_context(|| to.display().to_string())?;
        }
        let mut cookie = 0;
        while let Some(entry) = self.fs.readdir(from, cookie)? {
            cookie = entry.cookie;
            let path = to.join(OsStr::from_bytes(entry.name.as_bytes()));
            self.entry(&entry, &path)
                .with_context(|| path.display().to_string())?;
            self.progress.name();
        }
        Ok(())
    }

    fn entry(&mut self, entry: &DirEntry, path: &Path) -> Result<()> {
        if let Some(first) = self.links.get(&entry.ino) {
            return Ok(std::fs::hard_link(first, path)?);
        }
        let node = self.fs.inode(entry.ino)?;
        let stat = node.stat();
        self.make(&node, &stat, path)?;
        if stat.kind != Kind::Dir && stat.nlink > 1 {
            self.links.insert(entry.ino, path.to_owned());
        }
        self.attributes(&stat, path)
    }

    fn make(&mut self, node: &Arc<Node>, stat: &Stat, path: &Path) -> Result<()> {
        match stat.kind {
            Kind::Dir => self.entries(node, path),
            Kind::File => self.content(node, stat.size, path),
            Kind::Symlink => {
                let mut text = vec![0; stat.size as usize];
                let len = node.readlink(&mut text)?;
                Ok(symlink(OsStr::from_bytes(&text[..len]), path)?)
            }
            Kind::Fifo => special(path, SFlag::S_IFIFO, stat),
            Kind::Socket => special(path, SFlag::S_IFSOCK, stat),
            Kind::CharDev => special(path, SFlag::S_IFCHR, stat),
            Kind::BlockDev => special(path, SFlag::S_IFBLK, stat),
        }
    }

    /// Copies what is not a hole.
    fn content(&mut self, from: &Node, size: u64, path: &Path) -> Result<()> {
        let to = OpenOptions::new().write(true).create_new(true).open(path)?;
        let mut at = 0;
        while let Some((start, end)) = next_data(from, at) {
            at = start;
            while at < end {
                let most = PIECE.min((end - at) as usize);
                let n = self.fs.read(from, at, &mut self.buffer[..most])?;
                to.write_all_at(&self.buffer[..n], at)?;
                self.progress.bytes(n as u64);
                at += n as u64;
            }
        }
        Ok(to.set_len(size)?)
    }

    /// Owner, mode and times, in that order: a change of owner takes the set-id bits away.
    fn attributes(&self, stat: &Stat, path: &Path) -> Result<()> {
        if self.owners {
            lchown(path, Some(stat.uid), Some(stat.gid))?;
        }
        if stat.kind != Kind::Symlink {
            std::fs::set_permissions(path, Permissions::from_mode(stat.mode.into()))?;
        }
        times(stat, path).context("times")
    }
}

fn special(path: &Path, kind: SFlag, stat: &Stat) -> Result<()> {
    Ok(mknod(path, kind, Mode::empty(), stat.rdev.into())?)
}

fn times(stat: &Stat, path: &Path) -> io::Result<()> {
    let spec = |ns| TimeSpec::from_duration(Duration::from_nanos(ns));
    let (atime, mtime) = (spec(stat.atime), spec(stat.mtime));
    utimensat(
        AT_FDCWD,
        path,
        &atime,
        &mtime,
        UtimensatFlags::NoFollowSymlink,
    )?;
    Ok(())
}
