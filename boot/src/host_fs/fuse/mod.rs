//! `holdfast fs mount`: the file system in an image, for every program of this machine.
//!
//! The kernel's FUSE talks to this process over `/dev/fuse`; no library of C stands between. Calls run on as many threads as
//! `--threads` says: the file system takes its own locks, as in the machine, and [`nodes`] is the only state on top of it. Permissions
//! are checked by the kernel, from the attributes that it is given (`default_permissions`).
//!
//! The kernel keeps pages and attributes. It writes through, so what a write(2) wrote is in the image when it returns; stores
//! through mmap come at msync, fsync or the last close. Nobody else changes the image meanwhile: the file is locked.
//!
//! The end: Ctrl-C, SIGTERM, SIGHUP or `umount`. A signal unmounts if nobody uses the file system, says so otherwise, and the second one detaches it:
//! then it ends with its last user. After that the file system is unmounted and the image is on the disk.

pub mod attr;
pub mod calls;
pub mod content;
pub mod listing;
pub mod nodes;
pub mod signals;
pub mod volume;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use fuser::{Config, MountOption, Session, SessionACL};

use self::volume::Volume;
use super::mounted::{leave, mount};
use crate::pmem_file::{Changes, PmemFile};
use crate::say;

/// How long the kernel may believe a name or an attribute. All changes go through it, so this bounds nothing but surprise.
const TTL: Duration = Duration::from_secs(1);

/// Mounts the file system on a directory, by FUSE, until Ctrl-C, SIGTERM or umount.
#[derive(Args, Debug)]
pub struct Mount {
    /// The image.
    image: PathBuf,
    /// The directory.
    on: PathBuf,
    /// Nothing is changed, not even by recovery: the image stays as it is.
    #[arg(long)]
    read_only: bool,
    /// Lets other users in; the permissions say how far.
    #[arg(long)]
    allow_other: bool,
    /// Threads that answer calls [default: one for each CPU, at most 8].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: Option<u8>,
}

impl Mount {
    /// Serves until the end.
    ///
    /// # Errors
    /// When the image or the directory cannot be used, or the image cannot be left.
    pub fn run(&self) -> Result<()> {
        if !self.on.is_dir() {
            bail!("{}: not a directory", self.on.display());
        }
        let changes = match self.read_only {
            true => Changes::Dropped,
            false => Changes::Kept,
        };
        let file = PmemFile::open(&self.image, changes)?;
        let fs = mount(&file, &self.image)?;
        let served = self.serve(Volume::new(fs.clone()));
        leave(fs, &file, &self.image)?;
        served
    }

    fn serve(&self, volume: Volume) -> Result<()> {
        // First, so that all threads inherit it.
        let signals = signals::Blocked::new()?;
        let at = self.on.display();
        let session = Session::new(volume, &self.on, &self.config())
            .with_context(|| format!("{at}: FUSE cannot mount (is /dev/fuse there?)"))?;
        let how = if self.read_only {
            "read-only"
        } else {
            "read-write"
        };
        say!(
            "{} is on {at}, {how}; Ctrl-C unmounts",
            self.image.display()
        );
        signals.unmount(absolute(&self.on)?)?;
        session.run().with_context(|| format!("{at}: FUSE"))
    }

    fn config(&self) -> Config {
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName(self.image.display().to_string().replace(',', "_")),
            MountOption::Subtype("holdfast".into()),
            MountOption::DefaultPermissions,
            MountOption::NoDev,
            MountOption::NoSuid,
        ];
        if self.read_only {
            config.mount_options.push(MountOption::RO);
        }
        if self.allow_other {
            config.acl = SessionACL::All;
        }
        config.n_threads = Some(self.threads());
        config
    }

    fn threads(&self) -> usize {
        let cpus = || std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
        self.threads.map_or_else(cpus, usize::from)
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize()
        .with_context(|| path.display().to_string())
}
