//! `nfit`, `pmem`: what the firmware describes, and what became of it.

use super::{Done, command, removal};
use crate::machine::Machine;
use crate::pmem::{Device, Pmem};
use crate::shell::{Args, Command, Fields, Out, Table, Value};
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use dax::nfit::{Nfit, Rejected, SpaKind};
use dax::pmem::{FlushOp, Persistence, Pmem as _};

pub const NFIT: Command<Machine> = command(
    "nfit",
    "",
    "shows the firmware's tables of persistent memory as found, and what was refused and why",
    "In JSON each object has a key `kind`: nfit, spa, device, control, hint, capabilities, region, rejected.",
    nfit,
);

pub const PMEM: Command<Machine> = command(
    "pmem",
    "[remove [PMEM] [--nowait] [--timeout MS] | add [PMEM]]",
    "shows the regions of persistent memory and their page metadata; takes a device out of service, or brings it back",
    "`persistence` says what makes a store durable. `metadata bytes` counts what exists now: it follows the pages in use.\n\
     `remove` takes every page of the device, by default pmem0, away from who maps it, waits for those who pin one, and lets\n\
     the file system go. From its beginning on nobody gets anything new; after --nowait or --timeout MS it has not ended and\n\
     names the page that is held: call it again. `add` brings the device back with all that was durable.",
    pmem,
);

fn nfit(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    args.end()?;
    let refused = refusals(machine.pmem);
    summary(machine.pmem, refused.len(), out);
    for (number, table) in machine.pmem.tables.nfits.iter().enumerate() {
        spas(number, table, out);
        devices(number, table, out);
        controls(number, table, out);
        hints(number, table, out);
        capabilities(number, table, out);
    }
    regions(machine.pmem, out);
    let mut table = Table::new(&["kind", "table", "offset", "why"], "");
    let rows = refused.len();
    refused
        .into_iter()
        .for_each(|r| table.row(["rejected".into()].into_iter().chain(r)));
    section(out, "refused", table, rows);
    Ok(())
}

/// All that was refused: where it was, at which byte, and why. Tables, pieces of them, ranges.
fn refusals(pmem: &Pmem) -> Vec<[Value; 3]> {
    let row = |table: &dyn ToString, r: &Rejected| {
        [
            table.to_string().into(),
            r.offset.into(),
            r.to_string().into(),
        ]
    };
    let whole = pmem.tables.refused.iter();
    let whole =
        whole.map(|(from, why)| [from.to_string().into(), Value::None, why.to_string().into()]);
    let pieces = pmem.tables.nfits.iter().enumerate();
    let pieces = pieces.flat_map(|(n, t)| t.rejected.iter().map(move |r| row(&n, r)));
    let ranges = pmem.discovery.rejected.iter().map(|(n, r)| row(n, r));
    whole.chain(pieces).chain(ranges).collect()
}

fn summary(pmem: &Pmem, rejected: usize, out: &Out) {
    let (tables, regions) = (pmem.tables.nfits.len(), pmem.discovery.regions.len());
    let skipped: u32 = pmem.tables.nfits.iter().map(|t| t.skipped).sum();
    let fields: Fields = vec![
        ("kind", "nfit".into()),
        ("tables", tables.into()),
        ("regions", regions.into()),
        ("rejected", rejected.into()),
        ("skipped", skipped.into()),
    ];
    let none = if tables == 0 {
        " (the firmware describes no persistent memory)"
    } else {
        ""
    };
    out.say(
        fields,
        format_args!("{tables} NFIT, {regions} regions, {rejected} refused{none}"),
    );
}

/// A table under a heading, unless it is empty.
fn section(out: &Out, heading: &str, table: Table, rows: usize) {
    if rows > 0 {
        out.heading(&format!("\n{heading}"));
        out.table(table);
    }
}

fn spas(number: usize, nfit: &Nfit, out: &Out) {
    let mut table = Table::new(
        &[
            "kind",
            "table",
            "spa",
            "type",
            "base",
            "length",
            "proximity",
            "attributes",
        ],
        "",
    );
    for s in &nfit.spas {
        let proximity = (s.flags & 2 != 0).then_some(s.proximity);
        let (base, length) = (Value::Hex(s.base), Value::Bytes(s.length));
        let head = [
            "spa".into(),
            number.into(),
            u32::from(s.index).into(),
            spa_kind(s.kind).into(),
            base,
            length,
        ];
        table.row(
            head.into_iter()
                .chain([proximity.into(), Value::Hex(s.attributes)]),
        );
    }
    section(out, "SPA ranges", table, nfit.spas.len());
}

fn spa_kind(kind: SpaKind) -> &'static str {
    match kind {
        SpaKind::Persistent => "persistent",
        SpaKind::Volatile => "volatile",
        SpaKind::Control => "control",
        SpaKind::BlockData => "block data",
        SpaKind::VirtualDisk => "virtual disk",
        SpaKind::Other(_) => "other",
    }
}

fn devices(number: usize, nfit: &Nfit, out: &Out) {
    let keys = &[
        "kind",
        "table",
        "handle",
        "spa",
        "control",
        "region_size",
        "region_offset",
        "ways",
        "armed",
        "flags",
    ];
    let mut table = Table::new(keys, "");
    for d in &nfit.devices {
        let armed = !d.flags.contains(dax::nfit::DeviceFlags::NOT_ARMED);
        table.row([
            "device".into(),
            number.into(),
            Value::Hex(d.handle.into()),
            u32::from(d.spa_index).into(),
            u32::from(d.control_index).into(),
            Value::Bytes(d.region_size),
            Value::Hex(d.region_offset),
            u32::from(d.ways).into(),
            armed.into(),
            Value::Hex(d.flags.bits().into()),
        ]);
    }
    section(out, "memory devices", table, nfit.devices.len());
}

fn controls(number: usize, nfit: &Nfit, out: &Out) {
    let mut table = Table::new(
        &[
            "kind",
            "table",
            "control",
            "vendor",
            "device",
            "revision",
            "serial",
            "interface",
        ],
        "",
    );
    for c in &nfit.controls {
        let id = [c.vendor, c.device, c.revision].map(|n| Value::Hex(n.into()));
        let head = ["control".into(), number.into(), u32::from(c.index).into()];
        let tail = [Value::Hex(c.serial.into()), Value::Hex(c.interface.into())];
        table.row(head.into_iter().chain(id).chain(tail));
    }
    section(out, "control regions", table, nfit.controls.len());
}

fn hints(number: usize, nfit: &Nfit, out: &Out) {
    let mut table = Table::new(&["kind", "table", "handle", "count", "addresses"], "");
    for h in &nfit.hints {
        let addresses: Vec<Value> = h.addresses.iter().map(|&a| Value::Hex(a)).collect();
        let count = u32::from(h.count).into();
        table.row([
            "hint".into(),
            number.into(),
            Value::Hex(h.handle.into()),
            count,
            Value::List(addresses),
        ]);
    }
    section(out, "flush hints", table, nfit.hints.len());
}

fn capabilities(number: usize, nfit: &Nfit, out: &Out) {
    let Some(c) = &nfit.capabilities else { return };
    let valid = c.valid();
    let mut table = Table::new(
        &[
            "kind",
            "table",
            "cpu_cache",
            "memory_controller",
            "mirroring",
            "raw",
        ],
        "",
    );
    table.row([
        "capabilities".into(),
        number.into(),
        valid.contains(dax::nfit::PlatformFlags::CPU_CACHE).into(),
        valid
            .contains(dax::nfit::PlatformFlags::MEMORY_CONTROLLER)
            .into(),
        valid.contains(dax::nfit::PlatformFlags::MIRRORING).into(),
        Value::Hex(c.raw.into()),
    ]);
    section(
        out,
        "platform capabilities (what survives a power failure)",
        table,
        1,
    );
}

/// What the tables come to: the regions, and what makes a store to each durable on this CPU.
fn regions(pmem: &Pmem, out: &Out) {
    let keys = &[
        "kind",
        "region",
        "base",
        "length",
        "writable",
        "stores_survive_in",
        "persistence",
    ];
    let mut table = Table::new(keys, "");
    for r in &pmem.discovery.regions {
        let durable = r.domain.persistence(FlushOp::of_this_cpu());
        table.row([
            "region".into(),
            r.id.into(),
            Value::Hex(r.base),
            Value::Bytes(r.length),
            r.read_only.is_none().into(),
            r.domain.to_string().into(),
            persistence(durable).into(),
        ]);
    }
    section(out, "regions", table, pmem.discovery.regions.len());
}

fn pmem(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    if args.word_if("remove") {
        return removal::remove(machine, args, out);
    }
    if args.word_if("add") {
        return removal::add(machine, args, out);
    }
    args.end()?;
    let keys = &[
        "name",
        "region",
        "base",
        "size",
        "mode",
        "align",
        "pages",
        "metadata_bytes",
        "policy",
        "state",
        "writable",
        "persistence",
        "mounted",
    ];
    let mut table = Table::new(keys, "no persistent memory");
    let mounted = machine.mounted().map(|m| m.device);
    for device in &machine.pmem.devices {
        table.row(pmem_row(device, mounted == Some(device.name)));
    }
    out.table(table);
    remarks(machine.pmem, out);
    Ok(())
}

fn pmem_row(device: &Device, mounted: bool) -> [Value; 13] {
    let pgmap = device.pgmap();
    let stats = pgmap.as_ref().map(|p| p.stats()).unwrap_or_default();
    let base = device.base.as_u64();
    let align = 1
        << base
            .trailing_zeros()
            .min(device.length.trailing_zeros())
            .min(30);
    [
        device.name.into(),
        device.region.into(),
        Value::Hex(base),
        Value::Bytes(device.length),
        "raw".into(),
        Value::Bytes(align),
        device.pages.pages().into(),
        Value::Bytes(stats.metadata_bytes),
        pgmap.as_ref().map(|p| p.policy()).into(),
        format!("{:?}", device.state()).to_lowercase().into(),
        device.memory.writable().into(),
        persistence(device.memory.persistence()).into(),
        mounted.into(),
    ]
}

/// Why regions are read-only or did not come up.
fn remarks(pmem: &Pmem, out: &Out) {
    for region in &pmem.discovery.regions {
        if let Some(why) = region.read_only {
            let fields = vec![
                ("region", region.id.into()),
                ("read_only", why.to_string().into()),
            ];
            out.say(
                fields,
                format_args!("region {} is read-only: {why}", region.id),
            );
        }
    }
    for (region, why) in &pmem.failed {
        let fields = vec![
            ("region", (*region).into()),
            ("failed", why.to_string().into()),
        ];
        out.say(
            fields,
            format_args!("region {region} did not come up: {why}"),
        );
    }
}

/// What a store takes to be durable.
pub fn persistence(p: Persistence) -> &'static str {
    match p {
        Persistence::CpuCache => "sfence",
        Persistence::MemoryController(FlushOp::Clwb) => "clwb+sfence",
        Persistence::MemoryController(FlushOp::ClflushOpt) => "clflushopt+sfence",
        Persistence::MemoryController(FlushOp::Clflush) => "clflush+sfence",
    }
}
