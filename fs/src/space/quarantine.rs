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

    /// Ends the wait if nothing speaks against it: see the module's head. `passed` is [`Ring::passed`](crate::commit::Ring::passed).
    pub fn free(self, passed: u64, pages: &(impl PageUse + ?Sized)) -> Result<Free, Self> {
        let replayable = self.0.class == Class::Meta && self.0.seq > passed;
        if replayable || pages.first_held(self.0.run).is_some() {
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
#[derive(Default)]
pub struct Quarantine {
    waiting: VecDeque<Quarantined>,
    blocks: u64,
    /// Calls of `push` that somebody has made room for.
    promised: usize,
}

impl Quarantine {
    /// Nothing waits.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            blocks: 0,
            promised: 0,
        }
    }

    /// Makes room, so that the next `runs` calls of [`Quarantine::push`] allocate nothing.
    pub fn reserve(&mut self, runs: usize) -> Result<(), OutOfMemory> {
        // A split makes three of one.
        let room = self.waiting.try_reserve(self.promised + runs + 2);
        room.map_err(|_| OutOfMemory)?;
        self.promised += runs;
        Ok(())
    }

    /// Takes a promise of [`Quarantine::reserve`] back: `runs` runs will not come.
    pub fn unreserve(&mut self, runs: usize) {
        self.promised = self.promised.saturating_sub(runs);
    }

    /// Takes a freed run in.
    pub fn push(&mut self, freed: Freed) {
        self.promised = self.promised.saturating_sub(1);
        self.blocks += freed.run.len;
        self.waiting.push_back(Quarantined::new(freed));
    }

    /// Blocks that wait.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Looks once at up to `most` runs and hands on what may be freed. Returns whether any was.
    pub fn release(
        &mut self,
        most: usize,
        passed: u64,
        pages: &(impl PageUse + ?Sized),
        mut give: impl FnMut(Free),
    ) -> bool {
        let mut any = false;
        for _ in 0..most.min(self.waiting.len()) {
            // A split adds two, at each turn.
            if self.waiting.try_reserve(self.promised + 2).is_err() {
                break;
            }
            let Some(first) = self.waiting.pop_front() else {
                break;
            };
            for part in first.split(pages).into_iter().flatten() {
                match part.free(passed, pages) {
                    Ok(free) => {
                        self.blocks -= free.run().len;
                        give(free);
                        any = true;
                    }
                    Err(kept) => self.waiting.push_back(kept),
                }
            }
        }
        any
    }

    /// Runs that wait.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.waiting.len()
    }
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

    fn released(q: &mut Quarantine, passed: u64, held: &[Block]) -> Vec<Block> {
        let pages = Held(held.iter().copied().collect());
        let mut out = Vec::new();
        q.release(usize::MAX, passed, &pages, |free| {
            out.extend(free.run().block..free.run().end());
        });
        out.sort_unstable();
        out
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
    fn promises_that_are_taken_back_ask_for_no_room() {
        let mut q = Quarantine::new();
        for round in 0..50 {
            q.reserve(1000).expect("memory");
            q.unreserve(1000);
            q.push(freed(100 * round, 99, Class::Data, 1));
        }
        assert!(q.waiting.capacity() < 4000, "{}", q.waiting.capacity());
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
