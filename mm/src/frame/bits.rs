//! A bitmap that finds its first set bit in a few steps.
//!
//! Level 0 has one bit for each item; each higher level has one bit for each word of the level below, set when that word is
//! not 0; the top level is one word. With 64 bits in a word, four levels cover 16 million items.

use arrayvec::ArrayVec;
use core::ops::Range;

const MAX_LEVELS: usize = 8;

/// Where the levels of one bitmap lie in a shared slice of words, lowest first.
pub(super) struct Bits {
    levels: ArrayVec<Range<usize>, MAX_LEVELS>,
}

impl Bits {
    /// Lays out a bitmap of `len` items from word `start` on.
    pub(super) fn lay_out(len: u64, start: usize) -> Self {
        let mut levels = ArrayVec::new();
        let (mut items, mut at) = (len, start);
        loop {
            let words = (items.div_ceil(64) as usize).max(1);
            levels.push(at..at + words);
            if words == 1 {
                return Self { levels };
            }
            (items, at) = (words as u64, at + words);
        }
    }

    /// One past the last word.
    pub(super) fn end(&self) -> usize {
        self.levels.last().map_or(0, |top| top.end)
    }

    pub(super) fn get(&self, words: &[u64], i: u64) -> bool {
        words[self.levels[0].start + (i / 64) as usize] >> (i % 64) & 1 != 0
    }

    pub(super) fn set(&self, words: &mut [u64], mut i: u64) {
        for level in &self.levels {
            let word = &mut words[level.start + (i / 64) as usize];
            let known = *word != 0;
            *word |= 1 << (i % 64);
            if known {
                return;
            }
            i /= 64;
        }
    }

    pub(super) fn clear(&self, words: &mut [u64], mut i: u64) {
        for level in &self.levels {
            let word = &mut words[level.start + (i / 64) as usize];
            *word &= !(1 << (i % 64));
            if *word != 0 {
                return;
            }
            i /= 64;
        }
    }

    /// The lowest set bit.
    pub(super) fn first(&self, words: &[u64]) -> Option<u64> {
        let mut i = 0;
        for level in self.levels.iter().rev() {
            let word = words[level.start + i as usize];
            if word == 0 {
                return None;
            }
            i = i * 64 + u64::from(word.trailing_zeros());
        }
        Some(i)
    }

    /// Whether a bit in `range` is set; looks at each.
    pub(super) fn any(&self, words: &[u64], range: Range<u64>) -> bool {
        range.into_iter().any(|i| self.get(words, i))
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn agrees_with_a_set(len in 1_u64..9000, ops in prop::collection::vec((any::<bool>(), any::<u64>()), 1..200)) {
            let bits = Bits::lay_out(len, 3);
            let mut words = vec![0; bits.end()];
            let mut model = BTreeSet::new();
            for (set, i) in ops.into_iter().map(|(s, i)| (s, i % len)) {
                if set {
                    bits.set(&mut words, i);
                    model.insert(i);
                } else {
                    bits.clear(&mut words, i);
                    model.remove(&i);
                }
                prop_assert_eq!(bits.first(&words), model.first().copied());
                prop_assert_eq!(bits.get(&words, i), set);
            }
        }
    }
}
