//! A file's pages: a radix tree of 64-slot nodes from page index to [`Entry`].
//!
//! An entry of order n covers 2^n aligned indices. It lives in the node of the level that its order calls for: its head slot holds the
//! entry, the other slots it covers there say "sibling of that head". Below it there is nothing. Each entry has a lock bit
//! ([`EntryGuard`]) and marks ([`Mark`]); a mark is set in a node exactly when something under that slot has it.
//!
//! # Invariants
//!
//! - Entries do not overlap; an insertion over another entry is refused. Nothing is ever split.
//! - No node is empty, and the root is as low as its highest index permits: an array without entries has no nodes.
//! - An insertion takes all nodes it needs before it changes anything, so it succeeds or changes nothing. Erasing only gives back.
//!   Erasing, locking what exists, marking and looking up never allocate.
//!
//! # Locks
//!
//! Writers hold the array's spin lock, for one walk at most. It ranks below everything that sleeps; inside it only the pool's spin
//! lock is taken. The entry lock is the bit in the entry; who finds it set sleeps on a hashed wait table, keyed by (array, first
//! index of the entry found). The order and first index of an entry never change while it exists, so locker and waiter
//! use the same key; unlocking clears the bit, then wakes one. The waiter enqueues, then tries again: no wake-up is lost (`lock`).
//!
//! # Readers without a lock
//!
//! [`XArray::load`] takes no lock. It is a seqlock over memory that is never freed ([`NodePool`] is type-stable):
//!
//! 1. A writer that changes structure (insert, erase) makes `seq` odd with a relaxed store, then a release fence (W1), then its
//!    changes, then stores `seq` even with release (W2).
//! 2. A reader loads `seq` with acquire (R1, partner W2: it sees everything before that even value), walks, then an acquire fence
//!    and loads `seq` again (R2). If the walk read anything written after some W1, then that W1 and the reader's fence synchronise
//!    through that word, so R2 sees at least the odd value, and the walk is void.
//! 3. A node given back by one array and taken by another: giving happens after the first array's W1 and before the taker's W1, through the
//!    pool's lock. A reader of the first array that reads a word of the second has therefore, by the same fences, a changed `seq`.
//! 4. A change of one entry in place (lock bit, store) is one word and needs no `seq`: a release fence (W3), then a relaxed store. Its
//!    partner is the reader's acquire fence: who sees a page sees the association made before it was stored or inserted.
//!
//! A void walk reads only atomics of nodes of the pool and takes at most nine steps. After a few void walks the reader takes the lock.

mod batch;
mod lock;
#[cfg(all(test, loom))]
mod loom_tests;
mod node;
mod pool;
mod run;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
mod write;

use crate::entry::{Entry, MAX_ORDER, Packed};
use alloc::sync::Arc;
use arrayvec::ArrayVec;

use core::ops::Range;
use mm::addr::Pfn;
use mm::mem::OutOfMemory;
use mm::sync::atomic::{AtomicU64, Ordering, fence, spin_loop};
use mm::sync::{SpinLock, class};

pub use lock::{EntryGuard, LockError};
pub use node::Mark;
use node::{BITS, Node, SLOTS, Slot};
pub use pool::{NodePool, PoolStats};
pub(crate) use run::{EntryRun, LOCKS};

/// Levels of the tallest tree.
const LEVELS: usize = 9;
/// Indices are less than this. (A file of 2^66 bytes: no bound in practice.)
pub const INDEX_END: u64 = 1 << (LEVELS as u32 * BITS);
/// Void walks before a reader takes the lock.
const READ_TRIES: u32 = if cfg!(loom) { 2 } else { 16 };

/// A map from page index to [`Entry`].
pub struct XArray {
    pool: Arc<NodePool>,
    id: u64,
    seq: AtomicU64,
    root: AtomicU64,
    inner: SpinLock<XArrayStats>,
    /// How often somebody tried to lock an entry: a herd would show here.
    #[cfg(test)]
    tries: AtomicU64,
}

/// What an array holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XArrayStats {
    /// Entries, of whatever order.
    pub entries: u64,
    /// Nodes of the tree.
    pub nodes: u32,
}

/// An entry and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The first index that the entry covers.
    pub base: u64,
    /// The entry.
    pub entry: Entry,
    /// Whether somebody held the entry lock at that moment.
    pub locked: bool,
}

impl Found {
    fn at(index: u64, packed: Packed) -> Option<Self> {
        let entry = packed.entry()?;
        Some(Self {
            base: entry.base(index),
            entry,
            locked: packed.locked(),
        })
    }

    /// One past the last index that the entry covers.
    pub const fn end(&self) -> u64 {
        self.base + self.entry.pages()
    }

    /// The frame of the first index, if there is storage.
    pub const fn pfn(&self) -> Option<Pfn> {
        self.entry.pfn()
    }
}

/// Why an insertion was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    /// Another entry covers part of the range.
    #[error("an entry at page {} is in the way", .0.base)]
    Occupied(Found),
    /// No memory for the nodes.
    #[error("out of memory")]
    OutOfMemory,
    /// The index is too large, the order too large, or the index is not a multiple of 2^order.
    #[error("index {index:#x} of order {order} is out of range or misaligned")]
    BadIndex {
        /// The index asked for.
        index: u64,
        /// The order asked for.
        order: u8,
    },
}

impl From<OutOfMemory> for InsertError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// The top of the tree. Packed in one word: `shift` (bits 40..), node number (bits 1..33), bit 0 set; 0 is the empty tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Root {
    node: u32,
    shift: u32,
}

impl Root {
    fn word(root: Option<Self>) -> u64 {
        root.map_or(0, |r| u64::from(r.shift) << 40 | u64::from(r.node) << 1 | 1)
    }

    fn from_word(word: u64) -> Option<Self> {
        (word != 0).then_some(Self {
            node: (word >> 1) as u32,
            shift: (word >> 40) as u32,
        })
    }
}

/// One step of a walk: a node and the slot to follow.
#[derive(Clone, Copy)]
struct Step<'a> {
    number: u32,
    node: &'a Node,
    at: usize,
}

type Path<'a> = ArrayVec<Step<'a>, LEVELS>;

fn slot_of(index: u64, shift: u32) -> usize {
    (index >> shift) as usize % SLOTS
}

/// Identifies arrays in wait keys.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl XArray {
    /// An empty array whose nodes come from `pool`. Allocates nothing.
    pub fn new(pool: Arc<NodePool>) -> Self {
        // Relaxed: a number that nobody else gets; it orders nothing.
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let inner = SpinLock::with_class(&class::XARRAY, XArrayStats::default());
        Self {
            pool,
            id,
            seq: AtomicU64::new(0),
            root: AtomicU64::new(0),
            inner,
            #[cfg(test)]
            tries: AtomicU64::new(0),
        }
    }

    /// Whether it has no entry at this moment. One load, no lock.
    pub fn is_empty(&self) -> bool {
        self.root().is_none()
    }

    /// How many entries and nodes there are.
    pub fn stats(&self) -> XArrayStats {
        *self.inner.lock()
    }

    /// The entry that covers `index`. Takes no lock, or, after several collisions with writers, the array's spin lock.
    pub fn load(&self, index: u64) -> Option<Found> {
        for _ in 0..READ_TRIES {
            // Acquire R1: partner is the release store W2 in `Change::drop`.
            let seq = self.seq.load(Ordering::Acquire);
            if seq & 1 != 0 {
                spin_loop();
                continue;
            }
            let found = self.walk(index);
            // Acquire fence, then R2: partner is the release fence W1 in `Change::begin`.
            fence(Ordering::Acquire);
            if self.seq.load(Ordering::Relaxed) == seq {
                return found;
            }
        }
        let _writers_out = self.inner.lock();
        self.walk(index)
    }

    /// The first entry that covers an index of `range`; it may begin before the range. Locks: the array's, for one walk.
    pub fn next(&self, range: Range<u64>) -> Option<Found> {
        let _writers_out = self.inner.lock();
        self.seek(&range, None)
    }

    /// The first entry with `mark` that covers an index of `range`. Locks: the array's, for one walk.
    pub fn next_marked(&self, range: Range<u64>, mark: Mark) -> Option<Found> {
        let _writers_out = self.inner.lock();
        self.seek(&range, Some(mark))
    }

    /// The entries that cover an index of `range`, in order. What is inserted or erased meanwhile may be seen or not; what stays is seen.
    ///
    /// Reads some entries ahead, under one hold of the array's lock.
    pub fn iter(&self, range: Range<u64>) -> impl Iterator<Item = Found> + '_ {
        let (mut from, to) = (range.start, range.end);
        let mut ahead = batch::Batch::new().into_iter();
        core::iter::from_fn(move || {
            if ahead.len() == 0 {
                // Most files have no page in memory: that is seen at the root.
                self.root()?;
                ahead = self.batch(from..to).into_iter();
            }
            let found = ahead.next()?;
            from = found.end();
            Some(found)
        })
    }

    /// Whether the entry that covers `index` has `mark`.
    pub fn marked(&self, index: u64, mark: Mark) -> bool {
        let _writers_out = self.inner.lock();
        self.path(index)
            .is_some_and(|path| path.last().is_some_and(|s| s.node.marked(s.at, mark)))
    }

    /// Gives the mark `to` to every entry of `range` that has the mark `from`. The lock is dropped between entries.
    pub fn copy_mark(&self, range: Range<u64>, from: Mark, to: Mark) {
        let mut start = range.start;
        while let Some(found) = self.next_marked(start..range.end, from) {
            self.set_mark(found.base, to);
            start = found.end();
        }
    }

    fn root(&self) -> Option<Root> {
        // Acquire: partner is the release store in `set_root`.
        Root::from_word(self.root.load(Ordering::Acquire))
    }

    /// The entry at `index`. Without the lock the answer is void unless `seq` has not changed.
    fn walk(&self, index: u64) -> Option<Found> {
        let Root {
            mut node,
            mut shift,
        } = self.root().filter(|r| index >> r.shift < SLOTS as u64)?;
        loop {
            match self.pool.get(node)?.head(slot_of(index, shift)).1 {
                Slot::Child(child) => node = child,
                Slot::Entry(packed) => return Found::at(index, packed),
                Slot::Nothing | Slot::Sibling(_) => return None,
            }
            shift = shift.checked_sub(BITS)?;
        }
    }

    /// The steps from the root to the head slot of the entry at `index`. Under the lock.
    fn path(&self, index: u64) -> Option<Path<'_>> {
        let Root { node, shift } = self.root().filter(|r| index >> r.shift < SLOTS as u64)?;
        let (mut number, mut shift) = (node, shift);
        let mut path = Path::new();
        loop {
            let node = self.pool.get(number)?;
            let (at, slot) = node.head(slot_of(index, shift));
            path.push(Step { number, node, at });
            match slot {
                Slot::Child(child) => number = child,
                Slot::Entry(_) => return Some(path),
                Slot::Nothing | Slot::Sibling(_) => return None,
            }
            shift = shift.checked_sub(BITS)?;
        }
    }

    /// The first entry (with `mark`, if given) in `range`. Under the lock.
    fn seek(&self, range: &Range<u64>, mark: Option<Mark>) -> Option<Found> {
        let root = self.root()?;
        if range.is_empty() || range.start >> root.shift >= SLOTS as u64 {
            return None;
        }
        let found = self.seek_below(root.node, root.shift, 0, range, mark)?;
        (found.base < range.end).then_some(found)
    }

    /// The first entry that covers an index of `range` in the subtree whose first index is `base`. Looks at no slot behind the range, for a
    /// fault asks for a range of one page. Recursion: at most [`LEVELS`] deep.
    fn seek_below(
        &self,
        number: u32,
        shift: u32,
        base: u64,
        range: &Range<u64>,
        mark: Option<Mark>,
    ) -> Option<Found> {
        let node = self.pool.get(number)?;
        let first = node.head(slot_of(range.start.max(base), shift)).0;
        for at in first..SLOTS {
            let below = base + ((at as u64) << shift);
            if below >= range.end {
                return None;
            }
            if mark.is_some_and(|m| !node.marked(at, m)) {
                continue;
            }
            let found = match node.slot(at) {
                Slot::Child(child) => {
                    self.seek_below(child, shift.checked_sub(BITS)?, below, range, mark)
                }
                Slot::Entry(packed) => Found::at(below, packed),
                Slot::Nothing | Slot::Sibling(_) => None,
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

/// Whether an entry of this order may begin at `index`.
fn check_index(index: u64, order: u8) -> Result<(), InsertError> {
    let fits = order <= MAX_ORDER && index < INDEX_END && index & ((1 << order) - 1) == 0;
    if fits {
        Ok(())
    } else {
        Err(InsertError::BadIndex { index, order })
    }
}
