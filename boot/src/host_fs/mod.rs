//! `holdfast fs`: the file system in a pmem image, by the very code that the kernel runs.

pub mod errno;
mod export;
mod fuse;
mod import;
pub mod mounted;
mod progress;
mod sparse;

use std::fs::File;
use std::io::{Read, Write, stdin, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use dax::pmem::Pmem;
use fs::dir::DirEntry;
use fs::{Kind, MkfsOptions, fsck, mkfs};

use self::import::PIECE;
use self::mounted::{Mounted, Node, change, look, now_ns};
use crate::outcome::Outcome;
use crate::pmem::create_sparse;
use crate::pmem_file::{Changes, PmemFile};
use crate::size::Size;

/// What to do with the image.
#[derive(Debug, Subcommand)]
pub enum FsCommand {
    /// Makes an empty file system.
    Mkfs {
        /// The image.
        image: PathBuf,
        /// Makes the image, sparse, if it is missing.
        #[arg(long, value_name = "S")]
        size: Option<Size>,
        /// Overwrites a file system that is there.
        #[arg(long)]
        force: bool,
    },
    /// Checks the file system; changes nothing. Ends with 1 when something is wrong.
    Fsck {
        /// The image.
        image: PathBuf,
    },
    /// Tells what the file system holds, as a mount would find it; changes nothing.
    Info {
        /// The image.
        image: PathBuf,
    },
    /// Lists a directory; changes nothing.
    Ls {
        /// The image.
        image: PathBuf,
        /// The directory.
        #[arg(default_value = "/")]
        path: String,
    },
    /// Copies a file out of the image; changes nothing in it.
    Get {
        /// The image.
        image: PathBuf,
        /// The file in the image.
        path: String,
        /// Where it goes; `-` is standard output.
        #[arg(default_value = "-")]
        to: PathBuf,
    },
    /// Copies a file into the image, over one that is there.
    Put {
        /// The image.
        image: PathBuf,
        /// The file of the host; `-` is standard input.
        from: PathBuf,
        /// The file in the image.
        path: String,
    },
    /// Copies a directory of the host, with all below it, into a directory of the image.
    Import(import::Import),
    /// Copies a directory of the image, with all below it, into a directory of the host.
    Export(export::Export),
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
            Self::Fsck { image } => return check(image),
            Self::Mount(mount) => mount.run(),
            Self::Mkfs { image, size, force } => make(image, *size, *force),
            Self::Info { image } => look(image, info),
            Self::Ls { image, path } => look(image, |fs| list(fs, path)),
            Self::Get { image, path, to } => look(image, |fs| get(fs, path, to)),
            Self::Put { image, from, path } => change(image, |fs| put(fs, from, path)),
            Self::Import(import) => import.run(),
            Self::Export(export) => export.run(),
        }?;
        Ok(Outcome::Success)
    }
}

fn make(image: &Path, size: Option<Size>, force: bool) -> Result<()> {
    if let (Some(size), false) = (size, image.exists()) {
        create_sparse(image, size).with_context(|| image.display().to_string())?;
    }
    let file = PmemFile::open(image, Changes::Kept)?;
    if size.is_some_and(|size| size.0 != file.pmem.len()) {
        bail!(
            "{}: the file has {}, not what --size says",
            image.display(),
            Size(file.pmem.len())
        );
    }
    let options = MkfsOptions {
        force,
        now_ns: now_ns(),
        ..MkfsOptions::new(random()?)
    };
    let report = mkfs(&file.pmem, &options).with_context(|| image.display().to_string())?;
    file.sync()?;
    println!(
        "{} blocks, {} inodes, {} records",
        report.blocks, report.inodes, report.ring_slots
    );
    Ok(())
}

fn check(image: &Path) -> Result<Outcome> {
    let file = PmemFile::open(image, Changes::Dropped)?;
    let found = fsck(&file.pmem);
    found
        .problems
        .iter()
        .for_each(|problem| println!("{problem}"));
    println!(
        "{} files, {} directories, {} of {} blocks in use, {} records pending, {} torn: {} problems",
        found.files,
        found.dirs,
        found.blocks_used,
        found.blocks,
        found.pending,
        found.torn,
        found.problems.len()
    );
    Ok(if found.is_clean() {
        Outcome::Success
    } else {
        Outcome::GuestFailed
    })
}

fn random() -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn info(fs: &Mounted) -> Result<()> {
    let (found, space) = (fs.mount_report(), fs.statfs());
    println!(
        "blocks       {} of {} bytes",
        space.blocks, space.block_size
    );
    println!(
        "free         {} ({} whole 2M, {} whole 1G)",
        space.space.free, space.space.free_2m, space.space.free_1g
    );
    println!(
        "inodes       {} of {}, {} without a name",
        space.inodes_used, space.inodes, space.orphans
    );
    println!(
        "records      {} replayed, {} torn",
        found.replayed, found.torn
    );
    match &found.superblock {
        None => println!("superblocks  both whole"),
        Some(fault) => println!("superblocks  one whole; {fault}"),
    }
    Ok(())
}

fn entries(fs: &Mounted, directory: &Node) -> Result<Vec<DirEntry>> {
    let (mut list, mut cookie) = (Vec::new(), 0);
    while let Some(entry) = fs.readdir(directory, cookie)? {
        cookie = entry.cookie;
        list.push(entry);
    }
    list.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    Ok(list)
}

fn list(fs: &Mounted, path: &str) -> Result<()> {
    let directory = fs.open(path).with_context(|| path.to_owned())?;
    for entry in entries(fs, &directory)? {
        let stat = fs.inode(entry.ino)?.stat();
        let mark = if entry.kind == Kind::Dir { "/" } else { "" };
        println!(
            "{:6} {:>14}  {}{mark}",
            stat.ino,
            stat.size,
            String::from_utf8_lossy(entry.name.as_bytes())
        );
    }
    Ok(())
}

fn get(fs: &Mounted, path: &str, to: &Path) -> Result<()> {
    let inode = fs.open(path).with_context(|| path.to_owned())?;
    let mut to: Box<dyn Write> = match to == Path::new("-") {
        true => Box::new(stdout()),
        false => Box::new(File::create(to).with_context(|| to.display().to_string())?),
    };
    let (mut buffer, mut at) = (vec![0; PIECE], 0);
    while let n @ 1.. = inode
        .read(at, &mut buffer)
        .with_context(|| path.to_owned())?
    {
        to.write_all(&buffer[..n])?;
        at += n as u64;
    }
    Ok(to.flush()?)
}

fn put(fs: &Mounted, from: &Path, path: &str) -> Result<()> {
    if from == Path::new("-") {
        return fill(fs, &mut stdin(), path);
    }
    let mut file = File::open(from).with_context(|| from.display().to_string())?;
    fill(fs, &mut file, path)
}

/// Writes all that `from` gives to a file, made anew.
fn fill(fs: &Mounted, from: &mut impl Read, path: &str) -> Result<()> {
    if fs.stat(path).is_ok() {
        fs.unlink(path).with_context(|| path.to_owned())?;
    }
    let inode = fs.create(path, 0o644).with_context(|| path.to_owned())?;
    let (mut buffer, mut at) = (vec![0; PIECE], 0);
    while let n @ 1.. = from.read(&mut buffer)? {
        fs.write(&inode, at, &buffer[..n])
            .with_context(|| path.to_owned())?;
        at += n as u64;
    }
    Ok(())
}
