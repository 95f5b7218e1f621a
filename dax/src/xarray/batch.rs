//! Many entries under one hold of the array's lock: those that lie side by side in one node.
//!
//! A truncate looks at every entry of a file, and then deletes them. One at a time, each costs a lock and several walks from the root;
//! here a walk leads to a node, and its slots are taken in order.
//!
//! *The entry lock.* An entry that is not locked cannot become so while the array's lock is held, for the bit changes only under
//! that lock. So [`XArray::erase_run`] may do with it what the holder of its entry lock may. It stops at a locked one, which the caller waits
//! for in the usual way. Whoever waits for one of the entries that went is woken afterwards, as at any deletion (see [`super::lock`]).

use super::node::{BITS, Mark, SLOTS, Slot};
use super::write::{Change, Inner, level_of, slots_of, unmark};
use super::{Found, Step, XArray};
use arrayvec::ArrayVec;
use core::ops::Range;

/// Entries that an iteration reads under one hold of the lock.
const BATCH: usize = 32;

/// Entries that were read and not yet handed out.
pub(super) type Batch = ArrayVec<Found, BATCH>;

/// What one call of [`XArray::erase_run`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Erased {
    /// Entries that went.
    pub entries: u64,
    /// No entry of the range lies before this index any more.
    pub next: u64,
}

impl XArray {
    /// The first entries that cover an index of `range`, in order; none: there are none. Locks: the array's.
    pub(super) fn batch(&self, range: Range<u64>) -> Batch {
        let writers_out = self.inner.lock();
        let mut batch = Batch::new();
        if writers_out.entries == 0 {
            return batch;
        }
        if let Some((step, first)) = self.first_step(&range) {
            batch.extend(
                run(step, first, range.end)
                    .map(|(_, found)| found)
                    .take(BATCH),
            );
        }
        batch
    }

    /// The first entry that covers an index of `range`, and where it lies. Under the lock.
    fn first_step(&self, range: &Range<u64>) -> Option<(Step<'_>, Found)> {
        let found = self.seek(range, None)?;
        let step = self.path(found.base)?.pop()?;
        Some((step, found))
    }

    /// Removes the first entries that cover an index of `range`: those of one node, up to the first that is locked or that `give`
    /// refuses. Never allocates.
    ///
    /// `give` is called once for each, before it goes, with the array's spin lock held. `None`: there is no entry in the range.
    pub(crate) fn erase_run(
        &self,
        range: Range<u64>,
        mut give: impl FnMut(Found) -> bool,
    ) -> Option<Erased> {
        let mut inner = self.inner.lock();
        let (step, first) = self.first_step(&range)?;
        let mut gone = Gone::new(first);
        let free =
            run(step, first, range.end).take_while(|(_, found)| !found.locked && give(*found));
        free.for_each(|(at, found)| gone.add(at, found));
        if gone.entries > 0 {
            inner.entries -= gone.entries;
            let change = Change::begin(self, &inner);
            self.clear(&mut inner, first.base, &gone);
            drop(change);
        }
        drop(inner);
        gone.heads().for_each(|base| self.wake_all(base));
        Some(Erased {
            entries: gone.entries,
            next: gone.next,
        })
    }

    /// Takes the slots of `gone` from the node in which the entry at `base` lies, with their marks, and the nodes left empty.
    fn clear(&self, inner: &mut Inner<'_>, base: u64, gone: &Gone) {
        let Some(mut path) = self.path(base) else {
            return;
        };
        if let Some(step) = path.last() {
            bits(gone.slots).for_each(|at| step.node.set(at, Slot::Nothing));
            Mark::ALL
                .iter()
                .for_each(|m| step.node.unmark_all(gone.slots, *m));
        }
        Mark::ALL.iter().for_each(|m| unmark(&path, *m));
        self.prune(inner, &mut path);
        self.shrink_tree(inner);
    }
}

/// The entries from `first` on that lie in the node of `step` and begin before `end`, in order, with their slots; up to the first child.
pub(super) fn run(step: Step<'_>, first: Found, end: u64) -> impl Iterator<Item = (usize, Found)> {
    let shift = level_of(first.entry.order());
    let node_base = first.base & !((1_u64 << (shift + BITS)) - 1);
    (step.at..SLOTS)
        .map(move |at| (at, step.node.slot(at), node_base + ((at as u64) << shift)))
        .take_while(move |(_, slot, base)| !matches!(slot, Slot::Child(_)) && *base < end)
        .filter_map(|(at, slot, base)| match slot {
            Slot::Entry(packed) => Some((at, Found::at(base, packed)?)),
            _ => None,
        })
}

/// Slots of one node whose entries go.
struct Gone {
    entries: u64,
    next: u64,
    /// The slots of the entries, siblings included.
    slots: u64,
    /// The slots where they begin.
    begins: u64,
    shift: u32,
    node_base: u64,
}

impl Gone {
    fn new(first: Found) -> Self {
        let shift = level_of(first.entry.order());
        let node_base = first.base & !((1_u64 << (shift + BITS)) - 1);
        Self {
            entries: 0,
            next: first.base,
            slots: 0,
            begins: 0,
            shift,
            node_base,
        }
    }

    fn add(&mut self, at: usize, found: Found) {
        self.entries += 1;
        self.next = found.end();
        self.begins |= 1 << at;
        // As many ones as the entry has slots, at most 32.
        self.slots |= ((1_u64 << slots_of(found.entry.order())) - 1) << at;
    }

    /// The first indices of the entries.
    fn heads(&self) -> impl Iterator<Item = u64> {
        let (shift, base) = (self.shift, self.node_base);
        bits(self.begins).map(move |at| base + ((at as u64) << shift))
    }
}

/// The numbers of the bits that are set.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let at = (word != 0).then(|| word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(at)
    })
}

const _: () = assert!(SLOTS == 64, "sets of slots are words");
