//! What a mounted file system does with the content of a file.

use alloc::sync::Arc;

use dax::layout::{BreakReport, How};
use dax::pmem::Pmem;
use mm::addr::Pfn;
use mm::mem::check_headroom;

use crate::cut::TruncateReport;
use crate::error::{CreateError, ReadError, TruncateError, WriteError};
use crate::file::Fill;
use crate::fs::Fs;
use crate::gate::Gone;
use crate::inode::{Inode, Vnode};
use crate::layout::{BLOCK_SIZE, Extent};

/// Why a file of a given size was not made. If the name was made, it has been removed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateSizedError {
    /// The name was not made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The space was not allocated.
    #[error(transparent)]
    Allocate(#[from] WriteError),
}

impl<P: Pmem> Fs<P> {
    /// Reads at `off`; see [`Vnode::read`].
    pub fn read(&self, inode: &Inode<P>, off: u64, buf: &mut [u8]) -> Result<usize, ReadError> {
        inode.read(off, buf)
    }

    /// Writes all of `data` at `off`, durably.
    ///
    /// Over written storage 1 fence; new storage: 2 for each piece of at most 2 MiB. After a crash, each aligned 8 bytes in place
    /// are old or new; a piece of new storage is there whole or not at all. On an error what was written before it stays.
    pub fn write(&self, inode: &Inode<P>, off: u64, data: &[u8]) -> Result<(), WriteError> {
        let _inside = self.shared.gate.enter()?;
        check_headroom()?;
        self.finish_waiting();
        inode.write(off, data)
    }

    /// Makes the file `size` bytes long: longer by a hole, shorter as [`dax::layout`] demands.
    ///
    /// A page behind the new end that is pinned is waited for as `how` says, with no lock held. `report` counts the retries and the
    /// time, and its observer sees each step. On an error the file is exactly as it was.
    pub fn truncate(
        &self,
        inode: &Inode<P>,
        size: u64,
        how: How<'_>,
        report: &mut BreakReport<'_>,
    ) -> Result<TruncateReport, TruncateError> {
        let _inside = self.shared.gate.enter()?;
        inode.truncate(size, how, report)
    }

    /// Takes the storage of `off..off + len` away; what is left of the first and the last block is zeroed. The size stays.
    pub fn punch(
        &self,
        inode: &Inode<P>,
        off: u64,
        len: u64,
        how: How<'_>,
        report: &mut BreakReport<'_>,
    ) -> Result<TruncateReport, TruncateError> {
        let _inside = self.shared.gate.enter()?;
        inode.punch(off, len, how, report)
    }

    /// Makes bytes `off..off + len` zero without giving their storage back; what has none gets some, as `fill` says, and the end of the file
    /// moves there if it is before, unless `fill` says to keep it.
    ///
    /// Whole blocks become never written, one record for each extent; pages of them that are held are waited for as `how` says. On an
    /// error, or after a crash, a part from the start on may be zero already; doing it again finishes it.
    pub fn zero_range(
        &self,
        inode: &Inode<P>,
        off: u64,
        len: u64,
        fill: Fill,
        how: How<'_>,
        report: &mut BreakReport<'_>,
    ) -> Result<TruncateReport, TruncateError> {
        let _inside = self.shared.gate.enter()?;
        self.finish_waiting();
        inode.zero_range(off, len, fill, how, report)
    }

    /// Gives storage to all of `off..off + len`; moves the end of the file there if it is before, unless `fill` says to keep it.
    ///
    /// Goes piece by piece, one record each, and the end of the file goes along: no storage lies behind it. On an error, or after a
    /// crash, the pieces before it stay.
    pub fn fallocate(
        &self,
        inode: &Inode<P>,
        off: u64,
        len: u64,
        fill: Fill,
    ) -> Result<(), WriteError> {
        let _inside = self.shared.gate.enter()?;
        check_headroom()?;
        self.finish_waiting();
        inode.allocate_range(off, len, fill)
    }

    /// Makes a file of `size` bytes, all of it allocated and zeroed, in large pages where the space allows.
    pub fn create_sized(
        &self,
        path: &str,
        mode: u16,
        size: u64,
    ) -> Result<Arc<Inode<P>>, CreateSizedError> {
        let inode = self.create(path, mode)?;
        if let Err(error) = inode.allocate_range(0, size, Fill::Zeroed) {
            // Nobody may use it any more when its name goes, so that its blocks go at once.
            drop(inode);
            // Best effort: without it a short file remains, which is sound.
            let _ = self.unlink(path);
            return Err(error.into());
        }
        Ok(inode)
    }

    /// The extents of a file, in order.
    pub fn extents<'a>(&self, inode: &'a Inode<P>) -> impl Iterator<Item = Extent> + 'a {
        let mut at = 0;
        core::iter::from_fn(move || {
            let extent = inode.extent_after(at)?;
            at = extent.end();
            Some(extent)
        })
    }
}

impl<P: Pmem> Vnode<P> {
    /// Makes stores through mappings to these pages durable; returns how many pages had any. The times move to now then, in memory:
    /// nobody else saw the stores.
    pub(crate) fn clean(&self, pages: core::ops::Range<u64>) -> u64 {
        let cleaned = self
            .mapping
            .clean_range(pages, &|pfn, pages| self.flush(pfn, pages));
        if cleaned > 0 {
            self.attr.lock().lazy_mtime = Some(self.shared.now());
        }
        cleaned
    }

    /// Writes back what the CPU caches hold of these frames; durable on return.
    pub(crate) fn flush(&self, pfn: Pfn, pages: u64) {
        let base = self.shared.backing.pgmap.range().start().get();
        let pmem = self.shared.media.pmem();
        pmem.flush((pfn.get() - base) * BLOCK_SIZE, pages * BLOCK_SIZE);
        pmem.fence();
    }

    /// msync: makes stores through mappings to `off..off + len` durable; returns how many pages were flushed.
    pub fn msync(&self, off: u64, len: u64) -> Result<u64, Gone> {
        let _inside = self.shared.gate.enter()?;
        let end = off.saturating_add(len).div_ceil(BLOCK_SIZE);
        Ok(self.clean(off / BLOCK_SIZE..end))
    }

    /// Whether nothing about it is only in memory: no pages in the index, no lazy time.
    pub(crate) fn is_clean(&self) -> bool {
        let pages = 0..crate::cut::PAGES_END;
        self.mapping.entries(pages).next().is_none() && self.attr.lock().lazy_mtime.is_none()
    }
}
