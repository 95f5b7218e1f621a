//! Writes and reads through the file system: new storage, overwriting, appending; reads back what was written.

use super::Worker;
use crate::selftest::stress::file::{File, WORDS};
use crate::selftest::stress::ledger::Ticket;
use crate::selftest::stress::tally::Count;
use crate::selftest::stress::trouble::Trouble;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::ops::Range;
use mm::addr::PAGE_SIZE;
use mm::mem::OutOfMemory;

/// Most pages of one write.
const MOST: usize = 3;
const PAGE: usize = PAGE_SIZE as usize;

/// A page of one word.
pub fn full_page(word: u64) -> [u8; PAGE] {
    let (mut page, word) = ([0; PAGE], word.to_le_bytes());
    page.chunks_exact_mut(8)
        .for_each(|w| w.copy_from_slice(&word));
    page
}

/// What a writer keeps: its buffer.
#[derive(Default)]
pub struct Writer {
    buffer: Vec<u8>,
}

impl Writer {
    pub fn step(&mut self, worker: &mut Worker) -> Result<(), Trouble> {
        let Some(file) = worker.round.file(&mut worker.dice) else {
            return Ok(());
        };
        let first = worker.dice.below(file.pages());
        // Pages of a large file are apart: one at a time.
        let most = if file.stride == 1 { MOST as u64 } else { 1 };
        let end = (first + 1 + worker.dice.below(most)).min(file.pages());
        if worker.dice.one_in(3) {
            return self.read(worker, &file, first);
        }
        self.write(worker, &file, first..end)?;
        if worker.dice.one_in(16) {
            worker.begins("fsync", file.id, 0);
            worker.round.fs.fsync(&file.inode)?;
            worker.count(Count::Syncs);
        }
        self.read(worker, &file, first)
    }

    fn write(&mut self, worker: &Worker, file: &File, pages: Range<u64>) -> Result<(), Trouble> {
        worker.begins("write", file.id, pages.start);
        self.room()?;
        let begun = pages.clone().map_while(|p| file.ledger(p).begin(false));
        let tickets: ArrayVec<Ticket, MOST> = begun.collect();
        let bytes = tickets.len() * PAGE;
        for (n, ticket) in tickets.iter().enumerate() {
            let stamp = file.stamp(pages.start + n as u64, ticket.version());
            let word = stamp.encode(worker.run().seed).to_le_bytes();
            let page = &mut self.buffer[n * PAGE..(n + 1) * PAGE];
            page.chunks_exact_mut(8)
                .for_each(|w| w.copy_from_slice(&word));
        }
        let at = file.offset(pages.start);
        let done = worker
            .round
            .fs
            .write(&file.inode, at, &self.buffer[..bytes]);
        for (page, ticket) in pages.clone().zip(tickets) {
            file.ledger(page).end(ticket, done.is_ok());
        }
        done?;
        worker.count(Count::Writes);
        let frames = pages.filter_map(|page| file.pfn(page));
        frames.for_each(|pfn| worker.run().saw(pfn, file.id));
        Ok(())
    }

    fn read(&mut self, worker: &Worker, file: &File, page: u64) -> Result<(), Trouble> {
        worker.begins("read", file.id, page);
        self.room()?;
        let glance = file.ledger(page).glance();
        let buffer = &mut self.buffer[..PAGE];
        let n = worker
            .round
            .fs
            .read(&file.inode, file.offset(page), buffer)?;
        worker.count(Count::Reads);
        for word in WORDS.iter().map(|w| *w as usize * 8).filter(|w| w + 8 <= n) {
            let bytes = buffer[word..word + 8].try_into().unwrap_or_default();
            let found = u64::from_le_bytes(bytes);
            worker.round.judge(file, page, glance, found, "read");
        }
        Ok(())
    }

    fn room(&mut self) -> Result<(), OutOfMemory> {
        if self.buffer.is_empty() {
            self.buffer
                .try_reserve_exact(MOST * PAGE)
                .map_err(|_| OutOfMemory)?;
            self.buffer.resize(MOST * PAGE, 0);
        }
        Ok(())
    }
}
