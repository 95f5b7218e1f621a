//! `ls`, `extents`, and the commands that make, move and remove names.

use super::{Done, command, mounted, open};
use crate::machine::Machine;
use crate::shell::{Args, Command, Fields, On, Out, Table, Value};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use fs::error::LookupError;
use fs::{BLOCK_SIZE, Kind};

pub const LS: Command<Machine> = command("ls", "[PATH]", "lists a directory, by default /", "", ls);
pub const EXTENTS: Command<Machine> = command(
    "extents",
    "PATH",
    "shows where a file's storage is",
    "`index` and `pages` count pages of 4 KiB in the file, `pfn` is the frame of the first.",
    extents,
);
pub const MKDIR: Command<Machine> = command("mkdir", "PATH", "makes a directory", "", mkdir);
pub const RMDIR: Command<Machine> =
    command("rmdir", "PATH", "removes an empty directory", "", rmdir);
pub const RM: Command<Machine> = command(
    "rm",
    "PATH",
    "removes a name of a file",
    "A file that is mapped or pinned lives on without a name until the last user has gone.",
    rm,
);
pub const MV: Command<Machine> = command(
    "mv",
    "[--no-replace | --exchange] OLD NEW",
    "renames; an existing NEW is replaced",
    "--no-replace: fails if NEW exists. --exchange: NEW must exist, and each gets the name of the other. In one step, whichever it is.",
    mv,
);
pub const LN: Command<Machine> = command(
    "ln",
    "[-s] OLD NEW",
    "gives a file a second name; with -s makes a symbolic link",
    "-s: NEW is a link that says OLD, which need not lead anywhere. A path follows at most 40 links.",
    ln,
);

pub(super) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Dir => "directory",
        Kind::Symlink => "symlink",
        Kind::Fifo => "pipe",
        Kind::Socket => "socket",
        Kind::CharDev => "character device",
        Kind::BlockDev => "block device",
    }
}

fn ls(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let path = args.optional().unwrap_or_else(|| String::from("/"));
    args.end()?;
    let (fs, dir) = open(machine, &path)?;
    let mut table = Table::new(&["inode", "kind", "size", "name"], "empty");
    let mut cookie = 0;
    while let Some(entry) = fs.readdir(&dir, cookie).on(|| path.as_str())? {
        cookie = entry.cookie;
        let size = match fs.inode(entry.ino) {
            // Removed since the entry was read.
            Err(LookupError::NotFound) => continue,
            inode => inode.on(|| path.as_str())?.stat().size,
        };
        let name = String::from_utf8_lossy(entry.name.as_bytes()).into_owned();
        table.row([
            entry.ino.into(),
            kind_name(entry.kind).into(),
            Value::Bytes(size),
            name.into(),
        ]);
    }
    out.table(table);
    Ok(())
}

fn extents(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let path = args.word("PATH")?;
    args.end()?;
    let (fs, inode) = open(machine, &path)?;
    let mut table = Table::new(
        &["index", "pages", "block", "pfn", "length", "unwritten"],
        "no storage",
    );
    for e in fs.extents(&inode) {
        let pfn = inode
            .pfn(e.file)
            .map_or(Value::None, |p| Value::Hex(p.get()));
        let length = Value::Bytes(e.len * BLOCK_SIZE);
        table.row([
            e.file.into(),
            e.len.into(),
            e.phys.into(),
            pfn,
            length,
            e.unwritten.into(),
        ]);
    }
    out.table(table);
    Ok(())
}

/// What commands on one path report.
pub(super) fn did(path: String, what: &str, out: &Out) {
    let sentence = format!("{what} {path}");
    let fields: Fields = vec![("path", path.into())];
    out.say(fields, format_args!("{sentence}"));
}

fn mkdir(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let path = args.word("PATH")?;
    args.end()?;
    mounted(machine, &path)?
        .mkdir(&path, 0o755)
        .on(|| format!("mkdir {path}"))?;
    did(path, "made", out);
    Ok(())
}

fn rmdir(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let path = args.word("PATH")?;
    args.end()?;
    mounted(machine, &path)?
        .rmdir(&path)
        .on(|| format!("rmdir {path}"))?;
    did(path, "removed", out);
    Ok(())
}

fn rm(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let path = args.word("PATH")?;
    args.end()?;
    mounted(machine, &path)?
        .unlink(&path)
        .on(|| format!("rm {path}"))?;
    did(path, "removed", out);
    Ok(())
}

fn mv(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let exchange = args.flag("--exchange");
    // Both at once: the one that is left is refused as an option that `mv` does not have.
    let no_replace = !exchange && args.flag("--no-replace");
    let (old, new) = (args.word("OLD")?, args.word("NEW")?);
    args.end()?;
    let fs = mounted(machine, &old)?;
    let done = if exchange {
        fs.exchange(&old, &new)
    } else {
        fs.rename(&old, &new, !no_replace)
    };
    done.on(|| format!("mv {old} {new}"))?;
    let what = if exchange {
        format!("{old} has changed places with")
    } else {
        format!("{old} is now")
    };
    did(new, &what, out);
    Ok(())
}

fn ln(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let symbolic = args.flag("-s");
    let (old, new) = (args.word("OLD")?, args.word("NEW")?);
    args.end()?;
    let fs = mounted(machine, &old)?;
    let what = if symbolic {
        let made = fs.symlink(&new, old.as_bytes());
        made.on(|| format!("ln -s {old} {new}"))?;
        format!("{old} is what it says:")
    } else {
        fs.link(&old, &new).on(|| format!("ln {old} {new}"))?;
        format!("{old} is also")
    };
    did(new, &what, out);
    Ok(())
}
