//! The changes: insert, store, erase, marks. All under the array's spin lock.

use super::node::{BITS, MARKS, Mark, NONE, SLOTS, Slot};
use super::pool::Taken;
use super::{Found, InsertError, Path, Root, Step, XArray, XArrayStats, check_index, slot_of};
use crate::entry::{Entry, Packed};
use mm::sync::SpinGuard;
use mm::sync::atomic::{Ordering, fence};

pub(super) type Inner<'a> = SpinGuard<'a, XArrayStats>;

/// A structural change under way: `seq` is odd for as long as this lives.
pub(super) struct Change<'a> {
    array: &'a XArray,
    seq: u64,
}

impl<'a> Change<'a> {
    /// Makes running lock-free walks void. The caller holds the array's lock.
    pub(super) fn begin(array: &'a XArray, _writer: &Inner<'_>) -> Self {
        // Relaxed: only a writer changes `seq`, and it holds the lock.
        let seq = array.seq.load(Ordering::Relaxed);
        array.seq.store(seq + 1, Ordering::Relaxed);
        // Release W1: partner is the acquire fence before R2 in `XArray::load`.
        fence(Ordering::Release);
        Self { array, seq }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        // Release W2: partner is the acquire load R1 in `XArray::load`.
        self.array.seq.store(self.seq + 2, Ordering::Release);
    }
}

/// The level of the node that holds entries of this order.
pub(super) fn level_of(order: u8) -> u32 {
    u32::from(order) / BITS * BITS
}

/// How many slots an entry of this order takes there.
pub(super) fn slots_of(order: u8) -> usize {
    1 << (u32::from(order) % BITS)
}

/// The level of the lowest root that reaches `index` and has room for entries of level `level`.
fn root_level(index: u64, level: u32) -> u32 {
    (0..)
        .step_by(BITS as usize)
        .find(|s| *s >= level && index >> s < SLOTS as u64)
        .unwrap_or(u32::MAX)
}

impl XArray {
    /// Inserts `entry` at `index`, a multiple of 2^order below [`super::INDEX_END`], where nothing is yet.
    ///
    /// Error: see [`InsertError`]; nothing has changed then. Locks: the array's; none while the pool grows.
    pub fn insert(&self, index: u64, entry: Entry) -> Result<(), InsertError> {
        self.put(index, entry, false)
    }

    pub(super) fn put(&self, index: u64, entry: Entry, locked: bool) -> Result<(), InsertError> {
        check_index(index, entry.order())?;
        loop {
            let mut inner = self.inner.lock();
            if let Some(found) = self.seek(&(index..index + entry.pages()), None) {
                return Err(InsertError::Occupied(found));
            }
            let level = level_of(entry.order());
            if let Some(taken) = self.pool.take(self.nodes_needed(index, level)) {
                self.place(
                    &mut inner,
                    index,
                    Packed::new(entry, locked),
                    entry.order(),
                    taken,
                );
                return Ok(());
            }
            drop(inner);
            self.pool.grow()?;
        }
    }

    /// How many nodes an insertion at `index` in a node of `level` adds.
    fn nodes_needed(&self, index: u64, level: u32) -> usize {
        let top = root_level(index, level);
        let Some(root) = self.root() else {
            return ((top - level) / BITS + 1) as usize;
        };
        let (grow, lowest) = if top > root.shift {
            (top - root.shift, top)
        } else {
            (0, self.lowest(root, index))
        };
        // A grown root's slot for `index` is empty: `index` is beyond everything that the old root reached.
        ((grow + lowest - level) / BITS) as usize
    }

    /// The level of the last node on the way to `index`.
    fn lowest(&self, root: Root, index: u64) -> u32 {
        let Root {
            mut node,
            mut shift,
        } = root;
        while let Some(Slot::Child(child)) =
            self.pool.get(node).map(|n| n.slot(slot_of(index, shift)))
        {
            (node, shift) = (child, shift - BITS);
        }
        shift
    }

    fn place(
        &self,
        inner: &mut Inner<'_>,
        index: u64,
        packed: Packed,
        order: u8,
        mut taken: Taken,
    ) {
        let change = Change::begin(self, inner);
        inner.nodes += taken.len() as u32;
        inner.entries += 1;
        self.grow_tree(root_level(index, level_of(order)), &mut taken);
        let step = self.descend(index, level_of(order), &mut taken);
        let (node, at) = (step.node, step.at);
        node.set(at, Slot::Entry(packed));
        (1..slots_of(order)).for_each(|i| node.set(at + i, Slot::Sibling(at)));
        debug_assert!(taken.is_empty(), "more nodes were taken than needed");
        drop(change);
    }

    /// Puts roots above the root until it is at `top`, or makes the first root.
    fn grow_tree(&self, top: u32, taken: &mut Taken) {
        let Some(mut root) = self.root() else {
            return self.set_root(Some(Root {
                node: pop(taken),
                shift: top,
            }));
        };
        while root.shift < top {
            let number = pop(taken);
            self.put_above(root, number);
            root = Root {
                node: number,
                shift: root.shift + BITS,
            };
        }
        self.set_root(Some(root));
    }

    fn put_above(&self, root: Root, number: u32) {
        let (old, new) = (self.node(root.node), self.node(number));
        Mark::ALL
            .iter()
            .for_each(|m| new.set_marked(0, *m, old.marks(*m) != 0));
        new.set(0, Slot::Child(root.node));
    }

    /// The slot for `index` at `level`; missing nodes on the way come from `taken`.
    fn descend(&self, index: u64, level: u32, taken: &mut Taken) -> Step<'_> {
        let root = self.root().unwrap_or(Root {
            node: NONE,
            shift: level,
        });
        let (mut number, mut shift) = (root.node, root.shift);
        loop {
            let (node, at) = (self.node(number), slot_of(index, shift));
            if shift == level {
                return Step { number, node, at };
            }
            let child = if let Slot::Child(child) = node.slot(at) {
                child
            } else {
                pop(taken)
            };
            node.set(at, Slot::Child(child));
            (number, shift) = (child, shift - BITS);
        }
    }

    fn node(&self, number: u32) -> &super::Node {
        self.pool
            .get(number)
            .expect("a number in the tree names a node")
    }

    fn set_root(&self, root: Option<Root>) {
        // Release: partner is the acquire load in `XArray::root`.
        self.root.store(Root::word(root), Ordering::Release);
    }

    /// Removes the entry that covers `index`, unless it is locked, and gives back the nodes it leaves empty. Never allocates.
    ///
    /// Returns what was found: removed unless `locked`.
    pub fn erase(&self, index: u64) -> Option<Found> {
        let mut inner = self.inner.lock();
        let found = self.walk(index)?;
        if !found.locked {
            self.remove(&mut inner, found);
        }
        Some(found)
    }

    /// Removes an entry that exists.
    pub(super) fn remove(&self, inner: &mut Inner<'_>, found: Found) {
        let Some(mut path) = self.path(found.base) else {
            return;
        };
        let change = Change::begin(self, inner);
        inner.entries -= 1;
        Mark::ALL.iter().for_each(|m| unmark(&path, *m));
        if let Some(Step { node, at, .. }) = path.last() {
            (0..slots_of(found.entry.order())).for_each(|i| node.set(at + i, Slot::Nothing));
        }
        self.prune(inner, &mut path);
        self.shrink_tree(inner);
        drop(change);
    }

    /// Gives back the empty nodes at the end of the path.
    pub(super) fn prune(&self, inner: &mut Inner<'_>, path: &mut Path<'_>) {
        while let Some(step) = path.pop().filter(|s| s.node.used() == 0) {
            match path.last() {
                Some(parent) => parent.node.set(parent.at, Slot::Nothing),
                None => self.set_root(None),
            }
            self.release(inner, step.number);
        }
    }

    /// Gives back roots whose only child is their first.
    pub(super) fn shrink_tree(&self, inner: &mut Inner<'_>) {
        while let Some(root) = self.root() {
            let node = self.node(root.node);
            let Slot::Child(child) = node.slot(0) else {
                return;
            };
            if node.used() > 1 {
                return;
            }
            self.set_root(Some(Root {
                node: child,
                shift: root.shift - BITS,
            }));
            Mark::ALL.iter().for_each(|m| node.set_marked(0, *m, false));
            node.set(0, Slot::Nothing);
            self.release(inner, root.node);
        }
    }

    fn release(&self, inner: &mut Inner<'_>, number: u32) {
        inner.nodes -= 1;
        self.pool.give(number);
    }

    /// Replaces the word of an entry that exists by one of the same order.
    pub(super) fn replace(&self, _writer: &Inner<'_>, base: u64, packed: Packed) {
        if let Some(Step { node, at, .. }) = self.path(base).and_then(|mut p| p.pop()) {
            // Release W3: partner is the acquire fence before R2 in `XArray::load`.
            fence(Ordering::Release);
            node.set(at, Slot::Entry(packed));
        }
    }

    /// Marks the entry that covers `index`. False: there is none.
    pub fn set_mark(&self, index: u64, mark: Mark) -> bool {
        let _writers_out = self.inner.lock();
        let path = self.path(index);
        path.iter()
            .flatten()
            .for_each(|s| s.node.set_marked(s.at, mark, true));
        path.is_some()
    }

    /// Takes a mark from the entry that covers `index`. False: there is none.
    pub fn clear_mark(&self, index: u64, mark: Mark) -> bool {
        let _writers_out = self.inner.lock();
        let path = self.path(index);
        path.iter().for_each(|p| unmark(p, mark));
        path.is_some()
    }
}

/// Takes the mark from the last step and from every step above that has nothing marked below any more.
pub(super) fn unmark(path: &Path<'_>, mark: Mark) {
    for step in path.iter().rev() {
        step.node.set_marked(step.at, mark, false);
        if step.node.marks(mark) != 0 {
            return;
        }
    }
}

fn pop(taken: &mut Taken) -> u32 {
    taken
        .pop()
        .expect("nodes_needed counts every node that an insertion adds")
}

const _: () = assert!(MARKS == Mark::ALL.len());

impl Drop for XArray {
    fn drop(&mut self) {
        if self.is_empty() {
            return;
        }
        let mut inner = self.inner.lock();
        while let Some(found) = self.seek(&(0..super::INDEX_END), None) {
            self.remove(&mut inner, found);
        }
    }
}
