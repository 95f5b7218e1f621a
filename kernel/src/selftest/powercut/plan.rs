//! What each thread of the load does, one operation after the other, without end; the same for the machine and for who checks it.
//!
//! A plan knows which of its files exist and how long they are, so every operation is one that succeeds. Contents follow from seed, thread,
//! the number of the operation that wrote them, and the offset.

use alloc::format;
use alloc::string::String;

use crate::selftest::stress::dice::Dice;

/// Threads of the load.
pub const THREADS: u8 = 4;
/// Files that a thread uses.
pub const SLOTS: usize = 12;
/// The longest file, in bytes.
pub const MOST: u32 = 192 << 10;
/// The longest write, in bytes.
pub const PIECE: u32 = 24 << 10;
/// Files from here on lie in a directory of their own: a rename from or to them crosses directories.
const BELOW: usize = 8;

/// A file of a thread.
pub type Slot = usize;

/// One operation. It succeeds if those before it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Makes an empty file.
    Create(Slot),
    /// Writes at the end.
    Append {
        /// The file.
        slot: Slot,
        /// Its length.
        at: u32,
        /// Bytes.
        len: u32,
    },
    /// Writes over what is there.
    Overwrite {
        /// The file.
        slot: Slot,
        /// Where.
        at: u32,
        /// Bytes, within the file.
        len: u32,
    },
    /// Makes the file so long: shorter, or longer by zeroes.
    Truncate(Slot, u32),
    /// Gives the file another name, of which the file, if there is one, goes.
    Rename(Slot, Slot),
    /// Removes the file.
    Unlink(Slot),
    /// Makes the file durable.
    Fsync(Slot),
}

/// The operations of one thread: an iterator that never ends, and that counts from 1.
#[derive(Clone, Debug)]
pub struct Plan {
    dice: Dice,
    lens: [Option<u32>; SLOTS],
}

impl Plan {
    /// The plan of `thread` under `seed`.
    #[must_use]
    pub fn new(seed: u64, thread: u8) -> Self {
        Self {
            dice: Dice::new(seed, thread.into()),
            lens: [None; SLOTS],
        }
    }

    fn pick(&mut self, exists: bool) -> Option<Slot> {
        let fits = |len: &Option<u32>| len.is_some() == exists;
        let count = self.lens.iter().filter(|len| fits(len)).count() as u64;
        let nth = self.dice.below(count) as usize;
        let mut slots = self.lens.iter().enumerate().filter(|(_, len)| fits(len));
        slots.nth(nth).map(|(slot, _)| slot)
    }

    fn below(&mut self, n: u32) -> u32 {
        self.dice.below(n.into()) as u32
    }

    /// An operation on a file that exists.
    fn change(&mut self, slot: Slot, len: u32) -> Op {
        let piece = 1 + self.below(PIECE);
        match self.dice.below(16) {
            0..6 if len + piece <= MOST => Op::Append {
                slot,
                at: len,
                len: piece,
            },
            6..9 if len > 0 => {
                let at = self.below(len);
                let len = piece.min(len - at);
                Op::Overwrite { slot, at, len }
            }
            9 => Op::Truncate(slot, self.below(MOST)),
            10 => Op::Truncate(slot, self.below(len + 1)),
            11..13 => Op::Rename(slot, self.below(SLOTS as u32) as Slot),
            13 => Op::Unlink(slot),
            _ => Op::Fsync(slot),
        }
    }

    fn note(&mut self, op: Op) {
        match op {
            Op::Create(slot) => self.lens[slot] = Some(0),
            Op::Append { slot, at, len } => self.lens[slot] = Some(at + len),
            Op::Truncate(slot, len) => self.lens[slot] = Some(len),
            Op::Rename(from, to) if from != to => {
                self.lens[to] = self.lens[from].take();
            }
            Op::Unlink(slot) => self.lens[slot] = None,
            Op::Rename(..) | Op::Overwrite { .. } | Op::Fsync(_) => {}
        }
    }
}

impl Iterator for Plan {
    type Item = Op;

    fn next(&mut self) -> Option<Op> {
        let create = self.dice.one_in(6);
        let slot = self.pick(!create).or_else(|| self.pick(create))?;
        let op = match self.lens[slot] {
            None => Op::Create(slot),
            Some(len) => self.change(slot, len),
        };
        self.note(op);
        Some(op)
    }
}

/// The directory of a session.
#[must_use]
pub fn session_dir(session: u32) -> String {
    format!("/s{session}")
}

/// The directory of a thread.
#[must_use]
pub fn thread_dir(session: u32, thread: u8) -> String {
    format!("/s{session}/t{thread}")
}

/// The directory in it for some of its files.
#[must_use]
pub fn lower_dir(session: u32, thread: u8) -> String {
    format!("{}/d", thread_dir(session, thread))
}

/// The path of a file, below the directory of its thread. Every third name is a long one, which takes several slots of a directory.
#[must_use]
pub fn name(slot: Slot) -> String {
    let below = if slot >= BELOW { "d/" } else { "" };
    let tail = if slot.is_multiple_of(3) {
        "-a-name-that-is-longer-than-what-fits-into-the-head-of-a-directory-entry-and-one-more-slot"
    } else {
        ""
    };
    format!("{below}f{slot}{tail}")
}

/// What operation `number` of `thread` writes at offset `at` of a file.
pub fn content(seed: u64, thread: u8, number: u32, at: u32, to: &mut [u8]) {
    let key = seed ^ u64::from(thread) << 56 ^ u64::from(number) << 24;
    for (offset, byte) in (u64::from(at)..).zip(to) {
        let mut word = key ^ (offset / 8).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        word = (word ^ word >> 31).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        *byte = (word ^ word >> 29).to_le_bytes()[(offset % 8) as usize];
    }
}

/// The words with which a thread says that its operation `number` is done; 0: its directories are made.
#[must_use]
pub fn acknowledgement(thread: u8, number: u32) -> String {
    format!("done {thread} {number}")
}

/// Reads such words: thread and number.
#[must_use]
pub fn acknowledged(line: &str) -> Option<(u8, u32)> {
    let (thread, number) = line.strip_prefix("done ")?.split_once(' ')?;
    let thread = thread.parse().ok().filter(|thread| *thread < THREADS)?;
    Some((thread, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_operation_comes_and_each_fits_what_is_there() {
        let mut plan = Plan::new(1, 2);
        let mut seen = [0; 7];
        for _ in 0..5000 {
            let before = plan.lens;
            let kind = match plan.next().expect("no end") {
                Op::Create(slot) => (before[slot].is_none(), 0),
                Op::Append { slot, at, len } => {
                    (before[slot] == Some(at) && len > 0 && at + len <= MOST, 1)
                }
                Op::Overwrite { slot, at, len } => (before[slot] >= Some(at + len) && len > 0, 2),
                Op::Truncate(slot, len) => (before[slot].is_some() && len <= MOST, 3),
                Op::Rename(from, to) => (before[from].is_some() && to < SLOTS, 4),
                Op::Unlink(slot) => (before[slot].is_some(), 5),
                Op::Fsync(slot) => (before[slot].is_some(), 6),
            };
            assert!(kind.0, "{before:?}");
            seen[kind.1] += 1;
        }
        assert!(seen.iter().all(|n| *n > 50), "{seen:?}");
    }

    #[test]
    fn an_acknowledgement_is_read_as_it_was_said() {
        assert_eq!(acknowledged(&acknowledgement(3, 17)), Some((3, 17)));
        assert_eq!(acknowledged("done 4 1"), None);
        assert_eq!(acknowledged("done 1"), None);
    }

    #[test]
    fn content_depends_on_all_that_names_it_and_on_no_cut_into_pieces() {
        let take = |seed, thread, number, at| {
            let mut bytes = [0; 24];
            content(seed, thread, number, at, &mut bytes);
            bytes
        };
        let base = take(1, 0, 1, 64);
        for other in [
            take(2, 0, 1, 64),
            take(1, 1, 1, 64),
            take(1, 0, 2, 64),
            take(1, 0, 1, 72),
        ] {
            assert_ne!(base, other);
        }
        assert_eq!(base[5..], take(1, 0, 1, 69)[..19]);
    }
}
