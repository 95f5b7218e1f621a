//! Page faults, from the exception to the return, by one access to each page of a mapping.

use core::ops::Range;

use super::bed::{Bed, Grain, View};
use super::error::BenchError;
use super::sample::Sample;

/// Pages that are touched: 16 MiB.
const PAGES: u64 = 4096;

/// How a page is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// One byte is loaded.
    Load,
    /// One byte is stored.
    Store,
}

impl Touch {
    /// Accesses some entries of a mapping.
    pub fn some(self, view: &View, entries: Range<u64>) -> Result<(), BenchError> {
        match self {
            Touch::Load => view.load(entries),
            Touch::Store => view.store(entries),
        }
    }

    fn all(self, view: &View) -> Result<(), BenchError> {
        self.some(view, 0..view.entries())
    }
}

/// The access itself, with nothing to fault: what every other figure here contains.
pub fn touch_mapped(bed: &Bed) -> Result<Sample, BenchError> {
    let file = bed.file(PAGES + 1)?;
    let view = View::new(file.inode(), PAGES, Grain::Small)?;
    view.populate()?;
    bed.measure(view.entries(), || Touch::Load.all(&view))
}

/// Faults on a new file: no entry, no owner, no page table.
pub fn first(bed: &Bed, grain: Grain, touch: Touch) -> Result<Sample, BenchError> {
    let file = bed.file(PAGES + 1)?;
    let view = View::new(file.inode(), PAGES, grain)?;
    bed.measure(view.entries(), || touch.all(&view))
}

/// Faults on a file that is mapped elsewhere already: the entries are there.
pub fn again(bed: &Bed, grain: Grain, touch: Touch) -> Result<Sample, BenchError> {
    let file = bed.file(PAGES + 1)?;
    let other = View::new(file.inode(), PAGES, grain)?;
    other.populate()?;
    let view = View::new(file.inode(), PAGES, grain)?;
    bed.measure(view.entries(), || touch.all(&view))
}

/// The first store to pages that are mapped for loads.
pub fn upgrade(bed: &Bed, grain: Grain) -> Result<Sample, BenchError> {
    let file = bed.file(PAGES + 1)?;
    let view = View::new(file.inode(), PAGES, grain)?;
    Touch::Load.all(&view)?;
    bed.measure(view.entries(), || Touch::Store.all(&view))
}
