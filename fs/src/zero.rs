//! Zeroing a range without giving its storage back, and storage behind the end of a file.
//!
//! # Zeroing
//!
//! Whole blocks are not stored to: they become storage that was never written, one record for each extent. A page that is mapped
//! or pinned could still be stored to past that mark, so `break_layouts` comes first, as for a punch, and the pages' entries go before a
//! fault can come. Then the parts of blocks at both ends are zeroed in place; then what has no storage gets some, and the end of
//! the file moves there if it is before, unless it is to stay. Cut off by a crash or an error, each of these steps has happened for a part from the start on,
//! and doing it again finishes it.
//!
//! # Storage behind the end
//!
//! `fallocate` with the size kept puts storage behind the end of a file, which is *never written* there: a mark, not zeroes. So a file
//! that grows over it, by whatever operation, shows zeroes, and nothing need be done when it grows. A cut takes it away with all
//! else behind the new end. No other operation puts storage behind the end.

use core::ops::Range;

use dax::layout::{BreakReport, How, break_layouts};
use dax::pmem::Pmem;

use crate::commit::FreshSet;
use crate::cut::TruncateReport;
use crate::error::{ChangeError, TruncateError, WriteError};
use crate::extents::Spot;
use crate::file::{Fill, MAX_SIZE};
use crate::inode::{Vnode, blocks_for};
use crate::layout::{BLOCK_SIZE, Extent};

impl<P: Pmem> Vnode<P> {
    /// Makes bytes `off..off + len` zero, with storage, and the file at least that long unless `fill` says to keep the end.
    pub(crate) fn zero_range(
        &self,
        off: u64,
        len: u64,
        fill: Fill,
        how: How<'_>,
        report: &mut BreakReport<'_>,
    ) -> Result<TruncateReport, TruncateError> {
        let end = off.checked_add(len).filter(|end| *end <= MAX_SIZE);
        let end = end.ok_or(TruncateError::FileTooBig)?;
        self.cuttable(off)?;
        if len > 0 {
            self.zero_there(off, end, how, report)?;
            self.allocate_range(off, len, fill)?;
        }
        Ok(TruncateReport {
            retries: report.retries,
            waited_us: report.waited_us,
            freed_blocks: 0,
        })
    }

    /// Zeroes what has storage.
    fn zero_there(
        &self,
        off: u64,
        end: u64,
        how: How<'_>,
        report: &mut BreakReport<'_>,
    ) -> Result<(), TruncateError> {
        let pages = blocks_for(off)..(end / BLOCK_SIZE).max(blocks_for(off));
        let idle = break_layouts(&self.content, &self.mapping, pages.clone(), how, report)?;
        let unmarked = self.mark_unwritten(&pages);
        // Also after an error: the next fault must find what was marked.
        let _ = self.forget_pages(&idle, pages.clone());
        unmarked?;
        self.zero_edges(off, end, &pages);
        // Zeroes in place make no record that would carry the time.
        self.attr.lock().lazy_mtime = Some(self.shared.now());
        Ok(())
    }

    /// Marks all written storage of the range, one record for each extent. The caller holds the `Idle`.
    fn mark_unwritten(&self, pages: &Range<u64>) -> Result<(), ChangeError> {
        let mut at = pages.start;
        while at < pages.end {
            at = match self.spot(at) {
                Spot::HoleUntil(end) => end,
                Spot::Extent(extent) if extent.unwritten => extent.end(),
                Spot::Extent(extent) => {
                    let len = extent.len.min(pages.end - at);
                    self.mark(Extent {
                        len,
                        unwritten: true,
                        ..extent
                    })?;
                    at + len
                }
            };
        }
        Ok(())
    }

    fn mark(&self, extent: Extent) -> Result<(), ChangeError> {
        let mut state = self.shared.state.lock();
        self.commit_written(&mut state, extent, FreshSet::new(), 0)
    }

    /// Gives never written storage to what of bytes `off..end` has none; the end of the file stays where it is.
    pub(crate) fn allocate_behind(&self, off: u64, end: u64) -> Result<(), WriteError> {
        let _content = self.content.lock();
        let mut block = off / BLOCK_SIZE;
        while off < end && block < blocks_for(end) {
            block = self.allocate_piece(block, end, Fill::KeepSize)?;
        }
        Ok(())
    }
}
