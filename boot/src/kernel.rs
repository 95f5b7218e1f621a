//! Building the kernel, by a nested cargo.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::say;
use crate::toolchain::{Part, TARGET, ToolchainError};

/// A program for the bare machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The kernel.
    Kernel,
    /// The test kernel.
    Guest,
}

impl Program {
    const fn package(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Guest => "guest",
        }
    }

    const fn file(self) -> &'static str {
        match self {
            Self::Kernel => "holdfast-kernel",
            Self::Guest => "holdfast-guest",
        }
    }
}

/// How it is compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Optimised.
    #[default]
    Release,
    /// For a debugger; with overflow and lock-order checks.
    Debug,
}

impl Profile {
    const fn directory(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Debug => "debug",
        }
    }
}

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The toolchain lacks a part.
    #[error(transparent)]
    Toolchain(#[from] ToolchainError),
    /// cargo does not run.
    #[error("cargo does not run: {0}")]
    Cargo(#[from] std::io::Error),
    /// cargo failed; it has told why on standard error.
    #[error("the build of {0} failed (the compiler's messages stand above)")]
    Failed(&'static str),
}

/// Builds a program for the bare machine and returns its ELF file; quick when nothing has changed.
///
/// # Errors
/// [`BuildError`].
pub fn build(program: Program, profile: Profile) -> Result<PathBuf, BuildError> {
    Part::Target.ensure()?;
    let elf = target_directory()
        .join(TARGET)
        .join(profile.directory())
        .join(program.file());
    if !elf.exists() {
        say!(
            "building the kernel ({}): about a minute the first time",
            profile.directory()
        );
    }
    let mut command = cargo();
    command.args(["build", "--package", program.package(), "--target", TARGET]);
    command.arg("--target-dir").arg(target_directory());
    if profile == Profile::Release {
        command.arg("--release");
    }
    match command.status()?.success() {
        true => Ok(elf),
        false => Err(BuildError::Failed(program.package())),
    }
}

/// A cargo that runs in the workspace, as if the user had typed it: the flags of an outer cargo would replace those that the
/// workspace sets for the bare target.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(workspace())
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    command.stdin(Stdio::null()).stdout(std::io::stderr());
    command
}

/// The root of the source tree.
pub fn workspace() -> PathBuf {
    let here = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let roots = here.as_deref().into_iter().flat_map(Path::ancestors);
    let root = roots
        .into_iter()
        .find(|root| root.join("kernel/kernel.ld").is_file());
    root.map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join(".."),
        Path::to_owned,
    )
}

/// Where this program itself was built, so that the kernel lies beside it.
pub fn target_directory() -> PathBuf {
    let program = env::current_exe().unwrap_or_default();
    let tagged = program
        .ancestors()
        .find(|directory| directory.join("CACHEDIR.TAG").is_file());
    tagged.map_or_else(|| workspace().join("target"), Path::to_owned)
}
