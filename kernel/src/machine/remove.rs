//! Taking a pmem device out of service, and bringing it back.
//!
//! A device is **live**, **removing** (from the moment its removal begins, and after one that gave up) or **removed**. Only a live
//! one is mounted, formatted or checked. What the removal does, in which order and why nothing of it is used afterwards: the heads
//! of `fs::removal` and `mm::pgmap`. Here is only who may do it when:
//!
//! - The volume lock is taken twice, for a moment: to mark the device, after which nobody begins to use it, and to let the file
//!   system go at the end. The wait in between holds no lock.
//! - One removal of a device works at a time.

use super::mount::held_by;
use super::{Fs, Machine};
use crate::pmem::{Device, DeviceState};
use alloc::string::String;
use alloc::sync::Arc;
use fs::{RemovalError, remove_pgmap};
use mm::pgmap::{Pgmap, PgmapError};
use mm::sync::{Wait, now_us};
use thiserror::Error;

/// What a removal did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The device.
    pub name: &'static str,
    /// How long it took, waiting included, in microseconds.
    pub took_us: u64,
    /// Whether a file system was mounted on it.
    pub file_system: bool,
}

/// Why a device is not removed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RemoveFailure {
    /// It is removed already.
    #[error("it is removed already")]
    Removed,
    /// Something of it is still in use. It takes no new users; removing it again goes on.
    #[error("{error}{}", held_by(.holder))]
    Unfinished {
        /// What is in use.
        error: RemovalError,
        /// Who holds the page, where the shell knows.
        holder: Option<String>,
    },
}

/// Why a device was not brought back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AddFailure {
    /// It is in service, or still being removed.
    #[error("it is not removed")]
    NotRemoved,
    /// No pgmap can be made for it.
    #[error(transparent)]
    Pgmap(#[from] PgmapError),
}

impl Machine {
    /// Removes a device: new references fail, mappings are taken away everywhere, and when the last page is let go the file
    /// system on it and its pgmap go too. Waits as `wait` says, holding no lock; after an error, call it again.
    ///
    /// # Errors
    /// See [`RemoveFailure`].
    pub fn remove_device(
        &self,
        device: &Device,
        wait: &Wait<'_>,
    ) -> Result<Removed, RemoveFailure> {
        let begun = now_us();
        let Some(turn) = device.begin_removal() else {
            return Err(self.unfinished(RemovalError::UnderWay));
        };
        let (pgmap, fs) = self.mark(device)?;
        let done = match &fs {
            Some(fs) => fs.remove_device(wait),
            None => remove_pgmap(&pgmap, wait),
        };
        done.map_err(|error| self.unfinished(error))?;
        let file_system = fs.is_some();
        // The file system's last user but commands that still hold it: outside of the lock.
        let gone = self.let_go(device);
        drop((fs, gone, pgmap, turn));
        Ok(Removed {
            name: device.name,
            took_us: now_us().saturating_sub(begun),
            file_system,
        })
    }

    /// Nobody begins to use the device from here on. Gives what uses it.
    fn mark(&self, device: &Device) -> Result<(Arc<Pgmap>, Option<Arc<Fs>>), RemoveFailure> {
        let _steady = self.steady();
        let pgmap = device.mark_removing().ok_or(RemoveFailure::Removed)?;
        let mounted = self.mounted().filter(|m| m.device == device.name);
        Ok((pgmap, mounted.map(|m| m.fs)))
    }

    fn let_go(&self, device: &Device) -> Option<super::Mounted> {
        let _steady = self.steady();
        device.set_pgmap(None);
        let mut mounted = self.mounted.lock();
        mounted.take_if(|m| m.device == device.name)
    }

    fn unfinished(&self, error: RemovalError) -> RemoveFailure {
        let holder = match &error {
            RemovalError::Held { page, .. } => self.holder_of(page.pfn),
            RemovalError::Inside { .. } | RemovalError::UnderWay => None,
        };
        RemoveFailure::Unfinished { error, holder }
    }

    /// Brings a removed device back, with a new pgmap; its bytes are as they were left.
    ///
    /// # Errors
    /// See [`AddFailure`].
    pub fn add_device(&self, device: &Device) -> Result<(), AddFailure> {
        let _steady = self.steady();
        if device.state() != DeviceState::Removed {
            return Err(AddFailure::NotRemoved);
        }
        let pgmap = Pgmap::new(device.name, device.pages, None)?;
        device.set_pgmap(Some(pgmap));
        Ok(())
    }
}
