//! The command line and the exit codes.

use std::path::Path;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use tests::driver::{Ran, command, holdfast, run};

use crate::Check;

/// The cases.
pub const CASES: &[(&str, Check)] = &[
    ("usage::a_wrong_word_ends_with_2", a_wrong_word),
    (
        "usage::a_missing_pmem_file_without_a_size_ends_with_5_and_says_what_to_do",
        a_missing_file,
    ),
    (
        "usage::qemu_without_words_from_the_kernel_ends_with_5",
        qemu_refuses,
    ),
    ("usage::a_machine_that_never_ends_ends_with_4", never_ends),
    ("usage::qemu_dies_with_a_driver_that_is_killed", qemu_dies),
    ("usage::a_run_leaves_no_scratch_file_behind", no_leftovers),
];

fn expect(ran: &Ran, code: i32, part: &str) -> Result<(), Failed> {
    match ran.code == Some(code) && ran.stderr.contains(part) && ran.stdout.is_empty() {
        true => Ok(()),
        false => Err(format!("wanted code {code} and {part:?}: {ran:?}").into()),
    }
}

fn a_wrong_word() -> Result<(), Failed> {
    expect(
        &holdfast(&["exec", "nfit", "--memory", "12X"])?,
        2,
        "a size is a number",
    )?;
    expect(&holdfast(&["frobnicate"])?, 2, "frobnicate")
}

fn a_missing_file() -> Result<(), Failed> {
    expect(
        &holdfast(&["--pmem", "/nonexistent/a.img", "exec", "nfit"])?,
        5,
        "size=1G",
    )
}

fn qemu_refuses() -> Result<(), Failed> {
    expect(
        &holdfast(&["exec", "nfit", "--", "-no-such-option"])?,
        5,
        "QEMU ended",
    )
}

fn never_ends() -> Result<(), Failed> {
    expect(
        &holdfast(&["--timeout", "500ms", "exec", "nfit", "--", "-S"])?,
        4,
        "time ran out",
    )
}

/// Kills the driver in the way that leaves it no last word, while the machine stands still.
fn qemu_dies() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let pid_file = directory.path().join("pid");
    let words = ["exec", "nfit", "--", "-S", "-pidfile"];
    let mut driver = command(&words).arg(&pid_file).spawn()?;
    let read_pid = || std::fs::read_to_string(&pid_file).is_ok_and(|pid| pid.ends_with('\n'));
    let started = within(Duration::from_secs(30), read_pid);
    driver.kill()?;
    driver.wait()?;
    let process = Path::new("/proc").join(std::fs::read_to_string(&pid_file)?.trim());
    match started && within(Duration::from_secs(5), || !process.exists()) {
        true => Ok(()),
        false => Err(format!("{} lives on", process.display()).into()),
    }
}

fn within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

fn no_leftovers() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let mut command = command(&["--timeout", "1s", "exec", "nfit", "--", "-S"]);
    command.env("TMPDIR", directory.path());
    expect(&run(command)?, 4, "time ran out")?;
    match std::fs::read_dir(directory.path())?.next() {
        None => Ok(()),
        Some(left) => Err(format!("left behind: {:?}", left?.path()).into()),
    }
}
