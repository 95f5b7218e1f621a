//! The command line of `cargo run`.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::bench::Bench;
use crate::host_fs::FsCommand;
use crate::image::{self, ImageKind};
use crate::kernel::{self, Profile};
use crate::options::{MachineOptions, Timeout};
use crate::outcome::Outcome;
use crate::say;
use crate::session::{Session, Task};

/// How long commands that nobody watches may take.
const UNWATCHED: Duration = Duration::from_secs(120);

const AFTER_HELP: &str = "\
Words after `--` go to QEMU as they are. Sizes take K, M, G, T.
Exit codes: 0 all well; 1 a guest command failed; 2 usage; 3 the guest panicked or faulted;
4 time ran out; 5 the host could not set up.";

/// Boots Holdfast in QEMU: without a command the tour, then the shell.
#[derive(Debug, Parser)]
#[command(name = "holdfast", after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    machine: MachineOptions,
    #[command(flatten)]
    run: RunOptions,
    #[command(subcommand)]
    command: Option<Command>,
    /// The words after the first `--`.
    #[arg(skip)]
    raw: Vec<OsString>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Run")]
struct RunOptions {
    /// The longest a run may take: 90, 90s, 2m, 500ms [default: 120s for exec, none with a terminal].
    #[arg(long, global = true, value_name = "T")]
    timeout: Option<Timeout>,
    /// Waits for a debugger and prints the command to attach it.
    #[arg(long, global = true)]
    gdb: bool,
    /// The kernel's log level: off, error, warn, info, debug, trace.
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn",
          value_parser = ["off", "error", "warn", "info", "debug", "trace"])]
    log: String,
    /// With exec: records what happens to pages and writes it to F, one JSON object a line.
    #[arg(long, global = true, value_name = "F")]
    trace: Option<PathBuf>,
    /// An optimised kernel; the default.
    #[arg(long, global = true, conflicts_with = "debug")]
    release: bool,
    /// A kernel for a debugger, with more checks.
    #[arg(long, global = true)]
    debug: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boots to the shell.
    Shell,
    /// Boots, runs shell commands, prints their output alone.
    Exec(Exec),
    /// Writes bootable disk images.
    Image(Image),
    /// Runs the guest's benchmarks: with --icount in instructions, else in time.
    Bench(Bench),
    /// Works on the file system in a pmem image, without a machine.
    #[command(subcommand)]
    Fs(FsCommand),
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Exec {
    /// The commands, separated by `;`.
    commands: Option<String>,
    /// A file with the commands, one a line; `-` is standard input.
    #[arg(long, value_name = "F")]
    file: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
struct Image {
    /// For the BIOS.
    #[arg(long, value_name = "F")]
    bios: Option<PathBuf>,
    /// For UEFI.
    #[arg(long, value_name = "F")]
    uefi: Option<PathBuf>,
}

impl Cli {
    /// Reads a command line, the program's name first. Ends the process with code 2 when it is wrong, with 0 when it asked for help.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Self {
        let (ours, raw) = split(words);
        let cli = Self {
            raw,
            ..Self::parse_from(ours)
        };
        cli.check().unwrap_or_else(|e| e.exit());
        cli
    }

    /// Refuses what the definition of the command line cannot tell.
    fn check(&self) -> Result<(), clap::Error> {
        let exec = matches!(self.command, Some(Command::Exec(_)));
        if exec || self.run.trace.is_none() {
            return Ok(());
        }
        Err(Self::command().error(ErrorKind::MissingRequiredArgument, "--trace needs exec"))
    }

    /// Does what it says.
    ///
    /// # Errors
    /// When the host cannot set up: [`Outcome::Setup`].
    pub fn run(&self) -> Result<Outcome> {
        match &self.command {
            None => self.boot(Task::Tour),
            Some(Command::Shell) => self.boot(Task::Shell),
            Some(Command::Exec(exec)) => self.boot(Task::Exec(exec.script()?)),
            Some(Command::Image(image)) => image.write(self.profile()),
            Some(Command::Bench(bench)) => bench.run(&self.session(Task::Exec(bench.script()))),
            Some(Command::Fs(fs)) => fs.run(),
        }
    }

    fn profile(&self) -> Profile {
        if self.run.debug {
            Profile::Debug
        } else {
            Profile::Release
        }
    }

    fn boot(&self, task: Task) -> Result<Outcome> {
        self.session(task).run()
    }

    fn session(&self, task: Task) -> Session {
        let limit = self
            .run
            .timeout
            .map(|t| t.0)
            .or(matches!(task, Task::Exec(_)).then_some(UNWATCHED));
        Session {
            options: self.machine.clone(),
            task,
            profile: self.profile(),
            limit,
            gdb: self.run.gdb,
            log: self.run.log.clone(),
            trace: self.run.trace.clone(),
            raw: self.raw.clone(),
        }
    }
}

/// The words before the first `--`, and those after it.
fn split(words: impl IntoIterator<Item = OsString>) -> (Vec<OsString>, Vec<OsString>) {
    let mut words = words.into_iter();
    let ours = words.by_ref().take_while(|word| word != "--").collect();
    (ours, words.collect())
}

impl Exec {
    fn script(&self) -> Result<String> {
        match (&self.commands, &self.file) {
            (Some(commands), _) => Ok(commands.clone()),
            (None, Some(file)) => read_script(file).with_context(|| file.display().to_string()),
            (None, None) => Ok(String::new()),
        }
    }
}

fn read_script(file: &Path) -> std::io::Result<String> {
    if file != Path::new("-") {
        return std::fs::read_to_string(file);
    }
    let mut script = String::new();
    std::io::stdin().read_to_string(&mut script)?;
    Ok(script)
}

impl Image {
    fn write(&self, profile: Profile) -> Result<Outcome> {
        let elf = kernel::build(kernel::Program::Kernel, profile)?;
        for (kind, file) in [(ImageKind::Bios, &self.bios), (ImageKind::Uefi, &self.uefi)] {
            if let Some(file) = file {
                image::write(kind, &elf, file)?;
                say!("wrote {}", file.display());
            }
        }
        Ok(Outcome::Success)
    }
}

#[cfg(test)]
mod tests {
    use super::{Cli, Command};
    use clap::{CommandFactory as _, Parser};

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn machine_options_may_stand_on_either_side_of_the_command() {
        for words in [
            ["holdfast", "--cpus", "2", "exec", "nfit"],
            ["holdfast", "exec", "nfit", "--cpus", "2"],
        ] {
            let cli = Cli::try_parse_from(words).unwrap();
            assert_eq!(cli.machine.cpus, 2);
            assert!(matches!(cli.command, Some(Command::Exec(_))));
        }
    }

    #[test]
    fn a_trace_is_of_a_script() {
        let check = |words: &str| Cli::try_parse_from(words.split(' ')).unwrap().check();
        assert!(check("holdfast --trace f exec nfit").is_ok());
        assert!(check("holdfast exec nfit --trace f").is_ok());
        assert!(check("holdfast --trace f shell").is_err());
    }

    #[test]
    fn words_after_the_dashes_are_raw() {
        let cli = Cli::read(["holdfast", "exec", "pmem", "--", "-d", "int", "--"].map(Into::into));
        assert_eq!(cli.raw, ["-d", "int", "--"]);
    }

    #[test]
    fn contradictions_are_refused() {
        for words in [
            "--no-pmem --pmem a",
            "--no-pmem --pmem-size 1G",
            "--icount --cpus 2",
            "exec",
            "exec a --file b",
            "image",
        ] {
            let words = format!("holdfast {words}");
            assert!(Cli::try_parse_from(words.split(' ')).is_err(), "{words}");
        }
    }
}
