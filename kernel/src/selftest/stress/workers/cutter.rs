//! Truncates and punches: at once, with little time, and for as long as it takes.

use super::Worker;
use crate::selftest::stress::file::File;
use crate::selftest::stress::ledger::Ticket;
use crate::selftest::stress::tally::Count;
use crate::selftest::stress::trouble::Trouble;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::ops::Range;
use dax::layout::{BreakReport, How};
use fs::TruncateReport;
use mm::mem::OutOfMemory;
use mm::sync::{Wait, now_us};

/// What "for as long as it takes" is: nobody in this test holds a page for so long.
const LONG_US: u64 = 20_000_000;

pub fn step(worker: &mut Worker) -> Result<(), Trouble> {
    let Some(file) = worker.round.file(&mut worker.dice) else {
        return Ok(());
    };
    let how = how(worker);
    let cut = plan(worker, &file);
    worker.begins(cut.name(), file.id, cut.pages(&file).start);
    let tickets = begin(&file, cut.pages(&file))?;
    let frames = frames(&file, cut.pages(&file));
    let done = carry_out(worker, &file, &cut, how);
    for (page, ticket) in cut.pages(&file).zip(tickets) {
        file.ledger(page).end(ticket, done.is_ok());
    }
    let report = match done {
        // Nobody holds a page for so long.
        Err(Trouble::TimedOut) if matches!(how, How::Wait(w) if w.deadline_us.is_some_and(|at| now_us() > at + LONG_US / 2)) =>
        {
            return Err(Trouble::Unexpected("a truncate waited for too long".into()));
        }
        done => done?,
    };
    tell(worker, &cut, &report, &frames);
    Ok(())
}

fn how(worker: &mut Worker) -> How<'static> {
    match worker.dice.below(4) {
        0 => How::NoWait,
        1 => How::Wait(Wait::until(now_us() + 20 + worker.dice.below(500))),
        _ => How::Wait(Wait::until(now_us() + LONG_US)),
    }
}

/// What is to be cut.
enum Cut {
    /// Everything from a page on; the file may become longer.
    Truncate(u64),
    /// Some pages.
    Punch(Range<u64>),
}

impl Cut {
    fn name(&self) -> &'static str {
        match self {
            Cut::Truncate(_) => "truncate",
            Cut::Punch(_) => "punch",
        }
    }

    fn pages(&self, file: &File) -> Range<u64> {
        match self {
            Cut::Truncate(from) => *from..file.pages(),
            Cut::Punch(pages) => pages.clone(),
        }
    }
}

fn plan(worker: &mut Worker, file: &File) -> Cut {
    let (dice, pages) = (&mut worker.dice, file.pages());
    match dice.below(8) {
        // To nothing: a large page may come back.
        0 => Cut::Truncate(0),
        1..4 => {
            let from = dice.below(pages);
            Cut::Punch(from..(from + 1 + dice.below(4)).min(pages))
        }
        // More often longer than shorter: there is to be something to cut.
        _ => Cut::Truncate(dice.below(pages).max(dice.below(pages)) + 1),
    }
}

fn begin(file: &File, pages: Range<u64>) -> Result<Vec<Ticket>, Trouble> {
    let mut tickets = Vec::new();
    tickets
        .try_reserve_exact(pages.clone().count())
        .map_err(|_| OutOfMemory)?;
    for page in pages.clone() {
        match file.ledger(page).begin(true) {
            Some(ticket) => tickets.push(ticket),
            None => {
                let begun = pages.zip(tickets);
                begun.for_each(|(page, ticket)| file.ledger(page).end(ticket, false));
                return Err(Trouble::Short);
            }
        }
    }
    Ok(tickets)
}

/// The frames that may be freed.
fn frames(file: &File, pages: Range<u64>) -> ArrayVec<u64, 32> {
    pages.filter_map(|page| file.pfn(page)).take(32).collect()
}

fn carry_out(
    worker: &Worker,
    file: &File,
    cut: &Cut,
    how: How<'_>,
) -> Result<TruncateReport, Trouble> {
    let (fs, mut report) = (&worker.round.fs, BreakReport::default());
    let done = match cut {
        Cut::Truncate(from) => fs.truncate(&file.inode, file.offset(*from), how, &mut report),
        Cut::Punch(pages) => {
            let (from, end) = (file.offset(pages.start), file.offset(pages.end));
            fs.punch(&file.inode, from, end - from, how, &mut report)
        }
    };
    Ok(done?)
}

fn tell(worker: &Worker, cut: &Cut, report: &TruncateReport, frames: &[u64]) {
    worker.count(match report.retries {
        0 => Count::CutsAtOnce,
        _ => Count::CutsWaited,
    });
    if let Cut::Punch(_) = cut {
        worker.count(Count::Punches);
    }
    if report.retries > 0 {
        frames.iter().for_each(|pfn| worker.run().waited_for(*pfn));
    }
}
