//! break_layouts: make it safe to take a file's storage away.
//!
//! [`break_layouts`] answers with an [`Idle`]: no page of the range is mapped or pinned, and none can become so while the token lives, because it
//! holds the inode lock and, exclusively, the mapping's invalidate lock. It does not truncate; it makes truncating safe.
//!
//! # The argument
//!
//! 1. *Nothing new.* References come from faults, which share the invalidate lock, and from gup, which takes them only through
//!    a page-table entry that it finds again after taking the reference.
//! 2. *Unmap first, then count.* The range is unmapped and every TLB flushed before a count is read. A gup that raced has either
//!    taken its pin before the entry was cleared, and is counted, or finds the entry changed, and lets go.
//! 3. *Whom it asks.* Counts are read for every entry of the range, whether or not the file is mapped anywhere: a pin outlives
//!    munmap. Entries outlive both, because deleting one takes an [`Idle`].
//! 4. *What it waits for.* The pins of one page, with no lock held and nothing allocated: who must let go may need the inode lock, or
//!    a page of the same range. Not the sum of mappings and pins, or a page faulted in again meanwhile would keep the
//!    waiter asleep after the last pin is gone. Then everything starts again.
//! 5. *A page mapped, but not pinned,* after the unmapping is being unmapped by somebody else (munmap), whose reference goes a
//!    moment later than its entry. The breaker lets go of its locks until that reference is gone, and starts again.
//! 6. *It ends.* While it waits, faults in its range, and with them new pins, are delayed for a bounded time, in a way that lets a
//!    breaker through (the head of `mapping::breaking`). A deadline, a [`Cancel`](mm::sync::Cancel) or [`How::NoWait`] end it
//!    early; the file is then as before (what was unmapped faults again).
//! 7. *Long-term pins* have a lease, or they would not exist. The leases of the range are found by range, without a look at
//!    pages, and revoked before the first wait, all at once, so that their grace periods run together. Who has not let
//!    go at the end of the grace period is named: in an event at once, and in the error when the caller's own patience ends.
//!    The caller's deadline counts as ever; a grace period never makes a wait longer.

mod idle;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
mod wait;

use crate::mapping::{Breaker, Mapping};
use core::fmt;
use core::ops::Range;
use mm::addr::Pfn;
use mm::lease::{GraceEnd, HolderName, LeaseState};
use mm::page::Counts;
use mm::sync::{HeldList, Mutex, Wait};
use mm::trace::{self, Kind, What};

pub use idle::Idle;
use idle::Locked;
use wait::Waiting;

/// What to do about a page that is pinned.
#[derive(Clone, Copy)]
pub enum How<'a> {
    /// Give up at once. No lease is revoked.
    NoWait,
    /// Wait for its pins.
    Wait(Wait<'a>),
}

/// A page of the range that somebody holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The inode.
    pub inode: u64,
    /// The page of the file where the folio begins.
    pub index: u64,
    /// The first frame of the folio.
    pub pfn: Pfn,
    /// Its mappings and pins when they were read.
    pub counts: Counts,
    /// Who has a lease on it; the one that is overdue longest, if there are several.
    pub holder: Option<HolderName>,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { mapped, pinned, .. } = self.counts;
        write!(
            f,
            "inode {} page {} (frame {}): {mapped} mappings, {pinned} pins",
            self.inode, self.index, self.pfn
        )?;
        self.holder
            .map_or(Ok(()), |name| write!(f, ", held by {name}"))
    }
}

/// Why a layout was not broken. Nothing has changed but that pages were unmapped; they fault again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BreakError {
    /// A page is held, and the caller does not wait.
    #[error("in use: {0}")]
    WouldBlock(Held),
    /// A page was still held at the deadline.
    #[error("still in use at the deadline: {0}")]
    TimedOut(Held),
    /// The wait was cancelled.
    #[error("cancelled while waiting for {0}")]
    Cancelled(Held),
}

impl BreakError {
    /// The page that was held.
    pub const fn held(&self) -> &Held {
        match self {
            Self::WouldBlock(held) | Self::TimedOut(held) | Self::Cancelled(held) => held,
        }
    }
}

/// A step of a breaker, for those who want to watch.
#[derive(Clone, Debug)]
pub enum BreakEvent {
    /// The range is unmapped everywhere and the TLBs are flushed; now the counts are read. Both locks are held.
    Zapped {
        /// The pages, widened to whole entries.
        pages: Range<u64>,
    },
    /// A page is pinned; the breaker is about to wait for its pins.
    Waiting {
        /// The page.
        held: Held,
        /// The sleeping locks that the breaker's thread holds while it waits: none, unless its caller held one.
        locks_held: HeldList,
    },
    /// The holder of a lease is about to be asked to let go. No lock is held.
    Revoking {
        /// The lease; its grace period has begun.
        lease: LeaseState,
    },
    /// A grace period is over and its lease still there: the holder is named, once, and waited for if the caller still waits.
    Overdue {
        /// The page that is waited for.
        held: Held,
        /// The lease.
        lease: LeaseState,
    },
    /// The pins of that page are gone, or it was mapped anew; everything starts again.
    Retry,
    /// Every page is idle. Both locks are held.
    Idle,
}

/// What a breaker did; filled in also when it fails.
#[derive(Clone, Copy, Default)]
pub struct BreakReport<'a> {
    /// How often it started again.
    pub retries: u32,
    /// How long it waited without its locks, in microseconds.
    pub waited_us: u64,
    /// The page that it found held last.
    pub last_held: Option<Held>,
    /// Called at each step, with the locks that the event names.
    pub observer: Option<&'a dyn Fn(BreakEvent)>,
}

impl<'a> BreakReport<'a> {
    /// An empty report that calls `observer` at each step.
    pub fn observed(observer: &'a dyn Fn(BreakEvent)) -> Self {
        Self {
            observer: Some(observer),
            ..Self::default()
        }
    }

    fn tell(&self, event: impl FnOnce() -> BreakEvent) {
        if let Some(observer) = self.observer {
            observer(event());
        }
    }
}

/// Waits until no page of `pages` is mapped or pinned, and keeps it so: see the module's head.
///
/// Takes the inode lock and the invalidate lock itself, and drops both whenever it waits: what the caller knew about the inode
/// may have changed; read it again through the [`Idle`]. The caller holds no sleeping lock. Never allocates.
///
/// Error: see [`BreakError`]; no lock is held then.
pub fn break_layouts<'i, T>(
    inode: &'i Mutex<T>,
    mapping: &'i Mapping,
    pages: Range<u64>,
    how: How<'_>,
    report: &mut BreakReport<'_>,
) -> Result<Idle<'i, T>, BreakError> {
    let mut breaker = Breaker::new(&mapping.breaking);
    let mut told = GraceEnd::default();
    loop {
        let locked = Locked::take(inode, mapping, pages.clone());
        mapping.unmap_range(locked.pages());
        note(Kind::BreakZapped, mapping, locked.pages().start);
        report.tell(|| BreakEvent::Zapped {
            pages: locked.pages(),
        });
        let Some(held) = mapping.first_held(locked.pages()) else {
            note(Kind::BreakIdle, mapping, locked.pages().start);
            report.tell(|| BreakEvent::Idle);
            return Ok(Idle::proved(locked));
        };
        let pages = locked.pages();
        breaker.waits(&pages);
        drop(locked);
        report.last_held = Some(held);
        let (breaker, report, told) = (&breaker, &mut *report, &mut told);
        Waiting {
            mapping,
            breaker,
            pages,
            held,
            told,
            report,
        }
        .wait(how)?;
        report.retries += 1;
        trace::note(Kind::BreakRetry, || about(&held, report.retries));
        report.tell(|| BreakEvent::Retry);
    }
}

fn note(kind: Kind, mapping: &Mapping, index: u64) {
    trace::note(kind, || What::default().file(mapping.owner(), index));
}

/// An event about a page that is held.
fn about(held: &Held, value: u32) -> What {
    let what = What::pages(held.pfn, 1).file(held.inode, held.index);
    what.with(value.into())
}

impl Mapping {
    /// The first entry of the range whose folio has a count. Never allocates.
    pub fn first_held(&self, pages: Range<u64>) -> Option<Held> {
        self.entries(pages).find_map(|found| {
            let pfn = found.pfn()?;
            let counts = self.pgmap().folio(pfn)?.counts();
            let held = || Held {
                inode: self.owner(),
                index: found.base,
                pfn,
                counts,
                holder: self.holder_of(&(found.base..found.end())),
            };
            (!counts.is_idle()).then(held)
        })
    }

    /// The same page with the counts and the holder that it has now.
    fn held_now(&self, held: Held) -> Held {
        let folio = self.pgmap().folio(held.pfn);
        let pages = held.index..held.index + folio.map_or(1, |f| f.size().pages());
        let (counts, holder) = (self.counts_of(&held), self.holder_of(&pages));
        Held {
            counts,
            holder,
            ..held
        }
    }

    fn holder_of(&self, pages: &Range<u64>) -> Option<HolderName> {
        Some(self.leases().on(pages)?.holder)
    }

    fn counts_of(&self, held: &Held) -> Counts {
        self.pgmap()
            .folio(held.pfn)
            .map_or(held.counts, |f| f.counts())
    }
}
