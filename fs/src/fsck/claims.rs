//! Passes 3 and 8: one sweep over all claimed runs in order finds what is claimed twice, and what lies between them is free.

use dax::pmem::Pmem;

use super::{Check, Pass, Problem, Statistics};
use crate::commit::Run;
use crate::layout::{Block, GIB_BLOCKS, Ino, MEGA_BLOCKS};

/// A run of blocks that an inode says is its own.
#[derive(Clone, Copy)]
pub(super) struct Claim {
    pub run: Run,
    pub ino: Ino,
}

impl<P: Pmem> Check<'_, P> {
    pub(super) fn sweep(&mut self) {
        self.claims
            .sort_unstable_by_key(|claim| (claim.run.block, claim.ino));
        let (mut end, mut owner) = (self.ground.geometry.data_block(), 0);
        for Claim { run, ino } in &self.claims {
            self.report.blocks_used += run.len;
            if run.block < end {
                let problem = Problem::Overlap {
                    block: run.block,
                    first: owner,
                    second: *ino,
                };
                self.report.add(Pass::Overlaps, problem);
            } else {
                self.report.statistics.free(end, run.block);
            }
            if run.end() > end {
                (end, owner) = (run.end(), *ino);
            }
        }
        self.report
            .statistics
            .free(end, self.ground.geometry.blocks());
    }
}

impl Statistics {
    /// Counts the free blocks `from..to`.
    fn free(&mut self, from: Block, to: Block) {
        let len = to.saturating_sub(from);
        if len == 0 {
            return;
        }
        self.free += len;
        self.free_runs += 1;
        self.longest = self.longest.max(len);
        self.free_mega += aligned(from, to, MEGA_BLOCKS);
        self.free_gib += aligned(from, to, GIB_BLOCKS);
    }
}

/// Blocks of `from..to` in whole aligned groups of `unit`.
const fn aligned(from: Block, to: Block, unit: u64) -> u64 {
    let (first, last) = (from.next_multiple_of(unit), to / unit * unit);
    last.saturating_sub(first)
}
