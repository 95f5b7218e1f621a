//! The shell: commands, their arguments, their output, their jobs.
//!
//! The framework here knows no hardware and runs on the host, where its tests are. A command gets the system it acts on, its
//! arguments and its output, and reports facts, not text ([`out`]); the shell shows them to people or to programs. A script
//! runs to its end whatever fails on the way; its status tells whether anything failed.

pub mod args;
pub mod builtin;
pub mod command;
#[cfg(target_os = "none")]
pub mod commands;
pub mod edit;
pub mod error;
mod jobs;
pub mod json;
pub mod number;
pub mod out;
pub mod parse;
mod run;

pub use args::Args;
pub use command::{Command, System};
pub use error::{CommandError, Failure, On};
pub use jobs::{Job, JobKind, JobState, Jobs};
pub use out::{Fields, LineSink, Out, Table, Value};
pub use run::{run, run_script};

#[cfg(test)]
mod tests;
