//! Where blocks wait between their file and the allocator.

use alloc::collections::VecDeque;

use mm::mem::OutOfMemory;

use crate::commit::{Class, Freed, Fresh, Run};
use crate::layout::Block;

/// Who can say whether a page is in use: the pgmap, or a fake.
pub trait PageUse {
    /// The first block of `run` whose page is mapped or pinned.
    fn first_held(&self, run: Run) -> Option<Block>;
}

/// Blocks that may be handed out: free on the media for good, and referenced by nobody.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "give it to the allocator"]
pub struct Free(Run);

impl Free {
    /// A gap between all extents of all live inodes, as mount found it: no page is referenced yet, and recovery has let the floor pass all.
    pub(crate) const fn derived(run: Run) -> Self {
        Self(run)
    }

    /// A run that was allocated and never published.
    pub const fn unpublished(fresh: Fresh) -> Self {
        Self(fresh.run())
    }

    /// Where it is.
    #[must_use]
    pub const fn run(&self) -> Run {
        self.0
    }
}

/// A freed run that waits.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "free it, or keep it in quarantine"]
pub struct Quarantined(Freed);

impl Quarantined {
    /// Begins the wait.
    pub const fn new(freed: Freed) -> Self {
        Self(freed)
    }

    /// Whether a mount might replay a record over it (rule R6).
    fn is_replayable(&self, passed: u64) -> bool {
        self.0.class == Class::Meta && self.0.seq > passed
    }

    /// Ends the wait if nothing speaks against it: see the module's head. `passed` is [`Ring::passed`](crate::commit::Ring::passed).
    pub fn free(self, passed: u64, pages: &(impl PageUse + ?Sized)) -> Result<Free, Self> {
        if self.is_replayable(passed) || pages.first_held(self.0.run).is_some() {
            return Err(self);
        }
        Ok(Free(self.0.run))
    }

    /// Cuts the run at the first held page, so that one page does not keep its neighbours: what is before it, it, what is after it.
    fn split(self, pages: &(impl PageUse + ?Sized)) -> [Option<Self>; 3] {
        let Freed { run, class, seq } = self.0;
        let Some(held) = pages.first_held(run) else {
            return [Some(Self(Freed { run, class, seq })), None, None];
        };
        let part = |block: Block, end: Block| {
            let run = Run {
                block,
                len: end - block,
            };
            (end > block).then_some(Self(Freed { run, class, seq }))
        };
        [
            part(run.block, held),
            part(held, held + 1),
            part(held + 1, run.end()),
        ]
    }
}

/// All freed runs that wait.
///
/// Room is made ahead, with the allocator's promises: pushing, releasing and splitting take no memory.
#[derive(Default)]
pub struct Quarantine {
    waiting: VecDeque<Quarantined>,
    blocks: u64,
}

/// What [`Quarantine::release`] came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Blocks that were handed on.
    pub blocks: u64,
    /// Runs that it left because somebody holds a page of them.
    pub held: usize,
    /// Runs that it left because a mount might replay a record over them.
    pub replayable: usize,
}

impl Quarantine {
    /// Nothing waits.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            blocks: 0,
        }
    }

    /// Makes room for `runs` runs in all.
    pub fn make_room(&mut self, runs: usize) -> Result<(), OutOfMemory> {
        let more = runs.saturating_sub(self.waiting.len());
        self.waiting.try_reserve(more).map_err(|_| OutOfMemory)
    }

    /// Takes a freed run in. Takes no memory if room was made.
    pub fn push(&mut self, freed: Freed) {
        self.blocks += freed.run.len;
        self.waiting.push_back(Quarantined::new(freed));
    }

    /// Blocks that wait.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Looks once at up to `most` runs and hands on what may be freed. A run with a held page is cut around that page, if
    /// `split` says that two more runs were promised.
    pub fn release(
        &mut self,
        most: usize,
        passed: u64,
        pages: &(impl PageUse + ?Sized),
        to: &mut impl Takes,
    ) -> Released {
        let mut done = Released::default();
        for _ in 0..most.min(self.waiting.len()) {
            let Some(first) = self.waiting.pop_front() else {
                break;
            };
            match first.free(passed, pages) {
                Ok(free) => self.hand_on(free, to, &mut done),
                Err(kept) if kept.is_replayable(passed) => {
                    done.replayable += 1;
                    self.waiting.push_back(kept);
                }
                Err(kept) => self.cut(kept, passed, pages, to, &mut done),
            }
        }
        done
    }

    fn hand_on(&mut self, free: Free, to: &mut impl Takes, done: &mut Released) {
        let blocks = free.run().len;
        self.blocks -= blocks;
        done.blocks += blocks;
        to.take(free);
    }

    /// Frees what lies around the first held page, and keeps the rest.
    fn cut(
        &mut self,
        kept: Quarantined,
        passed: u64,
        pages: &(impl PageUse + ?Sized),
        to: &mut impl Takes,
        done: &mut Released,
    ) {
        done.held += 1;
        let room = self.waiting.capacity() - self.waiting.len() >= 3;
        if kept.0.run.len == 1 || !room || !to.may_split() {
            self.waiting.push_back(kept);
            return;
        }
        let mut parts = 0;
        for part in kept.split(pages).into_iter().flatten() {
            parts += 1;
            match part.free(passed, pages) {
                Ok(free) => self.hand_on(free, to, done),
                Err(part) => self.waiting.push_back(part),
            }
        }
        to.did_split(parts);
    }

    /// Runs that wait.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.waiting.len()
    }
}

/// Who takes what leaves quarantine: the allocator, or a fake.
pub trait Takes {
    /// Takes a run in.
    fn take(&mut self, free: Free);

    /// Promises room for two more runs, if there is room without taking memory.
    fn may_split(&mut self) -> bool;

    /// A run became `parts` runs, at most three: what was promised beyond that is not needed.
    fn did_split(&mut self, parts: usize);
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use std::collections::HashSet;

    struct Held(HashSet<Block>);
    impl PageUse for Held {
        fn first_held(&self, run: Run) -> Option<Block> {
            (run.block..run.end()).find(|block| self.0.contains(block))
        }
    }

    fn freed(block: Block, len: u64, class: Class, seq: u64) -> Freed {
        Freed {
            run: Run { block, len },
            class,
            seq,
        }
    }

    /// Takes blocks, with room for so many splits.
    struct Out(Vec<Block>, usize);
    impl Takes for Out {
        fn take(&mut self, free: Free) {
            self.0.extend(free.run().block..free.run().end());
        }
        fn may_split(&mut self) -> bool {
            self.1 = self.1.saturating_sub(1);
            self.1 > 0
        }
        fn did_split(&mut self, parts: usize) {
            assert!((1..=3).contains(&parts));
        }
    }

    fn released(q: &mut Quarantine, passed: u64, held: &[Block]) -> Vec<Block> {
        let pages = Held(held.iter().copied().collect());
        let mut out = Out(Vec::new(), 10);
        q.make_room(20).expect("memory");
        q.release(usize::MAX, passed, &pages, &mut out);
        out.0.sort_unstable();
        out.0
    }

    #[test]
    fn a_held_page_keeps_itself_and_nothing_else() {
        let mut q = Quarantine::new();
        q.push(freed(10, 5, Class::Data, 1));
        let mut got = released(&mut q, 0, &[12]);
        got.extend(released(&mut q, 0, &[12]));
        assert_eq!(got, [10, 11, 13, 14]);
        assert_eq!(q.blocks(), 1);
        assert_eq!(released(&mut q, 0, &[]), [12]);
        assert_eq!((q.blocks(), q.runs()), (0, 0));
    }

    #[test]
    fn without_room_a_held_run_is_kept_whole() {
        let mut q = Quarantine::new();
        q.push(freed(10, 5, Class::Data, 1));
        let pages = Held([12].into());
        let mut out = Out(Vec::new(), 1);
        let done = q.release(9, 0, &pages, &mut out);
        assert_eq!((done.held, done.blocks, q.runs()), (1, 0, 1));
        assert_eq!(released(&mut q, 0, &[]), [10, 11, 12, 13, 14]);
    }

    #[test]
    fn metadata_waits_until_the_floor_has_passed_its_record() {
        let mut q = Quarantine::new();
        q.push(freed(10, 1, Class::Meta, 7));
        q.push(freed(20, 1, Class::Data, 7));
        assert_eq!(released(&mut q, 6, &[]), [20]);
        assert_eq!(released(&mut q, 7, &[]), [10]);
    }
}
