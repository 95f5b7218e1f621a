//! Who holds which pages, by name, for messages such as "held by pin 1".
//!
//! A pin count says how many hold a page, not who. Whoever pins pages for the shell enters them here first and leaves when they are
//! unpinned.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use mm::addr::{Pfn, PfnRange};
use mm::gup::PinnedPages;
use mm::mem::OutOfMemory;
use mm::sync::SpinLock;

/// Somebody who holds pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A pin of the shell, by its number.
    Pin(u32),
    /// A transfer, by its number.
    Dma(u32),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Pin(n) => write!(f, "pin {n}"),
            Holder::Dma(n) => write!(f, "dma {n}"),
        }
    }
}

struct Entry {
    holder: Holder,
    runs: Vec<PfnRange>,
}

/// The list of holders.
pub struct Holders(SpinLock<Vec<Entry>>);

/// Holders that are named; more are counted, so that the text stays short.
const NAMED: usize = 8;

impl Default for Holders {
    fn default() -> Self {
        Self::new()
    }
}

impl Holders {
    /// Nobody holds anything.
    pub const fn new() -> Self {
        Holders(SpinLock::new(Vec::new()))
    }

    /// Enters a holder of these pages.
    ///
    /// # Errors
    /// No memory for the entry.
    pub fn enter(&self, holder: Holder, pages: &PinnedPages) -> Result<(), OutOfMemory> {
        let runs = runs_of(pages)?;
        let mut list = self.0.lock();
        list.try_reserve(1).map_err(|_| OutOfMemory)?;
        list.push(Entry { holder, runs });
        Ok(())
    }

    /// Takes a holder off the list.
    pub fn leave(&self, holder: Holder) {
        // The entry is freed after the lock.
        let _left = {
            let mut list = self.0.lock();
            let at = list.iter().position(|e| e.holder == holder);
            at.map(|at| list.swap_remove(at))
        };
    }

    /// The holders of any page of `pages`, the first of them named and separated by commas; `None` when nobody on the list holds one.
    pub fn of(&self, pages: PfnRange) -> Option<String> {
        let list = self.0.lock();
        let mut names = String::new();
        let holds = |e: &&Entry| e.runs.iter().any(|r| r.overlaps(pages));
        for entry in list.iter().filter(holds).take(NAMED) {
            let comma = if names.is_empty() { "" } else { ", " };
            // Writing to a String cannot fail.
            let _ = write!(names, "{comma}{}", entry.holder);
        }
        let more = list.iter().filter(holds).skip(NAMED).count();
        if more > 0 {
            let _ = write!(names, " and {more} more");
        }
        (!names.is_empty()).then_some(names)
    }

    /// The holders of the folio that contains a frame.
    pub fn of_folio(&self, head: Pfn, pages: u64) -> Option<String> {
        self.of(PfnRange::new(head, pages)?)
    }
}

fn runs_of(pages: &PinnedPages) -> Result<Vec<PfnRange>, OutOfMemory> {
    let mut runs = Vec::new();
    for (base, bytes) in pages.segments() {
        runs.try_reserve(1).map_err(|_| OutOfMemory)?;
        runs.extend(PfnRange::new(
            Pfn::from_phys(base),
            bytes / mm::addr::PAGE_SIZE,
        ));
    }
    Ok(runs)
}
