//! A set of numbers that finds its smallest member in a few steps.
//!
//! Level 0 has one bit for each number. Each level above has one bit for each word below, set while that word is not zero; the top is one
//! word. So [`Bits::first`] reads one word a level, and a change touches at most one word a level: four levels for 16 million numbers.
//! All levels stand in one vector, from the bits up.

use alloc::vec::Vec;

use arrayvec::ArrayVec;
use mm::mem::OutOfMemory;

/// The set. Numbers below [`Bits::room`] may be members.
#[derive(Debug, Default)]
pub struct Bits {
    words: Vec<u64>,
    /// Where each level begins, from level 0 up: [`levels`].
    starts: ArrayVec<usize, LEVELS>,
    /// Words of level 0.
    base: usize,
    /// Numbers that it covers.
    len: usize,
}

/// Most levels: of 64⁶ numbers.
const LEVELS: usize = 6;

/// Where each level begins, and how many words it has, from level 0 (`base` words) up to the top, which has one.
fn levels(base: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut next = (base > 0).then_some((0, base));
    core::iter::from_fn(move || {
        let (start, words) = next?;
        next = (words > 1).then(|| (start + words, words.div_ceil(64)));
        Some((start, words))
    })
}

impl Bits {
    /// Numbers that it covers.
    #[must_use]
    pub const fn room(&self) -> usize {
        self.len
    }

    /// Takes the memory to cover `len` numbers.
    pub fn reserve(&mut self, len: usize) -> Result<(), OutOfMemory> {
        let need = len.div_ceil(64);
        if need > self.base {
            self.rebase(need.max(self.base * 2))?;
        }
        Ok(())
    }

    /// Covers `len` numbers, for which memory is reserved; those that are new are members if `members`. Never covers fewer.
    pub fn cover(&mut self, len: usize, members: bool) {
        let old = self.len;
        let len = len.min(self.base * 64);
        if len <= old {
            return;
        }
        self.len = len;
        if members {
            self.fill(old, len);
            self.summarise(old / 64);
        }
    }

    /// Reserves and covers.
    pub fn grow(&mut self, len: usize, members: bool) -> Result<(), OutOfMemory> {
        self.reserve(len)?;
        self.cover(len, members);
        Ok(())
    }

    /// Makes level 0 have `base` words.
    fn rebase(&mut self, base: usize) -> Result<(), OutOfMemory> {
        let total = levels(base).map(|(_, words)| words).sum();
        let mut words = Vec::new();
        words.try_reserve_exact(total).map_err(|_| OutOfMemory)?;
        words.extend_from_slice(&self.words[..self.base]);
        words.resize(total, 0);
        self.starts = levels(base).map(|(start, _)| start).take(LEVELS).collect();
        (self.words, self.base) = (words, base);
        self.summarise(0);
        Ok(())
    }

    fn fill(&mut self, from: usize, to: usize) {
        for word in from / 64..to.div_ceil(64) {
            let low = from.saturating_sub(word * 64).min(63);
            let high = (to - word * 64).min(64);
            let mask = (u64::MAX >> (64 - high)) & (u64::MAX << low);
            self.words[word] |= mask;
        }
    }

    /// Makes every level above level 0 say what is below it, from word `from` of level 0 on.
    fn summarise(&mut self, mut from: usize) {
        let mut below = None;
        for (start, words) in levels(self.base) {
            if let Some((under, n)) = below.replace((start, words)) {
                for index in from..n {
                    let (place, bit) = (start + index / 64, index % 64);
                    let set = u64::from(self.words[under + index] != 0);
                    self.words[place] = self.words[place] & !(1 << bit) | set << bit;
                }
                from /= 64;
            }
        }
    }

    /// Whether `number` is a member.
    #[must_use]
    pub fn contains(&self, number: usize) -> bool {
        number < self.len && self.words[number / 64] >> (number % 64) & 1 == 1
    }

    /// Makes `number`, which is covered, a member or not. Returns whether that changed anything.
    #[inline]
    pub fn put(&mut self, number: usize, member: bool) -> bool {
        let other = self.contains(number) != member;
        if other {
            self.change(number, member);
        }
        other
    }

    fn change(&mut self, number: usize, member: bool) {
        let mut at = number;
        for start in &self.starts {
            let word = &mut self.words[start + at / 64];
            let before = *word;
            if member {
                *word |= 1 << (at % 64);
            } else {
                *word &= !(1 << (at % 64));
            }
            // The level above hears of it only when the word becomes zero, or was.
            if (before == 0) == (*word == 0) {
                break;
            }
            at /= 64;
        }
    }

    /// Makes those of the numbers from 64 × `group` on no members for which `mask` has a bit, the lowest bit first. Returns how many were.
    pub fn remove_group(&mut self, group: usize, mask: u64) -> u32 {
        let word = match self.words[..self.base].get_mut(group) {
            Some(word) if *word & mask != 0 => word,
            _ => return 0,
        };
        let gone = *word & mask;
        // All but the lowest, which stays for `put`: the levels above hear of it when the word becomes zero.
        *word &= !(gone & (gone - 1));
        self.put(64 * group + gone.trailing_zeros() as usize, false);
        gone.count_ones()
    }

    /// The smallest member.
    #[must_use]
    pub fn first(&self) -> Option<usize> {
        let mut at = 0;
        for start in self.starts.iter().rev() {
            let word = self.words[start + at];
            if word == 0 {
                return None;
            }
            at = at * 64 + word.trailing_zeros() as usize;
        }
        (at < self.len).then_some(at)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_as_a_set(
            steps in prop::collection::vec((0u8..10, 0usize..20_000, any::<u64>()), 1..200),
        ) {
            let (mut bits, mut model, mut len) = (Bits::default(), BTreeSet::new(), 0);
            for (what, n, mask) in steps {
                match what {
                    0 | 1 => {
                        let members = what == 1;
                        let more = len + n % 5000;
                        bits.grow(more, members).expect("memory");
                        if members {
                            model.extend(len..more);
                        }
                        len = more;
                    }
                    _ if len == 0 => {}
                    // Low ones more often, so that words become empty and full.
                    2..=4 => prop_assert_eq!(bits.put(n % len % 200, false), model.remove(&(n % len % 200))),
                    5 => prop_assert_eq!(bits.put(n % len, false), model.remove(&(n % len))),
                    6 | 7 => prop_assert_eq!(bits.put(n % len, true), model.insert(n % len)),
                    _ => {
                        // All of the group now and then, so that the levels above change.
                        let (group, mask) = (n % len / 64, if mask % 2 == 0 { mask } else { u64::MAX });
                        let gone = (0..64).filter(|bit| mask >> bit & 1 == 1 && model.remove(&(64 * group + bit)));
                        let gone = gone.count() as u32;
                        prop_assert_eq!(bits.remove_group(group, mask), gone);
                        prop_assert_eq!(bits.remove_group(len.div_ceil(64), mask), 0);
                    }
                }
                prop_assert_eq!(bits.first(), model.first().copied());
                prop_assert_eq!(bits.room(), len);
                prop_assert_eq!(bits.contains(n), model.contains(&n));
            }
        }
    }

    #[test]
    fn emptying_it_from_the_front_finds_each_once() {
        let mut bits = Bits::default();
        bits.grow(70_000, true).expect("memory");
        for n in 0..70_000 {
            assert_eq!(bits.first(), Some(n));
            assert!(bits.put(n, false));
        }
        assert_eq!(bits.first(), None);
        assert!(bits.put(69_999, true));
        assert_eq!(bits.first(), Some(69_999));
    }
}
