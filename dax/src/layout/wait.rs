//! How a breaker waits for one page: with no lock held and nothing allocated.

use super::{BreakError, BreakEvent, BreakReport, Held, How, about};
use crate::mapping::{Breaker, Mapping};
use core::ops::Range;
use mm::lease::{GraceEnd, LeaseState, Why};
use mm::page::Counts;
use mm::sync::{Cancel, Wait, WaitError, check_nothing_held, held_by_current, now_us};
use mm::trace::{self, Kind};

/// How long a breaker leaves its locks for a page that is being unmapped by somebody else, in microseconds. It is woken when that
/// is done; should the page be mapped anew meanwhile, it looks again after this time.
const UNMAPPING_US: u64 = 1_000;

/// One wait of a breaker.
pub(super) struct Waiting<'w, 'a> {
    pub(super) mapping: &'w Mapping,
    pub(super) breaker: &'w Breaker<'w>,
    /// What is being broken, in whole entries.
    pub(super) pages: Range<u64>,
    /// The page in the way.
    pub(super) held: Held,
    /// The last end of a grace period that was told.
    pub(super) told: &'w mut GraceEnd,
    pub(super) report: &'w mut BreakReport<'a>,
}

impl Waiting<'_, '_> {
    /// Waits until it makes sense to try again. No lock is held.
    pub(super) fn wait(&mut self, how: How<'_>) -> Result<(), BreakError> {
        let How::Wait(wait) = how else {
            trace::note(Kind::BreakFailed, || about(&self.held, 1));
            return Err(BreakError::WouldBlock(self.held));
        };
        let (held, locks_held) = (self.held, held_by_current());
        check_nothing_held("wait for the pins of a page");
        self.report
            .tell(|| BreakEvent::Waiting { held, locks_held });
        trace::note(Kind::BreakWait, || about(&held, held.counts.pinned));
        let start = now_us();
        let ended = match held.counts.pinned {
            0 => self.unmapping(&wait),
            _ => self.pins(&wait),
        };
        self.report.waited_us += now_us().saturating_sub(start);
        // What is told is what holds it now.
        let now = || self.mapping.held_now(held);
        if let Err(why) = ended {
            let code = 2 + u32::from(why == WaitError::Cancelled);
            trace::note(Kind::BreakFailed, || about(&held, code));
        }
        ended.map_err(|why| match why {
            WaitError::TimedOut => BreakError::TimedOut(now()),
            WaitError::Cancelled => BreakError::Cancelled(now()),
        })
    }

    /// Waits for the pins of the page; leases of the range are revoked first.
    ///
    /// While nobody maps the page there is no timer but those of the grace periods: the last unpin, a fault that maps the page
    /// (`Mapping::fault`) and a new lease (`mm::gup`) wake the breaker. Once it is mapped, new pins pass without a fault, and only
    /// unmapping it again stops them; that is done a quarter into the next window.
    fn pins(&mut self, wait: &Wait<'_>) -> Result<(), WaitError> {
        let mut unmap_at = None;
        loop {
            self.revoke();
            let look = unmap_at.unwrap_or(u64::MAX);
            let grace = self.next_grace_end().map_or(u64::MAX, |(end, _)| end.at_us);
            let mapped_anew = |c: Counts| c.mapped > 0 && unmap_at.is_none();
            let wanted = |c: Counts| c.pinned == 0 || mapped_anew(c);
            // Why it ended is seen from the counts and the clock.
            let _ = self.until(wanted, true, wait, look.min(grace));
            // Also when it wakes late: who held it past its grace is named before the wait ends.
            self.tell_overdue();
            // Pins that come and go faster than we look must not hide the end of the wait.
            ended(wait)?;
            let (counts, now) = (self.mapping.counts_of(&self.held), now_us());
            if counts.pinned == 0 || now >= look {
                return Ok(());
            }
            if mapped_anew(counts) {
                unmap_at = Some(self.breaker.next_look_us(now));
            }
        }
    }

    /// Somebody else is between clearing an entry and dropping its reference.
    fn unmapping(&mut self, wait: &Wait<'_>) -> Result<(), WaitError> {
        ended(wait)?;
        let look = now_us().saturating_add(UNMAPPING_US);
        // Both ends mean "look again".
        let _ = self.until(|c| c.mapped == 0, false, wait, look);
        ended(wait)
    }

    /// Sleeps until the counts of the page are as wanted, or `look_us`; for a fresh lease too, if `leases`.
    fn until(
        &self,
        wanted: impl Fn(Counts) -> bool,
        leases: bool,
        wait: &Wait<'_>,
        look_us: u64,
    ) -> Result<(), WaitError> {
        let fresh = || leases && self.mapping.leases().has_fresh(&self.pages);
        let timer = wait.deadline_us.unwrap_or(u64::MAX).min(look_us);
        let short = Wait {
            deadline_us: (timer != u64::MAX).then_some(timer),
            ..*wait
        };
        self.mapping
            .pgmap()
            .wait_counts(self.held.pfn, |c| wanted(c) || fresh(), &short)
    }

    /// Asks the holders of all leases on the range to let go; each is asked once, whoever breaks.
    fn revoke(&self) {
        self.mapping.revoke_leases(&self.pages, |lease| {
            let (lease, pages) = (*lease, self.pages.clone());
            self.report.tell(|| BreakEvent::Revoking { lease });
            Why::LayoutBreak { pages }
        });
    }

    fn next_grace_end(&self) -> Option<(GraceEnd, LeaseState)> {
        self.mapping
            .leases()
            .next_grace_end(&self.pages, *self.told)
    }

    /// Names the holders whose grace period has ended, each once; nobody once the page's pins are gone.
    fn tell_overdue(&mut self) {
        let now = now_us();
        while let Some((end, lease)) = self.next_grace_end().filter(|(end, _)| end.at_us <= now) {
            let held = self.mapping.held_now(self.held);
            if held.counts.pinned == 0 {
                return;
            }
            *self.told = end;
            self.report.last_held = Some(held);
            self.report.tell(|| BreakEvent::Overdue { held, lease });
        }
    }
}

fn ended(wait: &Wait<'_>) -> Result<(), WaitError> {
    if wait.cancel.is_some_and(Cancel::is_cancelled) {
        return Err(WaitError::Cancelled);
    }
    match wait.deadline_us {
        Some(at) if now_us() >= at => Err(WaitError::TimedOut),
        _ => Ok(()),
    }
}
