//! One running test kernel, and the orders to it.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boot::machine::{Firmware, Machine};
use boot::options::MachineOptions;
use boot::qemu::{End, Event, Qemu};
use clap::{Args, FromArgMatches};
use protocol::control::{FromGuest, FromHost, Unescaped, VERSION};

use crate::list::Case;

/// How long a machine may take until its hello.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// How long the console's last bytes are waited for once a case has failed.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The lines of console that a failure shows.
const TAIL: usize = 30;

/// A running test kernel that waits for orders.
#[derive(Debug)]
pub struct Guest {
    qemu: Qemu,
    control: BufReader<UnixStream>,
}

/// How a case failed, for the user to read: the machine is of no more use.
#[derive(Debug, thiserror::Error)]
#[error("{what}{log}{console}")]
pub struct Failure {
    what: String,
    log: String,
    console: String,
}

/// What a case that passed has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// A machine that waits for the next case.
    Usable,
    /// A machine that has panicked, as it had to.
    Spent,
}

/// What the control port brought.
enum Heard {
    Message(String),
    Closed,
    Silence,
}

impl Guest {
    /// Boots the test kernel on a machine that is described in the driver's own words.
    ///
    /// # Errors
    /// When the words are wrong, QEMU does not start, or the kernel does not say hello.
    pub fn boot(firmware: Firmware, machine: &str) -> Result<Self, Failure> {
        let mut machine = describe(firmware, machine)?;
        let (ours, theirs) = UnixStream::pair().map_err(setup)?;
        machine.control = Some(Arc::new(OwnedFd::from(theirs)));
        let qemu = Qemu::start(machine).map_err(setup)?;
        let mut guest = Self {
            qemu,
            control: BufReader::new(ours),
        };
        guest.greet()?;
        Ok(guest)
    }

    fn greet(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + BOOT_LIMIT;
        match self.hear(deadline).map_err(setup)? {
            Heard::Message(line)
                if line.trim_end() == FromGuest::Hello::<&str>(VERSION).to_string() =>
            {
                Ok(())
            }
            Heard::Message(line) => {
                Err(self.fail(format!("the kernel's first words are {line:?}"), Vec::new()))
            }
            Heard::Closed => Err(self.fail_by_end(Vec::new())),
            Heard::Silence => Err(self.fail(
                format!("the kernel said nothing in {BOOT_LIMIT:?}"),
                Vec::new(),
            )),
        }
    }

    /// Runs a case to its end, and tells whether the machine is of further use.
    ///
    /// # Errors
    /// When it fails; then the machine must be dropped.
    pub fn run(&mut self, case: &Case) -> Result<After, Failure> {
        let order = FromHost::Run(case.index);
        writeln!(self.control.get_mut(), "{order}").map_err(setup)?;
        let (deadline, mut log) = (Instant::now() + case.limit, Vec::new());
        loop {
            let line = match self.hear(deadline).map_err(setup)? {
                Heard::Message(line) => line,
                Heard::Closed => return Err(self.fail_by_end(log)),
                Heard::Silence => {
                    return Err(self.fail(format!("no answer in {:?}", case.limit), log));
                }
            };
            match FromGuest::parse(&line) {
                Some(FromGuest::Log(text)) => log.push(Unescaped(text).to_string()),
                Some(FromGuest::Complete(index)) if index == case.index => {
                    return self.completed(case, log);
                }
                Some(FromGuest::Panic(text)) => {
                    return self.panicked(case, Unescaped(text).to_string(), log);
                }
                _ => return Err(self.fail(format!("the kernel said {line:?} out of turn"), log)),
            }
        }
    }

    fn completed(&mut self, case: &Case, log: Vec<String>) -> Result<After, Failure> {
        match case.panics.as_str() {
            "" => Ok(After::Usable),
            text => Err(self.fail(format!("no panic with {text:?}"), log)),
        }
    }

    fn panicked(
        &mut self,
        case: &Case,
        message: String,
        log: Vec<String>,
    ) -> Result<After, Failure> {
        match !case.panics.is_empty() && message.contains(&case.panics) {
            true => Ok(After::Spent),
            false => Err(self.fail(message, log)),
        }
    }

    /// One line from the control port.
    fn hear(&mut self, deadline: Instant) -> io::Result<Heard> {
        let mut line = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Heard::Silence);
            }
            self.control.get_ref().set_read_timeout(Some(left))?;
            match self.control.read_until(b'\n', &mut line) {
                Ok(0) => return Ok(Heard::Closed),
                Ok(_) if line.ends_with(b"\n") => {
                    return Ok(Heard::Message(String::from_utf8_lossy(&line).into_owned()));
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(Heard::Closed),
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn fail_by_end(&mut self, log: Vec<String>) -> Failure {
        self.fail(String::new(), log)
    }

    /// Collects what is left of the machine; without a reason, how it ended is the reason.
    fn fail(&mut self, what: String, log: Vec<String>) -> Failure {
        let (console, end) = self.last_words();
        let what = match end {
            _ if !what.is_empty() => what,
            Some(End::Reset) => "the machine reset itself: a triple fault".to_owned(),
            Some(end) => format!("the machine ended: {end:?}"),
            None => "the control port closed".to_owned(),
        };
        let log = log.iter().map(|line| format!("\n  log: {line}")).collect();
        Failure { what, log, console }
    }

    /// The end of the console's output, and of the machine if it does end.
    fn last_words(&mut self) -> (String, Option<End>) {
        let (mut bytes, deadline) = (Vec::new(), Instant::now() + LAST_WORDS);
        let end = loop {
            match self.qemu.next(Some(deadline)) {
                Ok(Event::Output(more)) => bytes.extend(more),
                Ok(Event::Ended(end)) => break Some(end),
                _ => break None,
            }
        };
        (tail(&bytes), end)
    }
}

fn describe(firmware: Firmware, words: &str) -> Result<Machine, Failure> {
    let command = MachineOptions::augment_args(clap::Command::new("machine").no_binary_name(true));
    let matches = command
        .try_get_matches_from(words.split_whitespace())
        .map_err(setup)?;
    MachineOptions::from_arg_matches(&matches)
        .map_err(setup)?
        .prepare(firmware)
        .map_err(setup)
}

fn tail(console: &[u8]) -> String {
    let text = String::from_utf8_lossy(console);
    let mut lines = VecDeque::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        lines.push_back(line);
        if lines.len() > TAIL {
            lines.pop_front();
        }
    }
    lines
        .iter()
        .map(|line| format!("\n  console: {line}"))
        .collect()
}

fn setup(why: impl std::fmt::Display) -> Failure {
    Failure {
        what: format!("the machine cannot be driven: {why}"),
        log: String::new(),
        console: String::new(),
    }
}
