//! The load of the power-cut test: threads that change files and say, after each operation, that it is done.
//!
//! What they do follows from a seed ([`plan`]), each thread in a directory of its own, so that who was told "operation 17 of thread 2
//! is done" knows every byte that must be there after the machine has vanished. The host that cuts the power compares: `.ci/powercut`.

pub mod load;
pub mod plan;

#[cfg(target_os = "none")]
mod run;

#[cfg(target_os = "none")]
pub use self::run::{Options, PowercutError, run};
