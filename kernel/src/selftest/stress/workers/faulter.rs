//! Loads and stores through mappings that several threads share, most of them to pages that were touched a moment ago: a translation
//! that should be gone is used at once.

use super::Worker;
use crate::selftest::stress::file::{File, View, WORDS};
use crate::selftest::stress::tally::Count;
use crate::selftest::stress::trouble::Trouble;
use crate::uaccess;

/// Accesses to one file in a step.
const BURST: u64 = 48;

pub fn step(worker: &mut Worker) -> Result<(), Trouble> {
    let Some(file) = worker.round.file(&mut worker.dice) else {
        return Ok(());
    };
    let view = worker.view(&file)?;
    let favourite = worker.dice.below(file.pages());
    for _ in 0..worker.dice.below(BURST) + 1 {
        let page = match worker.dice.one_in(4) {
            true => worker.dice.below(file.pages()),
            false => favourite,
        };
        match worker.dice.below(4) {
            0 => store(worker, &file, &view, page)?,
            _ => load(worker, &file, &view, page)?,
        }
        if worker.round.is_over() {
            break;
        }
    }
    if worker.dice.one_in(12) {
        worker.begins("msync", file.id, 0);
        file.inode.msync(0, file.offset(file.pages()))?;
        worker.count(Count::Syncs);
    }
    Ok(())
}

/// Loads one word and has it judged.
pub fn load(worker: &mut Worker, file: &File, view: &View, page: u64) -> Result<(), Trouble> {
    worker.begins("load", file.id, page);
    let word = *worker.dice.pick(&WORDS);
    let glance = file.ledger(page).glance();
    let found = uaccess::load64(view.at(page * file.stride) + word * 8)?;
    worker.round.judge(file, page, glance, found, "load");
    worker.count(Count::Loads);
    Ok(())
}

/// Stores a new stamp in each word of the page that is looked at.
fn store(worker: &mut Worker, file: &File, view: &View, page: u64) -> Result<(), Trouble> {
    worker.begins("store", file.id, page);
    let Some(ticket) = file.ledger(page).begin(false) else {
        return Ok(());
    };
    let word = file.stamp(page, ticket.version()).encode(worker.run().seed);
    let at = view.at(page * file.stride);
    let done = WORDS
        .iter()
        .try_for_each(|n| uaccess::store64(at + n * 8, word));
    file.ledger(page).end(ticket, done.is_ok());
    worker.count(Count::Stores);
    Ok(done?)
}
