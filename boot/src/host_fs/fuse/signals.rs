//! Signals that end a mount.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{SigSet, Signal};

use crate::say;

/// How often a busy mount is tried before its user is told.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// The signals, blocked in this thread and in those that it makes.
pub struct Blocked(SigSet);

impl Blocked {
    /// Blocks them.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block().context("signals")?;
        Ok(Self(set))
    }

    /// From now on a signal unmounts what is on `at`; the second one, if it was busy, detaches it.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn unmount(self, at: PathBuf) -> Result<()> {
        let wait = move || {
            let mut flags = MntFlags::empty();
            while self.0.wait().is_ok() {
                if let Err(error) = unmount(&at, flags) {
                    say!(
                        "{}: {error}; close what is open there, or send the signal again to detach it",
                        at.display()
                    );
                }
                flags = MntFlags::MNT_DETACH;
            }
        };
        let thread = thread::Builder::new().name("signals".into());
        thread.spawn(wait).context("a thread")?;
        Ok(())
    }
}

/// Unmounts; waits a little for who is just leaving: a process that was forked a moment ago has files open until it becomes another.
fn unmount(at: &Path, flags: MntFlags) -> nix::Result<()> {
    for _ in 0..TRIES {
        match unmount_now(at, flags) {
            Err(Errno::EBUSY) => thread::sleep(PAUSE),
            done => return done,
        }
    }
    Err(Errno::EBUSY)
}

fn unmount_now(at: &Path, flags: MntFlags) -> nix::Result<()> {
    match umount2(at, flags) {
        // Not root: the helper that mounted it may.
        Err(Errno::EPERM) => helper(at, flags),
        done => done,
    }
}

fn helper(at: &Path, flags: MntFlags) -> nix::Result<()> {
    let how = if flags.is_empty() { "-u" } else { "-uz" };
    let ran = Command::new("fusermount3").arg(how).arg(at).status();
    match ran {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(Errno::EBUSY),
        Err(_) => Err(Errno::EPERM),
    }
}
