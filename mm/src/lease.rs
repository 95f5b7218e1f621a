//! Leases: what makes a long-term pin of a file's own storage bearable.
//!
//! A short pin ends by itself, with its transfer. A long-term pin (RDMA, a registered buffer) ends when its holder says so, which may be
//! never; the storage behind it could never be taken away. So its holder gives a [`Lease`]: a callback that asks it to let
//! go, a name to report, and a grace period. Without one the pin is refused ([`crate::gup::GupError::NeedsLease`]).
//!
//! # The registry
//!
//! Each object that wants leases has a [`Leases`] ([`crate::aspace::VmObject::leases`]). A grant is entered **before** the first page of the
//! object is pinned, under the range of file pages that the pin is about to hold, and leaves **after** the last page is unpinned. So
//! who finds a page held by a long-term pin finds its grant too, by the range of pages alone: without a look at a page, without
//! allocating. The price: a grant may be revoked a moment before its first pin, or after its last; the holder must take both.
//!
//! # The life of a grant
//!
//! ```text
//! granted ──(somebody needs the range)──► revoked, grace running ──(grace over, still pinned)──► overdue
//!    └──────────────────────────────────────────┴──── the pins end: the grant is gone ────────────┘
//! ```
//!
//! It is revoked once, by whoever comes first: mark and end of the grace period are set under the registry's lock, the callback runs
//! after it, with no lock held. Later comers find it revoked and wait for what is left of the grace period. The clock is
//! read under the lock as well, so that "overdue since T" is the same for all who ask.
//!
//! Locks: the registry's spin lock, for one walk over the list. Only granting allocates.

use crate::mem::OutOfMemory;
use crate::sync::{SpinLock, now_us};
use alloc::sync::Arc;
use alloc::vec::Vec;
use arrayvec::ArrayString;
use core::fmt;
use core::ops::Range;

/// The longest grace period, in microseconds: what a lease asks for beyond it is not granted.
pub const MAX_GRACE_US: u64 = 60_000_000;

/// Bytes of a holder's name that are kept.
pub const NAME_BYTES: usize = 40;

/// The name of a holder, cut to [`NAME_BYTES`] bytes: a value that needs no allocation to be reported.
pub type HolderName = ArrayString<NAME_BYTES>;

/// Why a lease is revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The storage behind these pages of the file is to be taken away.
    LayoutBreak {
        /// The pages of the file, wider than what the lease covers.
        pages: Range<u64>,
    },
    /// The device goes away.
    DeviceRemoval,
}

/// What the holder of a long-term pin promises: to let go when asked.
///
/// The registry keeps the lease until the pins are dropped. So a holder that owns its pins drops them by itself; its own end will not
/// come before.
pub trait Lease: Send + Sync {
    /// Asks the holder to drop its [`crate::gup::PinnedPages`] within the grace period. Called at most once for each object that the pin
    /// covers, on a thread that holds no lock; it may drop the pins itself, or tell whoever can. It should not sleep for long: the
    /// grace period has begun.
    ///
    /// It may come while the pin is being taken, and a moment after it was dropped.
    fn revoke(&self, why: Why);

    /// Who holds the pages, for reports; the first [`NAME_BYTES`] bytes are kept.
    fn holder(&self) -> &str;

    /// How long the holder may take after [`Lease::revoke`], in microseconds; at most [`MAX_GRACE_US`] count.
    fn grace_us(&self) -> u64;
}

/// A lease as it stands, for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseState {
    /// Who holds it.
    pub holder: HolderName,
    /// The grace period in microseconds.
    pub grace_us: u64,
    /// When the grace period ends or ended (of [`now_us`]); `None`: not revoked.
    pub grace_end_us: Option<u64>,
}

impl LeaseState {
    /// Whether the holder was asked to let go.
    pub const fn is_revoked(&self) -> bool {
        self.grace_end_us.is_some()
    }
}

/// When the grace period of some lease ends. Ordered by time; no two of one object are equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GraceEnd {
    /// The time (of [`now_us`]).
    pub at_us: u64,
    id: u64,
}

/// A lease that was marked as revoked; its holder has yet to be told.
#[must_use = "the holder is not told otherwise"]
pub struct Revocation {
    lease: Arc<dyn Lease>,
    state: LeaseState,
}

impl Revocation {
    /// The lease.
    pub const fn state(&self) -> &LeaseState {
        &self.state
    }

    /// Tells the holder. The caller holds no lock.
    pub fn tell(self, why: Why) {
        self.lease.revoke(why);
    }
}

struct Grant {
    id: u64,
    pages: Range<u64>,
    lease: Arc<dyn Lease>,
    state: LeaseState,
}

impl Grant {
    fn overlaps(&self, pages: &Range<u64>) -> bool {
        self.pages.start < pages.end && pages.start < self.pages.end
    }
}

struct List {
    next: u64,
    grants: Vec<Grant>,
}

/// The leases on one object's pages. See the head of this file.
pub struct Leases(SpinLock<List>);

impl Default for Leases {
    fn default() -> Self {
        Self::new()
    }
}

impl Leases {
    /// No leases.
    pub const fn new() -> Self {
        let grants = Vec::new();
        Self(SpinLock::new(List { next: 0, grants }))
    }

    /// Enters a lease for `pages`; returns its number. Allocates.
    pub(crate) fn grant(
        &self,
        lease: &Arc<dyn Lease>,
        pages: Range<u64>,
    ) -> Result<u64, OutOfMemory> {
        let state = LeaseState {
            holder: cut_name(lease.holder()),
            grace_us: lease.grace_us().min(MAX_GRACE_US),
            grace_end_us: None,
        };
        let lease = lease.clone();
        let mut list = self.0.lock();
        list.grants.try_reserve(1).map_err(|_| OutOfMemory)?;
        let id = list.next;
        list.next += 1;
        list.grants.push(Grant {
            id,
            pages,
            lease,
            state,
        });
        Ok(id)
    }

    /// Takes a lease off the list: its pages are unpinned.
    pub(crate) fn end(&self, id: u64) {
        // The lease is let go after the lock: its holder's drop may do anything.
        let _ended = {
            let mut list = self.0.lock();
            let at = list.grants.iter().position(|g| g.id == id);
            at.map(|at| list.grants.swap_remove(at))
        };
    }

    /// The lease with this number as it stands.
    pub(crate) fn state(&self, id: u64) -> Option<LeaseState> {
        self.find(|g| g.id == id)
    }

    /// Marks one lease on any of `pages` that is not revoked yet as revoked from now on. Call it until it returns `None`.
    pub fn revoke_one(&self, pages: &Range<u64>) -> Option<Revocation> {
        let mut list = self.0.lock();
        let now = now_us();
        let fresh = |g: &&mut Grant| !g.state.is_revoked() && g.overlaps(pages);
        let grant = list.grants.iter_mut().find(fresh)?;
        // At least 1: no end equals the default of `GraceEnd`, and none lies before a look that was made before.
        grant.state.grace_end_us = Some(now.saturating_add(grant.state.grace_us.max(1)));
        Some(Revocation {
            lease: grant.lease.clone(),
            state: grant.state,
        })
    }

    /// Whether a lease on any of `pages` is not revoked yet.
    pub fn has_fresh(&self, pages: &Range<u64>) -> bool {
        self.find(|g| !g.state.is_revoked() && g.overlaps(pages))
            .is_some()
    }

    /// A lease on any of `pages`; the one that is overdue longest first.
    pub fn on(&self, pages: &Range<u64>) -> Option<LeaseState> {
        let list = self.0.lock();
        let on = list.grants.iter().filter(|g| g.overlaps(pages));
        on.map(|g| g.state)
            .min_by_key(|s| s.grace_end_us.unwrap_or(u64::MAX))
    }

    /// The next lease on any of `pages` whose grace period ended, or ends, after `after`.
    pub fn next_grace_end(
        &self,
        pages: &Range<u64>,
        after: GraceEnd,
    ) -> Option<(GraceEnd, LeaseState)> {
        let end = |g: &Grant| {
            let (at_us, id) = (g.state.grace_end_us?, g.id);
            Some((GraceEnd { at_us, id }, g.state))
        };
        let list = self.0.lock();
        let on = list.grants.iter().filter(|g| g.overlaps(pages));
        on.filter_map(end)
            .filter(|(end, _)| *end > after)
            .min_by_key(|(end, _)| *end)
    }

    /// The number of leases.
    pub fn len(&self) -> usize {
        self.0.lock().grants.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn find(&self, wanted: impl Fn(&Grant) -> bool) -> Option<LeaseState> {
        let list = self.0.lock();
        list.grants.iter().find(|g| wanted(g)).map(|g| g.state)
    }
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Leases({})", self.len())
    }
}

/// The first [`NAME_BYTES`] bytes of a name, or fewer, so that no character is cut.
fn cut_name(name: &str) -> HolderName {
    let mut kept = HolderName::new();
    // An error: the rest does not fit.
    let _ = name.chars().try_for_each(|c| kept.try_push(c));
    kept
}
