//! Commands as data: what each is called, takes, does, and how it is explained.

use super::args::Args;
use super::error::CommandError;
use super::jobs::Jobs;
use super::out::Out;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use mm::mem::OutOfMemory;

/// What a command does when it is called: the system it acts on, its arguments, its output.
pub type Run<S> = fn(&Arc<S>, &mut Args, &Out) -> Result<(), CommandError>;

/// One command.
pub struct Command<S: 'static> {
    /// What is typed.
    pub name: &'static str,
    /// Its arguments as the usage line shows them; empty when it takes none.
    pub args: &'static str,
    /// What it shows or does, in one line.
    pub summary: &'static str,
    /// What else there is to know; may be empty.
    pub help: &'static str,
    /// Its function.
    pub run: Run<S>,
}

impl<S> Command<S> {
    /// The usage line.
    #[must_use]
    pub fn usage(&self) -> String {
        match self.args {
            "" => self.name.to_string(),
            args => format!("{} {args}", self.name),
        }
    }
}

/// What commands act on. The shell itself needs only its commands, its jobs and threads.
pub trait System: Send + Sync + Sized + 'static {
    /// The table of commands, in the order of `help`.
    fn commands(&self) -> &'static [Command<Self>];

    /// The jobs.
    fn jobs(&self) -> &Jobs;

    /// A command asked for the end: those after it do not run.
    fn has_ended(&self) -> bool {
        false
    }

    /// Runs `work` in a thread of its own.
    ///
    /// # Errors
    /// No memory for the thread.
    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> Result<(), OutOfMemory>;
}
