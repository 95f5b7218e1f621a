//! Runs commands: a line or a whole script, in the foreground or as jobs.

use super::args::Args;
use super::command::{Command, System};
use super::error::{CommandError, NoSuchCommand, On};
use super::jobs::{Job, JobKind};
use super::out::{LineSink, Out};
use super::parse::{Parsed, parse};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;

/// Runs a line or a script on a system, with its output to `sink`; commands after a failed one still run.
///
/// Returns true when every command did what it was to do. Background jobs count when they end: ask
/// [`Jobs::any_failed`](super::Jobs::any_failed) after waiting for them.
pub fn run<S: System>(system: &Arc<S>, text: &str, sink: &Arc<dyn LineSink>) -> bool {
    match parse(text).on(|| "command line") {
        Ok(commands) => {
            let live = commands.into_iter().take_while(|_| !system.has_ended());
            let results = live.map(|c| run_one(system, c, sink));
            results.filter(|ok| !ok).count() == 0
        }
        Err(error) => {
            error.print(&Out::new(sink.clone(), text.contains("--json"), None));
            false
        }
    }
}

/// Runs a script as [`run`], then looks at its jobs: one that is still running is a failure of the script, named.
pub fn run_script<S: System>(system: &Arc<S>, text: &str, sink: &Arc<dyn LineSink>) -> bool {
    let ok = run(system, text, sink);
    let left = match system.jobs().list() {
        Ok(jobs) => jobs,
        Err(_) => return false,
    };
    let mut all_ended = true;
    for job in left.iter().filter(|j| !j.is_done()) {
        all_ended = false;
        let error = CommandError::new(
            format!("job {}: {}", job.id, job.label),
            super::error::StillRunning,
        );
        error.print(&Out::new(sink.clone(), text.contains("--json"), None));
    }
    ok && all_ended && !system.jobs().any_failed()
}

fn run_one<S: System>(system: &Arc<S>, parsed: Parsed, sink: &Arc<dyn LineSink>) -> bool {
    let out = Out::new(sink.clone(), parsed.json, None);
    let result = match parsed.background {
        true => start(system, parsed, sink, &out),
        false => call(system, parsed, &out),
    };
    report(result, &out)
}

fn report(result: Result<(), CommandError>, out: &Out) -> bool {
    if let Err(error) = &result {
        error.print(out);
    }
    result.is_ok()
}

fn find<S: System>(system: &S, name: &str) -> Result<&'static Command<S>, CommandError> {
    system
        .commands()
        .iter()
        .find(|c| c.name == name)
        .ok_or(NoSuchCommand)
        .on(|| name)
}

fn call<S: System>(system: &Arc<S>, parsed: Parsed, out: &Out) -> Result<(), CommandError> {
    let mut words = parsed.words.into_iter();
    let command = find(&**system, &words.next().unwrap_or_default())?;
    mm::mem::check_headroom().on(|| command.name)?;
    (command.run)(
        system,
        &mut Args::new(command.name, command.usage(), words),
        out,
    )
}

/// Starts a command as a job and prints `[J]`.
fn start<S: System>(
    system: &Arc<S>,
    parsed: Parsed,
    sink: &Arc<dyn LineSink>,
    out: &Out,
) -> Result<(), CommandError> {
    let what = parsed.source.clone();
    find(&**system, parsed.words.first().map_or("", String::as_str))?;
    let job = system
        .jobs()
        .begin(JobKind::Command, what.clone())
        .on(|| what.as_str())?;
    out.say(vec![("job", job.id.into())], format_args!("[{}]", job.id));
    let work = job_body(system.clone(), job.clone(), parsed, sink.clone());
    let spawned = system.spawn(&format!("job {}", job.id), work);
    if spawned.is_err() {
        system.jobs().finish(&job, false);
    }
    spawned.on(|| what)
}

fn job_body<S: System>(
    system: Arc<S>,
    job: Arc<Job>,
    parsed: Parsed,
    sink: Arc<dyn LineSink>,
) -> Box<dyn FnOnce() + Send> {
    Box::new(move || {
        let out = Out::new(sink, parsed.json, Some(job.id));
        let ok = report(call(&system, parsed, &out), &out);
        system.jobs().finish(&job, ok);
    })
}
