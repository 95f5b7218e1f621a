//! What the shell's commands and the tour act on: the pmem devices, the mounted file system, mappings, pins, disks, jobs.
//!
//! Locks: every list here has a spin lock of its own, held for a look or a push and never while anything of the list is
//! used; objects are taken out as `Arc`s. [`Holders`] tells whose pins a page has.

mod holders;
mod maps;
mod mount;
mod pins;
mod remove;
mod transfer;

pub use self::holders::{Holder, Holders};
pub use self::maps::{Map, MapFailure, PinFailure, Window};
pub use self::mount::{MountFailure, Mounted, Steady, UmountFailure, new_uuid};
pub use self::pins::{Answer, Pin, PinLease, Term};
pub use self::remove::{AddFailure, RemoveFailure, Removed};
pub use self::transfer::{Transfer, TransferFailure};

use crate::pmem::{self, Device, Pmem};
use crate::shell::Jobs;
use crate::virtio::blk::{Disk, all};
use alloc::sync::Arc;
use alloc::vec::Vec;
use dax::pmem::MappedPmem;
use mm::addr::Pfn;
use mm::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use mm::sync::{Mutex, SpinLock};

/// A file system on a pmem device of this machine.
pub type Fs = fs::Fs<Arc<MappedPmem>>;
/// A file or directory of it.
pub type Inode = fs::Inode<Arc<MappedPmem>>;

/// The machine.
pub struct Machine {
    /// Persistent memory: the tables, the regions, the devices.
    pub pmem: &'static Pmem,
    /// The disks, in the order of their numbers.
    pub disks: &'static [Arc<Disk>],
    /// Background commands and transfers.
    pub jobs: Jobs,
    /// Who has pinned which pages.
    pub holders: Holders,
    volume: Mutex<()>,
    mounted: SpinLock<Option<Mounted>>,
    maps: SpinLock<Vec<Arc<Map>>>,
    pins: SpinLock<Vec<Pin>>,
    next_map: AtomicU32,
    next_pin: AtomicU32,
    ended: AtomicBool,
}

impl Machine {
    /// The machine as it came up, its disks included.
    pub fn discover() -> Arc<Self> {
        Arc::new(Machine {
            pmem: pmem::get(),
            disks: all(),
            jobs: Jobs::new(),
            holders: Holders::new(),
            volume: mount::volume_lock(),
            mounted: SpinLock::new(None),
            maps: SpinLock::new(Vec::new()),
            pins: SpinLock::new(Vec::new()),
            next_map: AtomicU32::new(1),
            next_pin: AtomicU32::new(1),
            ended: AtomicBool::new(false),
        })
    }

    /// The pmem device that a frame belongs to.
    pub fn device_of(&self, pfn: Pfn) -> Option<&'static Device> {
        self.pmem.devices.iter().find(|d| d.pages.contains(pfn))
    }

    /// Asks the shell to stop after the command that runs.
    pub fn end(&self) {
        // Relaxed: read by the thread that runs the script, and nothing else depends on it.
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Somebody asked the shell to stop.
    pub fn has_ended(&self) -> bool {
        // Relaxed: see `end`.
        self.ended.load(Ordering::Relaxed)
    }
}
