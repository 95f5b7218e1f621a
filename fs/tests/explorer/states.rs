//! Which of the units in flight a crash leaves: subsets, and units that arrived in part.
//!
//! Two models of tearing: stores to one line arrive in program order, so that a part of it is a prefix; or (stricter than x86) in any order,
//! so that any subset of its 8-byte words may be there: all of them for up to [`WEAK`] words, else each word alone and all but each.

use super::flight::Unit;

/// Most units in flight whose subsets are all enumerated.
pub const CAP: usize = 10;
/// Most words of a unit whose subsets are all enumerated.
pub const WEAK: usize = 4;
/// Random subsets beyond the cap.
const RANDOM: usize = 256;

/// How many states of one point are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// All subsets at fences, no unit torn.
    Bare,
    /// All subsets at fences; at stores what came so far; units torn alone and beside all others.
    Thin,
    /// All subsets at every point; units torn beside none, all, the earlier and the later others.
    Normal,
    /// All subsets at every point; units torn beside every subset of the others.
    Deep,
}

/// A part of a crash state: words and their values.
pub type Words = Vec<(u32, u64)>;

/// The subsets of `n` units as bit masks, those that have the bits of `must`; and whether the cap was hit.
pub fn subsets(n: usize, must: u64, seed: u64) -> (Vec<u64>, bool) {
    if n <= CAP {
        let all = (0..1u64 << n).filter(|mask| mask & must == must);
        return (all.collect(), false);
    }
    let all = u64::MAX >> (64 - n.min(64));
    let mut masks = vec![must, all];
    for a in 0..n.min(64) {
        for b in a..n.min(64) {
            let two = 1u64 << a | 1 << b;
            masks.extend([two | must, (all ^ two) | must]);
        }
    }
    let mut random = seed | 1;
    for _ in 0..RANDOM {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        masks.push(random & all | must);
    }
    (masks, true)
}

/// The ways in which a unit arrives in part.
pub fn parts(unit: &Unit) -> Vec<Words> {
    let mut parts: Vec<Words> = (1..unit.order.len())
        .map(|n| unit.order[..n].to_vec())
        .collect();
    let words = &unit.words;
    let n = words.len();
    let pick = |keep: &dyn Fn(usize) -> bool| -> Words {
        let kept = words.iter().enumerate().filter(|(i, _)| keep(*i));
        kept.map(|(_, word)| *word).collect()
    };
    if n <= WEAK {
        parts
            .extend((1..(1usize << n).saturating_sub(1)).map(|mask| pick(&|i| mask >> i & 1 == 1)));
    } else if n <= 8 {
        for one in 0..n {
            parts.push(pick(&|i| i == one));
            parts.push(pick(&|i| i != one));
        }
    } else {
        // Lines of a block: each half, every second word, the first and the last line alone, one word missing at each end.
        parts.push(pick(&|i| i < n / 2));
        parts.push(pick(&|i| i >= n / 2));
        parts.push(pick(&|i| i % 2 == 0));
        parts.push(pick(&|i| i % 2 == 1));
        parts.push(pick(&|i| i < 8));
        parts.push(pick(&|i| i + 8 >= n));
        parts.push(pick(&|i| i > 0));
        parts.push(pick(&|i| i + 1 < n));
    }
    parts
}

/// Beside which others unit `index` of `n` is torn: masks that do not have its bit.
pub fn company(index: usize, n: usize, depth: Depth) -> Vec<u64> {
    let n = n.min(64);
    let all = u64::MAX >> (64 - n);
    let me = 1u64 << index;
    let earlier = me - 1;
    match depth {
        Depth::Bare | Depth::Thin => vec![0, all ^ me],
        Depth::Deep if n <= CAP => (0..1u64 << n).filter(|mask| mask & me == 0).collect(),
        _ => vec![0, all ^ me, earlier, all ^ me ^ earlier],
    }
}
