//! Deleting entries: with an [`Idle`], or with the mapping itself.

use super::{Idle, Mapping};
use crate::entry::Entry;
use crate::xarray::{Found, INDEX_END, Mark};
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
    /// An entry that reaches over an end of the range is deleted whole; if it is dirty, `flush(pfn, pages)` first makes the part that
    /// the file keeps durable, because its mark goes with it. What lies in the range is not flushed. Lock class: ENTRY. Never
    /// allocates.
    ///
    /// Error: see [`DeleteError`].
    ///
    /// Without the proof it does not compile:
    ///
    /// ```compile_fail,E0061
    /// fn truncate(mapping: &dax::mapping::Mapping) {
    ///     let _ = mapping.delete_entries(0..1, &|_, _| ());
    /// }
    /// ```
    pub fn delete_entries<T>(
        &self,
        idle: &Idle<'_, T>,
        pages: Range<u64>,
        flush: &dyn Fn(Pfn, u64),
    ) -> Result<u64, DeleteError> {
        let whole = self.whole_entries(pages.clone());
        if !idle.proves(self, &whole) {
            return Err(DeleteError::NotProved);
        }
        let (mut deleted, mut at) = (0, whole.start);
        while let Some(found) = self.pages.next(at..whole.end) {
            // Entries that reach over an end of the range, are locked or busy are for the careful way.
            let within = found.base.max(pages.start)..pages.end;
            if let Some(run) = self.pages.erase_run(within, |f| self.gives(f, &pages)) {
                (deleted, at) = (deleted + run.entries, run.next);
                if run.entries > 0 {
                    continue;
                }
            }
            self.keep_durable(found, &pages, flush);
            self.delete_entry(found)?;
            (deleted, at) = (deleted + 1, found.end());
        }
        Ok(deleted)
    }

    /// Clears the owner of an entry that lies wholly in `pages`. False, and nothing done: it does not, or its page is in use.
    fn gives(&self, found: Found, pages: &Range<u64>) -> bool {
        let inside = pages.start <= found.base && found.end() <= pages.end;
        inside && found.pfn().is_none_or(|pfn| self.disown(pfn).is_ok())
    }

    /// Flushes the parts of a dirty entry that lie outside of `pages`. Nobody can store to it: it is idle.
    fn keep_durable(&self, found: Found, pages: &Range<u64>, flush: &dyn Fn(Pfn, u64)) {
        if !self.pages.marked(found.base, Mark::Dirty) {
            return;
        }
        for part in [
            found.base..pages.start.min(found.end()),
            pages.end.max(found.base)..found.end(),
        ] {
            if let Some(pfn) = found.entry.pfn_at(part.start).filter(|_| !part.is_empty()) {
                flush(pfn, part.end - part.start);
            }
        }
    }

    fn delete_entry(&self, found: Found) -> Result<(), DeleteError> {
        let Some(guard) = self.pages.lock_existing(found.base) else {
            return Ok(());
        };
        if let Entry::Pfn { pfn, .. } = guard.entry() {
            let index = found.base;
            self.disown(pfn)
                .map_err(|_| DeleteError::Busy { index, pfn })?;
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
        if self.pages.is_empty() {
            return;
        }
        let give = |found: Found| {
            if found.pfn().is_some_and(|pfn| self.disown(pfn).is_err()) {
                let (owner, index) = (self.owner, found.base);
                log::error!("inode {owner}: page {index} is in use, but the file is gone");
            }
            true
        };
        // Nobody is left who could hold an entry's lock.
        while self
            .pages
            .erase_run(0..INDEX_END, give)
            .is_some_and(|run| run.entries > 0)
        {}
    }
}
