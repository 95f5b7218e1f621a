//! The stress test: all that may happen to a page, at once, on a file system that is always full, so that every freed block is used again at
//! once.
//!
//! Every 8 bytes of every block say whose they are ([`stamp`]); which versions of a page a reader may find at each moment is
//! decided by an oracle ([`ledger`]) that never refuses what is legal. So an access through a stale translation, a block that is given
//! away while somebody holds it, and a write that is lost are each seen by the next who reads; the first stops the run and is
//! told with what happened last to its frames ([`mm::trace`]).
//!
//! The run is cut into rounds. Each makes a file system, starts the workers, lets them go on for some seconds, and ends in one of two
//! ways, in turn: the device is removed under their hands, brought back and mounted; or they are told to stop. Then every
//! file is read once more, all files are removed, every block must be free again, and fsck must find nothing.
//!
//! What a green run proves, and what not: docs/stress.md.

pub mod dice;
pub mod ledger;
pub mod stamp;
pub mod tally;

#[cfg(target_os = "none")]
mod error;
#[cfg(target_os = "none")]
mod file;
#[cfg(target_os = "none")]
mod report;
#[cfg(target_os = "none")]
mod rounds;
#[cfg(target_os = "none")]
mod trouble;
#[cfg(target_os = "none")]
mod violation;
#[cfg(target_os = "none")]
mod watch;
#[cfg(target_os = "none")]
mod workers;
#[cfg(target_os = "none")]
mod world;

#[cfg(target_os = "none")]
mod run;

#[cfg(target_os = "none")]
pub use self::{
    error::StressError,
    run::{Options, run},
};
