//! What the nested builds need from rustup: the bare-metal target, and for disk images some components.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::packages::may_install;
use crate::say;

/// The kernel's target.
pub const TARGET: &str = "x86_64-unknown-none";

/// Why the toolchain cannot build for the bare machine.
#[derive(Debug, thiserror::Error)]
pub enum ToolchainError {
    /// A part is missing and was not added.
    #[error("the Rust toolchain lacks {what} (type: {command})")]
    Missing {
        /// The missing part.
        what: &'static str,
        /// What adds it.
        command: String,
    },
    /// `rustc` cannot be asked.
    #[error("rustc does not run: {0} (install Rust by rustup: https://rustup.rs)")]
    Rustc(std::io::Error),
}

/// A part of the toolchain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The standard library for [`TARGET`].
    Target,
    /// The standard library's source, which the boot stages are built with.
    RustSrc,
    /// objcopy, for the boot stages.
    LlvmTools,
}

impl Part {
    fn words(self) -> [&'static str; 3] {
        match self {
            Self::Target => ["target", "add", TARGET],
            Self::RustSrc => ["component", "add", "rust-src"],
            Self::LlvmTools => ["component", "add", "llvm-tools"],
        }
    }

    fn is_in(self, sysroot: &Path) -> bool {
        match self {
            Self::Target => sysroot
                .join("lib/rustlib")
                .join(TARGET)
                .join("lib")
                .is_dir(),
            Self::RustSrc => sysroot
                .join("lib/rustlib/src/rust/library/Cargo.lock")
                .is_file(),
            Self::LlvmTools => find_objcopy(sysroot),
        }
    }

    /// Makes sure that the part is there: adds it by rustup when it is missing and installing is allowed.
    ///
    /// # Errors
    /// [`ToolchainError`].
    pub fn ensure(self) -> Result<(), ToolchainError> {
        let sysroot = sysroot()?;
        if self.is_in(&sysroot) {
            return Ok(());
        }
        let words = self.words();
        let command = format!("rustup {}", words.join(" "));
        if may_install() {
            say!("the Rust toolchain lacks {}: {command}", words[2]);
            let _ = Command::new("rustup").args(words).status(); // what counts is whether the part is there now
        }
        let present = self.is_in(&sysroot);
        present.then_some(()).ok_or(ToolchainError::Missing {
            what: words[2],
            command,
        })
    }
}

fn sysroot() -> Result<PathBuf, ToolchainError> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--print", "sysroot"])
        .current_dir(crate::kernel::workspace())
        .output();
    let output = output.map_err(ToolchainError::Rustc)?;
    Ok(PathBuf::from(
        String::from_utf8_lossy(&output.stdout).trim(),
    ))
}

fn find_objcopy(sysroot: &Path) -> bool {
    let hosts = std::fs::read_dir(sysroot.join("lib/rustlib"))
        .into_iter()
        .flatten()
        .flatten();
    hosts
        .into_iter()
        .any(|host| host.path().join("bin/llvm-objcopy").is_file())
}
