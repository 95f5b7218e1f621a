//! Files that a machine needs only while it runs.
//!
//! A scratch file has no name: it is unlinked as soon as it is made, and QEMU reaches it by the number of the open file, which it
//! inherits. So nothing is left behind however this process or QEMU ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::size::Size;

/// A nameless file that the QEMU processes of its machine inherit. Clones are the same file.
#[derive(Clone, Debug)]
pub struct Scratch(Arc<OwnedFd>);

impl Scratch {
    /// A sparse file of zeroes.
    ///
    /// # Errors
    /// When the directory for temporary files cannot be written.
    pub fn sparse(size: Size) -> io::Result<Self> {
        let file = nameless()?;
        file.set_len(size.0)?;
        Ok(Self(Arc::new(file.into())))
    }

    /// A file with the given bytes.
    ///
    /// # Errors
    /// As [`Scratch::sparse`].
    pub fn with_bytes(bytes: &[u8]) -> io::Result<Self> {
        let mut file = nameless()?;
        file.write_all(bytes)?;
        Ok(Self(Arc::new(file.into())))
    }

    /// A disk of the given size that holds [`protocol::pattern`].
    ///
    /// # Errors
    /// As [`Scratch::sparse`].
    pub fn pattern_disk(size: Size) -> io::Result<Self> {
        let words = (0..size.0).step_by(8).map(protocol::pattern::word);
        Self::with_bytes(&words.flat_map(u64::to_le_bytes).collect::<Vec<_>>())
    }

    /// The path by which a process that has inherited the file opens it.
    pub fn path(&self) -> PathBuf {
        let directory = if cfg!(target_os = "linux") {
            "/proc/self/fd"
        } else {
            "/dev/fd"
        };
        PathBuf::from(format!("{directory}/{}", self.0.as_raw_fd()))
    }

    /// The open file, for a process to inherit.
    pub fn inherited(&self) -> Arc<OwnedFd> {
        self.0.clone()
    }
}

fn nameless() -> io::Result<File> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Relaxed: only the number's being different counts; nothing is published by it.
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("holdfast-{}-{number}", std::process::id()));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::{Scratch, Size};

    #[test]
    fn the_disk_holds_the_pattern_and_can_be_reached_by_its_path() {
        let disk = Scratch::pattern_disk(Size(1 << 16)).unwrap();
        let bytes = std::fs::read(disk.path()).unwrap();
        assert_eq!(bytes.len(), 1 << 16);
        assert_eq!(protocol::pattern::first_difference(0, &bytes), None);
    }
}
