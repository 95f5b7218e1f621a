//! Long-term pins: the lease of each file whose pages they hold ([`crate::lease`]).

use alloc::sync::Arc;
use core::ops::Range;

use super::GupError;
use super::pinned::PinnedPages;
use super::slow::Want;
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::aspace::VmObject;
use crate::lease::{Lease, LeaseState};
use crate::mem::OutOfMemory;

/// For how long pages are pinned.
pub(super) enum Term {
    /// For one transfer.
    Short,
    /// For as long as the holder likes, or until its lease is revoked.
    Long(Option<Arc<dyn Lease>>),
}

/// A lease entered for pages of one object; taken off the list on drop.
pub(super) struct Leased {
    object: Arc<dyn VmObject>,
    id: u64,
    pages: Range<u64>,
}

impl Leased {
    fn covers(&self, want: &Want<'_>, pages: &Range<u64>) -> bool {
        Arc::ptr_eq(&self.object, want.object)
            && self.pages.start <= pages.start
            && pages.end <= self.pages.end
    }

    pub(super) fn state(&self) -> Option<LeaseState> {
        self.object.leases()?.state(self.id)
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Some(leases) = self.object.leases() {
            leases.end(self.id);
        }
    }
}

impl PinnedPages {
    /// Enters a lease for the pages of a file from `at` on, unless it has been. Before their first page is pinned.
    pub(super) fn enter(
        &mut self,
        term: &Term,
        at: VirtAddr,
        want: &Want<'_>,
    ) -> Result<(), GupError> {
        let (Term::Long(lease), Some(registry)) = (term, want.object.leases()) else {
            return Ok(());
        };
        let lease = lease.as_ref().ok_or(GupError::NeedsLease { at })?;
        let pages = want.file_page..want.file_page + (want.end - at) / PAGE_SIZE;
        if self.leased.last().is_some_and(|l| l.covers(want, &pages)) {
            return Ok(());
        }
        self.leased.try_reserve(1).map_err(|_| OutOfMemory)?;
        let (id, object) = (registry.grant(lease, pages.clone())?, want.object.clone());
        self.leased.push(Leased { object, id, pages });
        Ok(())
    }
}
