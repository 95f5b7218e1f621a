//! `mkfs`, `mount`, `umount`, `df`.

use super::{Done, Missing, command, mounted};
use crate::machine::{Machine, new_uuid};
use crate::pmem::{Device, DeviceState};
use crate::shell::{Args, Command, CommandError, On, Out, Value};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use fs::{MkfsOptions, mkfs as make};

pub const MKFS: Command<Machine> = command(
    "mkfs",
    "[PMEM] [--force]",
    "makes a file system on a pmem device, by default pmem0",
    "--force overwrites one that is there.",
    mkfs,
);

pub const MOUNT: Command<Machine> = command(
    "mount",
    "[PMEM]",
    "mounts the file system of a pmem device, by default pmem0",
    "A device that may not be written is mounted read-only, and it says why.",
    mount,
);

pub const UMOUNT: Command<Machine> = command(
    "umount",
    "",
    "unmounts the file system",
    "It stays mounted while a file is mapped or pinned.",
    umount,
);

pub const DF: Command<Machine> = command(
    "df",
    "",
    "shows the file system's space and inodes",
    "`quarantined` counts blocks that are freed, but whose pages somebody may still hold.",
    df,
);

/// The device that a command names, or the first: `pmem0`, or its number.
pub(super) fn device(machine: &Machine, args: &mut Args) -> Result<&'static Device, CommandError> {
    let Some(word) = args.optional() else {
        return machine
            .pmem
            .devices
            .first()
            .ok_or(Missing::Pmem)
            .on(|| "pmem");
    };
    let number = word.strip_prefix("pmem").unwrap_or(&word);
    let found = machine
        .pmem
        .devices
        .iter()
        .find(|d| d.name.strip_prefix("pmem") == Some(number));
    found.ok_or(Missing::Device).on(|| word.as_str())
}

/// Refuses a device that is mounted, removed, or being removed. Under the volume lock.
pub(super) fn unused(machine: &Machine, device: &Device, what: impl FnOnce() -> String) -> Done {
    match device.state() {
        DeviceState::Removing | DeviceState::Removed => Err(Missing::Removed).on(what),
        DeviceState::Live if machine.mounted().is_some_and(|m| m.device == device.name) => {
            Err(Missing::Unmounted).on(what)
        }
        DeviceState::Live => Ok(()),
    }
}

fn mkfs(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let force = args.flag("--force");
    let device = device(machine, args)?;
    args.end()?;
    let name = device.name;
    let _steady = machine.steady();
    unused(machine, device, || format!("mkfs {name}"))?;
    let options = MkfsOptions {
        force,
        ..MkfsOptions::new(new_uuid())
    };
    let made = make(&*device.memory, &options).on(|| format!("mkfs {name}"))?;
    let (blocks, inodes) = (made.blocks, made.inodes);
    let size = Value::Bytes(device.length);
    let fields = vec![
        ("name", name.into()),
        ("size", size.clone()),
        ("blocks", blocks.into()),
        ("inodes", inodes.into()),
        ("data_block", made.data_block.into()),
    ];
    out.say(
        fields,
        format_args!("{name}: file system of {size}, {blocks} blocks, {inodes} inodes"),
    );
    Ok(())
}

/// What keeps a device from being written: its region says why, or the namespace does.
fn why_read_only(machine: &Machine, device: &Device) -> String {
    let regions = &machine.pmem.discovery.regions;
    let region = regions.iter().find(|region| region.id == device.region);
    let why = region.and_then(|region| region.read_only);
    why.map_or_else(
        || String::from("its namespace is for reading only"),
        |why| why.to_string(),
    )
}

fn mount(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let device = device(machine, args)?;
    args.end()?;
    let name = device.name;
    let fs = machine.mount(device).on(|| format!("mount {name}"))?;
    let report = fs.mount_report();
    let (replayed, inodes) = (report.replayed, report.inodes);
    let why = report.read_only.then(|| why_read_only(machine, device));
    let mode = why
        .as_ref()
        .map_or(String::new(), |why| format!(", read-only: {why}"));
    let fields = vec![
        ("name", name.into()),
        ("replayed", replayed.into()),
        ("inodes", inodes.into()),
        ("read_only", report.read_only.into()),
        ("why", why.map_or(Value::None, Value::from)),
    ];
    out.say(
        fields,
        format_args!("{name}: mounted{mode}, {inodes} inodes in use, {replayed} records replayed"),
    );
    Ok(())
}

fn umount(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    args.end()?;
    let name = machine.umount().on(|| "umount")?;
    out.say(
        vec![("name", name.into())],
        format_args!("{name}: unmounted"),
    );
    Ok(())
}

fn df(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    args.end()?;
    let fs = mounted(machine, "df")?;
    fs.settle();
    let s = fs.statfs();
    out.record(vec![
        ("size", Value::Bytes(s.blocks * s.block_size)),
        ("free", Value::Bytes(s.space.free * s.block_size)),
        ("blocks", s.blocks.into()),
        ("free_blocks", s.space.free.into()),
        ("free_2m", s.space.free_2m.into()),
        ("free_1g", s.space.free_1g.into()),
        ("aligned_percent", s.space.aligned_percent().into()),
        ("reserved", s.reserved.into()),
        ("quarantined", s.quarantined.into()),
        ("inodes", s.inodes.into()),
        ("inodes_used", s.inodes_used.into()),
        ("orphans", s.orphans.into()),
        ("read_only", fs.mount_report().read_only.into()),
    ]);
    Ok(())
}
