//! `bench`.

use super::{Done, Missing, command};
use crate::bench;
use crate::machine::{Fs, Machine, new_uuid};
use crate::shell::{Args, Command, CommandError, On, Out, Table};
use alloc::sync::Arc;
use dax::pmem::Pmem;
use fs::{MkfsError, MkfsOptions, mkfs};

pub const BENCH: Command<Machine> = command(
    "bench",
    "[FILTER] [--list]",
    "measures what operations cost: those whose names contain FILTER (or one of several, with commas), or all",
    "Uses the mounted file system, or mounts or makes one on the first region that can be written; needs 130 MiB of it free.\n\
     Where the machine counts instructions (the driver's --icount) figures are instructions, else times. docs/figures.md\n\
     says what each one is.",
    bench,
);

fn bench(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let list = args.flag("--list");
    let filter = args.optional().unwrap_or_default();
    args.end()?;
    if list {
        return show(&filter, out);
    }
    bench::run(file_system(machine)?, &filter, out)
}

fn show(filter: &str, out: &Out) -> Done {
    let mut table = Table::new(&["name", "unit"], "no benchmark's name contains it");
    for b in bench::matching(filter) {
        table.row([b.name.into(), b.unit.into()]);
    }
    out.table(table);
    Ok(())
}

/// The mounted file system, or that of the first device that can be written.
fn file_system(machine: &Arc<Machine>) -> Result<Arc<Fs>, CommandError> {
    if let Some(mounted) = machine.mounted() {
        return Ok(mounted.fs);
    }
    let mut devices = machine.pmem.devices.iter();
    let device = devices
        .find(|d| d.memory.writable())
        .ok_or(Missing::Pmem)
        .on(|| "bench")?;
    match mkfs(&*device.memory, &MkfsOptions::new(new_uuid())) {
        Ok(_) | Err(MkfsError::Exists) => machine.mount(device).on(|| "mount"),
        Err(e) => Err(CommandError::new("mkfs", e)),
    }
}
