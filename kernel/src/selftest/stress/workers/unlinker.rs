//! Replaces files by new ones, whoever uses them: the last user ends an orphan.

use super::Worker;
use crate::selftest::stress::tally::Count;
use crate::selftest::stress::trouble::Trouble;
use core::sync::atomic::Ordering;

pub fn step(worker: &mut Worker) -> Result<(), Trouble> {
    let slots = worker.round.slots.len() as u64;
    let slot = worker.dice.below(slots) as usize;
    worker.begins("replace", 0, slot as u64);
    let old = worker.round.refill(slot)?;
    if let Some(file) = old {
        worker.begins("unlink", file.id, 0);
        // Relaxed: a pin that comes or goes now may be counted wrongly.
        let pinned = file.pins.load(Ordering::Relaxed) > 0;
        worker.round.fs.unlink(&file.path)?;
        worker.count(Count::Unlinks);
        if pinned {
            worker.count(Count::UnlinksPinned);
        }
        // Whoever has it mapped goes on with the mapping it took; the file keeps none.
        file.close_views();
        drop(file);
        worker.round.fs.settle();
    }
    mm::sync::sleep_us(1_000 + worker.dice.below(8_000));
    Ok(())
}
