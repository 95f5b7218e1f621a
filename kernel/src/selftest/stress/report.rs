//! The report of a run.

use super::error::StressError;
use super::tally::{Count, Has, Tally};
use super::world::Run;
use crate::cpu::stats;
use crate::shell::{Fields, Out, Table, Value};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use mm::trace::{self, Kind};

/// What the rest of the kernel counts, before a run.
pub struct Before {
    gup: mm::gup::GupStats,
    cpus: stats::Totals,
}

impl Before {
    /// Now.
    pub fn now() -> Self {
        Before {
            gup: mm::gup::stats(),
            cpus: stats::totals(),
        }
    }

    /// Takes over what the kernel has counted since.
    pub fn tell(&self, tally: &Tally) {
        let (gup, cpus) = (mm::gup::stats(), stats::totals());
        let rest = [
            (
                Count::PinsFast,
                gup.fast_stretches - self.gup.fast_stretches,
            ),
            (Count::PinsSlow, gup.slow - self.gup.slow),
            (Count::Ipis, cpus.ipis_sent - self.cpus.ipis_sent),
            (Count::Lazy, cpus.lazy_skipped - self.cpus.lazy_skipped),
            (Count::Steals, cpus.steals - self.cpus.steals),
            (Count::Switches, cpus.switches - self.cpus.switches),
            (Count::Faults4K, trace::count(Kind::Fault)),
            (Count::Faults2M, trace::count(Kind::FaultLarge)),
            (Count::FaultsDelayed, trace::count(Kind::FaultDelayed)),
            (Count::Zaps, trace::count(Kind::ZapClear)),
            (Count::Flushes, trace::count(Kind::FlushBegin)),
            (Count::Orphans, trace::count(Kind::OrphanEnd)),
            (Count::Evictions, trace::count(Kind::Evict)),
        ];
        rest.iter().for_each(|(count, n)| tally.set(*count, *n));
    }
}

/// A run's end.
pub struct End {
    /// What the machine had.
    pub has: Has,
    /// How long it was, in microseconds.
    pub took_us: u64,
    /// Rounds.
    pub rounds: u64,
}

/// Prints what happened; the verdict.
///
/// # Errors
/// Violations, or something that never happened.
pub fn print(run: &Run, end: &End, out: &Out) -> Result<(), StressError> {
    run.court.print(out);
    let violations = run.court.count();
    let missing: Vec<Count> = run.tally.missing(end.has).collect();
    if out.is_json() {
        out.record(object(run, end, violations, &missing));
    } else {
        out.table(table(run, end, &missing));
        out.text(&format!(
            "{violations} violations; {} rounds in {}, {} CPUs, seed {}",
            end.rounds,
            Value::Micros(end.took_us),
            end.has.cpus,
            run.seed
        ));
    }
    if violations > 0 {
        return Err(StressError::Violations(violations));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|c| c.name()).collect();
    Err(StressError::Missing(names.join(", ")))
}

fn table(run: &Run, end: &End, missing: &[Count]) -> Table {
    let mut table = Table::new(&["event", "count", "note"], "");
    for &count in Count::ALL {
        let n = run.tally.get(count);
        let lack = end.has.lacks(count.needs()).filter(|_| n == 0);
        let note = match lack {
            Some(why) => why,
            None if missing.contains(&count) => "NEVER",
            None => "",
        };
        table.row([count.name().into(), n.into(), note.into()]);
    }
    table
}

fn object(run: &Run, end: &End, violations: u64, missing: &[Count]) -> Fields {
    let events = Count::ALL
        .iter()
        .map(|c| (c.name(), run.tally.get(*c).into()));
    let names = |counts: &mut dyn Iterator<Item = Count>| {
        Value::List(counts.map(|c| Value::from(c.name())).collect())
    };
    let mut impossible = Count::ALL
        .iter()
        .copied()
        .filter(|c| end.has.lacks(c.needs()).is_some());
    vec![
        ("test", "stress".into()),
        ("violations", violations.into()),
        ("missing", names(&mut missing.iter().copied())),
        ("impossible", names(&mut impossible)),
        ("took_us", Value::Micros(end.took_us)),
        ("rounds", end.rounds.into()),
        ("cpus", end.has.cpus.into()),
        ("seed", run.seed.into()),
        ("events", Value::Object(events.collect())),
        ("profile", profile().into()),
    ]
}

fn profile() -> String {
    String::from(if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    })
}
