//! `dma`: a transfer between a disk and a file's own pages, in the background.

use super::{Done, Missing, command, open};
use crate::machine::{Machine, Transfer};
use crate::shell::error::ArgProblem;
use crate::shell::{Args, Command, CommandError, On, Out, Value};
use crate::virtio::blk::{Direction, Disk};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;

pub const DMA: Command<Machine> = command(
    "dma",
    "read|write DISK SECTOR PATH OFF LEN [--delay MS]",
    "transfers between a disk and a file's pages, without a copy, in the background",
    "read: from the disk into the file. The pages are pinned at once, then (after the delay) the device is asked to\n\
     access them directly, and they are unpinned when it is done. Sectors have 512 bytes. `wait D` waits for the end.",
    dma,
);

fn dma(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let delay = args.number_option("--delay")?.unwrap_or(0);
    let direction = direction(args)?;
    let disk = disk(machine, args)?;
    let (sector, path) = (args.number("SECTOR")?, args.word("PATH")?);
    let (offset, length) = (args.size("OFF")?, args.size("LEN")?);
    args.end()?;
    let (_, inode) = open(machine, &path)?;
    let what = format!("dma {path}");
    let label = format!(
        "dma {} {} {sector} {path} {offset} {length}",
        name(direction),
        disk.index
    );
    let transfer = Transfer {
        direction,
        disk,
        sector,
        inode,
        offset,
        length,
        delay_us: delay.saturating_mul(1000),
    };
    let job = machine
        .start_transfer(transfer, label, Some(out.clone()))
        .on(|| what)?;
    let fields = vec![
        ("dma", job.id.into()),
        ("path", path.into()),
        ("offset", offset.into()),
        ("length", Value::Count(length)),
    ];
    out.say(fields, format_args!("dma {}", job.id));
    Ok(())
}

fn name(direction: Direction) -> &'static str {
    match direction {
        Direction::Read => "read",
        Direction::Write => "write",
    }
}

fn direction(args: &mut Args) -> Result<Direction, CommandError> {
    let word = args.word("read|write")?;
    match word.as_str() {
        "read" => Ok(Direction::Read),
        "write" => Ok(Direction::Write),
        _ => Err(args.error(ArgProblem::BadChoice {
            name: "direction",
            word,
            choices: "read, write",
        })),
    }
}

fn disk(machine: &Machine, args: &mut Args) -> Result<Arc<Disk>, CommandError> {
    let word = args.word("DISK")?;
    let digits = String::from(word.strip_prefix("disk").unwrap_or(&word));
    let index = args.converted("DISK", digits, crate::shell::number::parse_number)?;
    let disk = machine.disks.iter().find(|d| u64::from(d.index) == index);
    disk.cloned()
        .ok_or(Missing::Disk)
        .on(|| format!("disk {index}"))
}
