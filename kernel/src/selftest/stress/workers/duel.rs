//! Two workers and a file of one page: the holder gives the page storage, lets the watcher touch it, takes it away, and says so; from that
//! moment on no load of the watcher may succeed. A translation that outlives its page is seen at the first such load,
//! whatever became of the block.
//!
//! `epoch` is odd from before the write that makes the page until after the truncate that takes it. The holder makes it even (Release)
//! when the truncate has returned; the watcher reads it (Acquire) before and after the load, so that the load lies between
//! that truncate and the next write.

use super::Worker;
use super::writer::full_page;
use crate::selftest::stress::file::{File, Shape};
use crate::selftest::stress::stamp::Word;
use crate::selftest::stress::tally::Count;
use crate::selftest::stress::trouble::Trouble;
use crate::selftest::stress::world::inode_of;
use crate::uaccess;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use dax::layout::{BreakReport, How};
use mm::mem::OutOfMemory;
use mm::sync::{SpinLock, Wait, now_us};

/// The longest that one waits for the other, in microseconds: the other may have no CPU.
const PATIENCE_US: u64 = 30_000;

/// How often the holder looks.
const LOOK_US: u64 = 200;
/// How long the watcher rests after each look, at most: it keeps a CPU busy.
const REST_US: u64 = 6_000;

/// What the two share.
#[derive(Default)]
pub struct Duel {
    file: SpinLock<Option<Arc<File>>>,
    epoch: AtomicU64,
    /// The last epoch in which the watcher has touched the page.
    touched: AtomicU64,
    /// The frame of the page that was given last.
    pfn: AtomicU64,
}

impl Duel {
    /// Whether the watcher has touched the page in `epoch`, after a while.
    fn wait_for_touch(&self, worker: &Worker, epoch: u64) {
        let end = now_us() + PATIENCE_US;
        // Acquire: pairs with the Release in `watch`; the watcher is through.
        while self.touched.load(Ordering::Acquire) < epoch
            && now_us() < end
            && !worker.round.is_over()
        {
            mm::sync::sleep_us(LOOK_US);
        }
    }

    fn now(&self) -> u64 {
        // Acquire: pairs with the Release in `hold`: what the holder did before is done.
        self.epoch.load(Ordering::Acquire)
    }
}

/// The holder: one round of giving and taking.
pub fn hold(worker: &mut Worker, duel: &Duel) -> Result<(), Trouble> {
    let file = file(worker, duel)?;
    let epoch = duel.now();
    if epoch.is_multiple_of(2) {
        // SeqCst: before the write; a watcher that loads what the write has made sees it (`now`).
        duel.epoch.store(epoch + 1, Ordering::SeqCst);
        give(worker, &file)?;
        // Relaxed: for messages; the next store to `epoch` publishes it.
        let pfn = file.pfn(0).unwrap_or(0);
        duel.pfn.store(pfn, Ordering::Relaxed);
        duel.wait_for_touch(worker, epoch + 1);
    }
    take(worker, &file)?;
    // Release: pairs with the Acquire in `now`: the truncate has returned.
    duel.epoch.store((epoch | 1) + 1, Ordering::Release);
    duel.wait_for_touch(worker, (epoch | 1) + 1);
    Ok(())
}

fn file(worker: &Worker, duel: &Duel) -> Result<Arc<File>, Trouble> {
    if let Some(file) = &*duel.file.lock() {
        return Ok(file.clone());
    }
    let id = worker.run().file_number();
    let path = format!("/duel{id}");
    let inode = worker.round.fs.create(&path, 0o644)?;
    let shape = Shape {
        pages: 1,
        stride: 1,
    };
    let file = Arc::new(File::new(
        id,
        path,
        inode,
        shape,
        worker.round.spaces.len(),
    )?);
    *duel.file.lock() = Some(file.clone());
    Ok(file)
}

fn give(worker: &Worker, file: &File) -> Result<(), Trouble> {
    worker.begins("give", file.id, 0);
    let ticket = file.ledger(0).begin(false).ok_or(OutOfMemory)?;
    let word = file.stamp(0, ticket.version()).encode(worker.run().seed);
    let done = worker.round.fs.write(&file.inode, 0, &full_page(word));
    file.ledger(0).end(ticket, done.is_ok());
    Ok(done?)
}

fn take(worker: &Worker, file: &File) -> Result<(), Trouble> {
    worker.begins("take", file.id, 0);
    let ticket = file.ledger(0).begin(true).ok_or(OutOfMemory)?;
    let (how, mut report) = (How::Wait(Wait::forever()), BreakReport::default());
    let done = worker.round.fs.truncate(&file.inode, 0, how, &mut report);
    file.ledger(0).end(ticket, done.is_ok());
    done?;
    Ok(())
}

/// The watcher: loads until the page is taken away, then once more.
pub fn watch(worker: &mut Worker, duel: &Duel) -> Result<(), Trouble> {
    let file = duel.file.lock().clone();
    let (Some(file), epoch) = (file, duel.now()) else {
        mm::sync::sleep_us(1_000);
        return Ok(());
    };
    let view = worker.view(&file)?;
    let end = now_us() + PATIENCE_US;
    while duel.now() == epoch && now_us() < end && !worker.round.is_over() {
        if epoch % 2 == 1 && super::faulter::load(worker, &file, &view, 0).is_ok() {
            // Release: pairs with the Acquire in `wait_for_touch`.
            duel.touched.store(epoch, Ordering::Release);
        }
    }
    let epoch = duel.now();
    let found = uaccess::load64(view.at(0));
    if epoch % 2 == 1 || duel.now() != epoch {
        return Ok(());
    }
    // Release: as above.
    duel.touched.store(epoch, Ordering::Release);
    // Relaxed: as in `hold`.
    judge(worker, &file, found, duel.pfn.load(Ordering::Relaxed))?;
    mm::sync::sleep_us(worker.dice.below(REST_US));
    Ok(())
}

/// The page was taken away before the load began, and not given back before it ended.
fn judge(
    worker: &Worker,
    file: &File,
    found: Result<u64, mm::aspace::FaultError>,
    pfn: u64,
) -> Result<(), Trouble> {
    worker.count(Count::Watched);
    match found.map_err(Trouble::from) {
        Err(Trouble::PastEnd) => Ok(()),
        Err(other) => Err(other),
        Ok(word) => {
            worker.round.accuse(
                "stale_translation",
                format!("load of {} ({}) page 0", file.path, inode_of(file)),
                String::from("an error: the file has no page any more"),
                format!("{}", Word::decode(word, worker.run().seed)),
                Some(pfn),
            );
            Ok(())
        }
    }
}
