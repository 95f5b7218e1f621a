//! Taking storage away: truncate, punch, and the end of an orphan.
//!
//! The order, which is the reason why this project exists:
//!
//! 1. `break_layouts` answers with an [`Idle`]: no page of the range is mapped or pinned, and none can become so.
//! 2. One record commits the new size and extents. From here on a crash finds the file cut.
//! 3. The entries of the pages are deleted, with the `Idle`.
//! 4. The blocks go into quarantine, with the `Idle`; from there to the allocator when nothing speaks against it.
//! 5. The rest of the last block is zeroed. A crash before that leaves old bytes behind the end of the file, where nobody sees
//!    them; whoever moves the end outwards zeroes them first.
//!
//! Without the `Idle` step 3 and 4 do not compile. Whoever does not wait, or not long enough, changes nothing.

use alloc::vec::Vec;
use core::ops::Range;

use dax::layout::{BreakReport, How, Idle, break_layouts};
use dax::pmem::Pmem;
use mm::mem::{OutOfMemory, check_headroom};
use mm::trace;

use crate::commit::{Freed, FreshSet, Run, Unlinked};
use crate::error::{ChangeError, TruncateError};
use crate::extents::Spot;
use crate::file::MAX_SIZE;
use crate::inode::{Content, Vnode, blocks_for};
use crate::layout::{BLOCK_SIZE, Core, Extent, Kind};
use crate::shared::State;

/// The page after the last one that a file can have.
pub(crate) const PAGES_END: u64 = MAX_SIZE / BLOCK_SIZE;

/// What a truncate or punch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TruncateReport {
    /// How often it found a page held and started again.
    pub retries: u32,
    /// How long it waited, holding no lock, in microseconds.
    pub waited_us: u64,
    /// Blocks that it took out of the file.
    pub freed_blocks: u64,
}

impl<P: Pmem> Vnode<P> {
    /// Makes the file `size` bytes long. A shorter file waits (as `how` says) until no page behind the new end is held; while it
    /// waits it holds no lock. `report` counts, and tells its observer each step.
    pub(crate) fn truncate(
        &self,
        size: u64,
        how: How<'_>,
        report: &mut BreakReport<'_>,
    ) -> Result<TruncateReport, TruncateError> {
        self.cuttable(size)?;
        let pages = blocks_for(size)..PAGES_END;
        let mut idle = break_layouts(&self.content, &self.mapping, pages.clone(), how, report)?;
        let now = self.shared.now();
        let change = |core: &mut Core| {
            core.size = size;
            (core.mtime, core.ctime) = (now, now);
        };
        // The times move also when the size stays, as POSIX has it.
        let freed_blocks = if size < self.stat().size {
            let freed = self.cut(&mut idle, pages, change)?;
            self.zero_behind(size);
            freed
        } else {
            // Storage behind the end may exist (fallocate); it stays.
            self.lengthen(size, change)?;
            0
        };
        Ok(TruncateReport {
            retries: report.retries,
            waited_us: report.waited_us,
            freed_blocks,
        })
    }

    fn lengthen(&self, size: u64, change: impl FnOnce(&mut Core)) -> Result<(), ChangeError> {
        if size > self.stat().size {
            return self.extend(size);
        }
        self.commit_core(&mut self.shared.state.lock(), change)
    }

    /// Makes bytes `off..off + len` a hole, whole blocks without storage and the edges zeroed. The size stays.
    pub(crate) fn punch(
        &self,
        off: u64,
        len: u64,
        how: How<'_>,
        report: &mut BreakReport<'_>,
    ) -> Result<TruncateReport, TruncateError> {
        let end = off.checked_add(len).ok_or(TruncateError::FileTooBig)?;
        self.cuttable(off)?;
        let end = end.min(MAX_SIZE);
        let pages = blocks_for(off)..(end / BLOCK_SIZE).max(blocks_for(off));
        let mut idle = break_layouts(&self.content, &self.mapping, pages.clone(), how, report)?;
        let now = self.shared.now();
        let freed_blocks = self.cut(&mut idle, pages.clone(), |core| {
            (core.mtime, core.ctime) = (now, now)
        })?;
        self.zero_edges(off, end, &pages);
        Ok(TruncateReport {
            retries: report.retries,
            waited_us: report.waited_us,
            freed_blocks,
        })
    }

    pub(crate) fn cuttable(&self, size: u64) -> Result<(), TruncateError> {
        if self.kind() != Kind::File {
            return Err(TruncateError::NotFile);
        }
        if size > MAX_SIZE {
            return Err(TruncateError::FileTooBig);
        }
        check_headroom()?;
        Ok(self.shared.writable()?)
    }

    /// Steps 2 to 4 for the pages that `idle` covers; returns how many blocks went.
    fn cut(
        &self,
        idle: &mut Idle<'_, Content>,
        pages: Range<u64>,
        change: impl FnOnce(&mut Core),
    ) -> Result<u64, ChangeError> {
        let mut state = self.shared.state.lock();
        let (edit, gone) = self.attr.lock().map.cut(pages.start, pages.end)?;
        if edit.is_nothing() {
            self.commit_core(&mut state, change)?;
            return Ok(0);
        }
        let mut freed = Vec::new();
        freed
            .try_reserve_exact(gone.len())
            .map_err(|_| OutOfMemory)?;
        state.promise(gone.len())?;
        let committed = self.commit_map(&mut state, edit, FreshSet::new(), change, |tx| {
            freed.extend(gone.iter().map(|run| tx.freed_data(*run, idle)));
        });
        if let Err(error) = committed {
            state.space.withdraw(gone.len());
            return Err(error);
        }
        drop(state);
        Ok(self.retire(idle, pages, freed))
    }

    /// Steps 3 and 4.
    fn retire(&self, idle: &Idle<'_, Content>, pages: Range<u64>, freed: Vec<Freed>) -> u64 {
        if !self.forget_pages(idle, pages) {
            self.shared.state.lock().space.withdraw(freed.len());
            return 0;
        }
        let mut state = self.shared.state.lock();
        let mut blocks = 0;
        for freed in freed {
            blocks += freed.run.len;
            self.shared.note(trace::Kind::QuarantineIn, freed.run);
            state.quarantine.push(freed);
        }
        blocks
    }

    /// Step 3. False: somebody broke the rules, and the blocks stay out of use until the next mount, where they are free.
    pub(crate) fn forget_pages(&self, idle: &Idle<'_, Content>, pages: Range<u64>) -> bool {
        let flush = |pfn, pages| self.flush(pfn, pages);
        let deleted = self.mapping.delete_entries(idle, pages, &flush);
        if let Err(error) = deleted {
            log::error!("inode {}: {error}; its blocks are not reused", self.ino());
        }
        deleted.is_ok()
    }

    /// Zeroes the rest of the block in which the file ends.
    fn zero_behind(&self, size: u64) {
        let _ = self.zero_within(size, size.next_multiple_of(BLOCK_SIZE));
    }

    /// Zeroes `from..to`, which lies in one block, if that has written storage. Durable with the next fence; through the caches, for nothing
    /// keeps other CPUs from storing into this page right after, or even now. False: there was nothing to zero.
    fn zero_within(&self, from: u64, to: u64) -> bool {
        let Spot::Extent(Extent {
            phys,
            unwritten: false,
            ..
        }) = self.spot(from / BLOCK_SIZE)
        else {
            return false;
        };
        let run = Run {
            block: phys,
            len: 1,
        };
        if from < to {
            self.shared
                .media
                .zero_cached(run, from % BLOCK_SIZE, to - from);
        }
        from < to
    }

    /// Zeroes what `off..end` has of blocks that are not among `whole`, durably.
    pub(crate) fn zero_edges(&self, off: u64, end: u64, whole: &Range<u64>) {
        let first = off.next_multiple_of(BLOCK_SIZE).min(end);
        let mut zeroed = self.zero_within(off, first);
        let last = (end / BLOCK_SIZE * BLOCK_SIZE).max(first);
        if whole.end * BLOCK_SIZE <= last {
            zeroed |= self.zero_within(last, end);
        }
        if zeroed {
            self.shared.media.fence();
        }
    }

    /// Ends an orphan that nobody uses any more: its blocks go to quarantine, its number becomes free. Its last name is gone by a
    /// durable record, so that no mount counts its extents: nothing is written. Allocates nothing.
    ///
    /// False: a page is still held; it stays an orphan.
    pub(crate) fn bury(&self) -> bool {
        let (content, mapping, report) =
            (&self.content, &self.mapping, &mut BreakReport::default());
        let Ok(idle) = break_layouts(content, mapping, 0..PAGES_END, How::NoWait, report) else {
            return false;
        };
        let reusable = self.forget_pages(&idle, 0..PAGES_END);
        let mut state = self.shared.state.lock();
        let at = state.orphans.iter().position(|o| o.ino() == self.ino());
        if let Some(at) = at {
            let unlinked = state.orphans.swap_remove(at);
            self.give_up_storage(&mut state, &unlinked, &idle, reusable);
        }
        state.inodes.clear(self.ino());
        true
    }

    /// Moves the runs of an orphan to quarantine; each was promised room when it came into memory.
    fn give_up_storage(
        &self,
        state: &mut State,
        unlinked: &Unlinked,
        idle: &Idle<'_, Content>,
        reusable: bool,
    ) {
        let map = core::mem::take(&mut self.attr.lock().map);
        if !reusable {
            return state.space.withdraw(map.len() + map.nodes());
        }
        for extent in map.iter() {
            let run = Run {
                block: extent.phys,
                len: extent.len,
            };
            self.shared.note(trace::Kind::QuarantineIn, run);
            state.quarantine.push(match self.kind() {
                Kind::Dir => unlinked.freed_meta(run),
                _ => unlinked.freed_data(run, idle),
            });
        }
        for node in map.node_blocks() {
            state.quarantine.push(unlinked.freed_node(node));
        }
    }

    /// Writes a lazy time, if there is one. Takes the commit lock.
    pub(crate) fn settle_times(&self, state: &mut State) -> Result<(), ChangeError> {
        if self.attr.lock().lazy_mtime.is_some() {
            self.commit_core(state, |_| ())?;
        }
        Ok(())
    }
}
