//! One node of the tree: 64 slots, a bitmap for each mark, and how many slots are in use.
//!
//! Everything is atomic, because readers look without a lock. Writers hold the array's lock, so their read-modify-writes are
//! a load and a store. All accesses are relaxed: the fences of the array's writers and readers order them (see
//! [`crate::xarray`]).

use crate::entry::Packed;
use core::array::from_fn;
use mm::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// log2 of the slots of a node.
pub(crate) const BITS: u32 = 6;
/// Slots of a node.
pub(crate) const SLOTS: usize = 1 << BITS;
/// No node.
pub(crate) const NONE: u32 = u32::MAX;

/// A mark on an entry. Marks propagate: a node's bit is set when anything under that slot has the mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Written since it was last flushed.
    Dirty = 0,
    /// Picked up by a running clean_range.
    ToWrite = 1,
}

/// The number of marks.
pub(crate) const MARKS: usize = 2;

impl Mark {
    /// Every mark.
    pub const ALL: [Self; MARKS] = [Self::Dirty, Self::ToWrite];
}

/// What a slot's word says. `00…0`: nothing; tag `01`: a child; tag `10`: the entry's head is that slot; tag `11`: an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Nothing,
    Child(u32),
    Sibling(usize),
    Entry(Packed),
}

impl Slot {
    pub(crate) fn word(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Child(number) => u64::from(number) << 2 | 0b01,
            Self::Sibling(head) => (head as u64) << 2 | 0b10,
            Self::Entry(packed) => packed.word(),
        }
    }

    pub(crate) fn from_word(word: u64) -> Self {
        match word & 0b11 {
            0b01 => Self::Child((word >> 2) as u32),
            0b10 => Self::Sibling((word >> 2) as usize % SLOTS),
            0b11 => Packed::from_slot(word).map_or(Self::Nothing, Self::Entry),
            _ => Self::Nothing,
        }
    }
}

/// A node. All zero but for `next` when it is not part of an array.
pub(crate) struct Node {
    slots: [AtomicU64; SLOTS],
    marks: [AtomicU64; MARKS],
    used: AtomicU32,
    next: AtomicU32,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self {
            slots: from_fn(|_| AtomicU64::new(0)),
            marks: from_fn(|_| AtomicU64::new(0)),
            used: AtomicU32::new(0),
            next: AtomicU32::new(NONE),
        }
    }

    pub(crate) fn slot(&self, at: usize) -> Slot {
        Slot::from_word(self.slots[at].load(Relaxed))
    }

    /// The slot at `at`, or the one it is a sibling of.
    pub(crate) fn head(&self, at: usize) -> (usize, Slot) {
        match self.slot(at) {
            Slot::Sibling(head) => (head, self.slot(head)),
            other => (at, other),
        }
    }

    /// Writes a slot and keeps the count of slots in use.
    pub(crate) fn set(&self, at: usize, slot: Slot) {
        let word = slot.word();
        let was = self.slots[at].load(Relaxed);
        self.slots[at].store(word, Relaxed);
        let used = self.used.load(Relaxed) + u32::from(word != 0) - u32::from(was != 0);
        self.used.store(used, Relaxed);
    }

    pub(crate) fn used(&self) -> u32 {
        self.used.load(Relaxed)
    }

    pub(crate) fn marks(&self, mark: Mark) -> u64 {
        self.marks[mark as usize].load(Relaxed)
    }

    pub(crate) fn marked(&self, at: usize, mark: Mark) -> bool {
        self.marks(mark) & 1 << at != 0
    }

    pub(crate) fn set_marked(&self, at: usize, mark: Mark, on: bool) {
        let bits = self.marks(mark) & !(1 << at) | u64::from(on) << at;
        self.marks[mark as usize].store(bits, Relaxed);
    }

    /// Takes the mark from every slot of a set.
    pub(crate) fn unmark_all(&self, slots: u64, mark: Mark) {
        self.marks[mark as usize].store(self.marks(mark) & !slots, Relaxed);
    }

    pub(crate) fn next(&self) -> u32 {
        self.next.load(Relaxed)
    }

    pub(crate) fn set_next(&self, next: u32) {
        self.next.store(next, Relaxed);
    }

    pub(crate) fn is_blank(&self) -> bool {
        self.used() == 0
            && Mark::ALL.iter().all(|m| self.marks(*m) == 0)
            && (0..SLOTS).all(|i| self.slot(i) == Slot::Nothing)
    }
}
