//! Bootable disk images, by the `bootloader` crate in a program of its own (`boot/image`), built when it is first needed.

use std::path::{Path, PathBuf};

use crate::kernel::{BuildError, cargo, target_directory, workspace};
use crate::say;
use crate::toolchain::Part;

/// What firmware an image is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageKind {
    /// The BIOS: a master boot record and two boot stages.
    Bios,
    /// UEFI: a partition with an EFI program.
    Uefi,
}

impl ImageKind {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
        }
    }
}

/// Writes the bootable image with the given kernel to `to`, replacing what is there.
///
/// # Errors
/// [`BuildError`], also when the image cannot be written.
pub fn write(kind: ImageKind, kernel: &Path, to: &Path) -> Result<(), BuildError> {
    [Part::RustSrc, Part::LlvmTools]
        .into_iter()
        .try_for_each(Part::ensure)?;
    let built = target_directory().join("image");
    if !built.join("release").is_dir() {
        say!("building the image maker with its boot stages: about 3 minutes, the first time only");
    }
    let mut command = cargo();
    command
        .args(["run", "--release", "--locked", "--manifest-path"])
        .arg(workspace().join("boot/image/Cargo.toml"));
    command
        .arg("--target-dir")
        .arg(built)
        .arg("--")
        .arg(kind.word())
        .args([kernel, to].map(absolute));
    // The boot stages want nightly features; nothing else does, so the permission goes to this build alone.
    command.env("RUSTC_BOOTSTRAP", "1");
    match command.status()?.success() {
        true => Ok(()),
        false => Err(BuildError::Failed("disk image")),
    }
}

/// Writes the image for [`crate::options::Boot`]; returns its path, which is the same every time.
///
/// # Errors
/// As [`write()`].
pub fn for_boot(kind: ImageKind, kernel: &Path) -> Result<PathBuf, BuildError> {
    let stem = kernel.file_name().unwrap_or_default().to_string_lossy();
    let path = target_directory().join(format!("{stem}-{}.img", kind.word()));
    write(kind, kernel, &path)?;
    Ok(path)
}

/// A path that holds in the workspace's root, too, where cargo runs.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
