//! `page`, `pages`: the metadata of device pages.

use super::{Done, Missing, command, open};
use crate::machine::Machine;
use crate::shell::number::parse_size;
use crate::shell::{Args, Command, CommandError, Fields, On, Out, Value};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use mm::addr::{PAGE_SIZE, Pfn};
use mm::pgmap::PgmapStats;

pub const PAGE: Command<Machine> = command(
    "page",
    "PFN|PATH:OFF",
    "shows one page: its folio, who maps and pins it, whose it is",
    "PFN is a frame number, decimal or 0x hexadecimal. PATH:OFF is the page at that byte of a file; `/f` alone is `/f:0`.\n\
     A page without metadata is idle: that is what it means.",
    page,
);

pub const PAGES: Command<Machine> = command(
    "pages",
    "",
    "shows totals over all device pages",
    "`metadata bytes` is the memory that page metadata takes now.",
    pages,
);

fn page(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let word = args.word("PFN|PATH:OFF")?;
    args.end()?;
    let pfn = match word.starts_with('/') {
        true => pfn_of_path(machine, args, &word)?,
        false => args.converted("PFN", word.clone(), crate::shell::number::parse_number)?,
    };
    let pfn = Pfn::new(pfn).ok_or(Missing::Page).on(|| word.as_str())?;
    out.record(page_fields(machine, pfn).on(|| word)?);
    Ok(())
}

fn pfn_of_path(machine: &Arc<Machine>, args: &Args, word: &str) -> Result<u64, CommandError> {
    let (path, off) = word.rsplit_once(':').unwrap_or((word, "0"));
    let off = args.converted("OFF", String::from(off), parse_size)?;
    let (_, inode) = open(machine, path)?;
    Ok(inode
        .pfn(off / PAGE_SIZE)
        .ok_or(Missing::Storage)
        .on(|| word)?
        .get())
}

/// All that is known of a page.
fn page_fields(machine: &Machine, pfn: Pfn) -> Result<Fields, Missing> {
    let device = machine.device_of(pfn).ok_or(Missing::Page)?;
    let pgmap = device.pgmap().ok_or(Missing::Removed)?;
    let folio = pgmap.folio(pfn);
    let (head, size) = folio.map_or((pfn, mm::addr::PageSize::Size4K), |f| (f.pfn(), f.size()));
    let counts = folio.map(|f| f.counts()).unwrap_or_default();
    let owner = pgmap.owner_of(pfn);
    Ok(vec![
        ("pfn", Value::Hex(pfn.get())),
        ("device", device.name.into()),
        ("head", Value::Hex(head.get())),
        ("order", u32::from(size.order()).into()),
        ("mapped", counts.mapped.into()),
        ("pinned", counts.pinned.into()),
        ("inode", owner.map(|o| o.inode).into()),
        ("index", owner.map(|o| o.index).into()),
        (
            "poisoned",
            folio.is_some_and(|f| f.head().is_poisoned()).into(),
        ),
        ("metadata", folio.is_some().into()),
        (
            "holder",
            machine.holders.of_folio(head, size.pages()).into(),
        ),
    ])
}

fn pages(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    args.end()?;
    let total = machine
        .pmem
        .devices
        .iter()
        .filter_map(|d| Some(d.pgmap()?.stats()))
        .fold(PgmapStats::default(), add);
    out.record(vec![
        ("pages", total.pages.into()),
        ("idle", total.idle.into()),
        ("mapped", total.mapped.into()),
        ("pinned", total.pinned.into()),
        ("populated_sections", total.populated_sections.into()),
        ("metadata_bytes", Value::Bytes(total.metadata_bytes)),
    ]);
    Ok(())
}

fn add(a: PgmapStats, b: PgmapStats) -> PgmapStats {
    PgmapStats {
        pages: a.pages + b.pages,
        idle: a.idle + b.idle,
        mapped: a.mapped + b.mapped,
        pinned: a.pinned + b.pinned,
        populated_sections: a.populated_sections + b.populated_sections,
        metadata_bytes: a.metadata_bytes + b.metadata_bytes,
    }
}
