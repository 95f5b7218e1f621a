//! The array against a model; its invariants; its locks between threads.

mod locks;

use super::*;
use crate::heap_watch::allocations;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use mm::mem::inject;
use proptest::prelude::*;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A small generator of pseudo-random numbers (SplitMix64): the same operations on every run.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Insert {
        index: u64,
        order: u8,
        zero: bool,
    },
    Store {
        index: u64,
    },
    Erase {
        index: u64,
    },
    SetMark {
        index: u64,
        mark: Mark,
    },
    ClearMark {
        index: u64,
        mark: Mark,
    },
    Next {
        index: u64,
        len: u64,
        mark: Option<Mark>,
    },
    CopyMark {
        index: u64,
        len: u64,
    },
    EraseRun {
        index: u64,
        len: u64,
        most: usize,
    },
}

/// Places far apart, so that trees of every height come and go.
const PLACES: [u64; 6] = [
    0,
    60,
    1 << 12,
    1 << 18,
    (1 << 36) - 512,
    INDEX_END - (1 << 18),
];
const ORDERS: [u8; 12] = [0, 0, 0, 0, 0, 0, 1, 3, 6, 9, 9, 18];

fn op_from(word: u64, place_and_offset: u64) -> Op {
    let mut rng = Rng(word);
    let place = PLACES[(place_and_offset % 6) as usize];
    let index = (place + (place_and_offset >> 8) % 700).min(INDEX_END - 1);
    let mark = Mark::ALL[rng.below(2) as usize];
    match rng.below(21) {
        0..7 => Op::Insert {
            index,
            order: ORDERS[rng.below(12) as usize],
            zero: rng.below(4) == 0,
        },
        7..12 => Op::Erase { index },
        12..14 => Op::SetMark { index, mark },
        14..16 => Op::ClearMark { index, mark },
        16 => Op::Store { index },
        17 => Op::CopyMark {
            index,
            len: rng.below(2000),
        },
        18 => Op::EraseRun {
            index,
            len: rng.below(2000),
            most: rng.below(80) as usize,
        },
        _ => {
            let mark = (rng.below(2) == 0).then_some(mark);
            Op::Next {
                index,
                len: 1 << rng.below(40),
                mark,
            }
        }
    }
}

/// What the array should be: first index → entry and marks.
#[derive(Default)]
struct Model(BTreeMap<u64, (Entry, [bool; 2])>);

impl Model {
    fn covering(&self, index: u64) -> Option<u64> {
        let (base, (entry, _)) = self.0.range(..=index).next_back()?;
        (base + entry.pages() > index).then_some(*base)
    }

    fn next(&self, range: Range<u64>, mark: Option<Mark>) -> Option<u64> {
        if range.is_empty() {
            return None;
        }
        let start = self.covering(range.start).unwrap_or(range.start);
        let wanted = |m: &[bool; 2]| mark.is_none_or(|mark| m[mark as usize]);
        self.0
            .range(start..range.end)
            .find(|(_, (_, m))| wanted(m))
            .map(|(b, _)| *b)
    }

    fn insert(&mut self, base: u64, entry: Entry) -> bool {
        let free = self.next(base..base + entry.pages(), None).is_none();
        if free {
            self.0.insert(base, (entry, [false; 2]));
        }
        free
    }

    fn set(&mut self, index: u64, mark: Mark, on: bool) -> bool {
        let at = self.covering(index).and_then(|b| self.0.get_mut(&b));
        at.map(|(_, m)| m[mark as usize] = on).is_some()
    }
}

struct Pair {
    pool: Arc<NodePool>,
    array: XArray,
    model: Model,
    serial: u64,
}

impl Pair {
    fn new() -> Self {
        let pool = NodePool::new(1).unwrap();
        Self {
            array: XArray::new(pool.clone()),
            pool,
            model: Model::default(),
            serial: 0,
        }
    }

    fn entry(&mut self, order: u8, zero: bool) -> Entry {
        self.serial += 1;
        let pfn = Pfn::new(self.serial).unwrap();
        if zero {
            Entry::Zero { order }
        } else {
            Entry::Pfn { pfn, order }
        }
    }

    fn same(&self, found: Option<Found>, base: Option<u64>) {
        assert_eq!(found.map(|f| f.base), base);
        assert_eq!(found.map(|f| f.entry), base.map(|b| self.model.0[&b].0));
        assert!(found.is_none_or(|f| !f.locked));
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Insert { index, order, zero } => self.insert(index, order, zero),
            Op::Store { index } => self.store(index),
            Op::Erase { index } => self.erase(index),
            Op::SetMark { index, mark } => assert_eq!(
                self.array.set_mark(index, mark),
                self.model.set(index, mark, true)
            ),
            Op::ClearMark { index, mark } => {
                assert_eq!(
                    self.array.clear_mark(index, mark),
                    self.model.set(index, mark, false)
                );
            }
            Op::Next { index, len, mark } => self.next(index, len, mark),
            Op::CopyMark { index, len } => self.copy_mark(index, len),
            Op::EraseRun { index, len, most } => self.erase_run(index, len, most),
        }
    }

    fn insert(&mut self, index: u64, order: u8, zero: bool) {
        let entry = self.entry(order, zero);
        let base = entry.base(index);
        let done = self.array.insert(base, entry);
        assert_eq!(done.is_ok(), self.model.insert(base, entry), "{done:?}");
    }

    fn store(&mut self, index: u64) {
        let Some(base) = self.model.covering(index) else {
            return assert!(self.array.lock_existing(index).is_none());
        };
        let entry = self.entry(self.model.0[&base].0.order(), false);
        self.model.0.get_mut(&base).unwrap().0 = entry;
        let mut guard = self.array.lock_existing(index).unwrap();
        assert!(self.array.load(index).unwrap().locked);
        guard.store(entry);
    }

    fn erase(&mut self, index: u64) {
        let base = self.model.covering(index);
        self.same(self.array.load(index), base);
        self.same(self.array.erase(index), base);
        base.map(|b| self.model.0.remove(&b));
    }

    /// What goes are the first entries of the range, each told once, at least one if allowed; none is passed over.
    fn erase_run(&mut self, index: u64, len: u64, most: usize) {
        let (range, mut told) = (index..index + len, Vec::new());
        let first = self.model.next(range.clone(), None);
        let erased = self.array.erase_run(range.clone(), |found| {
            let taken = told.len() < most;
            told.extend(taken.then_some(found));
            taken
        });
        assert_eq!(erased.is_some(), first.is_some());
        assert_eq!(told.is_empty(), first.is_none() || most == 0);
        for found in &told {
            assert_eq!(self.model.next(range.clone(), None), Some(found.base));
            let (entry, _) = self.model.0.remove(&found.base).unwrap();
            assert_eq!(entry, found.entry);
        }
        let Some(erased) = erased else { return };
        assert_eq!(erased.entries, told.len() as u64);
        assert_eq!(self.model.next(index..erased.next, None), None);
    }

    fn next(&mut self, index: u64, len: u64, mark: Option<Mark>) {
        let range = index..index.saturating_add(len);
        let found = match mark {
            Some(mark) => self.array.next_marked(range.clone(), mark),
            None => self.array.next(range.clone()),
        };
        self.same(found, self.model.next(range, mark));
    }

    fn copy_mark(&mut self, index: u64, len: u64) {
        let range = index..index + len;
        self.array
            .copy_mark(range.clone(), Mark::Dirty, Mark::ToWrite);
        let mut from = range.start;
        while let Some(base) = self.model.next(from..range.end, Some(Mark::Dirty)) {
            self.model.set(base, Mark::ToWrite, true);
            from = base + self.model.0[&base].0.pages();
        }
    }

    /// Every entry and mark, and the tree's own invariants.
    fn check(&self) {
        let all: Vec<Found> = self.array.iter(0..INDEX_END).collect();
        assert_eq!(all.len(), self.model.0.len());
        for (found, (base, (entry, marks))) in all.iter().zip(&self.model.0) {
            assert_eq!((found.base, found.entry), (*base, *entry));
            Mark::ALL
                .iter()
                .for_each(|m| assert_eq!(self.array.marked(*base, *m), marks[*m as usize]));
        }
        let stats = self.array.stats();
        let root = self.array.root();
        let (nodes, entries) = root.map_or((0, 0), |r| self.count(r.node, r.shift, true));
        assert_eq!(stats, XArrayStats { nodes, entries });
        assert_eq!(self.pool.stats().used, nodes, "nodes leaked");
    }

    /// Nodes and entries below; checks the use count, the marks, siblings, and that no node is empty and no root too high.
    fn count(&self, number: u32, shift: u32, root: bool) -> (u32, u64) {
        let node = self.pool.get(number).unwrap();
        let (mut nodes, mut entries, mut used) = (1, 0, 0);
        for at in 0..SLOTS {
            let slot = node.slot(at);
            used += u32::from(slot != Slot::Nothing);
            match slot {
                Slot::Child(child) => {
                    let below = self.count(child, shift - BITS, false);
                    (nodes, entries) = (nodes + below.0, entries + below.1);
                    let child = self.pool.get(child).unwrap();
                    Mark::ALL
                        .iter()
                        .for_each(|m| assert_eq!(node.marked(at, *m), child.marks(*m) != 0));
                }
                Slot::Entry(_) => entries += 1,
                Slot::Sibling(head) => {
                    assert!(matches!(node.slot(head), Slot::Entry(_)) && head < at)
                }
                Slot::Nothing => assert!(Mark::ALL.iter().all(|m| !node.marked(at, *m))),
            }
        }
        assert!(
            used > 0 && used == node.used(),
            "a node's use count is wrong"
        );
        assert!(
            !root || shift == 0 || used > 1 || !matches!(node.slot(0), Slot::Child(_)),
            "the root is too high"
        );
        (nodes, entries)
    }
}

#[test]
fn a_million_operations_agree_with_the_model() {
    let (mut pair, mut rng) = (Pair::new(), Rng(42));
    let count = if cfg!(miri) { 2_000 } else { 1_000_000 };
    for i in 0..count {
        let op = op_from(rng.next(), rng.next());
        pair.apply(op);
        if i % 20_000 == 0 {
            pair.check();
        }
    }
    pair.check();
    let left: Vec<u64> = pair.model.0.keys().copied().collect();
    left.iter()
        .for_each(|b| assert!(pair.array.erase(*b).is_some()));
    assert_eq!(
        (pair.array.stats(), pair.pool.stats().used),
        (XArrayStats::default(), 0)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 128 }, ..ProptestConfig::default() })]
    #[test]
    fn short_runs_agree_with_the_model(ops in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..120)) {
        let mut pair = Pair::new();
        for (kind, place) in ops {
            pair.apply(op_from(kind, place));
            pair.check();
        }
    }
}

fn page(n: u64) -> Entry {
    Entry::Pfn {
        pfn: Pfn::new(n).unwrap(),
        order: 0,
    }
}

fn array() -> XArray {
    XArray::new(NodePool::new(1).unwrap())
}

#[test]
fn only_insertion_allocates() {
    let a = array();
    (0..5000).for_each(|i| a.insert(i * 97, page(i)).unwrap());
    let seen = allocations(|| {
        (0..5000).for_each(|i| assert!(a.set_mark(i * 97, Mark::Dirty)));
        a.copy_mark(0..INDEX_END, Mark::Dirty, Mark::ToWrite);
        (0..2500).for_each(|i| a.lock_existing(i * 97).unwrap().erase());
        (2500..5000).for_each(|i| assert!(a.erase(i * 97).is_some()));
    });
    assert_eq!((seen, a.stats()), (0, XArrayStats::default()));
}

#[test]
fn an_insertion_without_memory_changes_nothing() {
    let (a, far) = (array(), 40 << 48);
    // Each of these paths takes eight nodes or more; at the end the pool has fewer.
    let left = |a: &XArray| a.pool.stats().total - a.pool.stats().used;
    a.insert(1 << 48, page(1)).unwrap();
    for top in (2..40).take_while(|_| left(&a) >= 8) {
        a.insert(top << 48, page(2)).unwrap();
    }
    let before = (a.stats(), a.pool.stats());
    inject::headroom(0);
    let (inserted, locked) = (a.insert(far, page(3)), a.lock_entry(far, 0).err());
    inject::headroom(usize::MAX);
    assert_eq!(
        (inserted, locked),
        (Err(InsertError::OutOfMemory), Some(LockError::OutOfMemory))
    );
    assert_eq!(
        (a.stats(), a.pool.stats(), a.load(far)),
        (before.0, before.1, None)
    );
    a.insert(far, page(3)).unwrap();
}

#[test]
fn bad_indices_are_refused_and_change_nothing() {
    let a = array();
    let huge = Entry::Zero { order: 9 };
    for (index, entry) in [
        (INDEX_END, page(1)),
        (u64::MAX, page(1)),
        (5, huge),
        (0, Entry::Zero { order: 37 }),
    ] {
        let refused = a.insert(index, entry);
        assert_eq!(
            refused,
            Err(InsertError::BadIndex {
                index,
                order: entry.order()
            })
        );
    }
    assert_eq!(
        (a.stats(), a.load(u64::MAX)),
        (XArrayStats::default(), None)
    );
    assert_eq!(a.next(INDEX_END..u64::MAX), None);
}

#[test]
fn the_largest_order_is_one_slot() {
    let a = array();
    a.insert(1 << 36, Entry::Zero { order: 36 }).unwrap();
    assert_eq!(a.load((2 << 36) - 1).unwrap().base, 1 << 36);
    assert_eq!(
        a.stats(),
        XArrayStats {
            entries: 1,
            nodes: 1
        }
    );
}

#[test]
fn a_placeholder_goes_with_its_guard() {
    let a = array();
    let guard = a.lock_entry(700, 9).unwrap();
    assert_eq!(
        a.load(513).map(|f| (f.base, f.entry, f.locked)),
        Some((512, Entry::Empty { order: 9 }, true))
    );
    drop(guard);
    assert_eq!(a.stats(), XArrayStats::default());
}

#[test]
fn a_small_entry_is_a_conflict_for_a_large_lock_even_while_locked() {
    let a = array();
    let small = a.lock_entry(700, 0).unwrap();
    let large = thread::scope(|s| s.spawn(|| a.lock_entry(512, 9).err()).join().unwrap());
    assert!(matches!(large, Some(LockError::Conflict(f)) if f.base == 700));
    drop(small);
    drop(a.lock_entry(512, 9).unwrap());
}

#[test]
fn locking_a_page_of_a_large_entry_locks_the_entry() {
    let a = array();
    a.insert(512, Entry::Zero { order: 9 }).unwrap();
    let guard = a.lock_entry(800, 0).unwrap();
    assert_eq!(
        (guard.base(), guard.entry()),
        (512, Entry::Zero { order: 9 })
    );
    assert!(a.erase(513).unwrap().locked);
    assert!(a.load(513).is_some(), "a locked entry was erased");
}

/// An entry that always exists is always found, with its own pfn, while others come and go around it and nodes move between arrays.
#[test]
fn lock_free_readers_never_see_a_torn_tree() {
    let pool = NodePool::new(1).unwrap();
    let (a, b) = (XArray::new(pool.clone()), XArray::new(pool));
    a.insert(9, page(9)).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(a.load(9).map(|f| f.entry), Some(page(9)));
                    let far = a.load(1 << 40).map(|f| f.entry);
                    assert!(
                        far.is_none_or(|e| e == page(40)),
                        "{far:?} is of another array or index"
                    );
                }
            });
        }
        for _ in 0..if cfg!(miri) { 20 } else { 20_000 } {
            a.insert(1 << 40, page(40)).unwrap();
            a.erase(1 << 40);
            b.insert(1 << 40, page(41)).unwrap();
            b.insert(9, page(10)).unwrap();
            b.erase(9);
            b.erase(1 << 40);
        }
        done.store(true, Ordering::Relaxed);
    });
}
