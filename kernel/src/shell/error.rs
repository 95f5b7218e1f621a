//! Why a command failed, in one form for every command: `error: what: why (what to do)`.
//!
//! The cause keeps its type: each operation's error enum implements [`Failure`], which adds what only a shell wants to know.

use super::number::NumberError;
use super::out::{Fields, Out, Value};
use super::parse::ParseError;
use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use core::fmt;
use mm::mem::OutOfMemory;
use thiserror::Error;

/// An operation's error as the shell shows it; its `Display` is the *why*.
pub trait Failure: core::error::Error + Send + Sync {
    /// The kind in snake_case: a promise to programs that read JSON.
    fn kind(&self) -> &'static str;

    /// What the user can do about it.
    fn advice(&self) -> Option<Cow<'static, str>> {
        None
    }

    /// More facts for JSON.
    fn details(&self) -> Fields {
        Fields::new()
    }
}

/// A command's failure: what was attempted, and its cause.
#[derive(Debug)]
pub struct CommandError {
    what: String,
    cause: Box<dyn Failure>,
}

impl CommandError {
    /// `what` names the thing that could not be done or found, such as a command with its file.
    pub fn new(what: impl Into<String>, cause: impl Failure + 'static) -> Self {
        CommandError {
            what: what.into(),
            cause: Box::new(cause),
        }
    }

    /// The cause.
    #[must_use]
    pub fn cause(&self) -> &dyn Failure {
        &*self.cause
    }

    /// Prints it in the form that `out` has.
    pub fn print(&self, out: &Out) {
        let mut error: Fields = vec![
            ("kind", self.cause.kind().into()),
            ("message", Value::from(format!("{self}"))),
        ];
        error.extend(self.cause.details());
        out.say(
            vec![("error", Value::Object(error))],
            format_args!("error: {self}"),
        );
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.cause)?;
        match self.cause.advice() {
            Some(advice) => write!(f, " ({advice})"),
            None => Ok(()),
        }
    }
}

impl core::error::Error for CommandError {}

/// Names what was attempted: `op().on(|| ..)?` turns an operation's error into a [`CommandError`].
pub trait On<T> {
    /// Adds the *what*.
    ///
    /// # Errors
    /// The same failure, named.
    fn on<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T, CommandError>;
}

impl<T, E: Failure + 'static> On<T> for Result<T, E> {
    fn on<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T, CommandError> {
        self.map_err(|e| CommandError::new(what(), e))
    }
}

impl Failure for ParseError {
    fn kind(&self) -> &'static str {
        "syntax"
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some("nothing was run".into())
    }
}

/// A name that no command has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("there is no such command")]
pub struct NoSuchCommand;

impl Failure for NoSuchCommand {
    fn kind(&self) -> &'static str {
        "no_such_command"
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some("`help` lists them".into())
    }
}

/// What is wrong with a command's arguments.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ArgProblem {
    /// A required argument is not there.
    #[error("{name} is missing")]
    Missing {
        /// The argument's name in the usage line.
        name: &'static str,
    },
    /// An option that takes a value stands last.
    #[error("{option} wants a value")]
    NoValue {
        /// The option.
        option: &'static str,
    },
    /// A number or size that is none.
    #[error("{name} `{word}`: {why}")]
    BadNumber {
        /// The argument's name in the usage line.
        name: &'static str,
        /// What was typed.
        word: String,
        /// What is wrong with it.
        why: NumberError,
    },
    /// A word out of a small set was asked for, and another came.
    #[error("{name} `{word}` is none of {choices}")]
    BadChoice {
        /// The argument's name in the usage line.
        name: &'static str,
        /// What was typed.
        word: String,
        /// The words that are known.
        choices: &'static str,
    },
    /// An option that the command does not have.
    #[error("there is no option {word}")]
    UnknownOption {
        /// What was typed.
        word: String,
    },
    /// An option that means something only beside another.
    #[error("{option} goes with {needed}")]
    Needs {
        /// The option.
        option: &'static str,
        /// The one that is missing.
        needed: &'static str,
    },
    /// More arguments than the command takes.
    #[error("`{word}` is one argument too many")]
    Extra {
        /// The first of them.
        word: String,
    },
}

/// Arguments that a command cannot use, with its usage line.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{problem}")]
pub struct UsageError {
    /// What is wrong.
    pub problem: ArgProblem,
    /// The command's usage line.
    pub usage: String,
}

impl Failure for UsageError {
    fn kind(&self) -> &'static str {
        "usage"
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some(format!("usage: {}", self.usage).into())
    }
}

/// A job outlived its script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("it was still running when the script ended")]
pub struct StillRunning;

impl Failure for StillRunning {
    fn kind(&self) -> &'static str {
        "still_running"
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some("end the script with `wait`".into())
    }
}

impl Failure for OutOfMemory {
    fn kind(&self) -> &'static str {
        "out_of_memory"
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some("`mem` shows what is used".into())
    }
}
