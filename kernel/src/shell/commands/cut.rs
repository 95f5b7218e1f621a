//! `truncate`, `punch`: taking a file's storage away, which waits for whoever holds its pages.

use super::{CutFailure, Done, command, open};
use crate::machine::Machine;
use crate::shell::{Args, Command, CommandError, On, Out, Value};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use dax::layout::{BreakEvent, BreakReport, How};
use fs::TruncateReport;
use fs::error::TruncateError;
use mm::sync::Wait;

const HELP: &str = "A page that is pinned is waited for, holding no lock; `retries` counts how often it was found so.\n\
    --nowait refuses instead, --timeout MS gives up after that time; both leave the file as it was and name the page\n\
    and its holder. The holder of a lease is asked to let go, and named when its grace period is over.";

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
    let observer = |event| tell(&path, event, out);
    let mut steps = BreakReport::observed(&observer);
    let done = fs.truncate(&inode, size, how, &mut steps);
    let report = named(machine, done).on(|| format!("truncate {path}"))?;
    show(&path, inode.stat().size, report, &steps, out);
    Ok(())
}

fn punch(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let how = how(args)?;
    let (path, off, len) = (args.word("PATH")?, args.size("OFF")?, args.size("LEN")?);
    args.end()?;
    let (fs, inode) = open(machine, &path)?;
    let observer = |event| tell(&path, event, out);
    let mut steps = BreakReport::observed(&observer);
    let done = fs.punch(&inode, off, len, how, &mut steps);
    let report = named(machine, done).on(|| format!("punch {path}"))?;
    show(&path, inode.stat().size, report, &steps, out);
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
    machine.holder_of(e.held().pfn)
}

/// Says what happens to leases, as it happens.
fn tell(path: &str, event: BreakEvent, out: &Out) {
    let (word, lease) = match event {
        BreakEvent::Revoking { lease } => ("revoking", lease),
        BreakEvent::Overdue { lease, .. } => ("overdue", lease),
        _ => return,
    };
    let (holder, grace) = (lease.holder, Value::Micros(lease.grace_us));
    let fields = vec![
        ("path", String::from(path).into()),
        ("event", word.into()),
        ("holder", String::from(holder.as_str()).into()),
        ("grace_us", grace.clone()),
    ];
    match word {
        "revoking" => out.say(
            fields,
            format_args!("{path}: asks {holder} to let go within {grace}"),
        ),
        _ => out.say(
            fields,
            format_args!("{path}: still held by {holder}, whose grace period of {grace} is over"),
        ),
    }
}

fn show(path: &str, size: u64, r: TruncateReport, steps: &BreakReport<'_>, out: &Out) {
    let (retries, waited, freed) = (r.retries, Value::Micros(r.waited_us), r.freed_blocks);
    let holder = steps.last_held.and_then(|h| h.holder);
    let fields = vec![
        ("path", String::from(path).into()),
        ("size", size.into()),
        ("retries", retries.into()),
        ("waited_us", waited.clone()),
        ("freed_blocks", freed.into()),
        ("holder", holder.map(|h| String::from(h.as_str())).into()),
    ];
    let size = Value::Bytes(size);
    out.say(
        fields,
        format_args!("{path}: {size}, {freed} blocks freed, waited {waited} (retries: {retries})"),
    );
}
