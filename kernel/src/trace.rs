//! The event trace of the machine: who asks the clock and the thread for it, and how events are shown.

use crate::cpu;
use crate::shell::{Fields, Out, Value};
use crate::thread::MAX_THREADS;
use crate::time;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use mm::mem::OutOfMemory;
use mm::trace::{Event, Source, What};

/// Events that each CPU's ring holds: 512 KiB of them.
const EVENTS: usize = 8192;

struct Machine;

impl Source for Machine {
    fn now_ns(&self) -> u64 {
        time::now_ns()
    }

    fn cpu(&self) -> usize {
        cpu::this().index()
    }

    fn thread(&self) -> u64 {
        cpu::current_thread()
    }
}

const _: () = assert!(MAX_THREADS <= 1 << 48);

/// Turns the trace on, from nothing.
///
/// # Errors
/// No memory for the rings, which are made at the first call.
pub fn start() -> Result<(), OutOfMemory> {
    mm::trace::start(cpu::online(), EVENTS, &Machine)
}

/// What is known of an event, as the shell shows it.
pub fn fields(event: &Event) -> Fields {
    let What {
        pfn,
        pages,
        inode,
        index,
        va,
        value,
    } = event.what;
    let page = pages > 0;
    let known = |is: bool, value: Value| if is { value } else { Value::None };
    vec![
        ("time_ns", event.time_ns.into()),
        ("cpu", u32::from(event.cpu).into()),
        ("thread", event.thread.into()),
        ("event", event.kind.name().into()),
        ("pfn", known(page, Value::Hex(pfn))),
        ("pages", known(page, pages.into())),
        ("inode", known(inode > 0, inode.into())),
        ("index", known(inode > 0, index.into())),
        ("va", known(va > 0, Value::Hex(va))),
        ("value", value.into()),
    ]
}

/// The keys of [`fields`].
pub const KEYS: &[&str] = &[
    "time_ns", "cpu", "thread", "event", "pfn", "pages", "inode", "index", "va", "value",
];

/// An event in a line of text.
pub struct Line<'a>(pub &'a Event);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Event {
            time_ns,
            cpu,
            thread,
            kind,
            what,
            ..
        } = self.0;
        let us = time_ns / 1000;
        write!(f, "{us:>12} us  cpu {cpu:<2} thread {thread:<3} {kind:<15}")?;
        if what.pages > 0 {
            write!(f, " pfn {:#x}+{}", what.pfn, what.pages)?;
        }
        if what.inode > 0 {
            write!(f, " inode {} page {}", what.inode, what.index)?;
        }
        if what.va > 0 {
            write!(f, " va {:#x}", what.va)?;
        }
        write!(f, " value {}", what.value)
    }
}

/// Prints events: a line each, or an object each.
pub fn print(events: &[Event], out: &Out) {
    for event in events {
        out.say(fields(event), format_args!("{}", Line(event)));
    }
}

/// The last `most` events about the frame `pfn`.
///
/// # Errors
/// No memory for the list.
pub fn last_of(pfn: u64, most: usize) -> Result<Vec<Event>, OutOfMemory> {
    mm::trace::last(most, |event| event.concerns(pfn))
}
