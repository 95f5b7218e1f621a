//! `mmap` and what is done with mappings; `pin`, `unpin`, `pins`.

use super::{Done, Missing, command, open};
use crate::machine::{Answer, Machine, Map, Term};
use crate::shell::error::ArgProblem;
use crate::shell::{Args, Command, CommandError, On, Out, Table, Value};
use crate::uaccess;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use mm::addr::VirtAddr;

/// The grace period of a lease for which none is said, in milliseconds.
const DEFAULT_GRACE_MS: u64 = 1000;

pub const MMAP: Command<Machine> = command(
    "mmap",
    "PATH [OFF LEN] [--sync]",
    "maps a file, or a range of it, for loads and stores",
    "Every mapping is synchronous: metadata is durable before a page becomes writable, so --sync changes nothing.",
    mmap,
);
pub const MAPS: Command<Machine> = command("maps", "", "lists the mappings", "", maps);
pub const LOAD: Command<Machine> = command(
    "load",
    "M OFF",
    "loads a byte through a mapping",
    "OFF counts from the start of the mapping.",
    load,
);
pub const STORE: Command<Machine> = command(
    "store",
    "M OFF BYTE",
    "stores a byte through a mapping",
    "The store is durable after `msync`. OFF counts from the start of the mapping.",
    store,
);
pub const MSYNC: Command<Machine> = command(
    "msync",
    "M",
    "makes the stores through a mapping durable",
    "",
    msync,
);
pub const MUNMAP: Command<Machine> = command("munmap", "M", "ends a mapping", "", munmap);
pub const PIN: Command<Machine> = command(
    "pin",
    "PATH OFF LEN [--longterm [--revoke[=drop|ignore]] [--grace MS]]",
    "pins the pages of a range of a file, as a driver does for DMA",
    "They stay pinned until `unpin`, whatever becomes of mappings and names.\n\
     --longterm says that it may be for ever; that is refused without a way to end it. --revoke gives one, a lease: whoever needs the\n\
     storage asks the holder to let go, who ends the pin (=drop, what --revoke alone means) or does nothing (=ignore). After the\n\
     grace period (1000 ms unless --grace says otherwise) a holder that has not let go is named.",
    pin,
);
pub const UNPIN: Command<Machine> = command("unpin", "P", "ends a pin", "", unpin);
pub const PINS: Command<Machine> = command("pins", "", "lists the pins", "", pins);

fn mmap(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    args.flag("--sync");
    let path = args.word("PATH")?;
    let off = args.optional_size("OFF")?;
    let len = off.map(|_| args.size("LEN")).transpose()?;
    args.end()?;
    let (_, inode) = open(machine, &path)?;
    let off = off.unwrap_or(0);
    let len = len.unwrap_or_else(|| inode.stat().size);
    let map = machine
        .add_map(path.clone(), inode, off, len)
        .on(|| format!("mmap {path}"))?;
    let (id, va) = (map.id, map.window.start().as_u64());
    let fields = vec![
        ("map", id.into()),
        ("path", path.into()),
        ("va", Value::Hex(va)),
        ("offset", off.into()),
        ("length", len.into()),
    ];
    out.say(fields, format_args!("map {id} at {va:#x}"));
    Ok(())
}

fn maps(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    args.end()?;
    let mut table = Table::new(&["map", "va", "offset", "length", "path"], "no mappings");
    machine.maps(|m| {
        let va = Value::Hex(m.window.start().as_u64());
        table.row([
            m.id.into(),
            va,
            m.offset.into(),
            m.window.len().into(),
            m.path.clone().into(),
        ]);
    });
    out.table(table);
    Ok(())
}

/// The mapping that is named next.
fn map_arg(machine: &Machine, args: &mut Args) -> Result<Arc<Map>, CommandError> {
    let id = args.number("M")?;
    machine
        .map(id)
        .ok_or(Missing::Map)
        .on(|| format!("map {id}"))
}

/// The address of an offset into a mapping.
fn address(map: &Map, off: u64) -> Result<VirtAddr, Missing> {
    match off < map.window.len() {
        true => Ok(map.window.start() + off),
        false => Err(Missing::Offset),
    }
}

fn load(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let (map, off) = (map_arg(machine, args)?, args.size("OFF")?);
    args.end()?;
    let what = || format!("load {} {off}", map.id);
    let value = uaccess::load8(address(&map, off).on(what)?).on(what)?;
    let fields = vec![
        ("map", map.id.into()),
        ("offset", off.into()),
        ("value", u32::from(value).into()),
    ];
    out.say(fields, format_args!("{value:#04x}"));
    Ok(())
}

fn store(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let (map, off) = (map_arg(machine, args)?, args.size("OFF")?);
    let value = args.number_up_to("BYTE", 255)? as u8;
    args.end()?;
    let what = || format!("store {} {off}", map.id);
    uaccess::store8(address(&map, off).on(what)?, value).on(what)?;
    let fields = vec![
        ("map", map.id.into()),
        ("offset", off.into()),
        ("value", u32::from(value).into()),
    ];
    out.say(fields, format_args!("{value:#04x} stored"));
    Ok(())
}

fn msync(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let map = map_arg(machine, args)?;
    args.end()?;
    let synced = map.inode.msync(map.offset, map.window.len());
    let pages = synced.on(|| format!("msync {}", map.id))?;
    let fields = vec![("map", map.id.into()), ("pages", pages.into())];
    out.say(
        fields,
        format_args!("map {}: {pages} pages made durable", map.id),
    );
    Ok(())
}

fn munmap(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let id = args.number("M")?;
    args.end()?;
    let map = machine
        .remove_map(id)
        .ok_or(Missing::Map)
        .on(|| format!("map {id}"))?;
    drop(map);
    machine.reap();
    out.say(vec![("map", id.into())], format_args!("map {id} ended"));
    Ok(())
}

/// `--longterm` and what belongs to it.
fn term(args: &mut Args) -> Result<Term, CommandError> {
    let long = args.flag("--longterm");
    let ignore = args.flag("--revoke=ignore");
    let leased = args.flag("--revoke") | args.flag("--revoke=drop") | ignore;
    let grace = args.number_option("--grace")?;
    let answer = if ignore { Answer::Ignore } else { Answer::Drop };
    match (long, leased, grace) {
        (false, false, None) => Ok(Term::Short),
        (false, ..) => Err(args.error(ArgProblem::Needs {
            option: if leased { "--revoke" } else { "--grace" },
            needed: "--longterm",
        })),
        (true, false, Some(_)) => Err(args.error(ArgProblem::Needs {
            option: "--grace",
            needed: "--revoke",
        })),
        (true, false, None) => Ok(Term::Long),
        (true, true, grace) => Ok(Term::Leased {
            answer,
            grace_us: grace.unwrap_or(DEFAULT_GRACE_MS).saturating_mul(1000),
        }),
    }
}

fn pin(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let term = term(args)?;
    let (path, off, len) = (args.word("PATH")?, args.size("OFF")?, args.size("LEN")?);
    args.end()?;
    let (_, inode) = open(machine, &path)?;
    let (id, pages) = machine
        .add_pin(path.clone(), &inode, (off, len), term)
        .on(|| format!("pin {path}"))?;
    let fields = vec![
        ("pin", id.into()),
        ("path", path.into()),
        ("offset", off.into()),
        ("length", len.into()),
        ("pages", pages.into()),
    ];
    out.say(fields, format_args!("pin {id}"));
    Ok(())
}

fn unpin(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let id = args.number("P")?;
    args.end()?;
    machine
        .remove_pin(id)
        .ok_or(Missing::Pin)
        .on(|| format!("unpin {id}"))?;
    out.say(vec![("pin", id.into())], format_args!("pin {id} ended"));
    Ok(())
}

fn pins(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    args.end()?;
    let mut table = Table::new(
        &[
            "pin", "holder", "pfn", "pages", "offset", "length", "lease", "grace_us", "revoked",
            "path",
        ],
        "no pins",
    );
    machine.pins(|p| {
        let first = p
            .pages
            .pfns()
            .next()
            .map_or(Value::None, |p| Value::Hex(p.get()));
        let (lease, state) = (p.lease.as_ref(), p.pages.leases().next());
        table.row([
            p.id.into(),
            format!("pin {}", p.id).into(),
            first,
            p.pages.pages().into(),
            p.offset.into(),
            p.length.into(),
            lease.map(|l| l.answer().word()).into(),
            state.map_or(Value::None, |s| Value::Micros(s.grace_us)),
            state.is_some_and(|s| s.is_revoked()).into(),
            p.path.clone().into(),
        ]);
    });
    out.table(table);
    Ok(())
}
