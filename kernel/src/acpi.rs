//! The firmware's tables, through the acpi crate.
//!
//! The crate reaches memory through [`Memory`], which maps whatever it names. Everything but mapping and reading tables is the
//! business of AML, which this kernel does not run.
#![expect(unsafe_code, reason = "the tables' addresses come from the firmware")]

use core::ptr::NonNull;
use core::slice;

use ::acpi::{AcpiError, AcpiTables, Handler, PciAddress, RawPhysicalMapping};
use spin::Once;
use x86_64::{PhysAddr, VirtAddr};

use crate::mem::paging::{Cache, map_phys};

/// How the acpi crate reaches memory.
#[derive(Clone, Copy, Debug)]
pub struct Memory;

static TABLES: Once<Option<AcpiTables<Memory>>> = Once::new();

/// The tables; `None` where the boot path named no root pointer or a wrong one.
pub fn tables() -> Option<&'static AcpiTables<Memory>> {
    TABLES.call_once(find).as_ref()
}

fn find() -> Option<AcpiTables<Memory>> {
    let rsdp = crate::boot_info().rsdp?;
    // SAFETY: the boot path says that a root pointer lies there; the crate checks its signature.
    unsafe { AcpiTables::from_rsdp(Memory, rsdp.as_u64() as usize) }
        .map_err(report)
        .ok()
}

/// Where the tables with this signature lie, and their bytes: as many as the header says, but at most `limit`.
///
/// The bytes are untrusted: nothing in them was checked, not even the checksum. A table that cannot be mapped is left
/// out, with a warning.
pub fn raw_tables(
    signature: &'static str,
    limit: u32,
) -> impl Iterator<Item = (PhysAddr, &'static [u8])> {
    let headers = tables().into_iter().flat_map(AcpiTables::table_headers);
    let wanted = headers.filter(move |(_, header)| header.signature.as_str() == signature);
    wanted.filter_map(move |(at, header)| {
        let at = PhysAddr::try_new(at as u64).ok()?;
        match map_phys(at, header.length.clamp(1, limit).into(), Cache::WriteBack) {
            Ok(va) => Some((at, bytes(va, header.length.min(limit)))),
            Err(e) => {
                log::warn!("the ACPI table {signature} at {at:?} cannot be read: {e}");
                None
            }
        }
    })
}

fn bytes(va: VirtAddr, length: u32) -> &'static [u8] {
    // SAFETY: the caller has just mapped these bytes, for ever; firmware tables lie in memory that nobody writes.
    unsafe { slice::from_raw_parts(va.as_ptr(), length as usize) }
}

fn report(e: AcpiError) {
    log::warn!("the ACPI tables are not usable: {e:?}");
}

/// What is read in the place of a header that cannot be: no signature, no length.
#[repr(C, align(4096))]
struct Nothing([u8; 4096]);

static NOTHING: Nothing = Nothing([0; 4096]);

fn map(physical: usize, size: usize) -> Option<NonNull<u8>> {
    let from = PhysAddr::try_new(physical as u64).ok()?;
    let at = map_phys(from, size as u64, Cache::WriteBack).ok()?;
    NonNull::new(at.as_mut_ptr())
}

/// A header that the firmware puts where no memory can be: the trait has no way to say so, so it is told as an empty one, which every
/// search passes over.
fn nothing(physical: usize, size: usize) -> Option<NonNull<u8>> {
    log::warn!("ACPI names a table at {physical:#x}, where nothing can be mapped: passed over");
    (size <= NOTHING.0.len()).then(|| NonNull::from(&NOTHING.0).cast())
}

impl Handler for Memory {
    unsafe fn map_physical_region<T>(&self, physical: usize, size: usize) -> RawPhysicalMapping<T> {
        let at = map(physical, size)
            .or_else(|| nothing(physical, size))
            .expect("an ACPI table lies where it can be mapped");
        // SAFETY: the whole region is mapped and stays so; tables are only read.
        unsafe { RawPhysicalMapping::new(physical, at.cast(), size, size) }
    }

    /// Nothing: what was mapped stays, others may use the same page.
    unsafe fn unmap_physical_region<T>(&self, _: RawPhysicalMapping<T>) {}

    fn nanos_since_boot(&self) -> u64 {
        crate::time::now_ns()
    }

    fn stall(&self, microseconds: u64) {
        crate::time::spin_us(microseconds);
    }

    fn sleep(&self, milliseconds: u64) {
        crate::time::spin_us(milliseconds * 1000);
    }

    fn read_u8(&self, _: usize) -> u8 {
        no_aml()
    }
    fn read_u16(&self, _: usize) -> u16 {
        no_aml()
    }
    fn read_u32(&self, _: usize) -> u32 {
        no_aml()
    }
    fn read_u64(&self, _: usize) -> u64 {
        no_aml()
    }
    fn write_u8(&self, _: usize, _: u8) {
        no_aml()
    }
    fn write_u16(&self, _: usize, _: u16) {
        no_aml()
    }
    fn write_u32(&self, _: usize, _: u32) {
        no_aml()
    }
    fn write_u64(&self, _: usize, _: u64) {
        no_aml()
    }
    fn read_io_u8(&self, _: u16) -> u8 {
        no_aml()
    }
    fn read_io_u16(&self, _: u16) -> u16 {
        no_aml()
    }
    fn read_io_u32(&self, _: u16) -> u32 {
        no_aml()
    }
    fn write_io_u8(&self, _: u16, _: u8) {
        no_aml()
    }
    fn write_io_u16(&self, _: u16, _: u16) {
        no_aml()
    }
    fn write_io_u32(&self, _: u16, _: u32) {
        no_aml()
    }
    fn read_pci_u8(&self, _: PciAddress, _: u16) -> u8 {
        no_aml()
    }
    fn read_pci_u16(&self, _: PciAddress, _: u16) -> u16 {
        no_aml()
    }
    fn read_pci_u32(&self, _: PciAddress, _: u16) -> u32 {
        no_aml()
    }
    fn write_pci_u8(&self, _: PciAddress, _: u16, _: u8) {
        no_aml()
    }
    fn write_pci_u16(&self, _: PciAddress, _: u16, _: u16) {
        no_aml()
    }
    fn write_pci_u32(&self, _: PciAddress, _: u16, _: u32) {
        no_aml()
    }
}

/// The crate calls the rest of the interface from its AML interpreter alone, which is not compiled in.
fn no_aml() -> ! {
    unreachable!("register access from ACPI without AML")
}
