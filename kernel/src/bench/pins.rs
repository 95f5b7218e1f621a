//! Pinning what is mapped, in batches, and letting it go.

use super::bed::{Bed, Grain, Gup, View};
use super::error::BenchError;
use super::sample::{Counters, Sample};
use crate::time::ticks;

/// Pages that are pinned: 16 MiB.
const PAGES: u64 = 4096;

/// Ticks of all the pins, and of all the drops.
struct Cost {
    pin: u64,
    drop: u64,
    batches: u64,
}

/// Pins all of a mapping, `batch` pages at a time.
pub fn pin(bed: &Bed, how: Gup, grain: Grain, batch: u64) -> Result<Sample, BenchError> {
    sample(bed, how, grain, batch, |cost| cost.pin)
}

/// Drops the pins of such batches.
pub fn unpin(bed: &Bed, grain: Grain, batch: u64) -> Result<Sample, BenchError> {
    sample(bed, Gup::Fast, grain, batch, |cost| cost.drop)
}

fn sample(
    bed: &Bed,
    how: Gup,
    grain: Grain,
    batch: u64,
    of: fn(&Cost) -> u64,
) -> Result<Sample, BenchError> {
    let file = bed.file(PAGES + 1)?;
    let view = View::new(file.inode(), PAGES, grain)?;
    view.populate()?;
    let before = Counters::now();
    let cost = pin_all(&view, how, batch)?;
    Ok(Sample {
        ops: PAGES / grain.pages(),
        ticks: of(&cost).saturating_sub(cost.batches * bed.clock.overhead),
        counters: Counters::now().since(&before),
    })
}

fn pin_all(view: &View, how: Gup, batch: u64) -> Result<Cost, BenchError> {
    let mut cost = Cost {
        pin: 0,
        drop: 0,
        batches: PAGES / batch,
    };
    for first in (0..PAGES).step_by(batch as usize) {
        let start = ticks();
        let pinned = view.pin(first, batch as usize, how)?;
        let middle = ticks();
        drop(pinned);
        cost.drop += ticks() - middle;
        cost.pin += middle - start;
    }
    Ok(cost)
}
