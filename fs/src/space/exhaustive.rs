//! Allocator and quarantine: every sequence of steps up to a depth, on six blocks that lie across the edge of two chunks.

use std::collections::{BTreeSet, HashSet};
use std::vec::Vec;

use super::*;
use crate::commit::{Class, Freed, Fresh, Run};
use crate::layout::Block;

const FIRST: Block = 508;
const BLOCKS: u64 = 6;
const DEPTH: u32 = 6;

#[derive(Clone, Copy, Debug)]
enum Step {
    Take(u64),
    /// The oldest run leaves its file, by the next record.
    Free(Class),
    /// It was never published.
    GiveBack,
    /// Quarantine is asked, while a page of its first run is held or not.
    Release(bool),
    /// The floor passes all records.
    Pass,
}

const STEPS: [Step; 8] = [
    Step::Take(1),
    Step::Take(3),
    Step::Free(Class::Data),
    Step::Free(Class::Meta),
    Step::GiveBack,
    Step::Release(true),
    Step::Release(false),
    Step::Pass,
];

struct Held(Option<Block>);

impl PageUse for Held {
    fn first_held(&self, run: Run) -> Option<Block> {
        self.0
            .filter(|block| (run.block..run.end()).contains(block))
    }
}

struct World {
    space: Allocator,
    quarantine: Quarantine,
    out: Vec<Fresh>,
    /// Blocks in quarantine: record, and whether old records may target them.
    waiting: Vec<(Block, u64, bool)>,
    free: BTreeSet<Block>,
    seq: u64,
    passed: u64,
}

struct Out<'a> {
    space: &'a mut Allocator,
    got: Vec<Block>,
}

impl Takes for Out<'_> {
    fn take(&mut self, free: Free) {
        self.got.extend(free.run().block..free.run().end());
        self.space.give(free);
    }
    fn may_split(&mut self) -> bool {
        self.space.promise_within_room(2)
    }
    fn did_split(&mut self, parts: usize) {
        self.space.withdraw(3 - parts);
    }
}

impl World {
    fn new() -> Self {
        let mut space = Allocator::new(0);
        space.promise(1).expect("memory");
        space.give(Free::derived(Run {
            block: FIRST,
            len: BLOCKS,
        }));
        let mut quarantine = Quarantine::new();
        quarantine.make_room(40).expect("memory");
        Self {
            space,
            quarantine,
            out: Vec::new(),
            waiting: Vec::new(),
            free: (FIRST..FIRST + BLOCKS).collect(),
            seq: 1,
            passed: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Take(want) => self.take(want),
            Step::Free(class) if !self.out.is_empty() => {
                let run = self.out.remove(0).run();
                let seq = self.seq;
                self.seq += 1;
                self.quarantine.push(Freed { run, class, seq });
                let meta = class == Class::Meta;
                self.waiting
                    .extend((run.block..run.end()).map(|block| (block, seq, meta)));
            }
            Step::GiveBack if !self.out.is_empty() => {
                let fresh = self.out.remove(0);
                self.free.extend(fresh.run().block..fresh.run().end());
                self.space.give(Free::unpublished(fresh));
            }
            Step::Release(held) => {
                let held = self
                    .waiting
                    .first()
                    .map(|(block, ..)| *block)
                    .filter(|_| held);
                self.release(held);
            }
            Step::Pass => self.passed = self.seq - 1,
            Step::Free(_) | Step::GiveBack => {}
        }
        self.check();
    }

    fn take(&mut self, want: u64) {
        self.space.promise(1).expect("memory");
        let Some(fresh) = self.space.take(want, Goal::default(), Need::ToKeep) else {
            self.space.withdraw(1);
            return assert!(self.free.is_empty(), "blocks are free, and none is given");
        };
        let run = fresh.run();
        assert!((1..=want).contains(&run.len));
        for block in run.block..run.end() {
            assert!(self.free.remove(&block), "block {block} was not free");
        }
        self.out.push(fresh);
    }

    fn release(&mut self, held: Option<Block>) {
        let mut out = Out {
            space: &mut self.space,
            got: Vec::new(),
        };
        self.quarantine
            .release(usize::MAX, self.passed, &Held(held), &mut out);
        for block in out.got {
            let at = self.waiting.iter().position(|(b, ..)| *b == block);
            let (_, seq, meta) = self.waiting.remove(at.expect("it waited"));
            assert!(Some(block) != held, "block {block} is held");
            assert!(
                !meta || seq <= self.passed,
                "record {seq} may be replayed over block {block}"
            );
            self.free.insert(block);
        }
    }

    /// Every block is in one place, and nothing is lost.
    fn check(&self) {
        let out: u64 = self.out.iter().map(|fresh| fresh.run().len).sum();
        assert_eq!(self.space.free(), self.free.len() as u64);
        assert_eq!(self.quarantine.blocks(), self.waiting.len() as u64);
        assert_eq!(
            self.free.len() as u64 + out + self.quarantine.blocks(),
            BLOCKS
        );
        let mut seen: HashSet<Block> = self.free.iter().copied().collect();
        let out = self
            .out
            .iter()
            .flat_map(|fresh| fresh.run().block..fresh.run().end());
        let waiting = self.waiting.iter().map(|(block, ..)| *block);
        assert!(
            out.chain(waiting).all(|block| seen.insert(block)),
            "a block is twice somewhere"
        );
    }
}

#[test]
fn no_sequence_hands_out_a_block_twice_or_too_early() {
    for number in 0..STEPS.len().pow(DEPTH) {
        let mut world = World::new();
        let mut rest = number;
        for _ in 0..DEPTH {
            world.step(STEPS[rest % STEPS.len()]);
            rest /= STEPS.len();
        }
        // In the end all comes back, as one run of each chunk.
        world.passed = world.seq;
        world.release(None);
        for fresh in core::mem::take(&mut world.out) {
            world.free.extend(fresh.run().block..fresh.run().end());
            world.space.give(Free::unpublished(fresh));
        }
        world.check();
        assert_eq!(world.space.stats().fragments, 2);
    }
}
