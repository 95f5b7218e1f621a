//! The load on the machine: its threads, and what they say.

use super::load::{Load, LoadError, Who};
use super::plan::{Plan, THREADS, acknowledgement, session_dir};
use crate::machine::{Fs, Machine};
use crate::shell::{Failure, Out};
use crate::thread::{self, SpawnError};
use alloc::borrow::Cow;
use alloc::sync::Arc;
use alloc::vec::Vec;
use fs::error::CreateError;
use mm::mem::OutOfMemory;
use mm::sync::now_us;
use thiserror::Error;

/// How it is to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long, if nobody cuts the power.
    pub seconds: u64,
    /// What plans and contents follow from.
    pub seed: u64,
    /// The directory that is made: `/sN`.
    pub session: u32,
}

/// Why the load did not go on.
#[derive(Debug, Error)]
pub enum PowercutError {
    /// No file system is mounted.
    #[error("no file system is mounted")]
    NotMounted,
    /// The directory of the session was not made.
    #[error("the directory of the session: {0}")]
    Session(#[from] CreateError),
    /// An operation failed.
    #[error("thread {thread}, operation {number}: {why}")]
    Load {
        /// The thread.
        thread: u8,
        /// The operation; 0: its directories.
        number: u32,
        /// Why.
        why: LoadError,
    },
    /// No thread.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// No memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// Runs the load on the mounted file system until the time is over, or the first error.
///
/// # Errors
/// See [`PowercutError`].
pub fn run(machine: &Machine, options: Options, out: &Out) -> Result<(), PowercutError> {
    let mounted = machine.mounted().ok_or(PowercutError::NotMounted)?;
    let Options { seed, session, .. } = options;
    mounted.fs.mkdir(&session_dir(session), 0o755)?;
    let until = now_us().saturating_add(options.seconds.saturating_mul(1_000_000));
    let mut threads = Vec::new();
    threads
        .try_reserve_exact(THREADS.into())
        .map_err(|_| OutOfMemory)?;
    for thread in 0..THREADS {
        let (fs, out) = (mounted.fs.clone(), out.clone());
        let who = Who {
            seed,
            session,
            thread,
        };
        threads.push(thread::spawn("load", move || work(fs, who, until, &out))?);
    }
    threads.into_iter().try_for_each(thread::JoinHandle::join)
}

/// One thread: each operation, and after it the word that it is done.
fn work(fs: Arc<Fs>, who: Who, until: u64, out: &Out) -> Result<(), PowercutError> {
    let thread = who.thread;
    let of = |number| {
        move |why| PowercutError::Load {
            thread,
            number,
            why,
        }
    };
    let mut load = Load::begin(fs, who).map_err(of(0))?;
    out.text(&acknowledgement(thread, 0));
    for (number, op) in (1..).zip(Plan::new(who.seed, thread)) {
        if now_us() >= until {
            break;
        }
        load.step(number, op).map_err(of(number))?;
        out.text(&acknowledgement(thread, number));
    }
    Ok(())
}

impl Failure for PowercutError {
    fn kind(&self) -> &'static str {
        match self {
            Self::NotMounted => "not_mounted",
            Self::Session(_) | Self::Load { .. } => "files",
            Self::Spawn(_) | Self::OutOfMemory(_) => "out_of_memory",
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::NotMounted => Some("`mount` it first".into()),
            Self::Session(_) => Some("--session N chooses another directory".into()),
            _ => None,
        }
    }
}
