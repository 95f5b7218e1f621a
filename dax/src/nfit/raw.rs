//! Layouts of the table and its structures, byte by byte (ACPI 6.5, section 5.2.25).

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// The header common to all ACPI tables, and the 4 reserved bytes that the NFIT adds.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Table {
    pub signature: [u8; 4],
    pub length: U32,
    pub revision: u8,
    pub checksum: u8,
    pub oem_id: [u8; 6],
    pub oem_table_id: [u8; 8],
    pub oem_revision: U32,
    pub creator_id: U32,
    pub creator_revision: U32,
    pub reserved: U32,
}

/// What every structure starts with.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub kind: U16,
    pub length: U16,
}

/// Type 0, without the location cookie that ACPI 6.4 appends.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Spa {
    pub header: Header,
    pub index: U16,
    pub flags: U16,
    pub reserved: U32,
    pub proximity: U32,
    pub guid: [u8; 16],
    pub base: U64,
    pub length: U64,
    pub attributes: U64,
}

/// Type 1.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct MemoryDevice {
    pub header: Header,
    pub handle: U32,
    pub physical_id: U16,
    pub region_id: U16,
    pub spa_index: U16,
    pub control_index: U16,
    pub region_size: U64,
    pub region_offset: U64,
    pub dpa: U64,
    pub interleave_index: U16,
    pub ways: U16,
    pub flags: U16,
    pub reserved: U16,
}

/// Type 2, before its line offsets.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Interleave {
    pub header: Header,
    pub index: U16,
    pub reserved: U16,
    pub lines: U32,
    pub line_size: U32,
}

/// Type 4, before its block windows.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ControlRegion {
    pub header: Header,
    pub index: U16,
    pub vendor: U16,
    pub device: U16,
    pub revision: U16,
    pub subsystem_vendor: U16,
    pub subsystem_device: U16,
    pub subsystem_revision: U16,
    pub valid_fields: u8,
    pub manufacturing_location: u8,
    pub manufacturing_date: U16,
    pub reserved: U16,
    pub serial: U32,
    pub interface: U16,
    pub windows: U16,
}

/// Type 6, before its addresses.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct FlushHints {
    pub header: Header,
    pub handle: U32,
    pub count: U16,
    pub reserved: [u8; 6],
}

/// Type 7.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Capabilities {
    pub header: Header,
    pub highest: u8,
    pub reserved: [u8; 3],
    pub capabilities: U32,
    pub reserved2: U32,
}

const _: () = assert!(size_of::<Table>() == 40);
const _: () = assert!(size_of::<Spa>() == 56);
const _: () = assert!(size_of::<MemoryDevice>() == 48);
const _: () = assert!(size_of::<Interleave>() == 16);
const _: () = assert!(size_of::<ControlRegion>() == 32);
const _: () = assert!(size_of::<FlushHints>() == 16);
const _: () = assert!(size_of::<Capabilities>() == 16);
