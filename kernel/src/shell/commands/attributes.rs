//! `stat`, `chmod`, `chown`, `touch`, `readlink`: what a file is, besides its content.

use super::names::kind_name;
use super::{Done, command, mounted, open};
use crate::machine::{Inode, Machine};
use crate::shell::number::{NumberError, parse_number, parse_octal};
use crate::shell::{Args, Command, CommandError, On, Out, Value};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use fs::SetAttr;
use fs::error::LookupError;

pub const STAT: Command<Machine> = command(
    "stat",
    "PATH [--nofollow] | --inode N",
    "shows the attributes of a file or directory",
    "A symbolic link is followed, unless --nofollow stands there. By number also a file without a name, as long as somebody uses it; \
     `df` counts those. Times are microseconds of the file system's clock; reading does not change the time of access.",
    stat,
);
pub const CHMOD: Command<Machine> = command(
    "chmod",
    "MODE PATH",
    "sets the permission bits of a file or directory",
    "MODE is octal, up to 7777. Nobody checks permissions here: they are for who mounts the image.",
    chmod,
);
pub const CHOWN: Command<Machine> = command(
    "chown",
    "UID[:GID] PATH",
    "sets the owner of a file or directory",
    "UID and GID are numbers.",
    chown,
);
pub const TOUCH: Command<Machine> = command(
    "touch",
    "PATH",
    "sets the times of access and content to now; makes an empty file if there is none",
    "",
    touch,
);
pub const READLINK: Command<Machine> = command(
    "readlink",
    "PATH",
    "shows where a symbolic link leads",
    "",
    readlink,
);

/// The inode at a path, or of a number.
fn by_path_or_number(
    machine: &Machine,
    args: &mut Args,
) -> Result<(String, Arc<Inode>), CommandError> {
    let nofollow = args.flag("--nofollow");
    let Some(number) = args.number_option("--inode")? else {
        let path = args.word("PATH")?;
        args.end()?;
        let fs = mounted(machine, &path)?;
        let found = if nofollow {
            fs.open_nofollow(&path)
        } else {
            fs.open(&path)
        };
        return Ok((path.clone(), found.on(|| path)?));
    };
    args.end()?;
    let what = format!("inode {number}");
    let fs = mounted(machine, &what)?;
    let ino = u32::try_from(number).map_err(|_| LookupError::NotFound);
    let inode = ino.and_then(|ino| fs.inode(ino)).on(|| what.as_str())?;
    Ok((what, inode))
}

fn stat(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let (path, inode) = by_path_or_number(machine, args)?;
    let s = inode.stat();
    out.record(vec![
        ("path", path.into()),
        ("inode", s.ino.into()),
        ("generation", s.generation.into()),
        ("kind", kind_name(s.kind).into()),
        ("size", Value::Bytes(s.size)),
        ("blocks", s.blocks.into()),
        ("links", s.nlink.into()),
        ("mode", format!("{:o}", s.mode).into()),
        ("uid", s.uid.into()),
        ("gid", s.gid.into()),
        ("rdev", Value::Hex(s.rdev.into())),
        ("mappings", inode.mapping().attachments().into()),
        ("locked", inode.is_locked().into()),
        ("atime_us", Value::Micros(s.atime / 1000)),
        ("mtime_us", Value::Micros(s.mtime / 1000)),
        ("ctime_us", Value::Micros(s.ctime / 1000)),
    ]);
    Ok(())
}

/// Changes attributes of a path, and says so.
fn set(machine: &Machine, path: String, name: &str, change: &SetAttr, out: &Out) -> Done {
    let (fs, inode) = open(machine, &path)?;
    let s = fs.setattr(&inode, change).on(|| format!("{name} {path}"))?;
    let sentence = format!("{path}: mode {:o}, owner {}:{}", s.mode, s.uid, s.gid);
    let fields = vec![
        ("path", path.into()),
        ("mode", format!("{:o}", s.mode).into()),
        ("uid", s.uid.into()),
        ("gid", s.gid.into()),
    ];
    out.say(fields, format_args!("{sentence}"));
    Ok(())
}

fn chmod(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let mode = args.word("MODE")?;
    let mode = args.converted("MODE", mode, |word| parse_octal(word, 0o7777))?;
    let path = args.word("PATH")?;
    args.end()?;
    let change = SetAttr {
        mode: Some(mode as u16),
        ..SetAttr::default()
    };
    set(machine, path, "chmod", &change, out)
}

fn chown(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let owner = args.word("UID")?;
    let (uid, gid) = match owner.split_once(':') {
        Some((uid, gid)) => (uid, Some(gid)),
        None => (owner.as_str(), None),
    };
    let uid = Some(id(args, "UID", uid)?);
    let gid = gid.map(|gid| id(args, "GID", gid)).transpose()?;
    let path = args.word("PATH")?;
    args.end()?;
    let change = SetAttr {
        uid,
        gid,
        ..SetAttr::default()
    };
    set(machine, path, "chown", &change, out)
}

/// A number of 32 bits.
fn id(args: &Args, name: &'static str, word: &str) -> Result<u32, CommandError> {
    args.converted(name, word.into(), |word| {
        let number = parse_number(word)?;
        let max = u32::MAX.into();
        u32::try_from(number).map_err(|_| NumberError::TooLarge { max })
    })
}

fn touch(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let path = args.word("PATH")?;
    args.end()?;
    let fs = mounted(machine, &path)?;
    match fs.open(&path) {
        Err(LookupError::NotFound) => {
            fs.create(&path, 0o644).on(|| format!("touch {path}"))?;
            super::names::did(path, "made", out);
            Ok(())
        }
        Err(error) => Err(error).on(|| path),
        Ok(_) => {
            let now = Some(fs.now());
            let change = SetAttr {
                atime: now,
                mtime: now,
                ..SetAttr::default()
            };
            set(machine, path, "touch", &change, out)
        }
    }
}

fn readlink(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let path = args.word("PATH")?;
    args.end()?;
    let fs = mounted(machine, &path)?;
    let link = fs.open_nofollow(&path).on(|| path.as_str())?;
    let mut text = vec![0; link.stat().size.min(4096) as usize];
    let n = link.readlink(&mut text).on(|| path.as_str())?;
    let target = String::from_utf8_lossy(&text[..n]).into_owned();
    let fields = vec![("path", path.into()), ("target", target.clone().into())];
    out.say(fields, format_args!("{target}"));
    Ok(())
}
