//! A media error in storage that may be mapped.
//!
//! The error is recorded first, where [`BlockMap::is_sound`](super::BlockMap::is_sound) finds it; then the pages leave every page
//! table. The invalidate lock stands between the two and the faults: a fault that looked before the record has mapped when the lock is
//! got, and is unmapped; one that comes later finds the record and maps nothing. So the accessors get an error, and a pin that must
//! fault does too. Pins that exist keep their page: nobody can take it from a device.

use core::ops::Range;

use super::Mapping;

impl Mapping {
    /// Takes pages whose bytes the medium has lost out of every page table, large pages that overlap them whole.
    ///
    /// The error is recorded before. May sleep. Lock classes: INVALIDATE exclusive, I_MMAP. Never allocates.
    pub fn fail(&self, pages: Range<u64>) {
        let _no_faults = self.invalidate.write();
        self.unmap_range(pages);
    }
}
