//! Transfers between a disk and a file's own pages: gup, then the device, then the end.
//!
//! The pages are pinned at once and the mapping that served for it is gone before anything else happens: from there on only the
//! pin holds them. The disk's thread unpins them; then the job ends.

use super::{Holder, Inode, Machine, PinFailure, Window};
use crate::shell::{CommandError, Failure, Fields, Job, JobKind, Out};
use crate::thread::{self, SpawnError};
use crate::virtio::blk::{Direction, Disk, IoError, SubmitError};
use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use mm::addr::PAGE_SIZE;
use mm::gup::PinnedPages;
use mm::mem::OutOfMemory;
use thiserror::Error;

/// A transfer to be started.
pub struct Transfer {
    /// Which way.
    pub direction: Direction,
    /// The disk.
    pub disk: Arc<Disk>,
    /// Where on the disk, in sectors of 512 bytes.
    pub sector: u64,
    /// The file.
    pub inode: Arc<Inode>,
    /// Where in the file, in bytes; a multiple of 512.
    pub offset: u64,
    /// Bytes; a multiple of 512.
    pub length: u64,
    /// How long the pages are held before the device is asked, in microseconds.
    pub delay_us: u64,
}

/// Why a transfer was not started, or did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TransferFailure {
    /// The pages were not pinned.
    #[error(transparent)]
    Pin(#[from] PinFailure),
    /// The disk did not accept it.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The device failed it.
    #[error(transparent)]
    Io(#[from] IoError),
    /// No thread for the delay.
    #[error(transparent)]
    Thread(#[from] SpawnError),
    /// No memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

impl Failure for TransferFailure {
    fn kind(&self) -> &'static str {
        match self {
            Self::Pin(e) => e.kind(),
            Self::Submit(e) => e.kind(),
            Self::Io(e) => e.kind(),
            Self::Thread(_) | Self::OutOfMemory(_) => "out_of_memory",
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Pin(e) => e.advice(),
            Self::Submit(e) => e.advice(),
            Self::Io(_) | Self::Thread(_) => None,
            Self::OutOfMemory(e) => e.advice(),
        }
    }

    fn details(&self) -> Fields {
        Fields::new()
    }
}

/// What has to be done at the end of a transfer, however it ends.
#[derive(Clone)]
struct Ending {
    machine: Arc<Machine>,
    job: Arc<Job>,
    out: Option<Out>,
}

impl Ending {
    /// The pages are unpinned.
    fn end(&self, result: Result<(), TransferFailure>) {
        self.machine.holders.leave(Holder::Dma(self.job.id));
        self.machine.reap();
        let ok = result.is_ok();
        if let (Err(why), Some(out)) = (result, &self.out) {
            CommandError::new(format!("dma {}: {}", self.job.id, self.job.label), why).print(out);
        }
        self.machine.jobs.finish(&self.job, ok);
    }
}

impl Machine {
    /// Pins the pages and starts the transfer; it goes on by itself. Its failure is printed to `out`. The job is its number.
    ///
    /// # Errors
    /// See [`TransferFailure`]; nothing is pinned and no job is left then.
    pub fn start_transfer(
        self: &Arc<Self>,
        transfer: Transfer,
        label: String,
        out: Option<Out>,
    ) -> Result<Arc<Job>, TransferFailure> {
        let Transfer {
            direction,
            sector,
            offset,
            length,
            ..
        } = transfer;
        transfer.disk.check(direction, sector, offset, length)?;
        let window = Window::open(&transfer.inode, offset, length).map_err(PinFailure::from)?;
        // The device stores into the pages when it reads the disk.
        let pages = window
            .pin(direction == Direction::Read)
            .map_err(PinFailure::from)?;
        drop(window);
        let job = self.jobs.begin(JobKind::Dma, label)?;
        let ending = Ending {
            machine: self.clone(),
            job: job.clone(),
            out,
        };
        let started = self
            .holders
            .enter(Holder::Dma(job.id), &pages)
            .map_err(TransferFailure::from);
        let started = started.and_then(|()| launch(transfer, pages, &ending));
        if let Err(why) = started {
            self.holders.leave(Holder::Dma(job.id));
            self.jobs.forget(&job);
            return Err(why);
        }
        Ok(job)
    }
}

/// Submits now, or from a thread after the delay.
fn launch(transfer: Transfer, pages: PinnedPages, ending: &Ending) -> Result<(), TransferFailure> {
    if transfer.delay_us == 0 {
        return submit(transfer, pages, ending);
    }
    let ending = ending.clone();
    let late = move || {
        mm::sync::sleep_us(transfer.delay_us);
        if let Err(why) = submit(transfer, pages, &ending) {
            ending.end(Err(why));
        }
    };
    thread::spawn("dma delay", late)?;
    Ok(())
}

fn submit(transfer: Transfer, pages: PinnedPages, ending: &Ending) -> Result<(), TransferFailure> {
    let Transfer {
        direction,
        disk,
        sector,
        inode,
        offset,
        length,
        ..
    } = transfer;
    // Only the pages use the file now: it is free for an unmount as soon as the end is told.
    drop(inode);
    let ending = ending.clone();
    let on_done =
        Box::new(move |outcome: Result<(), IoError>| ending.end(outcome.map_err(Into::into)));
    disk.transfer(
        direction,
        sector,
        pages,
        offset % PAGE_SIZE,
        length,
        on_done,
    )?;
    Ok(())
}
