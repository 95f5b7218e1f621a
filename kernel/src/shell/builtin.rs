//! The commands that need nothing but the shell itself.

use super::args::Args;
use super::command::{Command, System};
use super::error::{CommandError, Failure, NoSuchCommand, On};
use super::jobs::{Job, JobKind, JobState};
use super::out::{Out, Table, Value};
use alloc::borrow::Cow;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use mm::sync::{Wait, WaitError};
use thiserror::Error;

/// `help [CMD]`.
#[must_use]
pub const fn help<S: System>() -> Command<S> {
    Command {
        name: "help",
        args: "[CMD]",
        summary: "lists the commands, or explains one",
        help: "Commands are separated by `;`. `CMD &` runs in the background. Every command takes --json.",
        run: run_help,
    }
}

fn run_help<S: System>(system: &Arc<S>, args: &mut Args, out: &Out) -> Result<(), CommandError> {
    let name = args.optional();
    args.end()?;
    match name {
        Some(name) => explain(&**system, &name, out),
        None => {
            list_commands(&**system, out);
            Ok(())
        }
    }
}

fn list_commands<S: System>(system: &S, out: &Out) {
    let mut table = Table::new(&["usage", "summary"], "no commands");
    for c in system.commands() {
        table.row([c.usage().into(), c.summary.into()]);
    }
    out.table(table);
}

fn explain<S: System>(system: &S, name: &str, out: &Out) -> Result<(), CommandError> {
    let command = system
        .commands()
        .iter()
        .find(|c| c.name == name)
        .ok_or(NoSuchCommand)
        .on(|| name)?;
    let fields = vec![
        ("usage", command.usage().into()),
        ("summary", command.summary.into()),
        ("help", command.help.into()),
    ];
    out.say(
        fields,
        format_args!("{}: {}\n{}", command.usage(), command.summary, command.help),
    );
    Ok(())
}

/// `jobs`.
#[must_use]
pub const fn jobs<S: System>() -> Command<S> {
    Command {
        name: "jobs",
        args: "",
        summary: "lists background commands and transfers that nobody has waited for",
        help: "",
        run: run_jobs,
    }
}

fn run_jobs<S: System>(system: &Arc<S>, args: &mut Args, out: &Out) -> Result<(), CommandError> {
    args.end()?;
    let mut table = Table::new(
        &["job", "kind", "state", "elapsed_us", "command"],
        "no jobs",
    );
    for job in system.jobs().list().on(|| "jobs")? {
        table.row(job_row(&job));
    }
    out.table(table);
    Ok(())
}

fn job_row(job: &Job) -> [Value; 5] {
    let label = job.label.clone();
    [
        job.id.into(),
        kind_name(job.kind).into(),
        state_name(job.state()).into(),
        Value::Micros(job.elapsed_us()),
        label.into(),
    ]
}

fn kind_name(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Command => "command",
        JobKind::Dma => "dma",
    }
}

fn state_name(state: JobState) -> &'static str {
    match state {
        JobState::Running => "running",
        JobState::Done { ok: true, .. } => "done",
        JobState::Done { ok: false, .. } => "failed",
    }
}

/// `wait [J]…`.
#[must_use]
pub const fn wait<S: System>() -> Command<S> {
    Command {
        name: "wait",
        args: "[J|D]...",
        summary: "waits for these background commands and transfers, or for all of them",
        help: "Prints each one's end. Its failure was printed when it happened, and counts for the script's status.",
        run: run_wait,
    }
}

/// Why `wait` did not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
enum WaitFailure {
    #[error("there is no such job")]
    NoSuchJob,
    #[error("the wait was interrupted")]
    Interrupted(#[source] WaitError),
}

impl Failure for WaitFailure {
    fn kind(&self) -> &'static str {
        match self {
            WaitFailure::NoSuchJob => "no_such_job",
            WaitFailure::Interrupted(_) => "interrupted",
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some("`jobs` lists them".into())
    }
}

fn run_wait<S: System>(system: &Arc<S>, args: &mut Args, out: &Out) -> Result<(), CommandError> {
    for job in wanted_jobs(&**system, args)? {
        let state = system.jobs().wait(&job, &Wait::forever());
        let state = state
            .map_err(WaitFailure::Interrupted)
            .on(|| format!("wait {}", job.id))?;
        let keys = ["job", "kind", "state", "elapsed_us", "command"];
        let fields = keys.into_iter().zip(job_row(&job)).collect();
        let elapsed = Value::Micros(job.elapsed_us());
        out.say(
            fields,
            format_args!(
                "[{}] {} after {elapsed}: {}",
                job.id,
                state_name(state),
                job.label
            ),
        );
    }
    Ok(())
}

/// The jobs named, or all but those that wait themselves.
fn wanted_jobs<S: System>(system: &S, args: &mut Args) -> Result<Vec<Arc<Job>>, CommandError> {
    let mut wanted = Vec::new();
    while let Some(word) = args.optional() {
        let id = args.converted("J", word, super::number::parse_number)?;
        let job = u32::try_from(id).ok().and_then(|id| system.jobs().find(id));
        wanted.push(
            job.ok_or(WaitFailure::NoSuchJob)
                .on(|| format!("wait {id}"))?,
        );
    }
    if wanted.is_empty() {
        wanted = system.jobs().list().on(|| "wait")?;
        wanted.retain(|j| !is_wait(&j.label));
    }
    Ok(wanted)
}

/// A background `wait` must not wait for itself.
fn is_wait(label: &str) -> bool {
    label.split_whitespace().next() == Some("wait")
}

/// `sleep MS`.
#[must_use]
pub const fn sleep<S: System>() -> Command<S> {
    Command {
        name: "sleep",
        args: "MS",
        summary: "waits that many milliseconds",
        help: "",
        run: run_sleep,
    }
}

fn run_sleep<S: System>(_: &Arc<S>, args: &mut Args, _: &Out) -> Result<(), CommandError> {
    let ms = args.number_up_to("MS", u64::MAX / 1000)?;
    args.end()?;
    mm::sync::sleep_us(ms * 1000);
    Ok(())
}
