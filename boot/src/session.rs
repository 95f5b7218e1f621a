//! One run of the kernel: from the options to an exit code.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write, stderr, stdin, stdout};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use protocol::cmdline::{CommandLine, Mode};
use protocol::exit::Exit;
use protocol::fw_cfg;

use crate::console::Sorter;
use crate::image::{self, ImageKind};
use crate::kernel::{self, Profile};
use crate::machine::{Backing, Firmware, FwCfg, Machine};
use crate::options::{Boot, MachineOptions};
use crate::outcome::Outcome;
use crate::packages::{self, Program};
use crate::qemu::{End, Event, Qemu, write_now};
use crate::say;
use crate::scratch::Scratch;
use crate::terminal::{Question, RawTerminal, pass_on};

/// Where a debugger attaches.
const GDB_PORT: u16 = 1234;

/// What the kernel is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// The tour; then the shell where standard input is a terminal.
    Tour,
    /// The shell.
    Shell,
    /// The commands of this script.
    Exec(String),
}

/// One run.
#[derive(Clone, Debug)]
pub struct Session {
    /// The machine.
    pub options: MachineOptions,
    /// What it does.
    pub task: Task,
    /// The kernel.
    pub profile: Profile,
    /// The longest it may take, from QEMU's start on.
    pub limit: Option<Duration>,
    /// Whether it waits for a debugger.
    pub gdb: bool,
    /// The kernel's log level.
    pub log: String,
    /// Where the event trace of a script goes.
    pub trace: Option<PathBuf>,
    /// The user's own words to QEMU.
    pub raw: Vec<OsString>,
}

impl Session {
    /// Runs it to its end.
    ///
    /// # Errors
    /// When the host cannot set up: [`Outcome::Setup`].
    pub fn run(&self) -> Result<Outcome> {
        self.run_into(stdout())
    }

    /// As [`Session::run`], but a script's output goes to `output`.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_into(&self, output: impl Write) -> Result<Outcome> {
        let qemu = self.start()?;
        let deadline = self
            .limit
            .filter(|_| !self.gdb)
            .map(|limit| Instant::now() + limit);
        match self.task {
            Task::Exec(_) => exec(qemu, deadline, output, self.trace_file()?),
            Task::Shell => interact(qemu, deadline),
            Task::Tour if stdin().is_terminal() => interact(qemu, deadline),
            Task::Tour => show(qemu, deadline, |bytes| bytes),
        }
    }

    /// Starts the machine with its task; whoever has it reads its output, and may end it at any moment.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn start(&self) -> Result<Qemu> {
        let elf = kernel::build(kernel::Program::Kernel, self.profile)?;
        let mut machine = self.options.prepare(firmware(self.options.boot, &elf)?)?;
        machine.raw.clone_from(&self.raw);
        self.hand_over(&mut machine)?;
        if self.gdb {
            machine.gdb = Some(GDB_PORT);
            say!(
                "the machine waits; type: gdb {} -ex 'target remote :{GDB_PORT}'",
                elf.display()
            );
        }
        Ok(Qemu::start(machine)?)
    }

    /// The file for the event trace, empty.
    fn trace_file(&self) -> Result<Option<BufWriter<File>>> {
        let open = |path: &PathBuf| {
            let file = File::create(path).with_context(|| path.display().to_string());
            file.map(BufWriter::new)
        };
        self.trace.as_ref().map(open).transpose()
    }

    /// Puts the command line and the script into the machine's fw_cfg.
    fn hand_over(&self, machine: &mut Machine) -> Result<()> {
        let mode = match &self.task {
            Task::Tour => Mode::Tour,
            Task::Shell => Mode::Shell,
            Task::Exec(_) => Mode::Exec,
        };
        let line = CommandLine {
            mode,
            then_shell: stdin().is_terminal(),
            log: &self.log,
            trace: self.trace.is_some(),
        };
        add_file(machine, fw_cfg::CMDLINE, &line.to_string())?;
        match &self.task {
            Task::Exec(script) => add_file(machine, fw_cfg::SCRIPT, &format!("{script}\n")),
            _ => Ok(()),
        }
    }
}

fn add_file(machine: &mut Machine, name: &'static str, text: &str) -> Result<()> {
    let contents = Backing::Scratch(Scratch::with_bytes(text.as_bytes())?);
    machine.fw_cfg.push(FwCfg { name, contents });
    Ok(())
}

/// Makes what the machine starts from.
///
/// # Errors
/// When an image cannot be built or OVMF is missing.
pub fn firmware(boot: Boot, elf: &Path) -> Result<Firmware> {
    match boot {
        Boot::Pvh => Ok(Firmware::Pvh {
            kernel: elf.to_owned(),
        }),
        Boot::Bios => Ok(Firmware::Bios {
            image: image::for_boot(ImageKind::Bios, elf)?,
        }),
        Boot::Uefi => {
            Program::Ovmf.find_or_install()?;
            let (code, variables) =
                packages::find_ovmf().context("OVMF vanished while it was looked for")?;
            let variables = Scratch::with_bytes(&std::fs::read(variables)?)?;
            Ok(Firmware::Uefi {
                image: image::for_boot(ImageKind::Uefi, elf)?,
                code,
                variables,
            })
        }
    }
}

/// Shows all that the guest prints, as `filter` leaves it.
fn show(
    mut qemu: Qemu,
    deadline: Option<Instant>,
    mut filter: impl FnMut(Vec<u8>) -> Vec<u8>,
) -> Result<Outcome> {
    loop {
        match qemu.next(deadline)? {
            Event::Output(bytes) => write_now(&mut stdout(), &filter(bytes))?,
            Event::Ended(end) => return Ok(ended(end)),
            Event::Left => return Ok(Outcome::Success),
            Event::TimedOut => return Ok(timed_out()),
        }
    }
}

/// Shows all that the guest prints, and gives it the keyboard, or what stands in its place.
fn interact(qemu: Qemu, deadline: Option<Instant>) -> Result<Outcome> {
    match RawTerminal::enter() {
        Some(_raw) => {
            say!("Ctrl-A X leaves");
            type_at(qemu, deadline)
        }
        None => feed(qemu, deadline),
    }
}

fn type_at(mut qemu: Qemu, deadline: Option<Instant>) -> Result<Outcome> {
    if let Some(input) = qemu.take_input() {
        let leaver = qemu.leaver();
        std::thread::spawn(move || pass_on(input, &leaver));
    }
    show(qemu, deadline, |bytes| bytes)
}

/// Passes standard input on once the shell is there to read it: what comes before, the firmware and the port's reset may eat.
fn feed(mut qemu: Qemu, deadline: Option<Instant>) -> Result<Outcome> {
    let (mut input, leaver) = (qemu.take_input(), qemu.leaver());
    let mut question = Question::default();
    show(qemu, deadline, move |bytes| {
        let rest = question.take_out(bytes);
        if question.was_asked()
            && let Some(input) = input.take()
        {
            let leaver = leaver.clone();
            std::thread::spawn(move || pass_on(input, &leaver));
        }
        rest
    })
}

/// Passes on the commands' output alone; everything else goes to standard error.
fn exec(
    mut qemu: Qemu,
    deadline: Option<Instant>,
    output: impl Write,
    trace: Option<BufWriter<File>>,
) -> Result<Outcome> {
    let mut sorter = Sorter::new(output, stderr()).with_trace(trace);
    let end = loop {
        match qemu.next(deadline)? {
            Event::Output(bytes) => sorter.take(&bytes)?,
            Event::Ended(end) => break end,
            Event::TimedOut | Event::Left => {
                sorter.finish()?;
                return Ok(timed_out());
            }
        }
    };
    let status = sorter.finish()?;
    match (ended(end), status) {
        (Outcome::Success, Some(0)) => Ok(Outcome::Success),
        (Outcome::Success | Outcome::GuestFailed, Some(_)) => Ok(Outcome::GuestFailed),
        (Outcome::Success | Outcome::GuestFailed, None) => {
            say!("the kernel ended before the commands did");
            Ok(Outcome::Crashed)
        }
        (outcome, _) => Ok(outcome),
    }
}

fn timed_out() -> Outcome {
    say!("time ran out (--timeout T gives it more)");
    Outcome::TimedOut
}

fn ended(end: End) -> Outcome {
    match end {
        End::Exit(Exit::Success) => Outcome::Success,
        End::Exit(Exit::Failed) => Outcome::GuestFailed,
        End::Exit(Exit::Panicked) => {
            say!("the kernel panicked");
            Outcome::Crashed
        }
        End::Reset => {
            say!("the machine reset itself: a triple fault");
            Outcome::Crashed
        }
        End::Qemu(status) => {
            say!("QEMU ended without the kernel's word: {status}");
            Outcome::Setup
        }
    }
}
