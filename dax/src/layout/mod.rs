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
//!    moment later than its entry. The breaker lets go of its locks for a moment and starts again.
//! 6. *It ends.* While it waits, faults in its range, and with them new pins, are delayed for a bounded time. A deadline, a
//!    [`Cancel`] or [`How::NoWait`] end it early; the file is then as before (what was unmapped faults again).

mod idle;
#[cfg(test)]
mod tests;

use crate::mapping::{Breaker, Mapping};
use core::fmt;
use core::ops::Range;
use mm::addr::Pfn;
use mm::page::Counts;
use mm::sync::{Cancel, HeldList, Mutex, Wait, WaitError, held_by_current, now_us, sleep_us};

pub use idle::Idle;
use idle::Locked;

/// How long a breaker leaves its locks when a page is mapped, but not pinned, in microseconds.
const UNMAPPING_US: u64 = 100;

/// What to do about a page that is pinned.
#[derive(Clone, Copy)]
pub enum How<'a> {
    /// Give up at once.
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
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { mapped, pinned, .. } = self.counts;
        write!(
            f,
            "inode {} page {} (frame {}): {mapped} mappings, {pinned} pins",
            self.inode, self.index, self.pfn
        )
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
    /// The pins of that page are gone; everything starts again.
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
    loop {
        let locked = Locked::take(inode, mapping, pages.clone());
        mapping.unmap_range(locked.pages());
        report.tell(|| BreakEvent::Zapped {
            pages: locked.pages(),
        });
        let Some(held) = mapping.first_held(locked.pages()) else {
            report.tell(|| BreakEvent::Idle);
            return Ok(Idle::proved(locked));
        };
        breaker.waits(locked.pages(), report.retries);
        drop(locked);
        report.last_held = Some(held);
        wait_for(mapping, held, how, report)?;
        report.retries += 1;
        report.tell(|| BreakEvent::Retry);
    }
}

/// Waits until it makes sense to try again. No lock is held.
fn wait_for(
    mapping: &Mapping,
    held: Held,
    how: How<'_>,
    report: &mut BreakReport<'_>,
) -> Result<(), BreakError> {
    let How::Wait(wait) = how else {
        return Err(BreakError::WouldBlock(held));
    };
    report.tell(|| BreakEvent::Waiting {
        held,
        locks_held: held_by_current(),
    });
    let start = now_us();
    let ended = wait_pins(mapping, held, &wait);
    report.waited_us += now_us().saturating_sub(start);
    // What is told is what holds it now.
    let now = || mapping.counts_of(held);
    ended.map_err(|why| match why {
        WaitError::TimedOut => BreakError::TimedOut(now()),
        WaitError::Cancelled => BreakError::Cancelled(now()),
    })
}

fn wait_pins(mapping: &Mapping, held: Held, wait: &Wait<'_>) -> Result<(), WaitError> {
    if held.counts.pinned == 0 {
        return let_unmapping_finish(wait);
    }
    mapping.pgmap().wait_unpinned(held.pfn, wait)?;
    // Pins that come and go faster than we look must not hide the end of the wait.
    ended(wait).map_or(Ok(()), Err)
}

/// Somebody else is between clearing an entry and dropping its reference.
fn let_unmapping_finish(wait: &Wait<'_>) -> Result<(), WaitError> {
    ended(wait).map_or(Ok(()), Err)?;
    sleep_us(UNMAPPING_US);
    Ok(())
}

fn ended(wait: &Wait<'_>) -> Option<WaitError> {
    let cancelled = wait.cancel.is_some_and(Cancel::is_cancelled);
    let late = wait.deadline_us.is_some_and(|at| now_us() >= at);
    if cancelled {
        Some(WaitError::Cancelled)
    } else {
        late.then_some(WaitError::TimedOut)
    }
}

impl Mapping {
    /// The first entry of the range whose folio has a count. Never allocates.
    fn first_held(&self, pages: Range<u64>) -> Option<Held> {
        self.entries(pages).find_map(|found| {
            let pfn = found.pfn()?;
            let counts = self.pgmap().folio(pfn)?.counts();
            let held = Held {
                inode: self.owner(),
                index: found.base,
                pfn,
                counts,
            };
            (counts.mapped + counts.pinned > 0).then_some(held)
        })
    }

    /// The same page with the counts it has now.
    fn counts_of(&self, held: Held) -> Held {
        let counts = self
            .pgmap()
            .folio(held.pfn)
            .map_or(held.counts, |f| f.counts());
        Held { counts, ..held }
    }
}
