//! How a run ended, and the exit code that says so.

use std::process::ExitCode;

/// How a run ended. The codes are a promise to scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All well.
    Success,
    /// A guest command failed, or the tour found a fact wrong.
    GuestFailed,
    /// The command line was wrong; clap ends the process itself with this code, too.
    Usage,
    /// The guest panicked, or faulted beyond help.
    Crashed,
    /// Time ran out.
    TimedOut,
    /// The host could not set up.
    Setup,
}

impl Outcome {
    /// The exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::GuestFailed => 1,
            Self::Usage => 2,
            Self::Crashed => 3,
            Self::TimedOut => 4,
            Self::Setup => 5,
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        outcome.code().into()
    }
}
