//! `cargo run`: boots Holdfast in QEMU.

use std::process::ExitCode;

use boot::cli::Cli;
use boot::outcome::Outcome;
use boot::say;

fn main() -> ExitCode {
    let outcome = Cli::read(std::env::args_os()).run();
    outcome
        .unwrap_or_else(|why| {
            say!("{why:#}");
            Outcome::Setup
        })
        .into()
}
