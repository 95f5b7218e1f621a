//! Takes all space that is left, so that a freed block is used again at once; lets go of it from time to time, so that large pages come back.

use super::Worker;
use crate::machine::Inode;
use crate::selftest::stress::trouble::Trouble;
use alloc::sync::Arc;
use dax::layout::{BreakReport, How};
use fs::Fill;
use mm::addr::PAGE_SIZE;
use mm::sync::Wait;

const PATH: &str = "/hog";
/// Pages that are taken at a time.
const PIECE: u64 = 16;

/// Blocks from which on it takes small pieces.
const LAST: u64 = 256;

/// What the hog keeps: its file and how far it is.
#[derive(Default)]
pub struct Hog {
    inode: Option<Arc<Inode>>,
    pages: u64,
}

impl Hog {
    pub fn step(&mut self, worker: &mut Worker) -> Result<(), Trouble> {
        let inode = match &self.inode {
            Some(inode) => inode.clone(),
            None => self
                .inode
                .insert(worker.round.fs.create(PATH, 0o644)?)
                .clone(),
        };
        worker.begins("fill the file system", 0, self.pages);
        let (pages, fill) = match worker.round.fs.statfs().space.free {
            // At once, however slow the machine is.
            free if free > LAST => (free - LAST / 2, Fill::Unwritten),
            // Zeroed: a block that somebody still holds is overwritten.
            _ => (PIECE, Fill::Zeroed),
        };
        let (at, len) = (self.pages * PAGE_SIZE, pages * PAGE_SIZE);
        let taken = worker.round.fs.fallocate(&inode, at, len, fill);
        self.pages = inode.stat().size.div_ceil(PAGE_SIZE);
        match taken.map_err(Trouble::from) {
            Ok(()) => Ok(()),
            Err(Trouble::NoSpace) => {
                self.rest(worker, &inode)?;
                Err(Trouble::NoSpace)
            }
            Err(trouble) => Err(trouble),
        }
    }

    /// Holds what it has for a while, then lets go of a part, now and then of all.
    fn rest(&mut self, worker: &mut Worker, inode: &Inode) -> Result<(), Trouble> {
        worker.begins("hold all space", 0, self.pages);
        mm::sync::sleep_us(2_000 + worker.dice.below(20_000));
        let keep = match worker.dice.one_in(4) {
            true => 0,
            false => self.pages / 2 + worker.dice.below(self.pages / 2),
        };
        let how = How::Wait(Wait::forever());
        let mut report = BreakReport::default();
        worker
            .round
            .fs
            .truncate(inode, keep * PAGE_SIZE, how, &mut report)?;
        self.pages = keep;
        if keep == 0 {
            mm::sync::sleep_us(5_000 + worker.dice.below(20_000));
        }
        Ok(())
    }
}
