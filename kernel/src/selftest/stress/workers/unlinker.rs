//! Replaces files by new ones, whoever uses them: the last user ends an orphan.

use super::Worker;
use crate::selftest::stress::tally::Count;
use crate::selftest::stress::trouble::Trouble;
use core::sync::atomic::Ordering;

pub fn step(worker: &mut Worker) -> Result<(), Trouble> {
    let slot = pick(worker);
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

/// Any slot; half of the time one whose file is pinned, if there is one: on few CPUs chance alone seldom meets it.
fn pick(worker: &mut Worker) -> usize {
    let slots = &worker.round.slots;
    let start = worker.dice.below(slots.len() as u64) as usize;
    if worker.dice.below(2) == 0 {
        return start;
    }
    // Relaxed: a choice, not a decision about the page.
    let pinned = |slot: &usize| {
        let file = slots[*slot].lock();
        file.as_ref()
            .is_some_and(|f| f.pins.load(Ordering::Relaxed) > 0)
    };
    let mut around = (0..slots.len()).map(|i| (start + i) % slots.len());
    around.find(pinned).unwrap_or(start)
}
