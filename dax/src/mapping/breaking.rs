//! Fairness between a breaker that waits and the faults that would keep it waiting.
//!
//! A breaker notes its range here from its first wait until it is done or gives up. A fault in such a range is delayed, before it takes
//! any lock of the mapping, until the next **gate**; when the breaker ends, delayed faults go on at once. A pin faults first, since the
//! breaker has unmapped the range, so pins are delayed with the faults. Nobody is ever blocked: the holder of the page that
//! the breaker waits for may need this very fault before it can let go.
//!
//! # Why a breaker does not starve behind a stream of faults
//!
//! Gates are the multiples of W on the clock, where W is 1 ms for a new breaker, doubles as the breaker grows older, and is at most
//! [`MAX_DELAY_US`]. So faults do not trickle in: all that came during one window pass together at its end, however many they are. A
//! fault that maps the page wakes the breaker; a quarter into the next window it unmaps the range again, and from there to the
//! end of the window no new reference can appear. Whoever pins for less than the rest of a window has let go by then, the
//! count reaches 0, and the last unpin wakes the breaker. Windows of all breakers of the same age class have the same gates,
//! and those of younger ones are parts of them, so several breakers do not undo each other's windows.
//!
//! What remains is a stream of *new* pins each held for longer than a window. Against that no bounded delay helps: to refuse the
//! fault for good could stop the very holder that is waited for. There a deadline, a cancel, or a lease is the answer.
//!
//! # Any number of breakers
//!
//! Waiting allocates nothing, so the list has [`NOTED`] places of its own: few, since they are part of every inode in memory.
//! Further breakers share one note: the hull of their ranges and the age of the oldest. It is wider than need be, until the last of them ends; what it costs is a bounded delay of a
//! fault between their ranges. Breakers go one after the other through the inode lock, which is first come, first served.

use arrayvec::ArrayVec;
use core::ops::Range;
use mm::sync::atomic::{AtomicU32, Ordering};
use mm::sync::{SpinLock, Wait, WaitQueue, now_us};
use mm::trace::{self, Kind, What};

/// Breakers of one mapping that have a note of their own.
pub(super) const NOTED: usize = 3;
/// The first window, in microseconds: a power of two.
const FIRST_WINDOW_US: u64 = 1 << 10;
/// The longest that one fault is delayed, in microseconds: a power of two.
pub const MAX_DELAY_US: u64 = 1 << 16;

/// The window of a breaker that has waited for `age_us`: a power of two.
pub(super) fn window_us(age_us: u64) -> u64 {
    let doubled = 1 << age_us.max(1).ilog2();
    u64::clamp(doubled, FIRST_WINDOW_US, MAX_DELAY_US)
}

/// The first gate after `now_us`.
pub(super) fn gate_us(window_us: u64, now_us: u64) -> u64 {
    (now_us | (window_us - 1)).saturating_add(1)
}

/// One breaker's range, or that of several.
struct Note {
    id: u32,
    pages: Range<u64>,
    since_us: u64,
    /// How many breakers share it.
    breakers: u32,
}

impl Note {
    fn widen(&mut self, pages: &Range<u64>) {
        self.pages = self.pages.start.min(pages.start)..self.pages.end.max(pages.end);
    }

    fn gate_us(&self, now_us: u64) -> u64 {
        gate_us(window_us(now_us.saturating_sub(self.since_us)), now_us)
    }
}

/// Notes in use. The last place is for the note that several breakers share.
struct Notes {
    next: u32,
    list: ArrayVec<Note, { NOTED + 1 }>,
}

impl Notes {
    /// Notes a new breaker; returns the number of its note.
    fn enter(&mut self, pages: &Range<u64>, since_us: u64) -> u32 {
        if self.list.is_full()
            && let Some(shared) = self.list.last_mut()
        {
            shared.breakers += 1;
            shared.widen(pages);
            return shared.id;
        }
        let id = self.next;
        // Used again only after as many breakers as a number has values.
        self.next = self.next.wrapping_add(1);
        self.list.push(Note {
            id,
            pages: pages.clone(),
            since_us,
            breakers: 1,
        });
        id
    }

    fn widen(&mut self, id: u32, pages: &Range<u64>) {
        let mine = self.list.iter_mut().find(|n| n.id == id);
        mine.into_iter().for_each(|n| n.widen(pages));
    }

    fn leave(&mut self, id: u32) {
        if let Some(at) = self.list.iter().position(|n| n.id == id) {
            self.list[at].breakers -= 1;
            if self.list[at].breakers == 0 {
                self.list.remove(at);
            }
        }
    }
}

/// The ranges of a mapping that are being broken and have a breaker waiting.
pub(crate) struct Breaking {
    /// How many breakers are noted: a fault that reads 0 looks no further.
    waiting: AtomicU32,
    notes: SpinLock<Notes>,
    delayed: WaitQueue,
}

impl Breaking {
    pub(super) fn new() -> Self {
        let list = ArrayVec::new();
        Self {
            waiting: AtomicU32::new(0),
            notes: SpinLock::new(Notes { next: 0, list }),
            delayed: WaitQueue::new(),
        }
    }

    /// Whether a breaker is noted.
    pub(crate) fn is_awaited(&self) -> bool {
        // Relaxed: whoever asks under the invalidate lock sees every breaker that had it before.
        self.waiting.load(Ordering::Relaxed) != 0
    }

    /// The gate that a fault on `page` which comes at `now_us` waits for; `None`: it may go on.
    pub(crate) fn gate_us(&self, page: u64, now_us: u64) -> Option<u64> {
        // Relaxed: a delay is a courtesy; a fault that misses a new breaker is as one that came before it.
        if !self.is_awaited() {
            return None;
        }
        let notes = self.notes.lock();
        let here = notes.list.iter().filter(|n| n.pages.contains(&page));
        here.map(|n| n.gate_us(now_us)).max()
    }

    /// Delays a fault on `page` while a breaker waits for its range, for a bounded time.
    pub(crate) fn delay_fault(&self, page: u64) {
        let now = now_us();
        if let Some(gate) = self.gate_us(page, now) {
            trace::note(Kind::FaultDelayed, || {
                What::value(gate.saturating_sub(now)).file(0, page)
            });
            // Both ends of this wait mean "go on": the breaker is done, or the gate is open.
            let _ = self
                .delayed
                .wait_until(|| self.gate_us(page, now).is_none(), &Wait::until(gate));
        }
    }
}

/// A breaker's note, from its first wait to its end.
pub(crate) struct Breaker<'a> {
    breaking: &'a Breaking,
    note: Option<u32>,
    since_us: u64,
}

impl<'a> Breaker<'a> {
    pub(crate) fn new(breaking: &'a Breaking) -> Self {
        Self {
            breaking,
            note: None,
            since_us: 0,
        }
    }

    /// Says that the breaker is about to wait for a page of `pages`.
    pub(crate) fn waits(&mut self, pages: &Range<u64>) {
        let now = now_us();
        let mut notes = self.breaking.notes.lock();
        match self.note {
            Some(id) => notes.widen(id, pages),
            None => {
                (self.note, self.since_us) = (Some(notes.enter(pages, now)), now);
                // Relaxed: as in `gate_us`.
                self.breaking.waiting.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// When it should look whether its page was mapped anew: a quarter into the next window.
    pub(crate) fn next_look_us(&self, now_us: u64) -> u64 {
        let window = window_us(now_us.saturating_sub(self.since_us));
        gate_us(window, now_us).saturating_add(window / 4)
    }
}

impl Drop for Breaker<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.note {
            self.breaking.notes.lock().leave(id);
            // Relaxed: as in `gate_us`. `wake_all` orders it before its look at the queue.
            self.breaking.waiting.fetch_sub(1, Ordering::Relaxed);
            self.breaking.delayed.wake_all();
        }
    }
}
