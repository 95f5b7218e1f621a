//! One file's pages in memory and in storage: entries, mappings, and the lock that stops new ones.
//!
//! A [`Mapping`] is what Linux calls an address_space: the [`XArray`] from page index to storage, the list of places where the file is
//! mapped, the invalidate lock, and the pgmap that the storage belongs to.
//!
//! # Invariants
//!
//! - *Owner.* While the entry of a page exists, the page's folio names (owner, index): set before the entry is inserted, cleared at
//!   its deletion, both under the entry lock. So whoever holds a page can be asked for its file, also while a breaker waits.
//! - *No count.* An entry holds no reference. A page's count is its mappings and its pins, nothing else.
//! - *Deletion.* An entry with storage is deleted only at count 0 and only with an [`Idle`], which proves that the range was unmapped and
//!   found without pins while the invalidate lock was held exclusively, and that it still is; or by `&mut self`, when the
//!   mapping itself goes.
//! - *Dirty.* A page that can be stored to through a page table, or that is pinned, has the mark DIRTY. The mark is taken away only after
//!   the store permission is gone on every CPU and the page is flushed.
//!
//! # Locks
//!
//! `inode → address space → invalidate → entry → (fs commit) → i_mmap → page table`. Faults and clean_range share the invalidate lock;
//! breaking a layout holds it exclusively. The list of attachments has its own lock (class I_MMAP), which stays held while
//! a range is zapped: unmapping a range detaches it under that lock before the addresses are used for something else.

mod breaking;
mod clean;
mod delete;
mod fail;
mod revoke;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

use crate::layout::Idle;
use crate::xarray::{Found, NodePool, XArray};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::ops::Range;
use mm::addr::{Pfn, VirtAddr};
use mm::aspace::{Attachment, FaultError, SpaceId, VaRange};
use mm::lease::Leases;
use mm::mem::{OutOfMemory, check_headroom};
use mm::pgmap::Pgmap;
use mm::sync::{LockClass, Mutex, RwLock, class};

pub(crate) use breaking::Breaker;
use breaking::Breaking;
pub use delete::DeleteError;

/// The list of places where a file is mapped.
pub static I_MMAP: LockClass = LockClass::new("i_mmap", 65);

/// What the file system has behind a page of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// Nothing: reads as zeroes.
    Hole,
    /// Storage.
    Extent {
        /// The frame of the page asked for.
        pfn: Pfn,
        /// How many pages from there on are contiguous, at least 1.
        pages: u64,
        /// Allocated, but never written: reads as zeroes, whatever the storage holds.
        unwritten: bool,
    },
}

/// A file as its file system knows it: where its pages are stored.
///
/// Called with the invalidate lock held (shared by faults) and, but for `size`, mostly with an entry lock: an implementation may
/// take its commit lock and allocators, never the inode lock. While the invalidate lock is held shared, holes may become
/// extents, and extents never become anything else.
pub trait BlockMap: Send + Sync {
    /// What is behind page `page` (in 4 KiB pages from the start of the file).
    fn lookup(&self, page: u64) -> Result<Block, FaultError>;

    /// Makes sure that page `page` has written storage, zeroed if it is new, and returns it.
    ///
    /// The allocation is durable on return: every mapping is synchronous.
    fn allocate(&self, page: u64) -> Result<Block, FaultError>;

    /// The file's size in bytes.
    fn size(&self) -> u64;

    /// Whether the storage of `pages` can be read: no media error is known there. A page that cannot is mapped by nobody.
    fn is_sound(&self, _pages: Range<u64>) -> bool {
        true
    }
}

/// Where a file is mapped: the address space, the first address, and the pages. While a mapping is cut, two begin at one address.
type Place = (SpaceId, VirtAddr, u64);

fn place(space: SpaceId, range: VaRange) -> Place {
    (space, range.start(), range.pages())
}

/// One file's pages, mappings, and the lock between them. See the module's head.
pub struct Mapping {
    owner: u64,
    zero_page: Pfn,
    pgmap: Arc<Pgmap>,
    pub(crate) pages: XArray,
    pub(crate) invalidate: RwLock<()>,
    /// By address space and addresses: a file may be mapped in thousands of places, which come and go one by one.
    attached: Mutex<BTreeMap<Place, Attachment>>,
    pub(crate) breaking: Breaking,
    leases: Leases,
}

impl Mapping {
    /// The empty mapping of inode `owner`, whose storage lies in `pgmap`. Allocates nothing.
    ///
    /// `zero_page` is a frame of zeroes that nobody ever writes; holes are read from it.
    pub fn new(owner: u64, pgmap: Arc<Pgmap>, nodes: Arc<NodePool>, zero_page: Pfn) -> Self {
        Self {
            owner,
            zero_page,
            pgmap,
            pages: XArray::new(nodes),
            invalidate: RwLock::new(&class::INVALIDATE, ()),
            attached: Mutex::new(&I_MMAP, BTreeMap::new()),
            breaking: Breaking::new(),
            leases: Leases::new(),
        }
    }

    /// Whether no page has an entry at this moment, not even a hole. One load, no lock.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// The number of the inode that owns the pages.
    pub fn owner(&self) -> u64 {
        self.owner
    }

    /// The pgmap that the pages belong to.
    pub fn pgmap(&self) -> &Arc<Pgmap> {
        &self.pgmap
    }

    /// The leases of those who hold pages of the file for long: `VmObject::leases`.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// The frame that holes are read from.
    pub fn zero_page(&self) -> Pfn {
        self.zero_page
    }

    /// The entry that covers page `index`. Takes no lock: the answer may be old.
    pub fn load(&self, index: u64) -> Option<Found> {
        self.pages.load(index)
    }

    /// The entries of the file: for listings.
    pub fn entries(&self, pages: Range<u64>) -> impl Iterator<Item = Found> + '_ {
        self.pages.iter(pages)
    }

    /// Notes a place where the file is mapped: `VmObject::attach`. Lock class: I_MMAP.
    pub fn attach(&self, attachment: Attachment) -> Result<(), OutOfMemory> {
        let mut attached = self.attached.lock();
        check_headroom()?;
        attached.insert(place(attachment.space(), attachment.range()), attachment);
        Ok(())
    }

    /// Forgets a place: `VmObject::detach`. Its page-table entries are cleared already. Lock class: I_MMAP. Never allocates.
    pub fn detach(&self, space: SpaceId, range: VaRange) {
        self.attached.lock().remove(&place(space, range));
    }

    /// In how many places the file is mapped.
    pub fn attachments(&self) -> usize {
        self.attached.lock().len()
    }

    /// Takes the pages out of every page table, large pages that overlap the range included; on return no CPU has a translation of them.
    ///
    /// They fault again at the next access. Lock class: I_MMAP. Never allocates.
    pub fn unmap_range(&self, pages: Range<u64>) {
        for attachment in self.attached.lock().values() {
            attachment.zap(pages.clone());
        }
    }

    /// Takes away the permission to store through any page table; on return no CPU has it. Lock class: I_MMAP.
    fn write_protect(&self, pages: Range<u64>) {
        for attachment in self.attached.lock().values() {
            attachment.write_protect(pages.clone());
        }
    }

    /// `pages`, widened to whole entries at both ends.
    pub(crate) fn whole_entries(&self, pages: Range<u64>) -> Range<u64> {
        let covering = |index: u64| self.pages.load(index);
        let Some(last) = pages.end.checked_sub(1).filter(|last| *last >= pages.start) else {
            return pages;
        };
        let start = covering(pages.start).map_or(pages.start, |f| f.base);
        start..covering(last).map_or(pages.end, |f| f.end().max(pages.end))
    }
}
