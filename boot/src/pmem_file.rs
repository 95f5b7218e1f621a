//! A file as persistent memory: what an NVDIMM of a machine was backed by, or will be.
//!
//! The mapping stays until the process ends, so nothing that was made over it can outlive it.
#![expect(unsafe_code, reason = "maps files into memory")]

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use dax::pmem::{FlushOp, MappedPmem, Persistence};
use memmap2::{MmapMut, MmapOptions};

/// A file that is mapped until the process ends.
pub struct PmemFile {
    /// Its bytes.
    pub pmem: &'static MappedPmem,
    shared: Option<&'static MmapMut>,
    locked: File,
}

impl Drop for PmemFile {
    /// Lets others have the file. The mapping stays, and with it the open file, whose lock would stay too.
    fn drop(&mut self) {
        // The end of the process ends it at the latest.
        let _ = self.locked.unlock();
    }
}

/// What becomes of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changes {
    /// They go to the file.
    Kept,
    /// They stay in this process: for a look at an image, recovery included, that leaves it as it is.
    Dropped,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refused.
    #[error("{file}: {why}", file = file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// Another process of this kind uses it.
    #[error("{file}: in use by another holdfast", file = file.display())]
    InUse {
        /// The file.
        file: PathBuf,
    },
    /// It is empty.
    #[error("{file}: the file is empty (fs mkfs {file} --size 1G makes a file system)", file = file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
}

impl PmemFile {
    /// Maps a file and locks it against other processes of this kind.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path, changes: Changes) -> Result<Self, OpenError> {
        let fail = |why| OpenError::Io {
            file: path.to_owned(),
            why,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(changes == Changes::Kept)
            .open(path)
            .map_err(fail)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::InUse {
                    file: path.to_owned(),
                });
            }
            Err(TryLockError::Error(why)) => return Err(fail(why)),
            Ok(()) => {}
        }
        if file.metadata().map_err(fail)?.len() == 0 {
            return Err(OpenError::Empty {
                file: path.to_owned(),
            });
        }
        Self::map(file, changes).map_err(fail)
    }

    fn map(file: File, changes: Changes) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        options.no_reserve_swap();
        // SAFETY: the bytes are only reached through MappedPmem, which expects other writers.
        let map = unsafe {
            match changes {
                Changes::Kept => options.map_mut(&file),
                Changes::Dropped => options.map_copy(&file),
            }
        }?;
        let map: &'static mut MmapMut = Box::leak(Box::new(map));
        let (base, len) = (NonNull::from(&mut map[..]).cast(), map.len() as u64);
        let domain = Persistence::MemoryController(FlushOp::of_this_cpu());
        // SAFETY: the mapping is page-aligned and is never unmapped; no reference to its bytes is made but here.
        let pmem = unsafe { MappedPmem::new(base, len, domain) };
        let shared = (changes == Changes::Kept).then_some(&*map);
        Ok(Self {
            pmem: Box::leak(Box::new(pmem)),
            shared,
            locked: file,
        })
    }

    /// Waits until the file's changes are on the disk.
    ///
    /// # Errors
    /// When the system cannot write them.
    pub fn sync(&self) -> io::Result<()> {
        self.shared.map_or(Ok(()), MmapMut::flush)
    }
}
