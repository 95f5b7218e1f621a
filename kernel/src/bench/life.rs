//! How a device outlives its pages: what each policy costs at a fault and at the removal; and the bring-up of a device.
//!
//! The pages are those of a made-up device: metadata is all that is touched.

use alloc::sync::Arc;
use core::ops::Range;

use mm::addr::{PAGE_SIZE, PageSize, Pfn, PfnRange, PhysAddr};
use mm::page::Owner;
use mm::pgmap::{Folio, LifePolicy, Pgmap};
use mm::sync::Wait;

use super::bed::Bed;
use super::error::BenchError;
use super::sample::Sample;

/// Where no device is: 32 TiB, below the end of what page tables can name.
const BASE: u64 = 1 << 45;
/// Pages that are used.
pub const PAGES: u64 = 8192;
const GIB_PAGES: u64 = (1 << 30) / PAGE_SIZE;

fn device<L: LifePolicy>(gib: u64) -> Result<Arc<Pgmap<L>>, BenchError> {
    let start = Pfn::from_phys(PhysAddr::new(BASE));
    let range = PfnRange::new(start, gib * GIB_PAGES).expect("a range below 64 TiB");
    Ok(Pgmap::new("bench", range, None)?)
}

/// Removes a device of which nothing is in use.
fn remove_device<L: LifePolicy>(pgmap: &Pgmap<L>) -> Result<(), BenchError> {
    Ok(pgmap.remove(|| (), &Wait::forever())?)
}

/// Makes [`PAGES`] pages a file's.
fn associate<L: LifePolicy>(pgmap: &Pgmap<L>) -> Result<(), BenchError> {
    for index in 0..PAGES {
        let pfn = page(pgmap, index);
        pgmap.associate(pfn, PageSize::Size4K, Owner { inode: 1, index })?;
    }
    Ok(())
}

fn dissociate<L: LifePolicy>(pgmap: &Pgmap<L>) {
    for folio in (0..PAGES).filter_map(|i| pgmap.folio(page(pgmap, i))) {
        // Every page is idle by now.
        let _ = pgmap.dissociate(folio);
    }
}

fn page<L: LifePolicy>(pgmap: &Pgmap<L>, index: u64) -> Pfn {
    Pfn::new(pgmap.range().start().get() + index).expect("inside the range")
}

/// Calls `f` on every page.
fn each<L: LifePolicy>(
    pgmap: &Pgmap<L>,
    f: impl Fn(&Folio<'_>) -> Result<(), BenchError>,
) -> Result<(), BenchError> {
    (0..PAGES)
        .filter_map(|i| pgmap.folio(page(pgmap, i)))
        .try_for_each(|folio| f(&folio))
}

fn put_all<L: LifePolicy>(pgmap: &Pgmap<L>) -> Result<(), BenchError> {
    each(pgmap, |folio| {
        pgmap.map_put(folio);
        Ok(())
    })
}

/// A first mapping of each page: 0 → 1, the lookup of its metadata included.
pub fn get<L: LifePolicy>(bed: &Bed) -> Result<Sample, BenchError> {
    let pgmap = device::<L>(1)?;
    associate(&pgmap)?;
    let sample = bed.measure(PAGES, || each(&pgmap, |f| Ok(pgmap.map_get(f)?)));
    put_all(&pgmap)?;
    dissociate(&pgmap);
    remove_device(&pgmap)?;
    sample
}

/// The end of each page's last mapping: 1 → 0, the lookup included.
pub fn put<L: LifePolicy>(bed: &Bed) -> Result<Sample, BenchError> {
    let pgmap = device::<L>(1)?;
    associate(&pgmap)?;
    each(&pgmap, |f| Ok(pgmap.map_get(f)?))?;
    let sample = bed.measure(PAGES, || put_all(&pgmap));
    dissociate(&pgmap);
    remove_device(&pgmap)?;
    sample
}

/// The removal of a device whose pages have all been used and are idle.
pub fn remove<L: LifePolicy>(bed: &Bed) -> Result<Sample, BenchError> {
    let pgmap = device::<L>(1)?;
    associate(&pgmap)?;
    dissociate(&pgmap);
    bed.measure(PAGES, || remove_device(&pgmap))
}

/// Makes the pgmap of a device of `gib` GiB.
pub fn bring_up(bed: &Bed, gib: u64) -> Result<Sample, BenchError> {
    let mut made = None;
    let sample = bed.measure(1, || {
        made = Some(device::<mm::pgmap::Sweep>(gib)?);
        Ok(())
    });
    made.map_or(Ok(()), |pgmap| remove_device(&pgmap))?;
    sample
}

/// A device of which [`PAGES`] pages are a file's; removed when dropped.
pub struct Device<L: LifePolicy>(Arc<Pgmap<L>>);

impl<L: LifePolicy> Device<L> {
    /// Makes it.
    ///
    /// # Errors
    /// No memory, mostly.
    pub fn new() -> Result<Self, BenchError> {
        let pgmap = device::<L>(1)?;
        let this = Device(pgmap);
        associate(&this.0)?;
        Ok(this)
    }

    /// Takes and drops the first mapping of some pages.
    ///
    /// # Errors
    /// Those of the pgmap.
    pub fn get_put(&self, pages: Range<u64>) -> Result<(), BenchError> {
        let folios = pages.filter_map(|i| self.0.folio(page(&self.0, i)));
        folios.into_iter().try_for_each(|folio| {
            self.0.map_get(&folio)?;
            self.0.map_put(&folio);
            Ok(())
        })
    }
}

impl<L: LifePolicy> Drop for Device<L> {
    fn drop(&mut self) {
        dissociate(&self.0);
        if let Err(e) = remove_device(&self.0) {
            log::error!("a made-up device stays: {e}");
        }
    }
}
