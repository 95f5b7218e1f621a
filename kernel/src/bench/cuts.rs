//! Taking pages away: out of the page tables, out of the file.

use core::cell::Cell;

use super::bed::{Bed, File, Grain, PAGES, View};
use super::error::BenchError;
use super::sample::{Counters, Sample};
use crate::time::ticks;

/// A file of [`PAGES`] pages, and what keeps it mapped.
pub type Ground<'a> = (File<'a>, Option<View>);

/// Takes every translation of a mapping away; the mapping stays.
pub fn zap(bed: &Bed, grain: Grain) -> Result<Sample, BenchError> {
    let (_file, view) = mapped(bed, grain)?;
    bed.measure(view.entries(), || {
        view.space().zap(view.range());
        Ok(())
    })
}

/// Removes a mapping whose pages are all there.
pub fn munmap(bed: &Bed, grain: Grain) -> Result<Sample, BenchError> {
    let (_file, view) = mapped(bed, grain)?;
    bed.measure(view.entries(), || view.unmap())
}

fn mapped<'a>(bed: &'a Bed, grain: Grain) -> Result<(File<'a>, View), BenchError> {
    let file = bed.file(PAGES + 1)?;
    let view = View::new(file.inode(), PAGES, grain)?;
    view.populate()?;
    Ok((file, view))
}

/// A file that nobody ever mapped.
pub fn never_mapped(bed: &Bed) -> Result<Ground<'_>, BenchError> {
    Ok((bed.file(PAGES)?, None))
}

/// A file that was mapped: its index is full, its pages are idle.
pub fn was_mapped(bed: &Bed) -> Result<Ground<'_>, BenchError> {
    let (file, view) = mapped(bed, Grain::Small)?;
    view.unmap()?;
    Ok((file, None))
}

/// A file with every page mapped, by small entries.
pub fn mapped_small(bed: &Bed) -> Result<Ground<'_>, BenchError> {
    let (file, view) = mapped(bed, Grain::Small)?;
    Ok((file, Some(view)))
}

/// A file with every page mapped, by large entries.
pub fn mapped_large(bed: &Bed) -> Result<Ground<'_>, BenchError> {
    let (file, view) = mapped(bed, Grain::Large)?;
    Ok((file, Some(view)))
}

/// Truncates the file to nothing.
pub fn truncate(
    bed: &Bed,
    ground: for<'a> fn(&'a Bed) -> Result<Ground<'a>, BenchError>,
) -> Result<Sample, BenchError> {
    let (file, _view) = ground(bed)?;
    bed.measure(PAGES, || file.truncate(&|| ()))
}

/// The first part of that: up to the proof that every page is idle.
pub fn break_layouts(
    bed: &Bed,
    ground: for<'a> fn(&'a Bed) -> Result<Ground<'a>, BenchError>,
) -> Result<Sample, BenchError> {
    let (file, _view) = ground(bed)?;
    let (before, idle_at) = (Counters::now(), Cell::new(0));
    let start = ticks();
    file.truncate(&|| idle_at.set(ticks()))?;
    Ok(Sample {
        ops: PAGES,
        ticks: idle_at.get().saturating_sub(start + bed.clock.overhead),
        counters: Counters::now().since(&before),
    })
}
