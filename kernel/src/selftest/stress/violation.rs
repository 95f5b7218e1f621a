//! What must not be, when it was.

use crate::shell::{Fields, Out, Value};
use crate::trace;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use mm::sync::SpinLock;
use mm::trace::Event;

/// Violations that are told in full; more are counted.
const TOLD: usize = 8;
/// Events that are shown for each frame of a violation.
const EVENTS: usize = 40;

/// One violation.
pub struct Violation {
    /// Which rule it breaks.
    pub rule: &'static str,
    /// Where and how it was found.
    pub place: String,
    /// What should be there.
    pub expected: String,
    /// What is.
    pub found: String,
    /// The frames that it is about: that of the page, and that of what was found.
    pub pfns: [Option<u64>; 2],
}

/// All violations of a run; the first stops it.
pub struct Court {
    told: SpinLock<Vec<(Violation, Vec<Event>)>>,
    count: AtomicU64,
    stop: AtomicBool,
}

impl Default for Court {
    fn default() -> Self {
        Self::new()
    }
}

impl Court {
    /// None yet.
    pub const fn new() -> Self {
        Court {
            told: SpinLock::new(Vec::new()),
            count: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }

    /// Takes a violation, stops the trace, so that what led to it stays in the rings, and stops the run.
    pub fn accuse(&self, violation: Violation) {
        mm::trace::stop();
        // Relaxed, both: read for the report, and as a hint to stop soon.
        self.stop.store(true, Ordering::Relaxed);
        if self.count.fetch_add(1, Ordering::Relaxed) < TOLD as u64 {
            let events = events_of(&violation);
            let mut told = self.told.lock();
            if told.try_reserve(1).is_ok() {
                told.push((violation, events));
            }
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// There was one.
    pub fn has_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Prints them, each with what happened last to its pages.
    pub fn print(&self, out: &Out) {
        for (violation, events) in core::mem::take(&mut *self.told.lock()) {
            violation.print(out);
            out.heading(&format!(
                "  the last {} events about its frames:",
                events.len()
            ));
            trace::print(&events, out);
        }
    }
}

fn events_of(violation: &Violation) -> Vec<Event> {
    let [a, b] = violation.pfns;
    let concerns = |e: &Event| [a, b].iter().flatten().any(|pfn| e.concerns(*pfn));
    // Without memory there are none.
    mm::trace::last(EVENTS, concerns).unwrap_or_default()
}

impl Violation {
    fn print(&self, out: &Out) {
        let hex = |pfn: Option<u64>| pfn.map_or(Value::None, Value::Hex);
        let fields: Fields = vec![
            ("violation", self.rule.into()),
            ("place", self.place.clone().into()),
            ("expected", self.expected.clone().into()),
            ("found", self.found.clone().into()),
            ("pfn", hex(self.pfns[0])),
            ("pfn_found", hex(self.pfns[1])),
        ];
        let frame = match self.pfns {
            [Some(a), Some(b)] if a != b => {
                format!(" (frame {a:#x}; what was found belongs to {b:#x})")
            }
            [Some(a), _] | [None, Some(a)] => format!(" (frame {a:#x})"),
            [None, None] => String::new(),
        };
        out.say(
            fields,
            format_args!(
                "VIOLATION {}: {}{frame}\n  expected: {}\n  found:    {}",
                self.rule, self.place, self.expected, self.found
            ),
        );
    }
}
