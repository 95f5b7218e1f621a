//! A machine without QEMU: what the program does, and what it leaves to the user.
//!
//! The search path holds the Rust toolchain, and a package manager that is a script of ours.

use std::env;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use boot::packages::Program;
use libtest_mimic::Failed;
use tests::driver::{Ran, command, run};

use crate::Check;

/// The cases.
pub const CASES: &[(&str, Check)] = &[
    ("install::qemu_is_installed_when_that_is_allowed", installs),
    (
        "install::the_command_is_named_when_installing_is_forbidden",
        forbidden,
    ),
    ("install::the_command_is_named_when_installing_fails", fails),
];

const REFUSES: &str = "#!/bin/sh\nexit 100\n";
const ADVICE: &str =
    "apt-get update && apt-get install -y --no-install-recommends qemu-system-x86)";

fn installs() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let qemu = Program::Qemu.find_or_install()?;
    let link = directory.path().join("qemu-system-x86_64");
    let script = format!(
        "#!/bin/sh\n[ $1 = update ] || /bin/ln -s {} {}\n",
        qemu.display(),
        link.display()
    );
    let ran = run(without_qemu(directory.path(), &script)?)?;
    if !is_root() {
        return expect(&ran, 5, "sudo apt-get install");
    }
    expect(
        &ran,
        4,
        "qemu-system-x86_64 is not installed: apt-get update && ",
    )
}

fn forbidden() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let mut command = without_qemu(directory.path(), "#!/bin/sh\n/bin/touch $0.ran\n")?;
    command.env("HOLDFAST_NO_INSTALL", "1");
    expect(&run(command)?, 5, ADVICE)?;
    match directory.path().join("apt-get.ran").exists() {
        true => Err("the package manager was run".into()),
        false => Ok(()),
    }
}

fn fails() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    expect(&run(without_qemu(directory.path(), REFUSES)?)?, 5, ADVICE)
}

/// The program, to start a machine that stands still for a second, where QEMU is not found.
fn without_qemu(directory: &Path, apt_get: &str) -> Result<Command, Failed> {
    let script = directory.join("apt-get");
    std::fs::write(&script, apt_get)?;
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755))?;
    let mut command = command(&["--timeout", "1s", "exec", "nfit", "--", "-S"]);
    let path = env::join_paths([directory.to_owned(), toolchain()])?;
    command.env("PATH", path).env_remove("HOLDFAST_NO_INSTALL");
    Ok(command)
}

/// Where this cargo's rustc is.
fn toolchain() -> PathBuf {
    let cargo = env::var_os("CARGO").map(PathBuf::from).unwrap_or_default();
    cargo.parent().map_or_else(PathBuf::new, Path::to_owned)
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

fn expect(ran: &Ran, code: i32, part: &str) -> Result<(), Failed> {
    match ran.code == Some(code) && ran.stderr.contains(part) {
        true => Ok(()),
        false => Err(format!("wanted code {code} and {part:?}: {ran:?}").into()),
    }
}
