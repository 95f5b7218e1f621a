//! The real `holdfast` program, run as a user runs it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use boot::kernel::{target_directory, workspace};

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

/// The program's path; cargo builds it with the workspace's default members.
pub fn program() -> PathBuf {
    target_directory().join("debug/holdfast")
}

/// Runs the program with the given words and nothing on standard input.
///
/// # Errors
/// When it does not start.
pub fn holdfast(words: &[&str]) -> std::io::Result<Ran> {
    let mut command = Command::new(program());
    command
        .args(words)
        .stdin(Stdio::null())
        .current_dir(workspace());
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
/// As [`holdfast`].
pub fn exec(options: &[&str], script: &str) -> std::io::Result<Ran> {
    holdfast(&[options, &["exec", script]].concat())
}
