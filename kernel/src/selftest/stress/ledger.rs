//! Which content of a page is legal at each moment: the oracle of the stress test.
//!
//! A page of a file is a register. Operations (stores, writes, transfers; truncates and punches, which make zeroes of it) get ascending
//! tickets when they begin; a store's stamp carries its ticket as the version. Operations on one page may overlap, and which
//! of two that overlap wins is open. So a reader may find the content of ticket *v* unless some operation began after *v* had ended,
//! and itself ended, with success, before the reader began.
//!
//! [`Ledger`] keeps `floor`: every ticket below it is overwritten for certain. An operation that begins notes which tickets
//! have ended (all below the oldest under way); when it ends well, those are overwritten. An operation that failed overwrites
//! nothing for certain, though it may have written: its own ticket stays legal, and so does what was there before.
//!
//! A reader takes the floor, reads, and has its finding judged: a version from the floor up to the newest ticket, or zeroes if an operation
//! that makes zeroes has a ticket from the floor up. Legal findings are never refused; some illegal ones pass while operations
//! overlap without a pause.

use super::stamp::{Stamp, Word};
use arrayvec::ArrayVec;
use mm::sync::SpinLock;

/// Operations under way on one page; one more waits its turn.
const MOST: usize = 32;

struct Inner {
    /// Tickets given out; ticket 0 is the zeroes that the file begins with.
    last: u64,
    under_way: ArrayVec<u64, MOST>,
    floor: u64,
    last_zeroing: u64,
}

/// One page's legal content. Locks: its own spin lock, for a moment.
pub struct Ledger(SpinLock<Inner>);

/// An operation under way, to be ended.
#[derive(Debug)]
#[must_use = "an operation that is never ended keeps everything before it legal"]
pub struct Ticket {
    number: u64,
    /// All tickets below this one had ended when it began.
    ended_below: u64,
}

impl Ticket {
    /// The version that its stamps carry.
    #[must_use]
    pub fn version(&self) -> u16 {
        self.number as u16
    }
}

/// What a reader knows before it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    floor: u64,
}

/// What a reader found that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The content of another file, or of another page of this one.
    Foreign,
    /// Bytes that nobody wrote.
    Garbage,
    /// Content that was overwritten before the reader began.
    Stale,
    /// Content of a version that nobody has begun to write.
    Future,
    /// Zeroes, where content was stored and nothing has made zeroes of it since.
    Lost,
}

impl Wrong {
    /// The name of such a violation.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Wrong::Foreign => "foreign",
            Wrong::Garbage => "garbage",
            Wrong::Stale => "lost_write",
            Wrong::Future => "future",
            Wrong::Lost => "lost_zeroes",
        }
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

impl Ledger {
    /// A page of zeroes.
    #[must_use]
    pub const fn new() -> Self {
        Ledger(SpinLock::new(Inner {
            last: 0,
            under_way: ArrayVec::new_const(),
            floor: 0,
            last_zeroing: 0,
        }))
    }

    /// Begins an operation; `None` when too many are under way.
    #[must_use]
    pub fn begin(&self, zeroes: bool) -> Option<Ticket> {
        let mut inner = self.0.lock();
        let number = inner.last + 1;
        let oldest = inner.under_way.iter().min().copied();
        inner.under_way.try_push(number).ok()?;
        inner.last = number;
        if zeroes {
            inner.last_zeroing = number;
        }
        Some(Ticket {
            number,
            ended_below: oldest.unwrap_or(number),
        })
    }

    /// Ends an operation. `done`: it did all it was to do to this page.
    pub fn end(&self, ticket: Ticket, done: bool) {
        let mut inner = self.0.lock();
        inner.under_way.retain(|n| *n != ticket.number);
        if done {
            inner.floor = inner.floor.max(ticket.ended_below);
        }
    }

    /// What a reader takes before it reads.
    #[must_use]
    pub fn glance(&self) -> Glance {
        Glance {
            floor: self.0.lock().floor,
        }
    }

    /// Judges what a reader found in page `page` of file `file` after its glance.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn judge(&self, glance: Glance, file: u32, page: u16, found: Word) -> Result<(), Wrong> {
        let inner = self.0.lock();
        match found {
            Word::Garbage(_) => Err(Wrong::Garbage),
            Word::Zero if inner.last_zeroing >= glance.floor => Ok(()),
            Word::Zero => Err(Wrong::Lost),
            Word::Stamp(Stamp {
                file: f, page: p, ..
            }) if (f, p) != (file, page) => Err(Wrong::Foreign),
            Word::Stamp(stamp) => inner.judge_version(glance.floor, stamp.version),
        }
    }

    /// The versions that are legal now, and whether zeroes are; for messages.
    #[must_use]
    pub fn legal(&self) -> (u64, u64, bool) {
        let inner = self.0.lock();
        (inner.floor, inner.last, inner.last_zeroing >= inner.floor)
    }
}

impl Inner {
    fn judge_version(&self, floor: u64, version: u16) -> Result<(), Wrong> {
        // How far behind the newest ticket it is, if it is not ahead of it.
        let behind = (self.last as u16).wrapping_sub(version);
        match self.last.checked_sub(u64::from(behind)) {
            Some(number) if number >= floor && number > 0 => Ok(()),
            // A version has 16 bits: one far behind may as well be a little ahead.
            Some(_) if behind < 1 << 15 => Err(Wrong::Stale),
            _ => Err(Wrong::Future),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: u32 = 5;
    const PAGE: u16 = 2;

    fn stamp(version: u16) -> Word {
        Word::Stamp(Stamp {
            file: FILE,
            page: PAGE,
            version,
        })
    }

    fn judge(ledger: &Ledger, glance: Glance, found: Word) -> Result<(), Wrong> {
        ledger.judge(glance, FILE, PAGE, found)
    }

    fn store(ledger: &Ledger) -> u16 {
        let ticket = ledger.begin(false).unwrap();
        let version = ticket.version();
        ledger.end(ticket, true);
        version
    }

    #[test]
    fn a_store_that_has_ended_is_all_that_may_be_read() {
        let ledger = Ledger::new();
        assert_eq!(judge(&ledger, ledger.glance(), Word::Zero), Ok(()));
        let (one, two) = (store(&ledger), store(&ledger));
        let now = ledger.glance();
        assert_eq!(judge(&ledger, now, stamp(two)), Ok(()));
        assert_eq!(judge(&ledger, now, stamp(one)), Err(Wrong::Stale));
        assert_eq!(judge(&ledger, now, Word::Zero), Err(Wrong::Lost));
        assert_eq!(judge(&ledger, now, stamp(two + 1)), Err(Wrong::Future));
        assert_eq!(judge(&ledger, now, Word::Garbage(1)), Err(Wrong::Garbage));
    }

    #[test]
    fn while_a_store_is_under_way_old_and_new_are_legal() {
        let ledger = Ledger::new();
        let old = store(&ledger);
        let ticket = ledger.begin(false).unwrap();
        let new = ticket.version();
        let before = ledger.glance();
        assert_eq!(judge(&ledger, before, stamp(old)), Ok(()));
        assert_eq!(judge(&ledger, before, stamp(new)), Ok(()));
        ledger.end(ticket, true);
        assert_eq!(
            judge(&ledger, before, stamp(old)),
            Ok(()),
            "it began before"
        );
        assert_eq!(
            judge(&ledger, ledger.glance(), stamp(old)),
            Err(Wrong::Stale)
        );
    }

    #[test]
    fn of_two_that_overlap_either_may_win() {
        let ledger = Ledger::new();
        let (one, two) = (ledger.begin(false).unwrap(), ledger.begin(false).unwrap());
        let (a, b) = (one.version(), two.version());
        ledger.end(two, true);
        ledger.end(one, true);
        let now = ledger.glance();
        assert_eq!(judge(&ledger, now, stamp(a)), Ok(()));
        assert_eq!(judge(&ledger, now, stamp(b)), Ok(()));
        assert_eq!(judge(&ledger, now, Word::Zero), Err(Wrong::Lost));
    }

    #[test]
    fn who_failed_overwrote_nothing_for_certain() {
        let ledger = Ledger::new();
        let old = store(&ledger);
        let ticket = ledger.begin(false).unwrap();
        let half = ticket.version();
        ledger.end(ticket, false);
        let now = ledger.glance();
        assert_eq!(judge(&ledger, now, stamp(old)), Ok(()));
        assert_eq!(judge(&ledger, now, stamp(half)), Ok(()));
        let new = store(&ledger);
        let now = ledger.glance();
        assert_eq!(judge(&ledger, now, stamp(old)), Err(Wrong::Stale));
        assert_eq!(judge(&ledger, now, stamp(half)), Err(Wrong::Stale));
        assert_eq!(judge(&ledger, now, stamp(new)), Ok(()));
    }

    #[test]
    fn after_a_truncate_only_zeroes_until_the_next_store() {
        let ledger = Ledger::new();
        let old = store(&ledger);
        let cut = ledger.begin(true).unwrap();
        assert_eq!(judge(&ledger, ledger.glance(), Word::Zero), Ok(()));
        ledger.end(cut, true);
        assert_eq!(judge(&ledger, ledger.glance(), Word::Zero), Ok(()));
        assert_eq!(
            judge(&ledger, ledger.glance(), stamp(old)),
            Err(Wrong::Stale)
        );
        store(&ledger);
        assert_eq!(
            judge(&ledger, ledger.glance(), Word::Zero),
            Err(Wrong::Lost)
        );
    }

    #[test]
    fn the_content_of_others_is_never_legal() {
        let ledger = Ledger::new();
        let version = store(&ledger);
        let now = ledger.glance();
        for (file, page) in [(FILE + 1, PAGE), (FILE, PAGE + 1)] {
            let found = Word::Stamp(Stamp {
                file,
                page,
                version,
            });
            assert_eq!(judge(&ledger, now, found), Err(Wrong::Foreign));
        }
    }

    #[test]
    fn versions_go_round() {
        let ledger = Ledger::new();
        let mut last = 0;
        for _ in 0..70_000 {
            last = store(&ledger);
        }
        let now = ledger.glance();
        assert_eq!(judge(&ledger, now, stamp(last)), Ok(()));
        assert_eq!(
            judge(&ledger, now, stamp(last.wrapping_sub(1))),
            Err(Wrong::Stale)
        );
        assert_eq!(
            judge(&ledger, now, stamp(last.wrapping_add(1))),
            Err(Wrong::Future)
        );
    }

    /// A register with overlapping operations, run step by step: what it holds is always legal for a reader of that moment.
    #[test]
    fn what_a_register_holds_is_legal() {
        use proptest::prelude::*;
        proptest!(|(steps in prop::collection::vec((0u8..6, any::<bool>()), 1..200))| {
            let ledger = Ledger::new();
            let (mut holds, mut open) = (Word::Zero, std::collections::VecDeque::new());
            let mut glance = ledger.glance();
            for (step, flag) in steps {
                match step {
                    0 | 1 => if let Some(ticket) = ledger.begin(flag) {
                        open.push_back((ticket, flag, false));
                    },
                    // Takes effect at some moment between begin and end.
                    2 => if let Some((ticket, zeroes, done)) = open.front_mut() {
                        holds = if *zeroes { Word::Zero } else { stamp(ticket.version()) };
                        *done = true;
                    },
                    3 => if let Some((ticket, _, done)) = open.pop_front() {
                        ledger.end(ticket, done);
                    },
                    4 => open.rotate_left(usize::from(open.len() > 1)),
                    _ => glance = ledger.glance(),
                }
                prop_assert_eq!(judge(&ledger, glance, holds), Ok(()));
                prop_assert_eq!(judge(&ledger, ledger.glance(), holds), Ok(()));
            }
        });
    }
}
