//! The program as a user runs it: what it prints where, and with which code it ends.

use std::process::ExitCode;

use boot::kernel::{self, Profile};
use libtest_mimic::{Arguments, Failed, Trial};
use tests::driver;

#[path = "exec/bench.rs"]
mod bench;
#[path = "exec/exchange.rs"]
mod exchange;
#[path = "exec/files.rs"]
mod files;
#[path = "exec/host_fs.rs"]
mod host_fs;
#[path = "exec/images.rs"]
mod images;
#[path = "exec/install.rs"]
mod install;
#[path = "exec/leases.rs"]
mod leases;
#[path = "exec/machines.rs"]
mod machines;
#[path = "exec/mount.rs"]
mod mount;
#[path = "exec/pmem.rs"]
mod pmem;
#[path = "exec/reboot.rs"]
mod reboot;
#[path = "exec/removal.rs"]
mod removal;
#[path = "exec/repair.rs"]
mod repair;
#[path = "exec/script.rs"]
mod script;
#[path = "exec/selftest.rs"]
mod selftest;
#[path = "exec/shell.rs"]
mod shell;
#[path = "exec/story.rs"]
mod story;
#[path = "exec/usage.rs"]
mod usage;
#[path = "exec/waits.rs"]
mod waits;
#[path = "exec/words.rs"]
mod words;

type Check = fn() -> Result<(), Failed>;

fn build() -> anyhow::Result<()> {
    driver::build()?;
    kernel::build(kernel::Program::Kernel, Profile::Release)?;
    Ok(())
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if let Err(why) = build() {
        eprintln!("the program cannot be built: {why:#}");
        return ExitCode::FAILURE;
    }
    let lists = [
        usage::CASES,
        bench::CASES,
        host_fs::CASES,
        install::CASES,
        images::CASES,
        pmem::CASES,
        shell::CASES,
        story::CASES,
        reboot::CASES,
        words::CASES,
        waits::CASES,
        leases::CASES,
        removal::CASES,
        repair::CASES,
        machines::CASES,
        files::CASES,
        exchange::CASES,
        mount::cases(),
        selftest::CASES,
    ];
    let trials = lists
        .concat()
        .into_iter()
        .map(|(name, check)| Trial::test(name, check))
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
