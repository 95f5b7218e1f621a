//! Small files that nobody has open: made, let go of, opened again, read, removed. Their inodes leave memory in between.

use super::Worker;
use super::writer::full_page;
use crate::selftest::stress::stamp::{Stamp, Word};
use crate::selftest::stress::tally::Count;
use crate::selftest::stress::trouble::Trouble;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use mm::addr::PAGE_SIZE;

/// Names in use at most.
const NAMES: usize = 48;
const PAGE: usize = PAGE_SIZE as usize;

/// What stands under each name: the number of the file, if there is one.
pub struct Names(Vec<Option<u32>>);

impl Default for Names {
    fn default() -> Self {
        Names(alloc::vec![None; NAMES])
    }
}

impl Names {
    pub fn step(&mut self, worker: &mut Worker) -> Result<(), Trouble> {
        let n = worker.dice.below(NAMES as u64) as usize;
        worker.begins("use a name", 0, n as u64);
        match self.0[n] {
            None => self.make(worker, n)?,
            Some(id) => {
                read(worker, n, id)?;
                if worker.dice.one_in(3) {
                    worker.round.fs.unlink(&path(n))?;
                    worker.count(Count::Unlinks);
                    self.0[n] = None;
                }
            }
        }
        if worker.dice.one_in(16) {
            worker.round.fs.sync()?;
            worker.count(Count::Syncs);
        }
        mm::sync::sleep_us(worker.dice.below(1_000));
        Ok(())
    }

    fn make(&mut self, worker: &Worker, n: usize) -> Result<(), Trouble> {
        let (fs, id) = (&worker.round.fs, worker.run().file_number());
        let inode = fs.create(&path(n), 0o644)?;
        let written = fs.write(&inode, 0, &content(worker, id));
        drop(inode);
        if let Err(error) = written {
            fs.unlink(&path(n))?;
            return Err(error.into());
        }
        self.0[n] = Some(id);
        Ok(())
    }
}

fn path(n: usize) -> String {
    format!("/n{n}")
}

/// The one version of a file that is written once.
fn stamp(file: u32) -> Stamp {
    Stamp {
        file,
        page: 0,
        version: 1,
    }
}

fn content(worker: &Worker, id: u32) -> [u8; PAGE] {
    full_page(stamp(id).encode(worker.run().seed))
}

/// Every word must be what was written, whoever had the inode meanwhile.
fn read(worker: &Worker, n: usize, id: u32) -> Result<(), Trouble> {
    let fs = &worker.round.fs;
    let inode = fs.open(&path(n))?;
    let mut page = [0; PAGE];
    let len = fs.read(&inode, 0, &mut page)?;
    worker.count(Count::Reads);
    let expected = Word::Stamp(stamp(id));
    let words = page.chunks_exact(8);
    let mut words = words.map(|w| u64::from_le_bytes(w.try_into().unwrap_or_default()));
    let wrong = words.find(|w| Word::decode(*w, worker.run().seed) != expected);
    if wrong.is_some() || len != PAGE {
        let found = wrong.map_or(format!("{len} bytes"), |w| {
            format!("{}", Word::decode(w, worker.run().seed))
        });
        worker.round.accuse(
            "closed_file_changed",
            format!("{} (inode {})", path(n), inode.ino()),
            format!("{expected}"),
            found,
            inode.pfn(0).map(|p| p.get()),
        );
    }
    Ok(())
}
