//! The allocator: free runs by address, in two tiers that make three.
//!
//! Free space is kept as whole chunks of 2 MiB (runs of them, so that whole 1 GiB regions show), and as fragments of chunks that are
//! broken already. Small requests take fragments first, then break a chunk outside any whole 1 GiB region, then any. Large
//! requests take chunks in the colour of the file, so that the file can be mapped by large pages. Alignment is that of the
//! guest-physical address, since that is what a page table sees.
//!
//! # Memory
//!
//! Giving blocks back takes none. Whoever takes a run out of the free space, or knows of one that may come back (an extent of a file
//! in memory, a quarantined run), has *promised* room for it before: [`Allocator::promise`] can fail, [`Allocator::give`] cannot. A run
//! that comes back adds at most two fragments (its ends) and one run of chunks, and taking a run adds at most one of each. So
//! with `p` runs promised there is room for `2p` fragments and `p` runs of chunks, and one more of each for the next request.
//!
//! Under the commit lock; nothing here sleeps.

use core::ops::Range;

use mm::mem::{OutOfMemory, check_headroom};

use super::Free;
use super::runs::{InOrder, Runs};
use crate::commit::{Fresh, Run};
use crate::layout::{Block, GIB_BLOCKS, MEGA_BLOCKS};

/// Chunks of a 1 GiB region.
const GIB_CHUNKS: u64 = GIB_BLOCKS / MEGA_BLOCKS;
/// Candidates that a small request looks at before it takes what it has.
const LOOKS: usize = 128;

/// What a request would like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Goal {
    /// The block of the file that the run is for: its colour.
    pub file_block: u64,
    /// The block after the file's previous extent.
    pub after: Option<Block>,
    /// Blocks that the file will ask for in all from here on; decides which tier the run comes from.
    pub total: u64,
}

/// Whether a request may take the last blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// For something that stays: the reserve is left alone.
    ToKeep,
    /// To write down that storage goes, which gives back more than it takes: any free block.
    ToFree,
}

/// How much is free, and in what pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceStats {
    /// Free blocks.
    pub free: u64,
    /// Free aligned 2 MiB chunks.
    pub free_2m: u64,
    /// Free aligned 1 GiB regions.
    pub free_1g: u64,
    /// Free fragments of broken chunks.
    pub fragments: u64,
}

impl SpaceStats {
    /// The ageing metric: how much of the free space lies in whole aligned 2 MiB, in percent. 100 if nothing is free.
    #[must_use]
    pub const fn aligned_percent(&self) -> u64 {
        if self.free == 0 {
            return 100;
        }
        let percent = self.free_2m.saturating_mul(100 * MEGA_BLOCKS) / self.free;
        if percent > 100 { 100 } else { percent }
    }
}

/// Free runs. Internally all places are frame numbers: block + `base`.
#[derive(Debug)]
pub struct Allocator {
    base: u64,
    /// Start → length of pieces that lie within one chunk and are not all of it. No two touch within a chunk.
    fragments: Runs,
    /// Chunk number → number of whole free chunks. No two runs touch.
    chunks: Runs,
    free: u64,
    cursor: u64,
    /// Runs that may come back.
    promised: usize,
    /// Free blocks that only [`Need::ToFree`] gets.
    reserve: u64,
}

impl Allocator {
    /// Nothing is free. `base` is the frame number of block 0.
    #[must_use]
    pub const fn new(base: u64) -> Self {
        Self {
            base,
            fragments: Runs::new(),
            chunks: Runs::new(),
            free: 0,
            cursor: 0,
            promised: 0,
            reserve: 0,
        }
    }

    /// What a mount found to be free: runs from low to high, no two of them adjacent. Promises nothing to them.
    pub fn derived(base: u64, gaps: impl Iterator<Item = Free>) -> Result<Self, OutOfMemory> {
        let (mut fragments, mut chunks) = (InOrder::new(), InOrder::new());
        let mut free = 0;
        for (index, gap) in gaps.enumerate() {
            if index % 64 == 0 {
                check_headroom()?;
            }
            free += gap.run().len;
            let parts = Parts::of(gap.run(), base);
            for (start, len) in parts.fragments() {
                fragments.push(start, len)?;
            }
            if let Some((chunk, n)) = parts.chunks() {
                chunks.push(chunk, n)?;
            }
        }
        let mut this = Self {
            fragments: fragments.finish(),
            chunks: chunks.finish(),
            free,
            ..Self::new(base)
        };
        this.promise(0)?;
        Ok(this)
    }

    /// Free blocks.
    #[must_use]
    pub const fn free(&self) -> u64 {
        self.free
    }

    /// Keeps `blocks` free for who frees: see [the module's head](super).
    pub const fn set_reserve(&mut self, blocks: u64) {
        self.reserve = blocks;
    }

    /// Free blocks that are kept.
    #[must_use]
    pub const fn reserve(&self) -> u64 {
        self.reserve
    }

    /// Free blocks that a request may have.
    #[must_use]
    pub const fn available(&self, need: Need) -> u64 {
        match need {
            Need::ToKeep => self.free.saturating_sub(self.reserve),
            Need::ToFree => self.free,
        }
    }

    /// Counts what is free, by walking all of it.
    #[must_use]
    pub fn stats(&self) -> SpaceStats {
        let whole = |(chunk, n): (u64, u64)| {
            let first = chunk.next_multiple_of(GIB_CHUNKS);
            ((chunk + n) / GIB_CHUNKS).saturating_sub(first / GIB_CHUNKS)
        };
        SpaceStats {
            free: self.free,
            free_2m: self.chunks.iter().map(|(_, n)| n).sum(),
            free_1g: self.chunks.iter().map(whole).sum(),
            fragments: self.fragments.len() as u64,
        }
    }

    /// Runs that may come back.
    #[must_use]
    pub const fn promised(&self) -> usize {
        self.promised
    }

    /// Makes room for `runs` more runs to come back, and for the next request to take one.
    pub fn promise(&mut self, runs: usize) -> Result<(), OutOfMemory> {
        let all = self.promised + runs;
        self.fragments.reserve(2 * all + 1)?;
        self.chunks.reserve(all + 1)?;
        self.promised = all;
        Ok(())
    }

    /// As [`Allocator::promise`], if there is room already: takes no memory.
    #[must_use]
    pub fn promise_within_room(&mut self, runs: usize) -> bool {
        let all = self.promised + runs;
        let room = self.fragments.spare() > 2 * all && self.chunks.spare() > all;
        self.promised = if room { all } else { self.promised };
        room
    }

    /// Takes promises back: `runs` runs will not come.
    pub fn withdraw(&mut self, runs: usize) {
        debug_assert!(runs <= self.promised, "{runs} of {}", self.promised);
        self.promised = self.promised.saturating_sub(runs);
    }

    /// Takes in a run that was promised. Takes no memory.
    pub fn give(&mut self, free: Free) {
        self.promised = self.promised.saturating_sub(1);
        self.free += free.run().len;
        let parts = Parts::of(free.run(), self.base);
        for (start, len) in parts.fragments() {
            self.give_fragment(start, len);
        }
        if let Some((chunk, n)) = parts.chunks() {
            self.give_chunks(chunk, n);
        }
    }

    fn give_fragment(&mut self, mut start: u64, mut len: u64) {
        let chunk = start / MEGA_BLOCKS;
        if let Some((before, n)) = before(&self.fragments, start)
            && before + n == start
            && before / MEGA_BLOCKS == chunk
        {
            self.fragments.remove(before);
            (start, len) = (before, n + len);
        }
        if (start + len) / MEGA_BLOCKS == chunk
            && let Some(n) = self.fragments.remove(start + len)
        {
            len += n;
        }
        if len == MEGA_BLOCKS {
            self.give_chunks(chunk, 1);
        } else {
            put(&mut self.fragments, start, len);
        }
    }

    fn give_chunks(&mut self, mut chunk: u64, mut n: u64) {
        if let Some((before, m)) = before(&self.chunks, chunk)
            && before + m == chunk
        {
            self.chunks.remove(before);
            (chunk, n) = (before, m + n);
        }
        if let Some(m) = self.chunks.remove(chunk + n) {
            n += m;
        }
        put(&mut self.chunks, chunk, n);
    }

    /// Hands out up to `want` > 0 adjacent blocks; `None` when none is available.
    pub fn take(&mut self, want: u64, goal: Goal, need: Need) -> Option<Fresh> {
        let want = want.min(self.available(need));
        if want == 0 {
            return None;
        }
        let colour = goal.file_block % MEGA_BLOCKS;
        let (start, len) = if want >= MEGA_BLOCKS && colour == 0 {
            self.take_chunks(want, goal)
                .or_else(|| self.take_small(want, goal))
        } else if want >= MEGA_BLOCKS {
            // The head, up to where the next request can be a whole chunk.
            self.take_small(MEGA_BLOCKS - colour, goal)
        } else {
            self.take_small(want, goal)
        }?;
        self.free -= len;
        let block = start - self.base;
        Some(Fresh::new(Run { block, len }))
    }

    /// Whole chunks for a request in colour 0: after the previous extent, else a whole 1 GiB region if that much is
    /// wanted, else the longest run of those looked at.
    fn take_chunks(&mut self, want: u64, goal: Goal) -> Option<(u64, u64)> {
        let need = want / MEGA_BLOCKS;
        let after = goal.after.map(|block| (block + self.base) / MEGA_BLOCKS);
        let follows = after.filter(|chunk| {
            goal.after
                .is_some_and(|b| (b + self.base).is_multiple_of(MEGA_BLOCKS))
                && self.chunks.get(*chunk).is_some()
        });
        let gib = || {
            let huge =
                goal.total.max(want) >= GIB_BLOCKS && goal.file_block.is_multiple_of(GIB_BLOCKS);
            if huge { self.first_gib() } else { None }
        };
        let chunk = follows.or_else(gib).or_else(|| self.longest())?;
        let len = self.cut_chunks(chunk, need);
        Some((chunk * MEGA_BLOCKS, len * MEGA_BLOCKS))
    }

    fn first_gib(&self) -> Option<u64> {
        self.chunks.iter().find_map(|(chunk, n)| {
            let first = chunk.next_multiple_of(GIB_CHUNKS);
            (first + GIB_CHUNKS <= chunk + n).then_some(first)
        })
    }

    fn longest(&self) -> Option<u64> {
        let runs = self.chunks.iter().take(LOOKS);
        runs.max_by_key(|(_, n)| *n).map(|(chunk, _)| chunk)
    }

    /// Takes up to `need` chunks from `chunk` on, which is free; returns how many.
    fn cut_chunks(&mut self, chunk: u64, need: u64) -> u64 {
        let Some((start, n)) = self.chunks.at_or_before(chunk) else {
            return 0;
        };
        let got = need.min(start + n - chunk);
        self.chunks.remove(start);
        if start < chunk {
            put(&mut self.chunks, start, chunk - start);
        }
        if chunk + got < start + n {
            put(&mut self.chunks, chunk + got, start + n - chunk - got);
        }
        got
    }

    fn take_small(&mut self, want: u64, goal: Goal) -> Option<(u64, u64)> {
        let want = want.min(MEGA_BLOCKS);
        if let Some(after) = goal.after.map(|block| block + self.base) {
            if self.fragments.get(after).is_some() {
                return Some(self.cut_fragment(after, want));
            }
            if after.is_multiple_of(MEGA_BLOCKS) && self.has_chunk(after / MEGA_BLOCKS) {
                return Some(self.break_chunk(after / MEGA_BLOCKS, want));
            }
        }
        if let Some(start) = self.fitting(want) {
            return Some(self.cut_fragment(start, want));
        }
        if let Some(chunk) = self.chunk_to_break() {
            return Some(self.break_chunk(chunk, want));
        }
        let (start, _) = self.looked().max_by_key(|(_, n)| *n)?;
        Some(self.cut_fragment(start, want))
    }

    fn has_chunk(&self, chunk: u64) -> bool {
        let run = self.chunks.at_or_before(chunk);
        run.is_some_and(|(start, n)| chunk < start + n)
    }

    /// The fragments that a request looks at: those near where the last one was found. So it costs no more if there are very many.
    fn looked(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let from_cursor = self.fragments.from(self.cursor);
        let rest = self.fragments.iter().take_while(|(s, _)| *s < self.cursor);
        from_cursor.chain(rest).take(LOOKS)
    }

    /// A fragment of at least `want`.
    fn fitting(&self, want: u64) -> Option<u64> {
        let found = self.looked().find(|(_, n)| *n >= want);
        found.map(|(start, _)| start)
    }

    /// Takes up to `want` from the front of the fragment at `start`.
    fn cut_fragment(&mut self, start: u64, want: u64) -> (u64, u64) {
        let n = self.fragments.remove(start).unwrap_or(0);
        let got = want.min(n);
        if got < n {
            put(&mut self.fragments, start + got, n - got);
        }
        self.cursor = start;
        (start, got)
    }

    /// A chunk outside any whole free 1 GiB region, else the first.
    fn chunk_to_break(&self) -> Option<u64> {
        let outside = |(chunk, n): (u64, u64)| {
            let whole = chunk.is_multiple_of(GIB_CHUNKS) && n >= GIB_CHUNKS;
            (!whole).then_some(chunk)
        };
        let looked = self.chunks.iter().take(LOOKS).find_map(outside);
        looked.or_else(|| self.chunks.at_or_after(0).map(|(chunk, _)| chunk))
    }

    fn break_chunk(&mut self, chunk: u64, want: u64) -> (u64, u64) {
        self.cut_chunks(chunk, 1);
        let start = chunk * MEGA_BLOCKS;
        if want < MEGA_BLOCKS {
            put(&mut self.fragments, start + want, MEGA_BLOCKS - want);
        }
        self.cursor = start;
        (start, want)
    }
}

/// A run, cut where chunks begin and end: places are frame numbers.
struct Parts {
    start: u64,
    /// Where its first whole chunk begins, and where its last one ends.
    whole: Range<u64>,
    end: u64,
}

impl Parts {
    fn of(run: Run, base: u64) -> Self {
        let (start, end) = (run.block + base, run.end() + base);
        let first = start.next_multiple_of(MEGA_BLOCKS).min(end);
        let last = (end / MEGA_BLOCKS * MEGA_BLOCKS).max(first);
        let whole = first..last;
        Self { start, whole, end }
    }

    /// Start and length of what is before the whole chunks, and of what is behind them.
    fn fragments(&self) -> impl Iterator<Item = (u64, u64)> {
        let ends = [(self.start, self.whole.start), (self.whole.end, self.end)];
        let some = ends.into_iter().filter(|(from, to)| from < to);
        some.map(|(from, to)| (from, to - from))
    }

    /// The number of the first whole chunk, and how many there are.
    fn chunks(&self) -> Option<(u64, u64)> {
        let n = (self.whole.end - self.whole.start) / MEGA_BLOCKS;
        (n > 0).then_some((self.whole.start / MEGA_BLOCKS, n))
    }
}

/// The run before `start`.
fn before(runs: &Runs, start: u64) -> Option<(u64, u64)> {
    runs.at_or_before(start.checked_sub(1)?)
}

/// Inserts a run for which there is room.
fn put(runs: &mut Runs, start: u64, len: u64) {
    if !runs.insert(start, len) {
        // Nobody promised it, and there is no memory. A mount finds it again.
        log::error!("free run {start:#x} of {len} is lost until the next mount: no memory");
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn all(base: u64, from: u64, len: u64) -> Allocator {
        let mut space = Allocator::new(base);
        space.give(Free::derived(Run { block: from, len }));
        space
    }

    #[test]
    fn large_requests_are_aligned_by_physical_address() {
        let mut space = all(100, 7, 1 << 20);
        let goal = Goal::default();
        let run = space.take(1024, goal, Need::ToKeep).expect("room").run();
        assert_eq!(((run.block + 100) % 512, run.len), (0, 1024));
        let huge = space
            .take(GIB_BLOCKS, goal, Need::ToKeep)
            .expect("room")
            .run();
        assert_eq!(((huge.block + 100) % GIB_BLOCKS, huge.len), (0, GIB_BLOCKS));
    }

    #[test]
    fn a_request_out_of_colour_gets_its_head_first() {
        let mut space = all(0, 0, 8192);
        let goal = Goal {
            file_block: 500,
            ..Goal::default()
        };
        assert_eq!(
            space
                .take(2000, goal, Need::ToKeep)
                .expect("room")
                .run()
                .len,
            12
        );
    }

    #[test]
    fn small_requests_leave_whole_gibibytes_whole() {
        let mut space = all(0, 512, 3 * GIB_BLOCKS);
        for _ in 0..500 * 512 {
            let _ = space.take(1, Goal::default(), Need::ToKeep).expect("room");
        }
        assert_eq!(space.stats().free_1g, 2);
    }

    #[test]
    fn an_extent_grows_where_it_ends() {
        let mut space = all(0, 512, 4096);
        let mut after = None;
        let mut first = None;
        for file_block in 0..1500 {
            let run = space
                .take(
                    1,
                    Goal {
                        file_block,
                        after,
                        total: 0,
                    },
                    Need::ToKeep,
                )
                .expect("room")
                .run();
            let start = *first.get_or_insert(run.block);
            assert_eq!(run.block, start + file_block);
            after = Some(run.end());
        }
    }

    proptest! {
        /// What a mount finds is what it would be had each run been given back.
        #[test]
        fn gaps_in_order_are_as_runs_given_back(
            base in 0u64..2000,
            gaps in prop::collection::vec((prop_oneof![1u64..40, 400u64..1600], prop_oneof![1u64..40, 400u64..1600]), 0..40),
        ) {
            let mut end = 5;
            let gaps = gaps.into_iter().map(|(claimed, len)| {
                let block = end + claimed;
                end = block + len;
                Run { block, len }
            });
            let gaps: Vec<Run> = gaps.collect();
            let mut one_by_one = Allocator::new(base);
            for gap in &gaps {
                one_by_one.promise(1).expect("memory");
                one_by_one.give(Free::derived(*gap));
            }
            let derived = Allocator::derived(base, gaps.into_iter().map(Free::derived)).expect("memory");
            prop_assert_eq!(format!("{derived:?}"), format!("{one_by_one:?}"));
            prop_assert!(derived.fragments.spare() > 0 && derived.chunks.spare() > 0);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        /// Against a set of blocks: nothing handed out twice, nothing lost, and all of it one run again at the end.
        #[test]
        fn hands_out_each_block_once(
            base in 0u64..2000, from in 0u64..1000, len in 1u64..6000,
            steps in prop::collection::vec((any::<bool>(), 1u64..1500, any::<prop::sample::Index>()), 1..80),
        ) {
            let mut space = all(base, from, len);
            let fresh_state = format!("{:?}{:?}", space.fragments, space.chunks);
            let mut free: BTreeSet<u64> = (from..from + len).collect();
            let mut out: Vec<Fresh> = Vec::new();
            for (take, want, index) in steps {
                if take {
                    let after = out.last().map(|f| f.run().end());
                    let Some(fresh) = space.take(want, Goal { file_block: want, after, total: 0 }, Need::ToKeep) else {
                        prop_assert!(free.is_empty());
                        continue;
                    };
                    let run = fresh.run();
                    prop_assert!(run.len > 0 && run.len <= want);
                    for block in run.block..run.end() {
                        prop_assert!(free.remove(&block), "block {} handed out twice", block);
                    }
                    out.push(fresh);
                } else if !out.is_empty() {
                    let fresh = out.swap_remove(index.index(out.len()));
                    free.extend(fresh.run().block..fresh.run().end());
                    space.give(Free::unpublished(fresh));
                }
                prop_assert_eq!(space.free(), free.len() as u64);
            }
            for fresh in out {
                space.give(Free::unpublished(fresh));
            }
            prop_assert_eq!(format!("{:?}{:?}", space.fragments, space.chunks), fresh_state);
        }
    }
}
