//! `holdfast fs`: the file system in a pmem image, by the very code that the kernel runs.
//!
//! - [`mod@make`], [`check`], [`info`], [`dump`]: the file system as a whole, and what stands on the media.
//! - [`copy`], [`import`], [`export`]: files in and out; [`sparse`] finds their holes, [`progress`] shows how far it is.
//! - [`fuse`]: mounted for every program of this machine; [`errno`] gives each error its number.
//! - [`mounted`]: an image as a file system in this process. Commands that only look work on a private copy: not even recovery
//!   reaches the file.
//!
//! An image is locked while a command uses it, and while a machine does that this program has started.

pub mod check;
pub mod copy;
pub mod dump;
pub mod errno;
pub mod export;
pub mod fuse;
pub mod import;
pub mod info;
pub mod make;
pub mod mounted;
pub mod progress;
pub mod show;
pub mod sparse;

use anyhow::Result;
use clap::Subcommand;

use crate::outcome::Outcome;

/// What to do with the image.
#[derive(Debug, Subcommand)]
pub enum FsCommand {
    /// Makes an empty file system.
    Mkfs(make::Mkfs),
    /// Checks the file system; changes nothing. Ends with 1 when something is wrong.
    Fsck(check::Fsck),
    /// Tells what the file system holds, as a mount would find it; changes nothing.
    Info(info::Info),
    /// Lists a directory, or tells of a file; changes nothing.
    Ls(info::Ls),
    /// Copies a file out of the image; changes nothing in it.
    Get(copy::Get),
    /// Copies a file into the image, over one that is there.
    Put(copy::Put),
    /// Copies a directory of the host, with all below it, into a directory of the image.
    Import(import::Import),
    /// Copies a directory of the image, with all below it, into a directory of the host.
    Export(export::Export),
    /// Shows what stands on the media, also of a damaged image; changes nothing.
    Dump(dump::Dump),
    /// Mounts the file system on a directory of this machine, by FUSE, until Ctrl-C, SIGTERM or umount.
    Mount(fuse::Mount),
}

impl FsCommand {
    /// Does it.
    ///
    /// # Errors
    /// With what was wrong, and with which file.
    pub fn run(&self) -> Result<Outcome> {
        match self {
            Self::Fsck(fsck) => return fsck.run(),
            Self::Mkfs(mkfs) => mkfs.run(),
            Self::Info(info) => info.run(),
            Self::Ls(ls) => ls.run(),
            Self::Get(get) => get.run(),
            Self::Put(put) => put.run(),
            Self::Import(import) => import.run(),
            Self::Export(export) => export.run(),
            Self::Dump(dump) => dump.run(),
            Self::Mount(mount) => mount.run(),
        }?;
        Ok(Outcome::Success)
    }
}
