//! One measurement, and what is shown of several.

use alloc::format;
use alloc::string::String;
use alloc::vec;

use super::clock::Unit;
use crate::cpu::stats;
use crate::shell::{Fields, Value};
use crate::time;

/// Events on all CPUs since boot, or during a measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Interrupts that one CPU sent to another.
    pub ipis: u64,
    /// Rounds in which a CPU made others forget translations.
    pub shootdowns: u64,
    /// Pages whose translation a CPU dropped, one by one.
    pub pages_flushed: u64,
    /// Times that a CPU dropped all its translations.
    pub full_flushes: u64,
}

impl Counters {
    /// Since boot.
    pub fn now() -> Self {
        let totals = stats::totals();
        Self {
            ipis: totals.ipis_sent,
            shootdowns: totals.shootdowns,
            pages_flushed: totals.pages_flushed,
            full_flushes: totals.full_flushes,
        }
    }

    /// What was added since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            ipis: self.ipis.wrapping_sub(before.ipis),
            shootdowns: self.shootdowns.wrapping_sub(before.shootdowns),
            pages_flushed: self.pages_flushed.wrapping_sub(before.pages_flushed),
            full_flushes: self.full_flushes.wrapping_sub(before.full_flushes),
        }
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Operations done.
    pub ops: u64,
    /// Ticks of the clock that all of them took.
    pub ticks: u64,
    /// What happened meanwhile.
    pub counters: Counters,
}

/// What several samples of one benchmark come to.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// The one with the fewest ticks.
    pub best: Sample,
    /// The most ticks of any.
    pub worst_ticks: u64,
}

impl Figure {
    /// Of one sample.
    pub fn of(sample: Sample) -> Self {
        Figure {
            best: sample,
            worst_ticks: sample.ticks,
        }
    }

    /// With one more.
    pub fn with(self, sample: Sample) -> Self {
        let best = if sample.ticks < self.best.ticks {
            sample
        } else {
            self.best
        };
        Figure {
            best,
            worst_ticks: self.worst_ticks.max(sample.ticks),
        }
    }

    /// As facts. Instructions are `null` when the clock counts time, times when it counts instructions.
    pub fn fields(&self, name: &'static str, unit: &'static str, clock: Unit) -> Fields {
        let Sample {
            ops,
            ticks,
            counters,
        } = self.best;
        let counted = |n: u64| (clock == Unit::Instructions).then_some(n);
        let timed = |n: u64| (clock == Unit::Time).then_some(n);
        vec![
            ("name", name.into()),
            ("unit", unit.into()),
            ("ops", ops.into()),
            (
                "instructions_per_op",
                counted(per_op(ticks, ops)).map_or(Value::None, Value::Thousandths),
            ),
            ("instructions", counted(ticks).into()),
            ("instructions_worst", counted(self.worst_ticks).into()),
            ("ipis", counters.ipis.into()),
            ("shootdowns", counters.shootdowns.into()),
            ("pages_flushed", counters.pages_flushed.into()),
            ("full_flushes", counters.full_flushes.into()),
            (
                "ns_per_op",
                timed(per_op(time::ns_of(ticks), ops)).map_or(Value::None, Value::Thousandths),
            ),
            ("ns", timed(time::ns_of(ticks)).into()),
            (
                "ns_worst_per_op",
                timed(per_op(time::ns_of(self.worst_ticks), ops))
                    .map_or(Value::None, Value::Thousandths),
            ),
        ]
    }
}

/// Thousandths for one operation.
fn per_op(all: u64, ops: u64) -> u64 {
    (u128::from(all) * 1000 / u128::from(ops.max(1))) as u64
}

/// A row of the table.
pub fn row(fields: &Fields) -> String {
    protocol::bench::row(|key| {
        let found = fields.iter().find(|(k, _)| *k == key);
        found.map_or(String::new(), |(_, value)| format!("{value}"))
    })
}
