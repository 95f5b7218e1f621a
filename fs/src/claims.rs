//! What all inodes claim, as a mount gathers it: runs of blocks without their owners, 8 bytes a run.
//!
//! A claim that begins where the one before it ended makes that one longer, so that files which lie one behind the other are one run, however
//! many they are. That changes of no block how many claims it has. So the lowest block of two runs is the lowest block of two claims, and
//! only when there is one does somebody ask whose they are ([`Survey::overlap`](crate::survey::Survey::overlap)).

use alloc::vec::Vec;
use core::iter::once;
use core::ops::Range;

use mm::mem::OutOfMemory;

use crate::commit::Run;
use crate::layout::Block;

/// A run: the first block in the upper half, the length in the lower one; so they sort by first block.
///
/// Both fit: a region has at most 2³² blocks, and the first ones are never claimed, so that a run within the data blocks is shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Packed(u64);

impl Packed {
    const fn new(run: Run) -> Self {
        debug_assert!(run.block > 0 && run.len > 0 && run.end() <= 1 << 32);
        Self(run.block << 32 | run.len)
    }

    const fn run(self) -> Run {
        Run {
            block: self.0 >> 32,
            len: self.0 & 0xffff_ffff,
        }
    }
}

/// Claims in the order in which they came.
#[derive(Debug, Default)]
pub struct Claims(Vec<Packed>);

impl Claims {
    /// Adds a run, which lies within the data blocks of a region.
    #[inline]
    pub fn add(&mut self, run: Run) -> Result<(), OutOfMemory> {
        match self.0.last_mut() {
            Some(last) if last.run().end() == run.block => {
                // Both are within the region, so that the sum stays in the lower half.
                last.0 += run.len;
                Ok(())
            }
            _ => self.push(run),
        }
    }

    fn push(&mut self, run: Run) -> Result<(), OutOfMemory> {
        self.0.try_reserve(1).map_err(|_| OutOfMemory)?;
        self.0.push(Packed::new(run));
        Ok(())
    }

    /// In the order of blocks. Takes no memory, and little time if they came so.
    #[must_use]
    pub fn sorted(mut self) -> Sorted {
        self.0.sort_unstable();
        Sorted(self.0)
    }
}

/// Claims in the order of blocks.
#[derive(Debug)]
pub struct Sorted(Vec<Packed>);

impl Sorted {
    fn runs(&self) -> impl Iterator<Item = Run> {
        self.0.iter().map(|packed| packed.run())
    }

    /// The lowest block that is claimed more than once.
    #[must_use]
    pub fn twice(&self) -> Option<Block> {
        let mut end = 0;
        self.runs().find_map(|run| {
            let twice = run.block < end;
            end = end.max(run.end());
            twice.then_some(run.block)
        })
    }

    /// What of `all`, within which every claim lies, nobody claims: from low to high, no two of them adjacent.
    pub fn gaps(&self, all: Range<Block>) -> impl Iterator<Item = Run> {
        let mut at = all.start;
        let end = Run {
            block: all.end,
            len: 0,
        };
        self.runs().chain(once(end)).filter_map(move |run| {
            let from = at;
            at = run.end().max(from);
            let len = run.block.checked_sub(from).filter(|len| *len > 0)?;
            Some(Run { block: from, len })
        })
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Blocks of the small region, of which the first five are no data.
    const BLOCKS: u64 = 64;
    const FIRST: u64 = 5;

    fn run((block, len): (u64, u64)) -> Run {
        let len = len.min(BLOCKS - block);
        Run { block, len }
    }

    fn sorted(runs: &[(u64, u64)]) -> Sorted {
        let mut claims = Claims::default();
        for pair in runs {
            claims.add(run(*pair)).expect("memory");
        }
        claims.sorted()
    }

    /// How many claims each block has.
    fn counts(runs: &[(u64, u64)]) -> Vec<u32> {
        let mut counts = vec![0; BLOCKS as usize];
        for run in runs.iter().copied().map(run) {
            (run.block..run.end()).for_each(|block| counts[block as usize] += 1);
        }
        counts
    }

    #[test]
    fn files_one_behind_the_other_are_one_run() {
        let mut claims = Claims::default();
        for block in 0..1000 {
            let block = FIRST + 2 * block;
            claims.add(Run { block, len: 2 }).expect("memory");
        }
        assert_eq!(claims.0.len(), 1);
        // To the end of the largest region.
        let block = FIRST + 2000;
        let len = (1 << 32) - block;
        claims.add(Run { block, len }).expect("memory");
        let sorted = claims.sorted();
        assert_eq!((sorted.0.len(), sorted.twice()), (1, None));
        assert_eq!(sorted.gaps(FIRST..1 << 32).count(), 0);
    }

    #[test]
    fn what_is_claimed_within_a_run_of_many_is_found() {
        // The second of three that are one run; the last block; one that begins before; all of it; three at one block.
        for (more, block) in [
            ((12, 1), 12),
            ((19, 3), 19),
            ((6, 5), 10),
            ((10, 10), 10),
            ((7, 30), 10),
        ] {
            let runs = [(10, 2), (12, 3), (15, 5), more];
            assert_eq!(sorted(&runs).twice(), Some(block), "{more:?}");
            let first = [more, (10, 2), (12, 3), (15, 5)];
            assert_eq!(sorted(&first).twice(), Some(block), "{more:?} first");
        }
        assert_eq!(
            sorted(&[(20, 4), (10, 4), (21, 1), (11, 1)]).twice(),
            Some(11)
        );
        assert_eq!(sorted(&[(20, 4), (10, 10), (24, 1), (9, 1)]).twice(), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 2000 }))]
        /// Against a count for each block: of few long claims, which often meet and sometimes overlap.
        #[test]
        fn says_of_each_block_what_a_count_says(
            runs in prop::collection::vec((FIRST..BLOCKS, 1u64..9), 0..12),
            meet in prop::collection::vec(any::<bool>(), 12),
        ) {
            let mut runs = runs;
            for at in 1..runs.len() {
                let end = run(runs[at - 1]).end();
                if meet[at] && end < BLOCKS {
                    runs[at].0 = end;
                }
            }
            let (sorted, counts) = (sorted(&runs), counts(&runs));
            let twice = counts.iter().position(|count| *count > 1);
            prop_assert_eq!(sorted.twice(), twice.map(|block| block as u64));
            let free = sorted.gaps(FIRST..BLOCKS).flat_map(|gap| gap.block..gap.end());
            let expected = (FIRST..BLOCKS).filter(|block| counts[*block as usize] == 0);
            prop_assert!(free.eq(expected));
            let gaps: Vec<Run> = sorted.gaps(FIRST..BLOCKS).collect();
            prop_assert!(gaps.windows(2).all(|pair| pair[0].end() < pair[1].block));
        }
    }
}
