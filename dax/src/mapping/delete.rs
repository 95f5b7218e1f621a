//! Deleting entries: with an [`Idle`], or with the mapping itself.

use super::{Idle, Mapping};
use crate::entry::Entry;
use crate::xarray::Found;
use core::ops::Range;
use mm::addr::Pfn;
use mm::pgmap::Busy;

/// Why entries were not deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeleteError {
    /// The proof is of another mapping, or does not cover the range. Nothing was deleted.
    #[error("the range is not what was proved idle")]
    NotProved,
    /// A page has a count although it was proved idle: somebody broke the rules. Its entry and those after it are still there.
    #[error("page {index} (frame {pfn}) is in use although it was proved idle")]
    Busy {
        /// The page of the file.
        index: u64,
        /// Its frame.
        pfn: Pfn,
    },
}

impl Mapping {
    /// Deletes the entries of a range that is proved idle, so that their storage may be given away; returns how many.
    ///
    /// Entries that reach over an end of the range are deleted whole. Lock class: ENTRY. Never allocates.
    ///
    /// Error: see [`DeleteError`].
    ///
    /// Without the proof it does not compile:
    ///
    /// ```compile_fail,E0061
    /// fn truncate(mapping: &dax::mapping::Mapping) {
    ///     let _ = mapping.delete_entries(0..1);
    /// }
    /// ```
    pub fn delete_entries<T>(
        &self,
        idle: &Idle<'_, T>,
        pages: Range<u64>,
    ) -> Result<u64, DeleteError> {
        let whole = self.whole_entries(pages);
        if !idle.proves(self, &whole) {
            return Err(DeleteError::NotProved);
        }
        let mut deleted = 0;
        while let Some(found) = self.pages.next(whole.clone()) {
            self.delete_entry(found)?;
            deleted += 1;
        }
        Ok(deleted)
    }

    fn delete_entry(&self, found: Found) -> Result<(), DeleteError> {
        let Some(guard) = self.pages.lock_existing(found.base) else {
            return Ok(());
        };
        if let Entry::Pfn { pfn, .. } = guard.entry() {
            self.disown(pfn).map_err(|Busy { .. }| DeleteError::Busy {
                index: found.base,
                pfn,
            })?;
        }
        guard.erase();
        Ok(())
    }

    /// Clears the page's owner. A page without metadata is idle and has none.
    pub(crate) fn disown(&self, pfn: Pfn) -> Result<(), Busy> {
        self.pgmap
            .folio(pfn)
            .map_or(Ok(()), |folio| self.pgmap.dissociate(folio))
    }
}

impl Drop for Mapping {
    /// The file leaves memory: nobody can map or pin it any more, because both keep it alive.
    fn drop(&mut self) {
        while let Some(found) = self.pages.next(0..crate::xarray::INDEX_END) {
            if let Some(pfn) = found.pfn()
                && self.disown(pfn).is_err()
            {
                log::error!(
                    "inode {}: page {} (frame {pfn}) is in use, but the file is gone",
                    self.owner,
                    found.base
                );
            }
            self.pages.erase(found.base);
        }
    }
}
