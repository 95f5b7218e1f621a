//! Pins, as a driver takes them: holds pages for a while, stores into them as a device does, and looks whether they stay what they are.

use super::Worker;
use crate::selftest::stress::file::{File, View, WORDS};
use crate::selftest::stress::tally::Count;
use crate::selftest::stress::trouble::Trouble;
use crate::selftest::stress::world::inode_of;
use alloc::format;
use alloc::string::String;
use core::sync::atomic::Ordering;
use dax::pmem::Pmem;
use mm::addr::{PAGE_SIZE, Pfn};
use mm::gup::{PinnedPages, pin_user_pages, pin_user_pages_fast};

/// Most looks at the pages of one pin.
const LOOKS: u64 = 12;

pub fn step(worker: &mut Worker) -> Result<(), Trouble> {
    let Some(file) = worker.round.file(&mut worker.dice) else {
        return Ok(());
    };
    // Now and then through another address space: the slow path has its pages, whoever runs there.
    let index = match worker.dice.one_in(4) {
        true => worker.dice.below(worker.round.spaces.len() as u64) as usize,
        false => worker.space_index,
    };
    let view = file.view(index, &worker.round.spaces[index])?;
    let held = Held::take(worker, &file, &view)?;
    for _ in 0..worker.dice.below(LOOKS) + 1 {
        held.look(worker);
        match worker.dice.below(4) {
            0 => held.store(worker),
            1 => mm::sync::sleep_us(worker.dice.below(3_000)),
            2 => second(worker, &file, &view)?,
            _ => {}
        }
    }
    held.look(worker);
    worker.begins("unpin", file.id, held.page);
    Ok(())
}

/// Who holds one page takes another of the same file.
fn second(worker: &mut Worker, file: &File, view: &View) -> Result<(), Trouble> {
    let held = match Held::take(worker, file, view) {
        // The first pin goes on without it.
        Err(Trouble::PastEnd | Trouble::NoSpace) => return Ok(()),
        held => held?,
    };
    held.look(worker);
    worker.count(Count::SecondPins);
    Ok(())
}

/// Pages of a file that are pinned.
pub struct Held<'a> {
    file: &'a File,
    page: u64,
    pages: PinnedPages,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // Relaxed: it only tells an unlink that is counted from one that is not.
        self.file.pins.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<'a> Held<'a> {
    fn take(worker: &mut Worker, file: &'a File, view: &View) -> Result<Self, Trouble> {
        let page = worker.dice.below(file.pages());
        let most = (file.pages() - page) * file.stride;
        // A few pages of the test, or a piece of a large page.
        let count = (worker.dice.below(3) * file.stride + 1).min(most);
        let (write, slow) = (worker.dice.one_in(2), worker.dice.one_in(3));
        worker.begins(if slow { "pin (slow)" } else { "pin" }, file.id, page);
        let pin = if slow {
            pin_user_pages
        } else {
            pin_user_pages_fast
        };
        let at = view.at(page * file.stride);
        let pages = pin(&view.space, at, count as usize, write)?;
        // Relaxed: as in `drop`.
        file.pins.fetch_add(1, Ordering::Relaxed);
        let held = Held { file, page, pages };
        held.pfns()
            .for_each(|(_, pfn)| worker.run().saw(pfn.get(), file.id));
        Ok(held)
    }

    /// The pages of the test among those that are pinned, with their frames.
    fn pfns(&self) -> impl Iterator<Item = (u64, Pfn)> {
        let first = self.page;
        let used = self.pages.pfns().step_by(self.file.stride as usize);
        used.enumerate()
            .map(move |(n, pfn)| (first + n as u64, pfn))
    }

    /// Looks whether each page is still this file's, and what is in it.
    fn look(&self, worker: &mut Worker) {
        worker.begins("look at a pin", self.file.id, self.page);
        for (page, pfn) in self.pfns() {
            self.owned(worker, page, pfn);
            let word = *worker.dice.pick(&WORDS);
            let glance = self.file.ledger(page).glance();
            if let Ok(found) = worker
                .run()
                .device
                .memory
                .load64(offset(worker, pfn) + word * 8)
            {
                worker
                    .round
                    .judge(self.file, page, glance, found, "pinned page");
            }
            worker.count(Count::PinsHeld);
        }
    }

    /// The file has the frame where it was pinned, and the frame's metadata names the file.
    fn owned(&self, worker: &Worker, page: u64, pfn: Pfn) {
        let (file, now) = (self.file, self.file.pfn(page));
        let pgmap = worker.round.fs.pgmap();
        let owner = pgmap.owner_of(pfn).map(|o| (o.inode, o.index));
        let own = (u64::from(file.inode.ino()), page * file.stride);
        if now == Some(pfn.get()) && owner == Some(own) {
            return;
        }
        let told = |is: Option<u64>| is.map_or(String::from("none"), |p| format!("{p:#x}"));
        worker.round.accuse(
            "pinned_page_taken",
            format!("{} ({}) page {page}", file.path, inode_of(file)),
            format!(
                "frame {:#x}, owned by {own:?}, until it is unpinned",
                pfn.get()
            ),
            format!(
                "frame {} of the file; the frame is owned by {owner:?}",
                told(now)
            ),
            Some(pfn.get()),
        );
    }

    /// Stores into the pages as a device does, past all mappings.
    fn store(&self, worker: &mut Worker) {
        let memory = &worker.run().device.memory;
        for (page, pfn) in self.pfns() {
            let Some(ticket) = self.file.ledger(page).begin(false) else {
                continue;
            };
            let stamp = self.file.stamp(page, ticket.version());
            let (at, word) = (offset(worker, pfn), stamp.encode(worker.run().seed));
            WORDS.iter().for_each(|n| memory.store64(at + n * 8, word));
            self.file.ledger(page).end(ticket, true);
        }
    }
}

/// Where a frame lies in the device, in bytes.
fn offset(worker: &Worker, pfn: Pfn) -> u64 {
    let first = worker.run().device.pages.start().get();
    (pfn.get() - first) * PAGE_SIZE
}
