//! Taking a file's pages away from everybody, for a device that goes.

use super::Mapping;
use crate::xarray::INDEX_END;

impl Mapping {
    /// Takes every page of the file out of every page table, after the faults that are under way.
    ///
    /// For a pgmap that is dying: it grants no new reference, but a fault that got one before may still be about to write its
    /// page-table entry. Faults share the invalidate lock, so having it alone means that their entries are there, and are zapped.
    /// Lock classes: INVALIDATE, I_MMAP. Never allocates.
    pub fn revoke_all(&self) {
        let _no_faults = self.invalidate.write();
        self.unmap_range(0..INDEX_END);
    }
}
