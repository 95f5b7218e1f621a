//! Whole scripts on a system without hardware: threads are the host's.

use super::out::tests::Lines;
use super::{Args, Command, CommandError, Jobs, LineSink, Out, System, builtin, run_script};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use mm::mem::OutOfMemory;
use mm::sync::{Wait, WaitQueue};
use std::sync::atomic::{AtomicBool, Ordering};

/// A system with a gate: `pass` waits until `open` was called.
#[derive(Default)]
struct Gate {
    jobs: Jobs,
    open: AtomicBool,
    queue: WaitQueue,
}

const COMMANDS: &[Command<Gate>] = &[
    builtin::help(),
    builtin::jobs(),
    builtin::wait(),
    builtin::sleep(),
    Command {
        name: "pass",
        args: "",
        summary: "waits at the gate",
        help: "",
        run: pass,
    },
    Command {
        name: "open",
        args: "",
        summary: "opens the gate",
        help: "",
        run: open,
    },
    Command {
        name: "echo",
        args: "WORD",
        summary: "says a word",
        help: "Nothing more.",
        run: echo,
    },
];

impl System for Gate {
    fn commands(&self) -> &'static [Command<Self>] {
        COMMANDS
    }

    fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> Result<(), OutOfMemory> {
        let builder = std::thread::Builder::new().name(name.into());
        builder.spawn(work).map(drop).map_err(|_| OutOfMemory)
    }
}

fn pass(gate: &Arc<Gate>, args: &mut Args, out: &Out) -> Result<(), CommandError> {
    args.end()?;
    gate.queue
        .wait_until(|| gate.open.load(Ordering::Acquire), &Wait::forever())
        .unwrap();
    out.say(vec![("passed", true.into())], format_args!("passed"));
    Ok(())
}

fn open(gate: &Arc<Gate>, _: &mut Args, _: &Out) -> Result<(), CommandError> {
    gate.open.store(true, Ordering::Release);
    gate.queue.wake_all();
    Ok(())
}

fn echo(_: &Arc<Gate>, args: &mut Args, out: &Out) -> Result<(), CommandError> {
    let word = args.word("WORD")?;
    args.end()?;
    out.say(vec![("word", word.clone().into())], format_args!("{word}"));
    Ok(())
}

fn script(text: &str) -> (bool, Vec<String>) {
    let lines = Arc::new(Lines::default());
    let sink: Arc<dyn LineSink> = lines.clone();
    let gate = Arc::new(Gate::default());
    let ok = run_script(&gate, text, &sink);
    let printed = lines.0.lock().unwrap().clone();
    gate.open.store(true, Ordering::Release);
    gate.queue.wake_all();
    (ok, printed)
}

fn without_times(lines: &[String]) -> Vec<String> {
    lines
        .iter()
        .map(|l| l.split(" after ").next().unwrap().into())
        .collect()
}

#[test]
fn a_job_runs_behind_the_script_until_it_is_waited_for() {
    let (ok, lines) = script("pass & jobs --json; open; wait; jobs");
    assert!(ok);
    assert_eq!(lines[0], "[1]");
    assert!(
        lines[1].contains(r#""kind":"command","state":"running""#),
        "{lines:?}"
    );
    assert_eq!(
        without_times(&lines[2..]),
        ["[1] passed", "[1] done", "no jobs"]
    );
}

#[test]
fn a_failed_command_does_not_stop_the_script_but_fails_it() {
    let (ok, lines) = script("echo; echo two; nonsense");
    assert!(!ok);
    let errors = [
        "error: echo: WORD is missing (usage: echo WORD)",
        "two",
        "error: nonsense: there is no such command (`help` lists them)",
    ];
    assert_eq!(lines, errors);
}

#[test]
fn errors_in_json_are_objects() {
    let (ok, lines) = script("echo --json");
    assert!(!ok);
    assert_eq!(
        lines,
        [r#"{"error":{"kind":"usage","message":"echo: WORD is missing (usage: echo WORD)"}}"#]
    );
}

#[test]
fn a_syntax_error_runs_nothing() {
    let (ok, lines) = script("echo one; echo 'two");
    assert!(!ok);
    assert_eq!(
        lines,
        ["error: command line: the quote opened at byte 15 is not closed (nothing was run)"]
    );
}

#[test]
fn a_job_that_fails_fails_the_script_though_it_is_waited_for() {
    let (ok, lines) = script("echo & wait");
    assert!(!ok);
    assert_eq!(
        lines[1],
        "[1] error: echo: WORD is missing (usage: echo WORD)"
    );
    assert_eq!(without_times(&lines[2..]), ["[1] failed"]);
}

#[test]
fn a_job_that_outlives_the_script_fails_it() {
    let (ok, lines) = script("pass &");
    assert!(!ok);
    assert_eq!(
        lines[1],
        "error: job 1: pass: it was still running when the script ended (end the script with `wait`)"
    );
}

#[test]
fn waiting_for_an_unknown_job_is_an_error() {
    let (ok, lines) = script("wait 7");
    assert!(!ok);
    assert_eq!(
        lines,
        ["error: wait 7: there is no such job (`jobs` lists them)"]
    );
}

#[test]
fn help_lists_every_command_and_explains_one() {
    let (_, lines) = script("help");
    assert_eq!(lines.len(), COMMANDS.len() + 1);
    let (_, lines) = script("help echo");
    assert_eq!(lines, ["echo WORD: says a word", "Nothing more."]);
}
