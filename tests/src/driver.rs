//! The real `holdfast` program, run as a user runs it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use boot::kernel::{cargo, target_directory, workspace};

/// What a run left behind.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
}

/// The program's path.
pub fn program() -> PathBuf {
    target_directory().join("debug/holdfast")
}

/// Builds the program: `cargo test` does that only for a package with tests of its own.
///
/// # Errors
/// When cargo does not run, or fails.
pub fn build() -> std::io::Result<()> {
    let mut command = cargo();
    command.args([
        "build",
        "--package",
        "boot",
        "--bin",
        "holdfast",
        "--target-dir",
    ]);
    match command.arg(target_directory()).status()?.success() {
        true => Ok(()),
        false => Err(std::io::Error::other("the build of the driver failed")),
    }
}

/// The program with the given words, nothing on standard input, and no other changes to what a user has.
pub fn command(words: &[&str]) -> Command {
    let mut command = Command::new(program());
    command
        .args(words)
        .stdin(Stdio::null())
        .current_dir(workspace());
    command
}

/// Runs the program with the given words and nothing on standard input.
///
/// # Errors
/// When it does not start.
pub fn holdfast(words: &[&str]) -> std::io::Result<Ran> {
    run(command(words))
}

/// Runs a command to its end.
///
/// # Errors
/// When it does not start.
pub fn run(mut command: Command) -> std::io::Result<Ran> {
    let output = command.output()?;
    Ok(Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs one script and returns what it left behind.
///
/// # Errors
/// When it does not start.
pub fn exec(options: &[&str], script: &str) -> std::io::Result<Ran> {
    holdfast(&[options, &["exec", script]].concat())
}
