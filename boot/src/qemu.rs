//! A running QEMU: its output with a deadline, its end with a meaning. Dropping it kills it.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Instant;

use protocol::exit::Exit;

use crate::machine::{Backing, Machine};
use crate::packages::{InstallError, Program};
use crate::spawn::spawn_bound;

/// A running QEMU.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    messages: Receiver<Message>,
    sender: Sender<Message>,
    machine: Machine, // keeps the open files that the process has inherited
    _locks: Vec<File>,
}

/// What the threads around the process tell its owner.
#[derive(Debug)]
enum Message {
    Output(Vec<u8>),
    Closed,
    Leave,
}

/// Makes [`Qemu::next`] return [`Event::Left`], from any thread.
#[derive(Clone, Debug)]
pub struct Leaver(Sender<Message>);

impl Leaver {
    /// The user wants to leave.
    pub fn leave(&self) {
        let _ = self.0.send(Message::Leave); // nobody listens any more: the machine has ended
    }
}

/// Why QEMU does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It is not there and was not installed.
    #[error(transparent)]
    Missing(#[from] InstallError),
    /// The system refused to start it.
    #[error("QEMU does not start: {0}")]
    Spawn(#[from] io::Error),
    /// A file that is to be persistent memory is used by another machine, or by a command on it.
    #[error("{file}: in use by another holdfast", file = file.display())]
    InUse {
        /// The file.
        file: PathBuf,
    },
}

/// What comes next from a machine.
#[derive(Debug)]
pub enum Event {
    /// Bytes from the first serial port.
    Output(Vec<u8>),
    /// The machine ended, and all of its output was seen.
    Ended(End),
    /// The deadline passed first.
    TimedOut,
    /// A [`Leaver`] was used.
    Left,
}

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By the kernel's own word.
    Exit(Exit),
    /// It reset itself: a triple fault.
    Reset,
    /// QEMU failed or was killed; it has told why on standard error.
    Qemu(ExitStatus),
}

impl Qemu {
    /// Starts a machine; installs QEMU first if need be.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(mut machine: Machine) -> Result<Self, StartError> {
        let program = Program::Qemu.find_or_install()?;
        let locks = lock(&machine)?;
        let mut command = Command::new(program);
        command.args(machine.arguments());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn_bound(command, machine.inherited())?;
        machine.control = None; // QEMU's alone now, so that the other end sees its end
        let stdout = child
            .stdout
            .take()
            .ok_or(io::Error::from(io::ErrorKind::BrokenPipe))?;
        let (sender, messages) = channel();
        pump(stdout, sender.clone());
        Ok(Self {
            child,
            messages,
            sender,
            machine,
            _locks: locks,
        })
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The first serial port's input; `None` the second time.
    pub fn take_input(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Lets another thread end [`Qemu::next`].
    pub fn leaver(&self) -> Leaver {
        Leaver(self.sender.clone())
    }

    /// Waits for the next event, until the deadline if there is one.
    ///
    /// # Errors
    /// When the system cannot tell how the process ended.
    pub fn next(&mut self, deadline: Option<Instant>) -> io::Result<Event> {
        let received = match deadline {
            Some(at) => self
                .messages
                .recv_timeout(at.saturating_duration_since(Instant::now())),
            None => self
                .messages
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(Message::Output(bytes)) => Ok(Event::Output(bytes)),
            Ok(Message::Leave) => Ok(Event::Left),
            Err(RecvTimeoutError::Timeout) => Ok(Event::TimedOut),
            Ok(Message::Closed) | Err(RecvTimeoutError::Disconnected) => {
                Ok(Event::Ended(End::of(self.child.wait()?)))
            }
        }
    }

    /// Ends the process at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Locks the files behind the machine's persistent memory, for as long as the answer lives: QEMU itself locks none.
fn lock(machine: &Machine) -> Result<Vec<File>, StartError> {
    let files = machine
        .nvdimms
        .iter()
        .filter_map(|nvdimm| match &nvdimm.backing {
            Backing::File(file) => Some(file),
            Backing::Scratch(_) => None,
        });
    files.map(|file| lock_file(file)).collect()
}

fn lock_file(path: &Path) -> Result<File, StartError> {
    let file = File::open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::InUse { file: path.into() }),
        Err(TryLockError::Error(why)) => Err(why.into()),
    }
}

impl End {
    fn of(status: ExitStatus) -> Self {
        match status.code() {
            Some(0) => Self::Reset,
            Some(code) => Exit::from_qemu_status(code).map_or(Self::Qemu(status), Self::Exit),
            None => Self::Qemu(status),
        }
    }
}

/// Reads until the end, in a thread of its own.
fn pump(mut from: impl Read + Send + 'static, to: Sender<Message>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if to.send(Message::Output(buffer[..n].to_vec())).is_err() {
                return;
            }
        }
        let _ = to.send(Message::Closed); // the owner may be gone
    });
}

/// Writes all of it and lets it go out at once.
///
/// # Errors
/// As [`Write::write_all`].
pub fn write_now(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}
