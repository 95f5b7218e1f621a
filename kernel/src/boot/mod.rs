//! The two ways into the kernel, and what both hand over: a [`BootInfo`].
//!
//! - PVH (`pvh`): QEMU's `-kernel` enters at `pvh_start` in 32-bit mode; our own stub builds first page tables.
//! - bootloader_api (`loader`): the BIOS and UEFI images enter at `_start` in 64-bit mode on the loader's tables.
//!
//! On both, when [`crate::start`] begins: interrupts are off, physical memory below 4 GiB (all RAM on the loader's path)
//! is mapped at [`PHYS_OFFSET`], write-protect and NX are on. Neither set of tables lives long: paging builds our own.

mod loader;
mod pvh;

use x86_64::PhysAddr;

use crate::memmap::MemoryMap;

/// Where physical address 0 is mapped, on both paths and for ever after.
pub const PHYS_OFFSET: u64 = 0xffff_8000_0000_0000;

/// How the kernel was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryPath {
    /// QEMU's `-kernel`, or another PVH loader.
    Pvh,
    /// The `bootloader` crate, from a BIOS or a UEFI image.
    Bootloader,
}

/// What the kernel knows of the machine at its start.
#[derive(Clone, Debug)]
pub struct BootInfo {
    /// The way in.
    pub entry: EntryPath,
    /// Physical memory as the firmware reported it.
    pub memory: MemoryMap,
    /// The ACPI root pointer's structure, if the boot path names one.
    pub rsdp: Option<PhysAddr>,
    /// Physical ranges `(start, end)` that hold the kernel's image and lie in usable memory.
    pub image: (u64, u64),
}
