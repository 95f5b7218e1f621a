//! The device goes: everybody out, then nothing of it is used any more.
//!
//! # The order
//!
//! 1. The gate closes: operations and faults that begin later fail with [`Gone`](crate::Gone) (a fault with `Dying`).
//! 2. The pgmap dies (`mm::pgmap`): no page leaves count 0. Every file's pages are taken out of every page table, once the faults
//!    under way are through ([`Mapping::revoke_all`](dax::mapping::Mapping::revoke_all)). Accesses fault, and the fault fails.
//! 3. The sweep waits for each page that still has a count: the pins. It names the one it waits for.
//! 4. The gate empties: what began before the removal ends, either done or with an error. Nothing inside can wait for long: pins are
//!    gone, a delayed fault is delayed for at most 100 ms.
//! 5. What was stored through mappings and never flushed is flushed, and the ring settled: nobody stores any more.
//!
//! Each wait holds no lock and ends by its deadline or [`Cancel`](mm::sync::Cancel). What was done stays done: the gate stays closed, the pgmap dying, and a
//! further call goes on. One call works at a time, so that a remover that was left behind never stores to the media of the next
//! mount.
//!
//! Orphans are left as they are: their last name is gone by a durable record, the next mount does not see them.
//!
//! # Afterwards
//!
//! Handles, mappings and the file system itself may live on; all they get is errors. They keep the page metadata, which is freed
//! with the last of them. The region may have a new pgmap and a new mount meanwhile: nothing of the old one reaches the media.

use core::fmt;

use dax::pmem::Pmem;
use mm::addr::Pfn;
use mm::page::{Counts, Owner};
use mm::pgmap::{Pgmap, State as Life};
use mm::sync::atomic::{AtomicU32, Ordering};
use mm::sync::{Wait, WaitError};
use thiserror::Error;

use crate::cut::PAGES_END;
use crate::fs::Fs;

/// A page that keeps a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldPage {
    /// First frame of the folio.
    pub pfn: Pfn,
    /// Its mappings and pins when they were read.
    pub counts: Counts,
    /// The page of the file that it is.
    pub owner: Option<Owner>,
}

impl HeldPage {
    /// A folio of `pgmap` and its owner.
    #[must_use]
    pub fn new(pgmap: &Pgmap, (pfn, counts): (Pfn, Counts)) -> Self {
        let owner = pgmap.owner_of(pfn);
        Self { pfn, counts, owner }
    }
}

impl fmt::Display for HeldPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { mapped, pinned, .. } = self.counts;
        match self.owner {
            Some(Owner { inode, index }) => write!(f, "inode {inode} page {index} ")?,
            None => f.write_str("a page without an owner ")?,
        }
        write!(f, "(frame {}): {mapped} mappings, {pinned} pins", self.pfn)
    }
}

/// Why a removal has not ended. It goes on with the next call; meanwhile nobody gets anything new of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RemovalError {
    /// A page is held.
    #[error("{why}: {page}")]
    Held {
        /// What ended the wait.
        why: WaitError,
        /// The page.
        page: HeldPage,
    },
    /// Operations that began before are not through.
    #[error("{why}: {count} operations are not through")]
    Inside {
        /// What ended the wait.
        why: WaitError,
        /// How many.
        count: u64,
    },
    /// Another call is removing the device.
    #[error("another removal of it is under way")]
    UnderWay,
}

const IDLE: u32 = 0;
const AT_WORK: u32 = 1;
const DONE: u32 = 2;

/// Whether a removal is at work, or done.
#[derive(Default)]
pub(crate) struct Progress(AtomicU32);

/// The one removal at work; gives its place back when dropped.
struct Turn<'a> {
    progress: &'a Progress,
    then: u32,
}

impl Progress {
    /// The turn to work; `Ok(None)` when there is nothing left to do.
    fn begin(&self) -> Result<Option<Turn<'_>>, RemovalError> {
        // Acquire pairs with the Release of the drop of `Turn`: who comes next sees what was done.
        match self
            .0
            .compare_exchange(IDLE, AT_WORK, Ordering::Acquire, Ordering::Acquire)
        {
            Ok(_) => Ok(Some(Turn {
                progress: self,
                then: IDLE,
            })),
            Err(DONE) => Ok(None),
            Err(_) => Err(RemovalError::UnderWay),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Release pairs with the Acquire of `begin`.
        self.progress.0.store(self.then, Ordering::Release);
    }
}

/// Removes a pgmap that no file system uses: it dies, and this waits for the last reference to its pages. See the module's head.
pub fn remove_pgmap(pgmap: &Pgmap, wait: &Wait<'_>) -> Result<(), RemovalError> {
    remove_pages(pgmap, || (), wait)
}

fn remove_pages(
    pgmap: &Pgmap,
    unmap_all: impl FnMut(),
    wait: &Wait<'_>,
) -> Result<(), RemovalError> {
    let mut unmap_all = unmap_all;
    pgmap.remove(&mut unmap_all, wait).map_err(|error| {
        let first = error.first.or_else(|| pgmap.first_busy());
        match first {
            Some(found) => RemovalError::Held {
                why: error.why,
                page: HeldPage::new(pgmap, found),
            },
            None => RemovalError::Inside {
                why: error.why,
                count: error.held,
            },
        }
    })
}

impl<P: Pmem> Fs<P> {
    /// Removes the device under the file system: see the module's head. Afterwards nothing stores to the region any more, and
    /// every operation fails with `Gone`. Call it again after an error; a removal that is done is done.
    ///
    /// Takes each file's invalidate lock; the caller holds no lock. Waits as `wait` says, holding none. Allocates nothing.
    pub fn remove_device(&self, wait: &Wait<'_>) -> Result<(), RemovalError> {
        let Some(mut turn) = self.shared.removal.begin()? else {
            return Ok(());
        };
        self.shared.gate.close();
        self.shared.bell.close();
        remove_pages(self.pgmap(), || self.revoke_all(), wait)?;
        let empty = self.shared.gate.wait_empty(wait);
        let count = self.shared.gate.inside();
        empty.map_err(|why| RemovalError::Inside { why, count })?;
        self.leave_durable();
        turn.then = DONE;
        Ok(())
    }

    /// Whether the device is being removed, or is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.shared.gate.is_closed()
    }

    /// Takes every file's pages out of every page table.
    fn revoke_all(&self) {
        debug_assert_ne!(self.pgmap().state(), Life::Live);
        self.each_loaded(|inode| inode.mapping.revoke_all());
    }

    /// Flushes what was stored through mappings, and leaves nothing to replay.
    fn leave_durable(&self) {
        if self.shared.read_only {
            return;
        }
        self.each_loaded(|inode| {
            inode.clean(0..PAGES_END);
        });
        let mut state = self.lock();
        state.ring.checkpoint(&self.shared.media);
        state.ring.settle(&self.shared.media);
    }
}
