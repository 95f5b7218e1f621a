//! Things by number, in places of their own: found in three steps, without a search, and in order.
//!
//! Two levels: branches of 512 leaves, leaves of 64 places. A leaf comes with the first place that is asked for in it and goes with the last one
//! that is given back; a branch stays, 4 KiB for each 32,768 numbers. Which leaves of a branch and which places of a leaf are in use stands in
//! bits, so that going through all of them in order does not look at empty ones.

use alloc::boxed::Box;
use alloc::vec::Vec;

use mm::mem::{OutOfMemory, try_box};

use crate::layout::Ino;

/// Places of a leaf: one bit each of a word.
const PLACES: usize = 64;
/// Leaves of a branch.
const LEAVES: usize = 512;

/// 64 places.
pub(super) struct Leaf<T> {
    /// Places that have something.
    used: u64,
    /// Places that were reserved, and are in use or will be.
    reserved: u32,
    things: [Option<T>; PLACES],
}

struct Branch<T> {
    /// Leaves with a place in use.
    used: [u64; LEAVES / 64],
    /// None, or 512.
    leaves: Vec<Option<Box<Leaf<T>>>>,
}

/// The things by number.
pub(super) struct Places<T> {
    branches: Vec<Branch<T>>,
    len: usize,
}

/// A number taken apart: branch, leaf, place.
const fn split(number: Ino) -> (usize, usize, usize) {
    let number = number as usize;
    (
        number / (PLACES * LEAVES),
        number / PLACES % LEAVES,
        number % PLACES,
    )
}

impl<T> Leaf<T> {
    const fn new() -> Self {
        Self {
            used: 0,
            reserved: 0,
            things: [const { None }; PLACES],
        }
    }
}

impl<T> Branch<T> {
    const fn new() -> Self {
        Self {
            used: [0; LEAVES / 64],
            leaves: Vec::new(),
        }
    }

    fn mark(&mut self, leaf: usize, used: bool) {
        let bit = 1 << (leaf % 64);
        let word = &mut self.used[leaf / 64];
        *word = if used { *word | bit } else { *word & !bit };
    }

    /// The first leaf at or after `leaf` that has something.
    fn next(&self, leaf: usize) -> Option<usize> {
        let first = leaf / 64;
        let words = self.used.iter().enumerate().skip(first);
        let mut masked = words.map(|(at, word)| {
            let mask = if at == first {
                u64::MAX << (leaf % 64)
            } else {
                u64::MAX
            };
            (at, word & mask)
        });
        let (at, word) = masked.find(|(_, word)| *word != 0)?;
        Some(at * 64 + word.trailing_zeros() as usize)
    }
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Places<T> {
    /// None.
    pub const fn new() -> Self {
        Self {
            branches: Vec::new(),
            len: 0,
        }
    }

    /// How many things there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    fn leaf(&self, branch: usize, leaf: usize) -> Option<&Leaf<T>> {
        self.branches.get(branch)?.leaves.get(leaf)?.as_deref()
    }

    fn leaf_mut(&mut self, branch: usize, leaf: usize) -> Option<&mut Leaf<T>> {
        let branch = self.branches.get_mut(branch)?;
        branch.leaves.get_mut(leaf)?.as_deref_mut()
    }

    /// What stands at `number`.
    pub fn get(&self, number: Ino) -> Option<&T> {
        let (branch, leaf, place) = split(number);
        self.leaf(branch, leaf)?.things[place].as_ref()
    }

    /// As [`Places::get`], to change it.
    pub fn get_mut(&mut self, number: Ino) -> Option<&mut T> {
        let (branch, leaf, place) = split(number);
        self.leaf_mut(branch, leaf)?.things[place].as_mut()
    }

    /// Reserves the place of `number`, which is neither reserved nor in use.
    pub fn reserve(&mut self, number: Ino) -> Result<(), OutOfMemory> {
        let (branch, leaf, _) = split(number);
        self.make_branch(branch)?;
        let leaf = &mut self.branches[branch].leaves[leaf];
        let leaf = match leaf {
            Some(leaf) => leaf,
            None => leaf.insert(try_box(Leaf::new())?),
        };
        leaf.reserved += 1;
        Ok(())
    }

    fn make_branch(&mut self, branch: usize) -> Result<(), OutOfMemory> {
        let more = (branch + 1).saturating_sub(self.branches.len());
        self.branches.try_reserve(more).map_err(|_| OutOfMemory)?;
        let branches = self.branches.len() + more;
        self.branches.resize_with(branches, Branch::new);
        let leaves = &mut self.branches[branch].leaves;
        if leaves.is_empty() {
            leaves.try_reserve_exact(LEAVES).map_err(|_| OutOfMemory)?;
            leaves.resize_with(LEAVES, || None);
        }
        Ok(())
    }

    /// Puts `thing` into the place of `number`, which was reserved; gives what was there. Takes no memory.
    pub fn fill(&mut self, number: Ino, thing: T) -> Option<T> {
        let (branch, leaf, place) = split(number);
        let Some(there) = self.leaf_mut(branch, leaf) else {
            debug_assert!(false, "no place was reserved for {number}");
            return Some(thing);
        };
        there.used |= 1 << place;
        let old = there.things[place].replace(thing);
        self.branches[branch].mark(leaf, true);
        self.len += usize::from(old.is_none());
        old
    }

    /// Takes out what stands at `number`, and its place; the memory that nothing needs any more comes along, to be freed elsewhere.
    pub fn remove(&mut self, number: Ino) -> Option<(T, Option<Box<Leaf<T>>>)> {
        let (branch, leaf, place) = split(number);
        let there = self.leaf_mut(branch, leaf)?;
        let thing = there.things[place].take()?;
        there.used &= !(1 << place);
        let any = there.used != 0;
        self.branches[branch].mark(leaf, any);
        self.len -= 1;
        Some((thing, self.give_back(number)))
    }

    /// The place of `number` is not needed any more. Gives memory to be freed.
    pub fn give_back(&mut self, number: Ino) -> Option<Box<Leaf<T>>> {
        let (branch, leaf, _) = split(number);
        let leaf = self.branches.get_mut(branch)?.leaves.get_mut(leaf)?;
        leaf.as_mut()?.reserved -= 1;
        leaf.take_if(|leaf| leaf.reserved == 0)
    }

    /// All things with numbers from `number` on, in order.
    pub fn from(&self, number: Ino) -> impl Iterator<Item = (Ino, &T)> {
        let mut next = Some(number);
        core::iter::from_fn(move || {
            let (number, thing) = self.at_or_after(next?)?;
            next = number.checked_add(1);
            Some((number, thing))
        })
    }

    fn at_or_after(&self, number: Ino) -> Option<(Ino, &T)> {
        let (first, mut leaf, mut place) = split(number);
        for (at, branch) in self.branches.iter().enumerate().skip(first) {
            while let Some(next) = branch.next(leaf) {
                if next != leaf {
                    (leaf, place) = (next, 0);
                }
                let there = branch.leaves[leaf].as_deref()?;
                let rest = there.used >> place;
                if rest != 0 {
                    let place = place + rest.trailing_zeros() as usize;
                    let number = (at * LEAVES + leaf) * PLACES + place;
                    return Some((number as Ino, there.things[place].as_ref()?));
                }
                (leaf, place) = (leaf + 1, 0);
                if leaf == LEAVES {
                    break;
                }
            }
            (leaf, place) = (0, 0);
        }
        None
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn behaves_as_a_sorted_map(
            steps in prop::collection::vec((0u8..6, 0u32..6, 0u32..200, 0u32..4), 1..200),
        ) {
            let (mut places, mut model) = (Places::new(), BTreeMap::new());
            for (what, branch, low, edge) in steps {
                // Near each other, at both ends of a branch, and far apart.
                let number = branch * 32_768 + if edge == 0 { 32_767 - low } else { low };
                match what {
                    0..3 if !model.contains_key(&number) => {
                        places.reserve(number).expect("memory");
                        prop_assert_eq!(places.fill(number, what), None);
                        model.insert(number, what);
                    }
                    3 => {
                        let reserved = model.contains_key(&number);
                        if !reserved {
                            places.reserve(number).expect("memory");
                            let _ = places.give_back(number);
                        }
                    }
                    _ => prop_assert_eq!(places.remove(number).map(|(thing, _)| thing), model.remove(&number)),
                }
                prop_assert_eq!(places.get(number), model.get(&number));
                prop_assert_eq!(places.len(), model.len());
                let all = places.from(number).map(|(number, thing)| (number, *thing));
                prop_assert!(all.eq(model.range(number..).map(|(number, thing)| (*number, *thing))));
            }
            let leaves: usize = places.branches.iter().map(|b| b.leaves.iter().flatten().count()).sum();
            let wanted: std::collections::BTreeSet<_> = model.keys().map(|number| number / 64).collect();
            prop_assert_eq!(leaves, wanted.len());
        }
    }

    #[test]
    fn the_last_number_is_one_too() {
        let mut places = Places::new();
        // The number before the last that a vector of branches of a test can have.
        for number in [0, 63, 64, 32_767, 32_768, 1 << 22] {
            places.reserve(number).expect("memory");
            places.fill(number, ());
        }
        let found: Vec<_> = places.from(0).map(|(number, ())| number).collect();
        assert_eq!(found, [0, 63, 64, 32_767, 32_768, 1 << 22]);
        assert_eq!(places.from(1 << 22).count(), 1);
        assert_eq!(places.from((1 << 22) + 1).count(), 0);
        assert_eq!(places.from(u32::MAX).count(), 0);
    }
}
