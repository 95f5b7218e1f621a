//! Programs and files from the system's packages: found, or installed, or the command named that installs them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::say;

/// Something from the system's packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `qemu-system-x86_64`.
    Qemu,
    /// The UEFI firmware: code, with the variables beside it.
    Ovmf,
}

/// Why a program is missing still.
#[derive(Debug, thiserror::Error)]
#[error("{name} is not installed ({advice})")]
pub struct InstallError {
    name: &'static str,
    advice: String,
}

/// Whether this process may install: unless `HOLDFAST_NO_INSTALL` is set to something other than 0.
pub fn may_install() -> bool {
    env::var_os("HOLDFAST_NO_INSTALL").is_none_or(|v| v.is_empty() || v == "0")
}

/// A package manager: its program, what refreshes its lists, what installs, whether it wants root.
struct Manager {
    program: &'static str,
    refresh: Option<&'static [&'static str]>,
    install: &'static [&'static str],
    qemu: &'static str,
    ovmf: &'static str,
    needs_root: bool,
}

const MANAGERS: &[Manager] = &[
    Manager {
        program: "apt-get",
        refresh: Some(&["update"]),
        install: &["install", "-y", "--no-install-recommends"],
        qemu: "qemu-system-x86",
        ovmf: "ovmf",
        needs_root: true,
    },
    Manager {
        program: "dnf",
        refresh: None,
        install: &["install", "-y"],
        qemu: "qemu-system-x86-core",
        ovmf: "edk2-ovmf",
        needs_root: true,
    },
    Manager {
        program: "pacman",
        refresh: None,
        install: &["-Sy", "--noconfirm"],
        qemu: "qemu-system-x86",
        ovmf: "edk2-ovmf",
        needs_root: true,
    },
    Manager {
        program: "zypper",
        refresh: None,
        install: &["--non-interactive", "install"],
        qemu: "qemu-x86",
        ovmf: "qemu-ovmf-x86_64",
        needs_root: true,
    },
    Manager {
        program: "brew",
        refresh: None,
        install: &["install"],
        qemu: "qemu",
        ovmf: "qemu",
        needs_root: false,
    },
];

/// Where distributions keep OVMF: code, then variables.
const OVMF: &[(&str, &str)] = &[
    (
        "/usr/share/OVMF/OVMF_CODE_4M.fd",
        "/usr/share/OVMF/OVMF_VARS_4M.fd",
    ),
    (
        "/usr/share/OVMF/OVMF_CODE.fd",
        "/usr/share/OVMF/OVMF_VARS.fd",
    ),
    (
        "/usr/share/edk2/ovmf/OVMF_CODE.fd",
        "/usr/share/edk2/ovmf/OVMF_VARS.fd",
    ),
    (
        "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
        "/usr/share/edk2/x64/OVMF_VARS.4m.fd",
    ),
    (
        "/usr/share/qemu/ovmf-x86_64-code.bin",
        "/usr/share/qemu/ovmf-x86_64-vars.bin",
    ),
    (
        "/opt/homebrew/share/qemu/edk2-x86_64-code.fd",
        "/opt/homebrew/share/qemu/edk2-i386-vars.fd",
    ),
    (
        "/usr/local/share/qemu/edk2-x86_64-code.fd",
        "/usr/local/share/qemu/edk2-i386-vars.fd",
    ),
];

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu-system-x86_64",
            Self::Ovmf => "OVMF, the UEFI firmware,",
        }
    }

    /// Its path, when it is installed.
    pub fn find(self) -> Option<PathBuf> {
        match self {
            Self::Qemu => in_path(self.name()),
            Self::Ovmf => find_ovmf().map(|(code, _)| code),
        }
    }

    /// Its path; installs it first when it is missing, this process may, and the package manager lets it.
    ///
    /// # Errors
    /// When it is missing still; the error names the command to type.
    pub fn find_or_install(self) -> Result<PathBuf, InstallError> {
        let advice = match self.find() {
            Some(path) => return Ok(path),
            None => self.install(),
        };
        self.find().ok_or(InstallError {
            name: self.name(),
            advice,
        })
    }

    /// Tries to install it; returns what the user can do if that was not enough.
    fn install(self) -> String {
        let Some(manager) = MANAGERS.iter().find(|m| in_path(m.program).is_some()) else {
            return "no known package manager is here: install it by hand".to_owned();
        };
        let root = nix::unistd::geteuid().is_root();
        let command = manager.command_text(self, !root);
        if may_install() && (root || !manager.needs_root) {
            say!("{} is not installed: {command}", self.name());
            manager.run(self);
        }
        format!("type: {command}")
    }
}

impl Manager {
    fn package(&self, program: Program) -> &'static str {
        match program {
            Program::Qemu => self.qemu,
            Program::Ovmf => self.ovmf,
        }
    }

    fn command_text(&self, program: Program, sudo: bool) -> String {
        let sudo = if sudo && self.needs_root { "sudo " } else { "" };
        let line = |words: &[&str]| format!("{sudo}{} {}", self.program, words.join(" "));
        let install = format!("{} {}", line(self.install), self.package(program));
        self.refresh.map_or(install.clone(), |refresh| {
            format!("{} && {install}", line(refresh))
        })
    }

    fn run(&self, program: Program) {
        let run = |words: &[&str]| {
            let mut command = Command::new(self.program);
            command
                .args(words)
                .env("DEBIAN_FRONTEND", "noninteractive")
                .stdin(Stdio::null());
            // Standard output is the guest's. A failure shows itself: the program is missing still.
            let _ = command.stdout(std::io::stderr()).status();
        };
        self.refresh.into_iter().for_each(run);
        run(&[self.install, &[self.package(program)]].concat());
    }
}

/// OVMF's code and its variables, when installed.
pub fn find_ovmf() -> Option<(PathBuf, PathBuf)> {
    let found = OVMF
        .iter()
        .find(|(code, variables)| Path::new(code).is_file() && Path::new(variables).is_file());
    found.map(|(code, variables)| (code.into(), variables.into()))
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}
