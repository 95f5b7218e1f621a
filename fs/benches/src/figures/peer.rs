//! Another file system, used through system calls.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::str::FromStr;

use fs_bench::{Op, world};
use nix::dir::Dir;
use nix::fcntl::{self, OFlag};
use nix::sys::stat::Mode;
use nix::sys::uio;
use nix::unistd::{self, UnlinkatFlags};

/// A peer as the command line names it.
#[derive(Clone)]
pub struct PeerArg {
    /// What the tables call it.
    pub label: String,
    /// A folder on it.
    pub folder: PathBuf,
}

impl PeerArg {
    /// Whether each operation is made durable.
    pub fn durable(&self) -> bool {
        self.label.ends_with("+fsync")
    }
}

impl FromStr for PeerArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (label, folder) = text.split_once('=').ok_or("LABEL=FOLDER is wanted")?;
        Ok(Self {
            label: label.into(),
            folder: folder.into(),
        })
    }
}

/// An empty folder, and a file in the folder above it.
pub struct Peer {
    dir: OwnedFd,
    file: OwnedFd,
    durable: bool,
    data: Vec<u8>,
    names: Option<nix::dir::OwningIter>,
}

const FRESH: OFlag = OFlag::O_CREAT.union(OFlag::O_EXCL).union(OFlag::O_RDWR);

impl Peer {
    /// Makes both, in place of what another round left.
    pub fn new(on: &PeerArg) -> nix::Result<Self> {
        let folder = on.folder.join("bench");
        drop(std::fs::remove_dir_all(&folder));
        unistd::mkdir(&folder, Mode::S_IRWXU)?;
        let names = folder.join("names");
        unistd::mkdir(&names, Mode::S_IRWXU)?;
        Ok(Self {
            dir: fcntl::open(&names, OFlag::O_DIRECTORY, Mode::empty())?,
            file: fcntl::open(&folder.join("content"), FRESH, Mode::S_IRUSR)?,
            durable: on.durable(),
            data: vec![0x5a; world::PAGE],
            names: None,
        })
    }

    /// System calls that `op` takes, besides those that make it durable. Of `readdir`: one for many names.
    pub const fn calls(op: Op) -> u32 {
        match op {
            // open and close
            Op::Create => 2,
            Op::Rename | Op::Unlink | Op::Append | Op::Overwrite | Op::Read => 1,
            Op::Readdir => 0,
        }
    }

    /// Does `op` for the `i`-th time.
    pub fn run(&mut self, op: Op, i: usize) -> nix::Result<()> {
        let (old, new) = (
            || world::NameOf::new(b'f', i),
            || world::NameOf::new(b'g', i),
        );
        let at = (i * world::PAGE) as i64;
        match op {
            Op::Create => drop(fcntl::openat(
                &self.dir,
                old().name(),
                FRESH,
                Mode::S_IRUSR,
            )?),
            Op::Rename => fcntl::renameat(&self.dir, old().name(), &self.dir, new().name())?,
            Op::Unlink => unistd::unlinkat(&self.dir, new().name(), UnlinkatFlags::NoRemoveDir)?,
            Op::Append | Op::Overwrite => {
                let n = uio::pwrite(&self.file, &self.data, at)?;
                assert_eq!(n, world::PAGE);
                return if self.durable {
                    unistd::fdatasync(&self.file)
                } else {
                    Ok(())
                };
            }
            Op::Read => {
                let n = uio::pread(&self.file, &mut self.data, at)?;
                assert_eq!(n, world::PAGE);
                return Ok(());
            }
            Op::Readdir => return self.next_name(),
        }
        if self.durable {
            unistd::fsync(&self.dir)
        } else {
            Ok(())
        }
    }

    /// Reads one name; begins at the first again after the last.
    fn next_name(&mut self) -> nix::Result<()> {
        if let Some(name) = self.names.as_mut().and_then(Iterator::next) {
            return name.map(drop);
        }
        let dir = fcntl::openat(&self.dir, ".", OFlag::O_DIRECTORY, Mode::empty())?;
        self.names = Some(Dir::from_fd(dir)?.into_iter());
        Ok(())
    }

    /// Removes all that it made.
    pub fn remove(on: &PeerArg) -> std::io::Result<()> {
        std::fs::remove_dir_all(on.folder.join(OsString::from("bench")))
    }
}
