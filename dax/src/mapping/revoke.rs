//! Taking a file's pages away from everybody, for a device that goes.

use super::Mapping;
use crate::xarray::INDEX_END;
use core::ops::Range;
use mm::lease::{LeaseState, Why};

impl Mapping {
    /// Takes every page of the file out of every page table, after the faults that are under way.
    ///
    /// For a pgmap that is dying: it grants no new reference, but a fault that got one before may still be about to write its
    /// page-table entry. Faults share the invalidate lock, so having it alone means that their entries are there, and are zapped.
    /// Lock classes: INVALIDATE, I_MMAP. Never allocates.
    ///
    /// Then it asks the holders of leases to let go; with no lock held, so the caller holds none either.
    pub fn revoke_all(&self) {
        let no_faults = self.invalidate.write();
        self.unmap_range(0..INDEX_END);
        drop(no_faults);
        self.revoke_leases(&(0..INDEX_END), |_| Why::DeviceRemoval);
    }

    /// Asks the holders of all leases on `pages` to let go, with the reason that `why` gives for each; each is asked once, whoever
    /// asks. The caller holds no lock. Allocates nothing.
    pub(crate) fn revoke_leases(&self, pages: &Range<u64>, why: impl Fn(&LeaseState) -> Why) {
        while let Some(fresh) = self.leases.revoke_one(pages) {
            let why = why(fresh.state());
            fresh.tell(why);
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::xarray::NodePool;
    use mm::pgmap::{Pgmap, scratch_range};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    /// A fault under way shares the invalidate lock from before it takes its reference until its entry is written.
    #[test]
    fn revoking_waits_for_the_faults_under_way() {
        let pgmap = Pgmap::new("revoke", scratch_range(8), None).expect("room");
        let nodes = NodePool::new(1).expect("memory");
        let mapping = Mapping::new(7, pgmap, nodes, scratch_range(1).start());
        let revoked = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let fault = mapping.invalidate.read();
            scope.spawn(|| {
                mapping.revoke_all();
                revoked.store(true, Ordering::Release);
            });
            std::thread::sleep(Duration::from_millis(20));
            assert!(!revoked.load(Ordering::Acquire), "it did not wait");
            drop(fault);
        });
        assert!(revoked.load(Ordering::Acquire));
    }
}
