//! The shell's commands over the real machine.

mod attributes;
mod bench;
mod check;
mod cut;
mod dma;
mod errors;
mod failures;
mod files;
mod hardware;
mod maps;
mod names;
mod pages;
mod removal;
mod selftest;
mod system;
mod trace;
mod volume;

pub use self::failures::{CutFailure, Missing};
pub use self::hardware::persistence;

use super::args::Args;
use super::command::{Command, System};
use super::error::{CommandError, On};
use super::jobs::Jobs;
use super::{builtin, out::Out};
use crate::machine::{Fs, Inode, Machine};
use crate::thread;
use alloc::boxed::Box;
use alloc::sync::Arc;
use mm::mem::OutOfMemory;

/// What every command returns.
type Done = Result<(), CommandError>;

/// A command of this machine.
const fn command(
    name: &'static str,
    args: &'static str,
    summary: &'static str,
    help: &'static str,
    run: fn(&Arc<Machine>, &mut Args, &Out) -> Done,
) -> Command<Machine> {
    Command {
        name,
        args,
        summary,
        help,
        run,
    }
}

const COMMANDS: &[Command<Machine>] = &[
    builtin::help(),
    hardware::NFIT,
    hardware::PMEM,
    pages::PAGE,
    pages::PAGES,
    volume::MKFS,
    volume::MOUNT,
    volume::UMOUNT,
    volume::DF,
    check::FSCK,
    errors::POISON,
    errors::BADBLOCKS,
    names::LS,
    files::CAT,
    attributes::STAT,
    attributes::READLINK,
    names::EXTENTS,
    names::MKDIR,
    names::RMDIR,
    names::RM,
    names::MV,
    names::LN,
    attributes::CHMOD,
    attributes::CHOWN,
    attributes::TOUCH,
    files::CREATE,
    files::WRITE,
    files::FILL,
    files::SUM,
    files::FALLOCATE,
    cut::TRUNCATE,
    cut::PUNCH,
    maps::MMAP,
    maps::MAPS,
    maps::LOAD,
    maps::STORE,
    maps::MSYNC,
    maps::MUNMAP,
    maps::PIN,
    maps::UNPIN,
    maps::PINS,
    dma::DMA,
    builtin::jobs(),
    builtin::wait(),
    builtin::sleep(),
    system::THREADS,
    system::LOCKS,
    system::UPTIME,
    system::MEM,
    bench::BENCH,
    trace::TRACE,
    selftest::SELFTEST,
    system::TOUR,
    system::POWEROFF,
    system::PANIC,
];

impl System for Machine {
    fn commands(&self) -> &'static [Command<Self>] {
        COMMANDS
    }

    fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> Result<(), OutOfMemory> {
        // The thread goes on alone.
        thread::spawn(name, work).map(drop).map_err(|_| OutOfMemory)
    }

    fn has_ended(&self) -> bool {
        Machine::has_ended(self)
    }
}

/// The mounted file system.
fn mounted(machine: &Machine, what: &str) -> Result<Arc<Fs>, CommandError> {
    machine
        .mounted()
        .map(|m| m.fs)
        .ok_or(Missing::Mount)
        .on(|| what)
}

/// Opens a path of the mounted file system.
fn open(machine: &Machine, path: &str) -> Result<(Arc<Fs>, Arc<Inode>), CommandError> {
    let fs = mounted(machine, path)?;
    let inode = fs.open(path).on(|| path)?;
    Ok((fs, inode))
}
