//! Pinning the pages behind a range of virtual addresses, for DMA and the like.
//!
//! **What a pin is.** [`PinnedPages`] holds, for every page of the range, one count in the *pinned* half of its
//! folio, and for every object behind the range one `Arc`. It belongs to nobody: the mapping may be removed, the
//! file closed and unlinked, the thread may end; the pages stay theirs until the value is dropped.
//!
//! **How it is taken.** Under the address space's lock held shared, so that the pages in the table belong to the
//! mapping that was found: with interrupts off, read the entry; pin its folio (fails at count 0); read the entry
//! again; if it changed, undo and start over. Between the two stands a sequentially consistent fence, which pairs
//! with the one in a write protection. What this proves, against whom, stands at the head of `fast.rs`, which does the same without
//! the lock ([`pin_user_pages_fast`]). An entry that is absent, or does not permit the store, is faulted in with the lock
//! released (a fault takes it), and the walk goes on.
//!
//! **Progress.** There is no bound on the number of tries. Each repetition means that somebody else made progress
//! in between: a zap took the entry away, or another CPU changed it. Delays for a range that is being broken are
//! the business of the object's fault, which every such repetition passes through.
//!
//! **Holes.** The shared zero page has no count and is never pinned. Where it is mapped, the range is faulted in as
//! if for a store if the mapping allows stores, so that the holder sees later writes to the file; else the answer
//! is [`GupError::Hole`].
//!
//! **Order of the end.** A drop unpins first and lets the objects go after. The last unpin may report the page idle
//! to the file system, which then looks for the inode that owns the page: it must still be alive. The other way
//! round, the last `Arc` could end an inode whose pages are still pinned, and eviction would have to wait for them.
//!
//! **Long-term pins.** A pin of a file's own storage that may last for ever needs a [`Lease`], which is entered in the object's
//! registry before its first page is pinned ([`crate::lease`]).
//!
//! **Durability.** A pin for writing marks its pages dirty when it is taken. A holder that stores after the file
//! was synced makes its own stores durable.

mod fast;
mod leased;
#[cfg(all(test, loom))]
mod loom_tests;
mod pinned;
mod slow;
mod stats;
#[cfg(all(test, not(any(loom, shuttle))))]
mod stress_tests;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

use alloc::sync::Arc;

use thiserror::Error;

use self::fast::pin_ahead;
use self::leased::Term;
pub use self::pinned::PinnedPages;
use self::slow::pin_present;
pub use self::stats::{GupStats, stats};
use crate::addr::VirtAddr;
use crate::aspace::{AddressSpace, FaultError, VaRange, VmObject};
use crate::lease::Lease;
use crate::mem::{OutOfMemory, check_headroom};

/// What stands behind a mapping, kept alive by a pin.
type Object = Arc<dyn VmObject>;

/// Why a range was not pinned. Whatever had been pinned of it is unpinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GupError {
    /// No pages were asked for, or the start is not page-aligned, or the range leaves its half of the address
    /// space.
    #[error("not a range of pages")]
    BadRange,
    /// A page could not be made accessible.
    #[error("{at:#x}: {why}")]
    Fault {
        /// The page.
        at: VirtAddr,
        /// Why not.
        why: FaultError,
    },
    /// A hole of a file in a mapping that allows no stores: there is no page to pin.
    #[error("a hole at {at:#x}, and the mapping allows no stores")]
    Hole {
        /// The page.
        at: VirtAddr,
    },
    /// The page is mapped but has no reference count (device registers, kernel memory).
    #[error("the memory at {at:#x} has no reference count")]
    Uncounted {
        /// The page.
        at: VirtAddr,
    },
    /// The folio can take no more pins.
    #[error("too many pins on the page at {at:#x}")]
    TooManyPins {
        /// The page.
        at: VirtAddr,
    },
    /// A long-term pin of a file's own storage without a lease.
    #[error(
        "the page at {at:#x} is storage of a file, which could never be taken back: a long-term pin of it needs a lease with a \
         revoke callback; pin it for one transfer at a time, or give a lease"
    )]
    NeedsLease {
        /// The page.
        at: VirtAddr,
    },
    /// No memory for the list of pages.
    #[error("out of memory")]
    OutOfMemory,
}

impl From<OutOfMemory> for GupError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Pins the `pages` pages from `start` on, faulting them in where needed, for stores too if `write`.
///
/// Takes the address space's lock shared, again and again; the caller holds no lock of class ASPACE or later, nor
/// any that the objects' faults take. May sleep. The range may cover several mappings.
///
/// # Errors
///
/// As [`GupError`] says; nothing stays pinned then.
pub fn pin_user_pages(
    space: &AddressSpace,
    start: VirtAddr,
    pages: usize,
    write: bool,
) -> Result<PinnedPages, GupError> {
    pin(space, start, pages, write, &Term::Short)
}

/// Pins pages as [`pin_user_pages`] does, for as long as the holder likes.
///
/// Where the pages are storage of a file, `lease` must say how to get them back ([`crate::lease`]): it is entered before the first of them
/// is pinned, and leaves the list when the returned value is dropped.
///
/// # Errors
///
/// [`GupError::NeedsLease`] for such pages without a lease; else as [`GupError`] says. Nothing stays pinned then.
pub fn pin_user_pages_longterm(
    space: &AddressSpace,
    start: VirtAddr,
    pages: usize,
    write: bool,
    lease: Option<Arc<dyn Lease>>,
) -> Result<PinnedPages, GupError> {
    let pinned = pin(space, start, pages, write, &Term::Long(lease))?;
    pinned.tell_waiters();
    Ok(pinned)
}

fn pin(
    space: &AddressSpace,
    start: VirtAddr,
    pages: usize,
    write: bool,
    term: &Term,
) -> Result<PinnedPages, GupError> {
    check_headroom()?;
    let range = VaRange::new(start, pages as u64).ok_or(GupError::BadRange)?;
    let mut pinned = PinnedPages::empty();
    let mut at = range.start();
    while at < range.end() {
        at = pin_slowly(space, at, range.end(), write, term, &mut pinned)?;
    }
    Ok(pinned)
}

/// Pins under the lock what is present from `at` on, as far as one mapping reaches, and faults in what then is missing. Says how far the
/// pins are.
fn pin_slowly(
    space: &AddressSpace,
    at: VirtAddr,
    end: VirtAddr,
    write: bool,
    term: &Term,
    pinned: &mut PinnedPages,
) -> Result<VirtAddr, GupError> {
    let (at, missing) = pin_present(space, at, end, write, term, pinned)?;
    if let Some(access) = missing {
        space
            .handle_fault(at, access)
            .map_err(|why| GupError::Fault { at, why })?;
    }
    Ok(at)
}

/// Pins pages as [`pin_user_pages`] does, without a lock as far as they are present and this CPU runs on the address space: for the
/// calling thread's own. What is missing is faulted in by the slow path; then the fast one goes on.
///
/// Takes the locks of [`pin_user_pages`] where it has to; same rules for the caller. Interrupts are off for at most 512 pages at a time.
///
/// # Errors
///
/// As [`GupError`] says; nothing stays pinned then.
pub fn pin_user_pages_fast(
    space: &AddressSpace,
    start: VirtAddr,
    pages: usize,
    write: bool,
) -> Result<PinnedPages, GupError> {
    check_headroom()?;
    let range = VaRange::new(start, pages as u64).ok_or(GupError::BadRange)?;
    let mut pinned = PinnedPages::empty();
    let mut at = range.start();
    loop {
        at = pin_ahead(space, at, range.end(), write, &mut pinned)?;
        if at >= range.end() {
            return Ok(pinned);
        }
        at = pin_slowly(space, at, range.end(), write, &Term::Short, &mut pinned)?;
    }
}

/// Where a test lets something happen between two steps; nothing otherwise.
mod between {
    #[cfg(all(test, not(any(loom, shuttle))))]
    std::thread_local! {
        /// Done once, on this thread, between the first reading of an entry and the pin of its folio.
        pub(super) static ONCE: core::cell::RefCell<Option<alloc::boxed::Box<dyn FnOnce()>>> =
            const { core::cell::RefCell::new(None) };
    }

    /// Between the reading of an entry and the pin.
    #[inline]
    pub(super) fn reading_and_pinning() {
        #[cfg(all(test, not(any(loom, shuttle))))]
        if let Some(action) = ONCE.with_borrow_mut(Option::take) {
            action();
        }
    }

    #[cfg(all(test, not(any(loom, shuttle))))]
    std::thread_local! {
        /// Done once, on this thread, between the pins of a section and the second reading of its entries.
        pub(super) static AFTER: core::cell::RefCell<Option<alloc::boxed::Box<dyn FnOnce()>>> =
            const { core::cell::RefCell::new(None) };
    }

    /// Between the pins and the second reading of the entries.
    #[inline]
    pub(super) fn pinning_and_reading() {
        #[cfg(all(test, not(any(loom, shuttle))))]
        if let Some(action) = AFTER.with_borrow_mut(Option::take) {
            action();
        }
    }
}
