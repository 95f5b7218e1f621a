//! A sorted map of free runs, start → length, whose nodes are paid for in advance: freeing never allocates.
//!
//! A treap: a search tree by start that is a heap by a hash of the start. Its shape depends on its content alone and is
//! balanced but for bad luck with the hash, which nobody chooses. Nodes lie in one vector and are linked by number; those not in
//! use form a list through `left`.

use alloc::vec::Vec;
use core::fmt;

use mm::mem::OutOfMemory;

/// The number of a node, or none.
type Link = u32;
const NIL: Link = Link::MAX;

#[derive(Clone, Copy)]
struct Node {
    start: u64,
    len: u64,
    left: Link,
    right: Link,
}

/// Where a link stands.
#[derive(Clone, Copy)]
enum Place {
    Root,
    Left(Link),
    Right(Link),
}

/// Free runs by start.
pub(super) struct Runs {
    nodes: Vec<Node>,
    root: Link,
    unused: Link,
    len: usize,
}

/// Decides who stands above whom. A bijection: two starts never tie.
const fn priority(start: u64) -> u64 {
    let x = (start ^ start >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ x >> 31
}

impl Runs {
    pub const fn new() -> Self {
        Self {
            nodes: Vec::new(),
            root: NIL,
            unused: NIL,
            len: 0,
        }
    }

    /// How many runs there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// How many more can be inserted without memory.
    pub fn spare(&self) -> usize {
        self.nodes.capacity() - self.len
    }

    /// Makes room for `more` runs besides those that are there.
    pub fn reserve(&mut self, more: usize) -> Result<(), OutOfMemory> {
        let wanted = self.len.checked_add(more).ok_or(OutOfMemory)?;
        if wanted >= NIL as usize {
            return Err(OutOfMemory);
        }
        let missing = wanted.saturating_sub(self.nodes.len());
        self.nodes.try_reserve(missing).map_err(|_| OutOfMemory)
    }

    fn node(&self, at: Link) -> &Node {
        &self.nodes[at as usize]
    }

    fn link(&self, place: Place) -> Link {
        match place {
            Place::Root => self.root,
            Place::Left(at) => self.node(at).left,
            Place::Right(at) => self.node(at).right,
        }
    }

    fn set(&mut self, place: Place, to: Link) {
        match place {
            Place::Root => self.root = to,
            Place::Left(at) => self.nodes[at as usize].left = to,
            Place::Right(at) => self.nodes[at as usize].right = to,
        }
    }

    /// The place of the link to the run that begins at `start`, or of the link where a search for it ends.
    fn search(&self, start: u64, until: impl Fn(&Node) -> bool) -> Place {
        let mut place = Place::Root;
        loop {
            let at = self.link(place);
            if at == NIL || until(self.node(at)) {
                return place;
            }
            place = if start < self.node(at).start {
                Place::Left(at)
            } else {
                Place::Right(at)
            };
        }
    }

    /// The length of the run that begins at `start`.
    pub fn get(&self, start: u64) -> Option<u64> {
        let at = self.link(self.search(start, |node| node.start == start));
        (at != NIL).then(|| self.node(at).len)
    }

    /// The last run that begins at or before `key`.
    pub fn at_or_before(&self, key: u64) -> Option<(u64, u64)> {
        let (mut at, mut best) = (self.root, None);
        while at != NIL {
            let node = self.node(at);
            if node.start <= key {
                best = Some((node.start, node.len));
                at = node.right;
            } else {
                at = node.left;
            }
        }
        best
    }

    /// The first run that begins at or after `key`.
    pub fn at_or_after(&self, key: u64) -> Option<(u64, u64)> {
        let (mut at, mut best) = (self.root, None);
        while at != NIL {
            let node = self.node(at);
            if node.start >= key {
                best = Some((node.start, node.len));
                at = node.left;
            } else {
                at = node.right;
            }
        }
        best
    }

    /// The runs that begin at or after `key`, in order.
    pub fn from(&self, key: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let after = |(start, _): &(u64, u64)| self.at_or_after(start.checked_add(1)?);
        core::iter::successors(self.at_or_after(key), after)
    }

    /// All runs, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.from(0)
    }

    fn take_node(&mut self, node: Node) -> Option<Link> {
        let at = self.unused;
        if at != NIL {
            self.unused = self.node(at).left;
            self.nodes[at as usize] = node;
            return Some(at);
        }
        self.reserve(1).ok()?;
        self.nodes.push(node);
        Some(self.nodes.len() as Link - 1)
    }

    /// Adds a run that begins where none does. Takes memory only when no room was made before; false: there was none, and
    /// nothing has changed.
    #[must_use]
    pub fn insert(&mut self, start: u64, len: u64) -> bool {
        let (left, right) = (NIL, NIL);
        let Some(new) = self.take_node(Node {
            start,
            len,
            left,
            right,
        }) else {
            return false;
        };
        self.len += 1;
        let mine = priority(start);
        let place = self.search(start, |node| priority(node.start) < mine);
        let below = self.link(place);
        self.set(place, new);
        self.split(below, start, new);
        true
    }

    /// Hangs the tree `at` below node `new`, which stands at `start`.
    fn split(&mut self, mut at: Link, start: u64, new: Link) {
        let (mut lower, mut upper) = (Place::Left(new), Place::Right(new));
        while at != NIL {
            let (side, next) = if self.node(at).start < start {
                (&mut lower, Place::Right(at))
            } else {
                (&mut upper, Place::Left(at))
            };
            let place = core::mem::replace(side, next);
            self.set(place, at);
            at = self.link(next);
        }
        self.set(lower, NIL);
        self.set(upper, NIL);
    }

    /// Takes the run that begins at `start` out; gives its length.
    pub fn remove(&mut self, start: u64) -> Option<u64> {
        let place = self.search(start, |node| node.start == start);
        let at = self.link(place);
        if at == NIL {
            return None;
        }
        let Node {
            len, left, right, ..
        } = *self.node(at);
        self.join(place, left, right);
        self.nodes[at as usize].left = self.unused;
        self.unused = at;
        self.len -= 1;
        Some(len)
    }

    /// Hangs two trees, all of `a` before all of `b`, at `place`.
    fn join(&mut self, mut place: Place, mut a: Link, mut b: Link) {
        while a != NIL && b != NIL {
            if priority(self.node(a).start) > priority(self.node(b).start) {
                self.set(place, a);
                place = Place::Right(a);
                a = self.link(place);
            } else {
                self.set(place, b);
                place = Place::Left(b);
                b = self.link(place);
            }
        }
        self.set(place, if a == NIL { b } else { a });
    }
}

/// Runs that are given in order, from low to high: no search, a few steps for each.
///
/// Of the nodes on the way from the root to the last run, each has in `right` the one above it, until [`InOrder::finish`] or until a run of higher
/// priority takes its place on the way.
pub(super) struct InOrder {
    runs: Runs,
    last: Link,
}

impl InOrder {
    pub const fn new() -> Self {
        Self {
            runs: Runs::new(),
            last: NIL,
        }
    }

    /// Adds a run behind all others.
    pub fn push(&mut self, start: u64, len: u64) -> Result<(), OutOfMemory> {
        self.runs.reserve(1)?;
        let mine = priority(start);
        let left = self.climb(|above| priority(above.start) < mine);
        let new = Node {
            start,
            len,
            left,
            right: self.last,
        };
        self.last = self.runs.nodes.len() as Link;
        self.runs.nodes.push(new);
        self.runs.len += 1;
        Ok(())
    }

    /// Takes the last runs off the way from the root, as long as `leaves` says; gives the highest of them.
    fn climb(&mut self, leaves: impl Fn(&Node) -> bool) -> Link {
        let mut below = NIL;
        while self.last != NIL && leaves(self.runs.node(self.last)) {
            let node = &mut self.runs.nodes[self.last as usize];
            let above = core::mem::replace(&mut node.right, below);
            (below, self.last) = (self.last, above);
        }
        below
    }

    /// All of them.
    pub fn finish(mut self) -> Runs {
        self.runs.root = self.climb(|_| true);
        self.runs
    }
}

impl fmt::Debug for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    impl Runs {
        /// The longest way from the root to a run.
        fn depth(&self, at: Link) -> usize {
            if at == NIL {
                return 0;
            }
            let node = self.node(at);
            1 + self.depth(node.left).max(self.depth(node.right))
        }
    }

    #[test]
    fn many_runs_in_order_stay_shallow() {
        let mut runs = Runs::new();
        let n: u64 = if cfg!(miri) { 500 } else { 50_000 };
        for start in 0..n {
            assert!(runs.insert(start * 8, 1));
        }
        assert!(runs.depth(runs.root) < 60, "{}", runs.depth(runs.root));
        assert_eq!(runs.iter().count() as u64, n);
    }

    /// The tree: each run with what is below it.
    fn shape(runs: &Runs, at: Link) -> String {
        if at == NIL {
            return String::new();
        }
        let node = runs.node(at);
        let (left, right) = (shape(runs, node.left), shape(runs, node.right));
        format!("({left} {}+{} {right})", node.start, node.len)
    }

    proptest! {
        #[test]
        fn runs_given_in_order_make_the_same_tree(starts in prop::collection::btree_set(0u64..5000, 0..300)) {
            let (mut one_by_one, mut in_order) = (Runs::new(), InOrder::new());
            for start in &starts {
                prop_assert!(one_by_one.insert(*start, start % 9 + 1));
                in_order.push(*start, start % 9 + 1).expect("memory");
            }
            let in_order = in_order.finish();
            prop_assert_eq!(shape(&in_order, in_order.root), shape(&one_by_one, one_by_one.root));
            prop_assert_eq!(in_order.len(), starts.len());
        }
    }

    #[test]
    fn room_is_made_once_and_used_again() {
        let mut runs = Runs::new();
        runs.reserve(10).expect("memory");
        let at = runs.nodes.as_ptr();
        for round in 0..100 {
            for i in 0..10 {
                assert!(runs.insert(100 * round + i, 1));
            }
            assert_eq!(runs.spare(), runs.nodes.capacity() - 10);
            for i in 0..10 {
                assert_eq!(runs.remove(100 * round + i), Some(1));
            }
        }
        assert_eq!((runs.len(), runs.nodes.as_ptr()), (0, at));
    }

    proptest! {
        #[test]
        fn behaves_as_a_sorted_map(steps in prop::collection::vec((0u8..3, 0u64..80, 1u64..9), 1..150)) {
            let mut runs = Runs::new();
            let mut model = BTreeMap::new();
            for (what, start, len) in steps {
                match what {
                    0 => prop_assert_eq!(runs.remove(start), model.remove(&start)),
                    _ if model.contains_key(&start) => prop_assert_eq!(runs.get(start), model.get(&start).copied()),
                    _ => {
                        prop_assert!(runs.insert(start, len));
                        model.insert(start, len);
                    }
                }
                let pair = |(start, len): (&u64, &u64)| (*start, *len);
                prop_assert_eq!(runs.len(), model.len());
                prop_assert_eq!(runs.at_or_before(start), model.range(..=start).next_back().map(pair));
                prop_assert_eq!(runs.at_or_after(start), model.range(start..).next().map(pair));
                prop_assert!(runs.from(start).eq(model.range(start..).map(pair)));
            }
            prop_assert!(runs.iter().eq(model.iter().map(|(s, l)| (*s, *l))));
        }
    }
}
