//! Starting a process that cannot outlive this one.
//!
//! Linux sends the parent-death signal when the *thread* that started the child ends, so one thread, which lives as long as the
//! process, starts them all. A parent that dies before the child has asked for the signal is noticed by the child itself.
#![expect(unsafe_code, reason = "code between fork and exec is unsafe to run")]

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, LazyLock, Mutex};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

struct Order {
    command: Command,
    reply: Sender<io::Result<Child>>,
}

/// Starts a process that inherits the given open files and is killed when this process ends, however it ends (on Linux; elsewhere
/// only when its owner kills it).
///
/// # Errors
/// As [`Command::spawn`].
pub fn spawn_bound(mut command: Command, inherited: Vec<Arc<OwnedFd>>) -> io::Result<Child> {
    static SPAWNER: LazyLock<Mutex<Sender<Order>>> = LazyLock::new(|| Mutex::new(start_spawner()));
    let parent = nix::unistd::getpid();
    let prepare = move || {
        die_with(parent)?;
        inherited
            .iter()
            .try_for_each(|file| fcntl(file, FcntlArg::F_SETFD(FdFlag::empty())).map(drop))?;
        Ok(())
    };
    // SAFETY: between fork and exec only prctl, getppid and fcntl run: async-signal-safe, no allocation, no lock.
    unsafe { command.pre_exec(prepare) };
    let (reply, answer) = channel();
    let spawner = SPAWNER
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
        .clone();
    let gone = || io::Error::other("the thread that starts processes has ended");
    spawner.send(Order { command, reply }).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

fn start_spawner() -> Sender<Order> {
    let (orders, inbox) = channel::<Order>();
    std::thread::spawn(move || {
        for mut order in inbox {
            // A caller that no longer waits gets no child: the dropped reply would leave it running.
            if let Err(unsent) = order.reply.send(order.command.spawn()) {
                let _ = unsent.0.map(|mut child| child.kill());
            }
        }
    });
    orders
}

#[cfg(target_os = "linux")]
fn die_with(parent: nix::unistd::Pid) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    match nix::unistd::getppid() == parent {
        true => Ok(()),
        false => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with(_: nix::unistd::Pid) -> io::Result<()> {
    Ok(())
}
