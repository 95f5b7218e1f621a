//! `poison`, `badblocks`: media errors, put into the list that the region's memory keeps, for tests and lessons.

use super::volume::device;
use super::{Done, Missing, command, open};
use crate::machine::Machine;
use crate::shell::{Args, Command, On, Out, Value};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use dax::pmem::LINE;
use fs::BLOCK_SIZE;
use fs::extents::Spot;

pub const POISON: Command<Machine> = command(
    "poison",
    "PATH OFF",
    "makes the 64 bytes around an offset of a file unreadable, as a media error does",
    "Reads of that block fail, and a mapped page is taken from everybody: accesses get an error. Other blocks are not touched.\n\
     Writing the bytes whole mends them (`write PATH OFF ...`, `fill`). The memory itself is sound: only the list says that it is not.",
    poison,
);

pub const BADBLOCKS: Command<Machine> = command(
    "badblocks",
    "[PMEM]",
    "lists the bytes of a pmem device that cannot be read, by default of pmem0",
    "",
    badblocks,
);

fn poison(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let (path, off) = (args.word("PATH")?, args.size("OFF")?);
    args.end()?;
    let (fs, inode) = open(machine, &path)?;
    let Spot::Extent(extent) = inode.spot(off / BLOCK_SIZE) else {
        return Err(Missing::Storage).on(|| format!("poison {path}"));
    };
    let at = extent.phys * BLOCK_SIZE + off % BLOCK_SIZE / LINE * LINE;
    let marked = fs.pmem().mark_bad(at..at + LINE);
    marked.on(|| format!("poison {path}"))?;
    let lost = fs.lost(at..at + LINE);
    let fields = vec![
        ("path", path.clone().into()),
        ("offset", Value::Hex(at)),
        ("unmapped", lost.unmapped.into()),
        ("pinned", lost.pinned.into()),
    ];
    let (unmapped, pinned) = (lost.unmapped, lost.pinned);
    out.say(
        fields,
        format_args!("{path}: {LINE} bytes at offset {at:#x} of the region are bad, {unmapped} pages unmapped, {pinned} pinned"),
    );
    Ok(())
}

fn badblocks(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let device = device(machine, args)?;
    args.end()?;
    let (name, mut ranges) = (device.name, 0u64);
    for bad in device.memory.bad_ranges() {
        ranges += 1;
        let bytes = bad.end - bad.start;
        let fields = vec![
            ("name", name.into()),
            ("offset", Value::Hex(bad.start)),
            ("bytes", Value::Bytes(bytes)),
        ];
        let start = bad.start;
        out.say(
            fields,
            format_args!("{name}: {bytes} bytes at offset {start:#x}"),
        );
    }
    let fields = vec![("name", name.into()), ("ranges", ranges.into())];
    out.say(fields, format_args!("{name}: {ranges} bad ranges"));
    Ok(())
}
