//! `holdfast fs info` and `holdfast fs ls`.

use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use clap::Args;
use fs::dir::DirEntry;
use fs::{Kind, Stat};
use serde_json::{Value, json};

use super::mounted::{Mounted, Node, look};
use super::show::{Form, hex};

/// Tells what the file system holds, as a mount would find it; changes nothing.
#[derive(Args, Debug)]
pub struct Info {
    /// The image.
    image: PathBuf,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

impl Info {
    /// Does it.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn run(&self) -> Result<()> {
        look(&self.image, |fs| {
            Form::new(self.json).record(&facts(fs));
            Ok(())
        })
    }
}

fn facts(fs: &Mounted) -> Value {
    let (found, space, g) = (fs.mount_report(), fs.statfs(), fs.geometry());
    let other = found.superblock.as_ref().map(ToString::to_string);
    json!({
        "uuid": hex(fs.uuid()),
        "bytes": g.blocks() * space.block_size,
        "block_size": space.block_size,
        "blocks": space.blocks,
        "free": space.space.free,
        "free_2m": space.space.free_2m,
        "free_1g": space.space.free_1g,
        "aligned_percent": space.space.aligned_percent(),
        "reserved": space.reserved,
        "fragments": space.space.fragments,
        "inodes": space.inodes,
        "inodes_used": space.inodes_used,
        "ring_slots": g.ring_slots(),
        "records_replayed": found.replayed,
        "records_torn": found.torn,
        "superblocks": other.map_or_else(|| "both whole".into(), |why| format!("one whole; {why}")),
    })
}

/// Lists a directory, or tells of a file; changes nothing.
#[derive(Args, Debug)]
pub struct Ls {
    /// The image.
    image: PathBuf,
    /// The directory or file.
    #[arg(default_value = "/")]
    path: String,
    /// Mode, links, owner, group, size and time of change of the content, too.
    #[arg(short, long)]
    long: bool,
    /// One JSON object for each.
    #[arg(long)]
    json: bool,
}

impl Ls {
    /// Does it.
    ///
    /// # Errors
    /// When there is nothing at the path.
    pub fn run(&self) -> Result<()> {
        look(&self.image, |fs| {
            let node = fs
                .open_nofollow(&self.path)
                .with_context(|| self.path.clone())?;
            if node.kind() != Kind::Dir {
                return self.show(&self.path, &node);
            }
            for entry in entries(fs, &node)? {
                let name = String::from_utf8_lossy(entry.name.as_bytes());
                self.show(&name, &*fs.inode(entry.ino)?)?;
            }
            Ok(())
        })
    }

    fn show(&self, name: &str, node: &Node) -> Result<()> {
        let (stat, target) = (node.stat(), target(node)?);
        if self.json {
            Form::new(true).row(&object(name, &stat, target.as_deref()));
            return Ok(());
        }
        let mark = if stat.kind == Kind::Dir { "/" } else { "" };
        let arrow = target.map_or_else(String::new, |target| format!(" -> {target}"));
        match self.long {
            true => println!("{} {name}{mark}{arrow}", long(&stat)),
            false => println!("{:6} {:>14}  {name}{mark}", stat.ino, stat.size),
        }
        Ok(())
    }
}

fn long(stat: &Stat) -> String {
    let time = UNIX_EPOCH + std::time::Duration::from_nanos(stat.mtime);
    format!(
        "{}{:04o} {:3} {:5} {:5} {:>14} {}",
        letter(stat.kind),
        stat.mode & 0o7777,
        stat.nlink,
        stat.uid,
        stat.gid,
        stat.size,
        humantime::format_rfc3339_seconds(time),
    )
}

fn object(name: &str, stat: &Stat, target: Option<&str>) -> Value {
    json!({
        "name": name,
        "ino": stat.ino,
        "generation": stat.generation,
        "kind": letter(stat.kind).to_string(),
        "mode": format!("{:04o}", stat.mode & 0o7777),
        "links": stat.nlink,
        "uid": stat.uid,
        "gid": stat.gid,
        "size": stat.size,
        "blocks": stat.blocks,
        "atime_ns": stat.atime,
        "mtime_ns": stat.mtime,
        "ctime_ns": stat.ctime,
        "target": target,
    })
}

/// The letter of `ls -l`.
pub const fn letter(kind: Kind) -> char {
    match kind {
        Kind::File => '-',
        Kind::Dir => 'd',
        Kind::Symlink => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::CharDev => 'c',
        Kind::BlockDev => 'b',
    }
}

/// The text of a symbolic link.
fn target(node: &Node) -> Result<Option<String>> {
    if node.kind() != Kind::Symlink {
        return Ok(None);
    }
    let mut text = vec![0; node.stat().size as usize];
    let len = node.readlink(&mut text)?;
    Ok(Some(String::from_utf8_lossy(&text[..len]).into_owned()))
}

/// The entries of a directory, by name.
fn entries(fs: &Mounted, directory: &Node) -> Result<Vec<DirEntry>> {
    let (mut list, mut cookie) = (Vec::new(), 0);
    while let Some(entry) = fs.readdir(directory, cookie)? {
        cookie = entry.cookie;
        list.push(entry);
    }
    list.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    Ok(list)
}
