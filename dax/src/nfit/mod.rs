//! The NFIT: where ACPI says that persistent memory is.
//!
//! [`parse`] takes the raw bytes of one table and believes none of them. What it guarantees of an [`Nfit`]:
//!
//! - Each kept piece has the size of its type, and a number that no other kept piece of its kind has.
//! - Each reference from one kept piece to another leads to a kept piece. (Index 0 means "none" and is allowed.)
//! - Memory used is bounded by the limits below, whatever the table says.
//!
//! A bad piece is refused on its own, with its place and the reason in [`Nfit::rejected`], and the rest goes on; of two
//! pieces with one number the first is kept. Only a length that hides where the next piece starts ends the walk. A table
//! whose checksum is wrong is refused whole: one flipped bit in a base address would have us map foreign memory as
//! storage and write to it, and nothing in the table could tell.
//!
//! Addresses are not judged here but in [`crate::region`], which knows where the RAM is.

mod raw;
mod reject;
mod walk;

use alloc::vec::Vec;

use arrayvec::ArrayVec;
use bitflags::bitflags;

pub use reject::{Piece, Reason, Rejected};

/// SPA ranges, and tables of any other kind, that are kept from one table.
pub const MAX_PIECES: usize = 256;
/// Refusals that are listed one by one; the rest is counted.
pub const MAX_REJECTED: usize = 64;
/// Flush-hint addresses that are kept for a device; writing any one of them does.
pub const MAX_HINTS: usize = 4;

/// Type of an address range, by GUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaKind {
    /// Persistent memory.
    Persistent,
    /// Ordinary memory on an NVDIMM.
    Volatile,
    /// Registers of a device's control region.
    Control,
    /// Data windows of a block-mode device.
    BlockData,
    /// RAM disk or CD; volatile or persistent.
    VirtualDisk,
    /// Not known, with the GUID as it lies in memory.
    Other([u8; 16]),
}

bitflags! {
    /// State and health of a memory device.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DeviceFlags: u16 {
        /// The last save to the media on power loss failed.
        const SAVE_FAILED = 1;
        /// The last restore from the media failed.
        const RESTORE_FAILED = 1 << 1;
        /// The platform's flush on power loss failed; data may have been lost.
        const FLUSH_FAILED = 1 << 2;
        /// Not armed: stores may be lost on power failure.
        const NOT_ARMED = 1 << 3;
        /// The device reported a health event before boot.
        const HEALTH_OBSERVED = 1 << 4;
        /// The device notifies of health events.
        const HEALTH_EVENTS = 1 << 5;
        /// The firmware could not map the device.
        const MAP_FAILED = 1 << 6;
        const _ = !0;
    }

    /// What the platform saves on power loss.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PlatformFlags: u32 {
        /// CPU caches (eADR).
        const CPU_CACHE = 1;
        /// The memory controllers' queues (ADR).
        const MEMORY_CONTROLLER = 1 << 1;
        /// Byte-addressable mirroring is in use.
        const MIRRORING = 1 << 2;
        const _ = !0;
    }
}

/// A range of system physical addresses (type 0).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spa {
    /// Place in the table, in bytes.
    pub offset: usize,
    /// Number by which memory devices refer to it; not 0.
    pub index: u16,
    /// Flags as found; bit 0: used for hot-add only, bit 1: the proximity domain is valid.
    pub flags: u16,
    /// Proximity domain.
    pub proximity: u32,
    /// What the range is for.
    pub kind: SpaKind,
    /// First byte.
    pub base: u64,
    /// Bytes.
    pub length: u64,
    /// EFI memory attributes; 0x8 is write-back, 0x8000 non-volatile.
    pub attributes: u64,
}

/// A memory device's part in a range (type 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryDevice {
    /// Place in the table, in bytes.
    pub offset: usize,
    /// NFIT handle of the device.
    pub handle: u32,
    /// SMBIOS handle.
    pub physical_id: u16,
    /// Number of this part within the device.
    pub region_id: u16,
    /// The SPA range; 0: the part is not mapped.
    pub spa_index: u16,
    /// The control region; 0: none.
    pub control_index: u16,
    /// Bytes of the device in the range.
    pub region_size: u64,
    /// Where in the range the device starts, in bytes.
    pub region_offset: u64,
    /// Device physical address at which the part starts.
    pub dpa: u64,
    /// The interleave table; 0: none.
    pub interleave_index: u16,
    /// Devices that are interleaved in the range.
    pub ways: u16,
    /// State and health.
    pub flags: DeviceFlags,
}

/// An interleave table (type 2); its line offsets are checked for their number and not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interleave {
    /// Place in the table, in bytes.
    pub offset: usize,
    /// Number by which memory devices refer to it; not 0.
    pub index: u16,
    /// Number of lines.
    pub lines: u32,
    /// Bytes of a line.
    pub line_size: u32,
}

/// Identity of a device (type 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlRegion {
    /// Place in the table, in bytes.
    pub offset: usize,
    /// Number by which memory devices refer to it; not 0.
    pub index: u16,
    /// JEDEC vendor.
    pub vendor: u16,
    /// Device number of the vendor.
    pub device: u16,
    /// Revision of the device.
    pub revision: u16,
    /// Where it was made; valid with bit 0 of `valid_fields`.
    pub manufacturing_location: u8,
    /// When it was made, in binary-coded week and year; valid with bit 0 of `valid_fields`.
    pub manufacturing_date: u16,
    /// Which of the manufacturing fields are valid.
    pub valid_fields: u8,
    /// Serial number.
    pub serial: u32,
    /// Format interface code.
    pub interface: u16,
    /// Block control windows.
    pub windows: u16,
}

/// Addresses to write so that a device's queues drain to the media (type 6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlushHints {
    /// Place in the table, in bytes.
    pub offset: usize,
    /// NFIT handle of the device.
    pub handle: u32,
    /// Number of addresses in the table.
    pub count: u16,
    /// The first [`MAX_HINTS`] of them, as found.
    pub addresses: ArrayVec<u64, MAX_HINTS>,
}

/// What the platform saves on power loss (type 7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Place in the table, in bytes.
    pub offset: usize,
    /// The highest bit that the firmware knows; higher ones mean nothing.
    pub highest: u8,
    /// All bits as found.
    pub raw: u32,
}

impl Capabilities {
    /// The bits that mean something.
    #[must_use]
    pub const fn valid(&self) -> PlatformFlags {
        let mask = match 2_u32.checked_shl(self.highest as u32) {
            Some(above) => above.wrapping_sub(1),
            None => u32::MAX,
        };
        PlatformFlags::from_bits_retain(self.raw & mask)
    }
}

/// One parsed table: what was found, and what was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nfit {
    /// Address ranges, in the order of the table.
    pub spas: Vec<Spa>,
    /// Memory devices.
    pub devices: Vec<MemoryDevice>,
    /// Interleave tables.
    pub interleaves: Vec<Interleave>,
    /// Control regions.
    pub controls: Vec<ControlRegion>,
    /// Flush hints.
    pub hints: Vec<FlushHints>,
    /// Platform capabilities, where the firmware declares any.
    pub capabilities: Option<Capabilities>,
    /// Structures of other types, which were skipped.
    pub skipped: u32,
    /// What was refused, in the order of the table within each pass; at most [`MAX_REJECTED`].
    pub rejected: Vec<Rejected>,
    /// How many more were refused than are listed.
    pub unlisted: u32,
}

/// Parses the raw bytes of one table. Bytes after the length that its header states are not looked at.
///
/// # Errors
/// The table is refused whole: too short, not an NFIT, a length past the bytes given, a wrong checksum, or no memory.
pub fn parse(table: &[u8]) -> Result<Nfit, Rejected> {
    let pieces = walk::pieces(table)?;
    let mut nfit = Nfit::default();
    for piece in pieces {
        match piece {
            Ok(piece) => nfit.add(&piece)?,
            Err(rejected) => nfit.reject(rejected)?,
        }
    }
    nfit.drop_dangling()?;
    Ok(nfit)
}

impl Nfit {
    /// The SPA range with this index.
    #[must_use]
    pub fn spa(&self, index: u16) -> Option<&Spa> {
        self.spas.iter().find(|spa| spa.index == index)
    }

    /// The control region with this index.
    #[must_use]
    pub fn control(&self, index: u16) -> Option<&ControlRegion> {
        self.controls.iter().find(|control| control.index == index)
    }

    /// The flush hints of a device.
    #[must_use]
    pub fn hints_of(&self, handle: u32) -> Option<&FlushHints> {
        self.hints.iter().find(|hints| hints.handle == handle)
    }

    /// The parts of memory devices that make up an SPA range, in the order of the table.
    pub fn devices_of(&self, spa: &Spa) -> impl Iterator<Item = &MemoryDevice> + Clone {
        let index = spa.index;
        self.devices
            .iter()
            .filter(move |device| device.spa_index == index)
    }

    /// Lists a refusal, or counts it when the list is full.
    pub(crate) fn reject(&mut self, rejected: Rejected) -> Result<(), Rejected> {
        if self.rejected.len() == MAX_REJECTED {
            self.unlisted = self.unlisted.saturating_add(1);
            return Ok(());
        }
        try_push(&mut self.rejected, rejected)
    }

    /// Keeps one well-formed piece, or refuses it.
    fn add(&mut self, piece: &walk::Found<'_>) -> Result<(), Rejected> {
        let result = match piece.piece {
            Piece::Spa => piece.spa().and_then(|p| keep(&mut self.spas, p)),
            Piece::MemoryDevice => piece.device().and_then(|p| keep(&mut self.devices, p)),
            Piece::Interleave => piece
                .interleave()
                .and_then(|p| keep(&mut self.interleaves, p)),
            Piece::ControlRegion => piece.control().and_then(|p| keep(&mut self.controls, p)),
            Piece::FlushHints => piece.hints().and_then(|p| keep(&mut self.hints, p)),
            Piece::Capabilities => piece.capabilities().and_then(|p| self.keep_capabilities(p)),
            Piece::Table | Piece::Other(_) => {
                self.skipped += 1;
                Ok(())
            }
        };
        match result {
            Err(reason) => self.reject(piece.rejected(reason)),
            Ok(()) => Ok(()),
        }
    }

    fn keep_capabilities(&mut self, found: Capabilities) -> Result<(), Reason> {
        if self.capabilities.is_some() {
            return Err(Reason::Duplicate(0));
        }
        self.capabilities = Some(found);
        Ok(())
    }

    /// Refuses the pieces that refer to missing ones: devices first, then the hints for devices.
    fn drop_dangling(&mut self) -> Result<(), Rejected> {
        let mut devices = core::mem::take(&mut self.devices);
        let mut hints = core::mem::take(&mut self.hints);
        self.refuse_where(&mut devices, Piece::MemoryDevice, Self::missing_of_device)?;
        self.devices = devices;
        self.refuse_where(&mut hints, Piece::FlushHints, Self::missing_of_hints)?;
        self.hints = hints;
        Ok(())
    }

    /// Removes from `list` what `fault` finds a fault with, and lists it as refused.
    fn refuse_where<T: Numbered>(
        &mut self,
        list: &mut Vec<T>,
        piece: Piece,
        fault: impl Fn(&Self, &T) -> Option<Reason>,
    ) -> Result<(), Rejected> {
        let mut result = Ok(());
        list.retain(|entry| {
            let Some(reason) = fault(self, entry) else {
                return true;
            };
            let offset = entry.offset();
            let listed = self.reject(Rejected {
                offset,
                piece,
                reason,
            });
            result = core::mem::replace(&mut result, Ok(())).and(listed);
            false
        });
        result
    }

    fn missing_of_device(&self, device: &MemoryDevice) -> Option<Reason> {
        let interleave = |index| self.interleaves.iter().any(|table| table.index == index);
        let (spa, control) = (device.spa_index, device.control_index);
        let (to, index) = if spa != 0 && self.spa(spa).is_none() {
            (Piece::Spa, spa)
        } else if control != 0 && self.control(control).is_none() {
            (Piece::ControlRegion, control)
        } else if device.interleave_index != 0 && !interleave(device.interleave_index) {
            (Piece::Interleave, device.interleave_index)
        } else {
            return None;
        };
        let index = index.into();
        Some(Reason::Dangling { to, index })
    }

    fn missing_of_hints(&self, hints: &FlushHints) -> Option<Reason> {
        let found = self
            .devices
            .iter()
            .any(|device| device.handle == hints.handle);
        (!found).then_some(Reason::Dangling {
            to: Piece::MemoryDevice,
            index: hints.handle,
        })
    }
}

/// A piece with a place and a number.
trait Numbered {
    /// Place in the table, in bytes.
    fn offset(&self) -> usize;
    /// What no other piece of the kind may share, and how it is called in a message; `None`: reserved.
    fn number(&self) -> Option<(u64, u32)>;
}

/// Implements [`Numbered`] for a piece with a 16-bit index, where 0 is reserved.
macro_rules! numbered_by_index {
    ($($piece:ty),*) => {$(
        impl Numbered for $piece {
            fn offset(&self) -> usize {
                self.offset
            }
            fn number(&self) -> Option<(u64, u32)> {
                (self.index != 0).then(|| (self.index.into(), self.index.into()))
            }
        }
    )*};
}

numbered_by_index!(Spa, Interleave, ControlRegion);

impl Numbered for MemoryDevice {
    fn offset(&self) -> usize {
        self.offset
    }
    // A device has one part in a range; several parts that are in no range are told apart by their number.
    fn number(&self) -> Option<(u64, u32)> {
        let part = if self.spa_index == 0 {
            self.region_id
        } else {
            0
        };
        let place = u64::from(self.spa_index) << 16 | u64::from(part);
        Some((u64::from(self.handle) << 32 | place, self.handle))
    }
}

impl Numbered for FlushHints {
    fn offset(&self) -> usize {
        self.offset
    }
    fn number(&self) -> Option<(u64, u32)> {
        Some((self.handle.into(), self.handle))
    }
}

/// Appends a piece unless its number is reserved or taken, or the list is full.
fn keep<T: Numbered>(list: &mut Vec<T>, piece: T) -> Result<(), Reason> {
    let (number, name) = piece.number().ok_or(Reason::ReservedIndex)?;
    if list
        .iter()
        .any(|other| other.number().is_some_and(|(taken, _)| taken == number))
    {
        return Err(Reason::Duplicate(name));
    }
    if list.len() == MAX_PIECES {
        return Err(Reason::TooMany(MAX_PIECES));
    }
    list.try_reserve(1).map_err(|_| Reason::OutOfMemory)?;
    list.push(piece);
    Ok(())
}

/// Appends to a list, or refuses the table for want of memory.
pub(crate) fn try_push<T>(list: &mut Vec<T>, entry: T) -> Result<(), Rejected> {
    list.try_reserve(1)
        .map_err(|_| walk::table(Reason::OutOfMemory))?;
    list.push(entry);
    Ok(())
}
