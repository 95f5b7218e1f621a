//! The tour: the whole path from the firmware's table to a block that is free again, step by step, every fact checked.
//!
//! 1. A file's pages are mapped and stored to by real page faults.
//! 2. A disk is asked to write into two of them by DMA; they are pinned. The request is held back for a moment, so that there is time
//!    to look.
//! 3. Another thread truncates the file so that one of the two pages goes. It takes the page out of every page table and then waits
//!    for the pin, *holding no lock*: files are written meanwhile, the same one too, and the block still belongs to the file.
//! 4. The DMA ends, the truncate goes on, the block goes through quarantine and is free.
//! 5. The page that was kept holds what the disk holds, byte for byte.
//!
//! A fact that is not as it must be ends the tour with an error that names it.

mod facts;
mod steps;
mod watch;

use self::facts::Teller;
use self::steps::Tour;
use crate::machine::Machine;
use crate::shell::{CommandError, Failure, Fields, Out};
use alloc::borrow::Cow;
use alloc::string::String;
use alloc::sync::Arc;
use thiserror::Error;

/// Why the tour ended early.
#[derive(Debug, Error)]
pub enum TourError {
    /// There is nothing to show it on.
    #[error("there is no persistent memory that can be written")]
    NoPmem,
    /// There is no disk to do DMA.
    #[error("there is no disk")]
    NoDisk,
    /// The disk does not hold what the driver's scratch disk holds.
    #[error("disk {index} does not hold the known pattern (start without --disk)")]
    NoPattern {
        /// The disk.
        index: u32,
    },
    /// An operation failed.
    #[error("{0}")]
    Failed(CommandError),
    /// A fact is not as it must be.
    #[error("WRONG: {fact}: {found}")]
    Wrong {
        /// What must hold.
        fact: &'static str,
        /// What was found.
        found: String,
    },
}

impl From<CommandError> for TourError {
    fn from(e: CommandError) -> Self {
        TourError::Failed(e)
    }
}

impl Failure for TourError {
    fn kind(&self) -> &'static str {
        match self {
            TourError::NoPmem => "no_pmem",
            TourError::NoDisk => "no_such_disk",
            TourError::NoPattern { .. } => "no_pattern",
            TourError::Failed(e) => e.cause().kind(),
            TourError::Wrong { .. } => "wrong_fact",
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        match self {
            TourError::NoPmem => Some("start the machine with --pmem".into()),
            TourError::NoDisk => Some("start the machine with --disk".into()),
            _ => None,
        }
    }

    fn details(&self) -> Fields {
        Fields::new()
    }
}

/// Goes through the tour.
///
/// # Errors
/// See [`TourError`].
pub fn run(machine: &Arc<Machine>, out: &Out) -> Result<(), TourError> {
    let begun = mm::sync::now_us();
    let tell = Teller::new(out);
    let tour = Tour::prepare(machine, &tell)?;
    let result = tour.story(&tell);
    tour.clean_up();
    result?;
    tell.end(mm::sync::now_us().saturating_sub(begun));
    Ok(())
}
