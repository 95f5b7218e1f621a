//! `truncate`, `punch`: taking a file's storage away, which waits for whoever holds its pages.

use super::{CutFailure, Done, command, open};
use crate::machine::Machine;
use crate::shell::{Args, Command, CommandError, On, Out, Value};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use dax::layout::{BreakReport, How};
use fs::TruncateReport;
use fs::error::TruncateError;
use mm::addr::PageSize;
use mm::sync::Wait;

const HELP: &str = "A page that is pinned is waited for, holding no lock; `retries` counts how often it was found so.\n\
    --nowait refuses instead, --timeout MS gives up after that time; both leave the file as it was and name the page\n\
    and its holder.";

pub const TRUNCATE: Command<Machine> = command(
    "truncate",
    "PATH SIZE [--nowait] [--timeout MS]",
    "makes a file shorter or longer",
    HELP,
    truncate,
);

pub const PUNCH: Command<Machine> = command(
    "punch",
    "PATH OFF LEN [--nowait] [--timeout MS]",
    "makes a hole in a file",
    HELP,
    punch,
);

/// `--nowait` or `--timeout`.
pub(super) fn how(args: &mut Args) -> Result<How<'static>, CommandError> {
    let nowait = args.flag("--nowait");
    let timeout = args.number_option("--timeout")?;
    Ok(match (nowait, timeout) {
        (true, _) => How::NoWait,
        (false, Some(ms)) => How::Wait(Wait::for_us(ms.saturating_mul(1000))),
        (false, None) => How::Wait(Wait::forever()),
    })
}

fn truncate(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let how = how(args)?;
    let (path, size) = (args.word("PATH")?, args.size("SIZE")?);
    args.end()?;
    let (fs, inode) = open(machine, &path)?;
    let done = fs.truncate(&inode, size, how, &mut BreakReport::default());
    let report = named(machine, done).on(|| format!("truncate {path}"))?;
    show(path, inode.stat().size, report, out);
    Ok(())
}

fn punch(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let how = how(args)?;
    let (path, off, len) = (args.word("PATH")?, args.size("OFF")?, args.size("LEN")?);
    args.end()?;
    let (fs, inode) = open(machine, &path)?;
    let done = fs.punch(&inode, off, len, how, &mut BreakReport::default());
    let report = named(machine, done).on(|| format!("punch {path}"))?;
    show(path, inode.stat().size, report, out);
    Ok(())
}

/// Adds to an error the name of who holds the page in the way.
fn named<T>(machine: &Machine, done: Result<T, TruncateError>) -> Result<T, CutFailure> {
    done.map_err(|error| CutFailure {
        holder: holder(machine, &error),
        error,
    })
}

fn holder(machine: &Machine, error: &TruncateError) -> Option<String> {
    let TruncateError::Break(e) = error else {
        return None;
    };
    let head = e.held().pfn;
    let pgmap = machine.device_of(head)?.pgmap()?;
    let size = pgmap.folio(head).map_or(PageSize::Size4K, |f| f.size());
    machine.holders.of_folio(head, size.pages())
}

fn show(path: String, size: u64, r: TruncateReport, out: &Out) {
    let (retries, waited, freed) = (r.retries, Value::Micros(r.waited_us), r.freed_blocks);
    let fields = vec![
        ("path", path.clone().into()),
        ("size", size.into()),
        ("retries", retries.into()),
        ("waited_us", waited.clone()),
        ("freed_blocks", freed.into()),
    ];
    let size = Value::Bytes(size);
    out.say(
        fields,
        format_args!("{path}: {size}, {freed} blocks freed, waited {waited} (retries: {retries})"),
    );
}
