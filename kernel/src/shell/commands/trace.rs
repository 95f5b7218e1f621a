//! `trace`: the event trace.

use super::{Done, command};
use crate::machine::Machine;
use crate::shell::error::ArgProblem;
use crate::shell::{Args, Command, On, Out};
use crate::trace;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec;

/// What `dump` shows without `--last`: all that the rings hold.
const ALL: u64 = u32::MAX as u64;

pub const TRACE: Command<Machine> = command(
    "trace",
    "on|off|dump [--last N] [--pfn N]",
    "records what happens to pages, and shows it",
    "on: from nothing, into a ring for each CPU. dump: in the order of time, the last N, or only what concerns a frame.\n\
     `thread` is the low 8 bits of a thread's number; what an event's value means is told in docs/stress.md.",
    run,
);

fn run(_: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let last = args.number_option("--last")?.unwrap_or(ALL).min(ALL);
    let pfn = args.number_option("--pfn")?;
    let word = args.word("on|off|dump")?;
    args.end()?;
    match word.as_str() {
        "on" => {
            trace::start().on(|| "trace")?;
            state(true, out);
        }
        "off" => {
            mm::trace::stop();
            state(false, out);
        }
        "dump" => dump(last as usize, pfn, out)?,
        _ => {
            return Err(args.error(ArgProblem::BadChoice {
                name: "action",
                word,
                choices: "on, off, dump",
            }));
        }
    }
    Ok(())
}

fn state(on: bool, out: &Out) {
    let word = if on { "on" } else { "off" };
    out.say(vec![("trace", word.into())], format_args!("trace {word}"));
}

fn dump(last: usize, pfn: Option<u64>, out: &Out) -> Done {
    let wanted = |e: &mm::trace::Event| pfn.is_none_or(|pfn| e.concerns(pfn));
    let events = mm::trace::last(last, wanted).on(|| "trace dump")?;
    trace::print(&events, out);
    if !out.is_json() {
        let text = format!("{} events, {} lost", events.len(), mm::trace::lost());
        out.text(&text);
    }
    Ok(())
}
