//! PCI Express by ECAM: finding functions, their BARs and their interrupts.
//!
//! The windows come from the MCFG table; the configuration space of the first bus of segment 0 is walked, and every bus behind
//! a bridge. The firmware has assigned the BARs already (QEMU does so even without firmware).
#![expect(
    unsafe_code,
    reason = "configuration space is device memory reached by raw pointers"
)]

mod msix;

pub use msix::{Msix, MsixError};

use crate::acpi;
use ::acpi::sdt::mcfg::{Mcfg, McfgEntry};
use arrayvec::ArrayVec;
use mm::addr::PhysAddr;
use virtio_drivers::transport::pci::bus::{
    BarInfo, Cam, Command, ConfigurationAccess, DeviceFunction, DeviceFunctionInfo, HeaderType,
    MmioCam, PciRoot,
};

/// The functions of a machine that are remembered; more are named in the log and ignored.
const MAX_FUNCTIONS: usize = 64;
/// Bytes of configuration space that one bus takes.
const BUS_BYTES: u64 = 1 << 20;
/// The register with a bridge's bus numbers: primary, secondary, subordinate.
const BRIDGE_BUSES: u8 = 0x18;

/// One function and what it says it is.
pub type Found = (DeviceFunction, DeviceFunctionInfo);

/// The configuration space of one segment.
pub struct Pci {
    root: PciRoot<MmioCam<'static>>,
    raw: MmioCam<'static>,
    last_bus: u8,
}

/// Why there is no PCI configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PciError {
    /// ACPI has no MCFG table, or the table has no window for segment 0 from bus 0 on.
    #[error("ACPI describes no PCI configuration space")]
    NoWindow,
    /// The window could not be mapped.
    #[error("the PCI configuration space at {base:#x} could not be mapped")]
    Map {
        /// Its physical address.
        base: u64,
    },
}

/// A memory BAR: where the device's registers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Physical address.
    pub base: PhysAddr,
    /// Bytes.
    pub len: u64,
}

/// A window onto configuration space: 1 MiB a bus.
struct Window {
    base: PhysAddr,
    last_bus: u8,
}

/// The window of segment 0 that begins with bus 0.
fn window() -> Option<Window> {
    let mcfg = acpi::tables()?.find_table::<Mcfg>()?;
    let first = |e: &&McfgEntry| e.pci_segment_group == 0 && e.bus_number_start == 0;
    let entry = mcfg.get().entries().iter().find(first).copied()?;
    let base = PhysAddr::try_new(entry.base_address).ok()?;
    Some(Window {
        base,
        last_bus: entry.bus_number_end,
    })
}

impl Pci {
    /// Maps the configuration space that ACPI names for segment 0.
    ///
    /// # Errors
    /// There is none, or no memory for its page tables.
    pub fn open() -> Result<Self, PciError> {
        let window = window().ok_or(PciError::NoWindow)?;
        let len = (u64::from(window.last_bus) + 1) * BUS_BYTES;
        let base = window.base.as_u64();
        let at = crate::virtio::map_device(window.base, len).ok_or(PciError::Map { base })?;
        // SAFETY: the window is mapped for good, uncached, and holds the buses up to `last_bus`, which bounds every access
        // of this module. Nobody else touches configuration space.
        let (raw, copy) = unsafe {
            let raw = MmioCam::new(at.as_ptr(), Cam::Ecam);
            let copy = raw.unsafe_clone();
            (raw, copy)
        };
        Ok(Pci {
            root: PciRoot::new(copy),
            raw,
            last_bus: window.last_bus,
        })
    }

    /// Every function on bus 0 and on the buses behind its bridges.
    pub fn functions(&self) -> ArrayVec<Found, MAX_FUNCTIONS> {
        let mut found = ArrayVec::new();
        let mut buses = ArrayVec::<u8, 32>::from_iter([0]);
        let mut next = 0;
        while let Some(&bus) = buses.get(next) {
            self.walk_bus(bus, &mut buses, &mut found);
            next += 1;
        }
        found
    }

    fn walk_bus(
        &self,
        bus: u8,
        buses: &mut ArrayVec<u8, 32>,
        found: &mut ArrayVec<Found, MAX_FUNCTIONS>,
    ) {
        for (at, info) in self.root.enumerate_bus(bus) {
            if info.header_type == HeaderType::PciPciBridge {
                let behind = (self.raw.read_word(at, BRIDGE_BUSES) >> 8) as u8;
                // Bus numbers grow away from the root, so a loop of bridges cannot be followed for ever.
                if behind > bus && behind <= self.last_bus && !buses.contains(&behind) {
                    let _ = buses.try_push(behind);
                }
            }
            if found.try_push((at, info)).is_err() {
                log::warn!("PCI function {at} ignored: more than {MAX_FUNCTIONS} functions");
            }
        }
    }

    /// The crate's view, for drivers of virtio-drivers.
    pub fn root(&mut self) -> &mut PciRoot<MmioCam<'static>> {
        &mut self.root
    }

    /// A memory BAR that the firmware has placed; `None` for an I/O BAR, an absent or an unplaced one.
    pub fn bar(&mut self, at: DeviceFunction, index: u8) -> Option<Bar> {
        match self.root.bar_info(at, index).ok()?? {
            BarInfo::Memory { address, size, .. } if address != 0 && size != 0 => Some(Bar {
                base: PhysAddr::try_new(address).ok()?,
                len: size,
            }),
            _ => None,
        }
    }

    /// Lets a function answer memory accesses and do DMA; turns its legacy interrupt off.
    pub fn enable(&mut self, at: DeviceFunction) {
        let (_, old) = self.root.get_status_command(at);
        self.root.set_command(
            at,
            old | Command::MEMORY_SPACE | Command::BUS_MASTER | Command::INTERRUPT_DISABLE,
        );
    }

    /// The offset of the first capability that `wanted` accepts, given its id and its offset.
    fn capability(
        &self,
        at: DeviceFunction,
        mut wanted: impl FnMut(&Self, u8, u8) -> bool,
    ) -> Option<u8> {
        let found = self
            .root
            .capabilities(at)
            .find(|c| wanted(self, c.id, c.offset));
        found.map(|c| c.offset)
    }

    fn read(&self, at: DeviceFunction, register: u8) -> u32 {
        self.raw.read_word(at, register)
    }

    fn write(&mut self, at: DeviceFunction, register: u8, value: u32) {
        self.raw.write_word(at, register, value);
    }

    /// Finds a structure of a virtio device by the type number of its vendor capability: its BAR, offset and length.
    pub fn virtio_structure(&mut self, at: DeviceFunction, kind: u8) -> Option<(Bar, u32, u32)> {
        const VENDOR: u8 = 0x09;
        let cap = self.capability(at, |pci, id, offset| {
            id == VENDOR && (pci.read(at, offset) >> 24) as u8 == kind
        })?;
        let bar_index = self.read(at, cap + 4) as u8;
        let (offset, len) = (self.read(at, cap + 8), self.read(at, cap + 12));
        let bar = self.bar(at, bar_index)?;
        (u64::from(offset) + u64::from(len) <= bar.len).then_some((bar, offset, len))
    }
}
