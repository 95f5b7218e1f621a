//! Stores on their way: what a crash may find arrived or not.
//!
//! A store waits in its line. A fence retires, of its own CPU only, what that CPU stored past the caches and what it had written
//! back before: write-back takes a line as it is at that moment, whoever stored to it. Stores to one word become visible in the order
//! of the notes (who gives a lock away has let them go), so that an older one never lands on a newer one.

use std::collections::BTreeMap;

use super::region::{Event, Region, What};

/// CPUs that operations run on.
pub const CPUS: usize = 2;

#[derive(Clone, Copy)]
struct Pending {
    at: u32,
    value: u64,
    cpu: u8,
    nt: bool,
}

/// Stores to one line that may not have arrived.
#[derive(Default)]
struct Line {
    stores: Vec<Pending>,
    /// How many of them each CPU has written back, waiting for its fence.
    flushed: [usize; CPUS],
}

impl Line {
    /// Takes out what a fence of `cpu` makes durable, in order.
    fn retire(&mut self, cpu: u8, mut durable: impl FnMut(u32, u64)) {
        let flushed = self.flushed[usize::from(cpu)];
        let retires = |i: usize, p: &Pending| if p.nt { p.cpu == cpu } else { i < flushed };
        let mut left = Vec::new();
        let mut covered = [0; CPUS];
        for (i, pending) in self.stores.iter().enumerate() {
            if retires(i, pending) {
                durable(pending.at, pending.value);
                continue;
            }
            let newer = self.stores.iter().enumerate().skip(i + 1);
            if newer
                .filter(|(_, p)| p.at == pending.at)
                .any(|(j, p)| retires(j, p))
            {
                continue;
            }
            for (count, flushed) in covered.iter_mut().zip(self.flushed) {
                *count += usize::from(i < flushed);
            }
            left.push(*pending);
        }
        covered[usize::from(cpu)] = 0;
        (self.stores, self.flushed) = (left, covered);
    }
}

/// What arrives together or not: a line; or the lines of a block that were stored to past the caches.
pub struct Unit {
    /// Its first line.
    pub line: u32,
    /// Each word that differs from the durable image, with its newest value.
    pub words: Vec<(u32, u64)>,
    /// All stores in order; empty if nothing keeps them in order.
    pub order: Vec<(u32, u64)>,
}

/// All stores on their way.
#[derive(Default)]
pub struct Flight {
    lines: BTreeMap<u32, Line>,
}

impl Flight {
    /// Takes an event in; what becomes durable goes to `region`.
    pub fn apply(&mut self, event: Event, region: &Region) {
        let cpu = event.cpu;
        match event.what {
            What::Store(at, value) => self.push(at, value, cpu, false),
            What::Nt(at, value) => self.push(at, value, cpu, true),
            What::Flush(first, last) => {
                for (_, line) in self.lines.range_mut(first..=last) {
                    line.flushed[usize::from(cpu)] = line.stores.len();
                }
            }
            What::Fence => {
                for line in self.lines.values_mut() {
                    line.retire(cpu, |at, value| region.put(at as usize, value));
                }
                self.lines.retain(|_, line| !line.stores.is_empty());
            }
        }
    }

    fn push(&mut self, at: u32, value: u64, cpu: u8, nt: bool) {
        let line = self.lines.entry(at / 8).or_default();
        line.stores.push(Pending { at, value, cpu, nt });
    }

    /// The units in flight that would change something, in the order of their lines. If they are more than `most`, adjacent lines of
    /// one block become one unit, then of two blocks, and so on.
    pub fn units(&self, region: &Region, most: usize) -> Vec<Unit> {
        let mut units = self.lines_and_blocks(region);
        let mut shift = 6;
        while units.len() > most && shift < 20 {
            units = join(units, shift);
            shift += 1;
        }
        units
    }

    fn lines_and_blocks(&self, region: &Region) -> Vec<Unit> {
        let mut units: Vec<Unit> = Vec::new();
        let mut block = None;
        for (number, line) in &self.lines {
            let nt = line.stores.iter().any(|p| p.nt);
            let mut words: BTreeMap<u32, u64> =
                line.stores.iter().map(|p| (p.at, p.value)).collect();
            words.retain(|at, value| region.get(*at as usize) != *value);
            if words.is_empty() && nt {
                continue;
            }
            if nt && block == Some(number / 64) {
                let unit = units.last_mut().expect("the block has begun");
                unit.words.extend(words);
                continue;
            }
            let order: Vec<_> = line.stores.iter().map(|p| (p.at, p.value)).collect();
            // A word may have changed and changed back: the stores between are seen by tearing.
            if words.is_empty() && order.iter().all(|(at, v)| region.get(*at as usize) == *v) {
                continue;
            }
            block = nt.then_some(number / 64);
            units.push(Unit {
                line: *number,
                words: words.into_iter().collect(),
                order: if nt { Vec::new() } else { order },
            });
        }
        units
    }
}

/// Joins adjacent lines and what was joined before, within aligned spans of `1 << shift` lines.
fn join(units: Vec<Unit>, shift: u32) -> Vec<Unit> {
    let mut out: Vec<Unit> = Vec::new();
    let mut end = u32::MAX - 1;
    for unit in units {
        let last = unit.words.last().map_or(unit.line, |(at, _)| at / 8);
        match out.last_mut() {
            Some(before) if unit.line == end + 1 && unit.line >> shift == before.line >> shift => {
                before.words.extend(unit.words);
                before.order.clear();
            }
            _ => out.push(unit),
        }
        end = last;
    }
    out
}
