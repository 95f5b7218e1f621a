//! The mounted file system.

use super::{Fs, Machine};
use crate::mem::frames;
use crate::pmem::{Device, DeviceState};
use crate::thread::{self, SpawnError};
use alloc::string::String;
use alloc::sync::Arc;
use dax::xarray::NodePool;
use fs::error::{Busy, MountError, UnmountError};
use fs::{Backing, RepairReport};
use mm::addr::{PageSize, Pfn};
use mm::mem::OutOfMemory;
use mm::sync::{LockClass, Mutex, MutexGuard};
use spin::Once;
use thiserror::Error;
use x86_64::instructions::random::RdRand;

/// Nodes of the page index for which there is room from the start.
const NODES: u32 = 64;

/// A file system that is mounted.
#[derive(Clone)]
pub struct Mounted {
    /// It.
    pub fs: Arc<Fs>,
    /// The name of its device.
    pub device: &'static str,
}

/// Why nothing was mounted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MountFailure {
    /// One is mounted already.
    #[error("a file system is mounted already")]
    Mounted,
    /// The device is removed, or being removed.
    #[error("the device is removed, or being removed")]
    NoDevice,
    /// The file system itself says no.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// No memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// No thread for its worker.
    #[error(transparent)]
    Thread(#[from] SpawnError),
}

/// Why it is still mounted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UmountFailure {
    /// Nothing is mounted.
    #[error("no file system is mounted")]
    NotMounted,
    /// A file is in use.
    #[error("{busy}{}", held_by(.holder))]
    Busy {
        /// The file, and a page of it that is held.
        busy: Busy,
        /// Who holds the page, where the shell knows.
        holder: Option<String>,
    },
    /// The file system itself says no.
    #[error(transparent)]
    Unmount(UnmountError),
}

/// The class of the lock of those who change what is mounted, or use a device that must not be mounted meanwhile.
static VOLUME: LockClass = LockClass::new("volume", 5);

/// While it lives, nothing is mounted or unmounted.
pub type Steady<'a> = MutexGuard<'a, ()>;

/// The lock behind [`Steady`].
pub(super) const fn volume_lock() -> Mutex<()> {
    Mutex::new(&VOLUME, ())
}

impl Machine {
    /// Keeps what is mounted as it is: for who writes to a device past the file system. Lock class: volume, before all others.
    pub fn steady(&self) -> Steady<'_> {
        self.volume.lock()
    }

    /// Ends files without a name whose last user has just gone.
    pub fn reap(&self) {
        if let Some(mounted) = self.mounted() {
            mounted.fs.reap_orphans();
        }
    }

    /// The mounted file system.
    pub fn mounted(&self) -> Option<Mounted> {
        self.mounted.lock().clone()
    }

    /// Mounts the file system on a device.
    ///
    /// # Errors
    /// See [`MountFailure`].
    pub fn mount(&self, device: &Device) -> Result<Arc<Fs>, MountFailure> {
        // Two mounts of one device would both write to its ring.
        let _steady = self.steady();
        if self.mounted().is_some() {
            return Err(MountFailure::Mounted);
        }
        let fs = Fs::mount(device.memory.clone(), backing(device)?)?;
        let worker = fs.worker();
        // It ends with the mount.
        thread::spawn("fs worker", move || worker.run())?;
        *self.mounted.lock() = Some(Mounted {
            fs: fs.clone(),
            device: device.name,
        });
        Ok(fs)
    }

    /// Repairs the file system on a device that is not mounted. The caller holds the volume lock ([`Machine::steady`]).
    ///
    /// # Errors
    /// The device is removed, or no memory: see [`MountFailure`]. What stopped the repair itself stands in its report.
    pub fn repair(&self, device: &Device) -> Result<RepairReport, MountFailure> {
        let backing = backing(device)?;
        Ok(fs::repair(&*device.memory, &backing, &mut |_| ()))
    }

    /// Unmounts; the file system stays mounted when it is in use.
    ///
    /// # Errors
    /// See [`UmountFailure`].
    pub fn umount(&self) -> Result<&'static str, UmountFailure> {
        // Nobody mounts the device before its ring is settled, or in the place of one that comes back.
        let _steady = self.steady();
        let Mounted { fs, device } = self
            .mounted
            .lock()
            .take()
            .ok_or(UmountFailure::NotMounted)?;
        match fs.unmount() {
            Ok(()) => Ok(device),
            Err((fs, why)) => {
                *self.mounted.lock() = Some(Mounted { fs, device });
                Err(self.still_mounted(why))
            }
        }
    }
}

impl Machine {
    fn still_mounted(&self, why: UnmountError) -> UmountFailure {
        let UnmountError::Busy(busy) = why else {
            return UmountFailure::Unmount(why);
        };
        let holder = busy.page.and_then(|page| self.holder_of(page.pfn));
        UmountFailure::Busy { busy, holder }
    }

    /// Who has pinned the folio that begins at this frame, where the shell knows.
    pub fn holder_of(&self, head: Pfn) -> Option<String> {
        let pgmap = self.device_of(head)?.pgmap()?;
        let size = pgmap.folio(head).map_or(PageSize::Size4K, |f| f.size());
        self.holders.of_folio(head, size.pages())
    }
}

/// How a message names a holder, if there is one.
pub(super) fn held_by(holder: &Option<String>) -> String {
    let name = holder.as_ref();
    name.map_or_else(String::new, |name| alloc::format!(", held by {name}"))
}

fn backing(device: &Device) -> Result<Backing, MountFailure> {
    let live = device.state() == DeviceState::Live;
    let pgmap = device.pgmap().filter(|_| live);
    Ok(Backing {
        pgmap: pgmap.ok_or(MountFailure::NoDevice)?,
        nodes: NodePool::new(NODES)?,
        zero_page: zero_page()?,
    })
}

/// The machine's frame of zeroes, which nobody writes.
fn zero_page() -> Result<Pfn, OutOfMemory> {
    static ZERO: Once<Pfn> = Once::new();
    ZERO.try_call_once(|| frames::alloc_zeroed().ok_or(OutOfMemory))
        .copied()
}

/// An identity that no other file system has: random bits from the CPU, else the time since boot.
pub fn new_uuid() -> [u8; 16] {
    let word = || {
        RdRand::new()
            .and_then(RdRand::get_u64)
            .unwrap_or_else(crate::time::now_ns)
    };
    let mut uuid = (u128::from(word()) << 64 | u128::from(word())).to_le_bytes();
    // Version 4, variant 1 (RFC 9562).
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}
