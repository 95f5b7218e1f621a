//! MSI-X: interrupts that a device sends as memory writes, one table entry for each.
//!
//! An entry is 16 bytes in one of the device's BARs: address low, address high, data, control (bit 0 masks). Source: PCI Local
//! Bus 3.0, 6.8.2.

use super::Pci;
use crate::irq::Msi;
use core::ptr::NonNull;
use thiserror::Error;
use virtio_drivers::transport::pci::bus::DeviceFunction;

const CAPABILITY: u8 = 0x11;
const ENABLE: u32 = 1 << 31;
const MASK_ALL: u32 = 1 << 30;
const ENTRY: usize = 16;

/// A device's MSI-X table, mapped.
pub struct Msix {
    table: NonNull<u32>,
    entries: u16,
}

// SAFETY: the pointer is to device registers, which any thread and CPU may write.
unsafe impl Send for Msix {}

/// Why a device has no usable MSI-X table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MsixError {
    /// The capability is not there.
    #[error("the device has no MSI-X capability")]
    Absent,
    /// The table lies outside the BAR that it names, or the BAR is not placed.
    #[error("the MSI-X table lies outside its BAR")]
    BadTable,
    /// No memory for the page tables of the mapping.
    #[error("the MSI-X table could not be mapped")]
    Map,
    /// The entry is past the end of the table.
    #[error("the MSI-X table has only {entries} entries")]
    NoEntry {
        /// How many there are.
        entries: u16,
    },
}

impl Msix {
    /// Maps the table of a function and enables MSI-X on it. Entries start masked.
    ///
    /// # Errors
    /// See [`MsixError`].
    pub fn enable(pci: &mut Pci, at: DeviceFunction) -> Result<Self, MsixError> {
        let cap = pci
            .capability(at, |_, id, _| id == CAPABILITY)
            .ok_or(MsixError::Absent)?;
        let control = pci.read(at, cap);
        let entries = ((control >> 16) & 0x7ff) as u16 + 1;
        let table = Self::map(pci, at, pci.read(at, cap + 4), entries)?;
        pci.write(at, cap, (control | ENABLE) & !MASK_ALL);
        Ok(Msix { table, entries })
    }

    fn map(
        pci: &mut Pci,
        at: DeviceFunction,
        place: u32,
        entries: u16,
    ) -> Result<NonNull<u32>, MsixError> {
        let (bar_index, offset) = ((place & 7) as u8, u64::from(place & !7));
        let len = u64::from(entries) * ENTRY as u64;
        let bar = pci
            .bar(at, bar_index)
            .filter(|b| offset + len <= b.len)
            .ok_or(MsixError::BadTable)?;
        let mapped = crate::virtio::map_device(bar.base + offset, len).ok_or(MsixError::Map)?;
        Ok(mapped.cast())
    }

    /// Makes entry `index` send `message`, and unmasks it.
    ///
    /// # Errors
    /// The table has no such entry.
    pub fn set(&mut self, index: u16, message: Msi) -> Result<(), MsixError> {
        if index >= self.entries {
            return Err(MsixError::NoEntry {
                entries: self.entries,
            });
        }
        let (low, high) = (message.address as u32, (message.address >> 32) as u32);
        for (word, value) in [(0, low), (1, high), (2, message.data), (3, 0)] {
            // SAFETY: the entry is below `entries`, so inside the mapped table; it is written whole words at a time, the
            // control word (which unmasks) last.
            unsafe {
                self.table
                    .add(usize::from(index) * 4 + word)
                    .write_volatile(value)
            };
        }
        Ok(())
    }
}
