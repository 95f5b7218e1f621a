//! Transfers between a disk and pages that others use: the page is the transfer's alone while it lasts, and only its pin keeps it.
//!
//! A page of the worker's own (the stage) is what goes to the disk first, or what the disk's content comes back into.

use super::Worker;
use super::writer::full_page;
use crate::machine::Inode;
use crate::selftest::stress::file::{File, Shape, View};
use crate::selftest::stress::tally::Count;
use crate::selftest::stress::trouble::Trouble;
use crate::virtio::blk::{Direction, Disk, SECTOR};
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use mm::addr::PAGE_SIZE;
use mm::gup::{PinnedPages, pin_user_pages};
use mm::sync::{Wait, now_us};

const PAGE: usize = PAGE_SIZE as usize;
/// The longest that a transfer may take, in microseconds.
const LONG_US: u64 = 20_000_000;
/// Sectors of a page.
const SECTORS: u64 = PAGE_SIZE / SECTOR;

/// What a worker keeps: its stage.
#[derive(Default)]
pub struct Dma {
    stage: Option<(Arc<File>, Arc<View>)>,
}

impl Dma {
    pub fn step(&mut self, worker: &mut Worker) -> Result<(), Trouble> {
        let Some(disk) = worker.run().disk.clone() else {
            return Ok(());
        };
        let Some(file) = worker.round.file(&mut worker.dice) else {
            return Ok(());
        };
        let (stage, own) = self.stage(worker)?;
        let bench = Bench {
            disk: &disk,
            sector: sector(worker, &disk),
            stage: &stage.inode,
            own: &own,
        };
        let (view, page) = (worker.view(&file)?, worker.dice.below(file.pages()));
        match worker.dice.one_in(2) {
            true => bench.bring_in(worker, &file, &view, page),
            false => bench.take_out(worker, &file, &view, page),
        }
    }

    fn stage(&mut self, worker: &Worker) -> Result<(Arc<File>, Arc<View>), Trouble> {
        if let Some((file, view)) = &self.stage {
            return Ok((file.clone(), view.clone()));
        }
        let id = worker.run().file_number();
        let path = format!("/stage{}", worker.index);
        let inode = worker.round.fs.create_sized(&path, 0o644, PAGE_SIZE)?;
        let shape = Shape {
            pages: 1,
            stride: 1,
        };
        let file = File::new(id, path, inode, shape, worker.round.spaces.len())?;
        let file = Arc::new(file);
        let view = worker.view(&file)?;
        self.stage = Some((file.clone(), view.clone()));
        Ok((file, view))
    }
}

/// The sectors of this worker, at the end of the disk.
fn sector(worker: &Worker, disk: &Disk) -> u64 {
    disk.sectors() - SECTORS * (1 + worker.index as u64)
}

/// A worker's stage and its place on the disk.
struct Bench<'a> {
    disk: &'a Disk,
    sector: u64,
    stage: &'a Arc<Inode>,
    own: &'a View,
}

impl Bench<'_> {
    /// Stage → disk → page of a file.
    fn bring_in(
        &self,
        worker: &Worker,
        file: &File,
        view: &View,
        page: u64,
    ) -> Result<(), Trouble> {
        worker.begins("dma into", file.id, page);
        let Some(ticket) = file.ledger(page).begin(false) else {
            return Ok(());
        };
        let stamp = file.stamp(page, ticket.version());
        let done = self.by_disk(worker, stamp.encode(worker.run().seed), || {
            pin(worker, view, page * file.stride, true)
        });
        file.ledger(page).end(ticket, done.is_ok());
        done?;
        worker.count(Count::DmaReads);
        Ok(())
    }

    fn by_disk(
        &self,
        worker: &Worker,
        word: u64,
        target: impl FnOnce() -> Result<PinnedPages, Trouble>,
    ) -> Result<(), Trouble> {
        worker.round.fs.write(self.stage, 0, &full_page(word))?;
        self.transfer(Direction::Write, pin(worker, self.own, 0, false)?)?;
        self.transfer(Direction::Read, target()?)
    }

    /// Page of a file → disk → stage, where it is judged.
    fn take_out(
        &self,
        worker: &Worker,
        file: &File,
        view: &View,
        page: u64,
    ) -> Result<(), Trouble> {
        worker.begins("dma out of", file.id, page);
        let glance = file.ledger(page).glance();
        let source = pin(worker, view, page * file.stride, false)?;
        self.transfer(Direction::Write, source)?;
        self.transfer(Direction::Read, pin(worker, self.own, 0, true)?)?;
        let mut bytes = [0; PAGE];
        worker.round.fs.read(self.stage, 0, &mut bytes)?;
        for word in crate::selftest::stress::file::WORDS {
            let at = word as usize * 8;
            let found = bytes[at..at + 8].try_into().unwrap_or_default();
            let found = u64::from_le_bytes(found);
            worker.round.judge(file, page, glance, found, "dma out");
        }
        worker.count(Count::DmaWrites);
        Ok(())
    }

    fn transfer(&self, direction: Direction, pages: PinnedPages) -> Result<(), Trouble> {
        let done = Box::new(|_| ());
        let (disk, sector) = (self.disk, self.sector);
        let request = disk.transfer(direction, sector, pages, 0, PAGE_SIZE, done)?;
        match request.wait(&Wait::until(now_us() + LONG_US)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Trouble::Unexpected(format!("{error}"))),
            Err(_) => Err(Trouble::Unexpected("a transfer did not end".into())),
        }
    }
}

fn pin(worker: &Worker, view: &View, page: u64, write: bool) -> Result<PinnedPages, Trouble> {
    Ok(pin_user_pages(worker.space(), view.at(page), 1, write)?)
}
