//! From bytes to pieces: the table's header, the walk over its structures, and the size of each.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::guid::guid;

use super::reject::{Piece, Reason, Rejected};
use super::{
    Capabilities, ControlRegion, DeviceFlags, FlushHints, Interleave, MemoryDevice, Spa, SpaKind,
    raw,
};

/// Bytes of a control region that has block windows; one without may end after the count of windows.
const CONTROL_WITH_WINDOWS: usize = 80;
/// Bytes that a location cookie adds to an SPA range since ACPI 6.4.
const COOKIE: usize = 8;

/// A refusal of the whole table.
pub(super) fn table(reason: Reason) -> Rejected {
    Rejected {
        offset: 0,
        piece: Piece::Table,
        reason,
    }
}

/// Checks the table's header and checksum, and gives its structures.
pub(super) fn pieces(bytes: &[u8]) -> Result<Pieces<'_>, Rejected> {
    let (have, need) = (bytes.len(), size_of::<raw::Table>());
    let Ok((header, _)) = raw::Table::ref_from_prefix(bytes) else {
        return Err(table(Reason::TooShort { have, need }));
    };
    if header.signature != *b"NFIT" {
        return Err(table(Reason::Signature(header.signature)));
    }
    let says = header.length.get();
    let Some(bytes) = usize::try_from(says)
        .ok()
        .filter(|len| *len >= need)
        .and_then(|len| bytes.get(..len))
    else {
        return Err(table(Reason::TableLength { says, have }));
    };
    match bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) {
        0 => Ok(Pieces { bytes, at: need }),
        sum => Err(table(Reason::Checksum { sum })),
    }
}

/// Iterator over the structures of a table; ends at the first whose length hides the next.
pub(super) struct Pieces<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Pieces<'a> {
    /// Ends the walk with a refusal.
    fn stop(&mut self, piece: Piece, reason: Reason) -> Rejected {
        let offset = core::mem::replace(&mut self.at, self.bytes.len());
        Rejected {
            offset,
            piece,
            reason,
        }
    }

    fn advance(&mut self) -> Result<Found<'a>, Rejected> {
        let rest = &self.bytes[self.at..];
        let left = rest.len();
        let Ok((header, _)) = raw::Header::ref_from_prefix(rest) else {
            return Err(self.stop(Piece::Table, Reason::Truncated { left }));
        };
        let (piece, says) = (Piece::from_type(header.kind.get()), header.length.get());
        if usize::from(says) < size_of::<raw::Header>() {
            return Err(self.stop(piece, Reason::ShortLength { says }));
        }
        let Some(bytes) = rest.get(..says.into()) else {
            return Err(self.stop(piece, Reason::Overrun { says, left }));
        };
        let offset = self.at;
        self.at += bytes.len();
        Ok(Found {
            offset,
            piece,
            bytes,
        })
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Result<Found<'a>, Rejected>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.at < self.bytes.len()).then(|| self.advance())
    }
}

/// A structure whose bytes all lie within the table.
pub(super) struct Found<'a> {
    offset: usize,
    pub(super) piece: Piece,
    bytes: &'a [u8],
}

impl Found<'_> {
    pub(super) fn rejected(&self, reason: Reason) -> Rejected {
        let (offset, piece) = (self.offset, self.piece);
        Rejected {
            offset,
            piece,
            reason,
        }
    }

    /// The fixed part of the structure, and the bytes after it.
    fn fixed<T: FromBytes + KnownLayout + Immutable + Unaligned>(
        &self,
    ) -> Result<(&T, &[u8]), Reason> {
        T::ref_from_prefix(self.bytes).map_err(|_| self.wrong_size(size_of::<T>()))
    }

    fn wrong_size(&self, expected: usize) -> Reason {
        let is = self.bytes.len();
        Reason::Size { is, expected }
    }

    /// Refuses any size but `expected`.
    fn sized(&self, expected: usize) -> Result<(), Reason> {
        if self.bytes.len() == expected {
            return Ok(());
        }
        Err(self.wrong_size(expected))
    }

    pub(super) fn spa(&self) -> Result<Spa, Reason> {
        let (raw, rest) = self.fixed::<raw::Spa>()?;
        if rest.len() != COOKIE {
            self.sized(size_of::<raw::Spa>())?;
        }
        Ok(Spa {
            offset: self.offset,
            index: raw.index.get(),
            flags: raw.flags.get(),
            proximity: raw.proximity.get(),
            kind: SpaKind::from_guid(raw.guid),
            base: raw.base.get(),
            length: raw.length.get(),
            attributes: raw.attributes.get(),
        })
    }

    pub(super) fn device(&self) -> Result<MemoryDevice, Reason> {
        let (raw, _) = self.fixed::<raw::MemoryDevice>()?;
        self.sized(size_of::<raw::MemoryDevice>())?;
        Ok(MemoryDevice {
            offset: self.offset,
            handle: raw.handle.get(),
            physical_id: raw.physical_id.get(),
            region_id: raw.region_id.get(),
            spa_index: raw.spa_index.get(),
            control_index: raw.control_index.get(),
            region_size: raw.region_size.get(),
            region_offset: raw.region_offset.get(),
            dpa: raw.dpa.get(),
            interleave_index: raw.interleave_index.get(),
            ways: raw.ways.get(),
            flags: DeviceFlags::from_bits_retain(raw.flags.get()),
        })
    }

    pub(super) fn interleave(&self) -> Result<Interleave, Reason> {
        let (raw, _) = self.fixed::<raw::Interleave>()?;
        // The count has 32 bits and the size is compared as 64-bit, so that no count can wrap to the right size.
        let expected = size_of::<raw::Interleave>() as u64 + u64::from(raw.lines.get()) * 4;
        self.sized(usize::try_from(expected).unwrap_or(usize::MAX))?;
        Ok(Interleave {
            offset: self.offset,
            index: raw.index.get(),
            lines: raw.lines.get(),
            line_size: raw.line_size.get(),
        })
    }

    pub(super) fn control(&self) -> Result<ControlRegion, Reason> {
        let (raw, rest) = self.fixed::<raw::ControlRegion>()?;
        if raw.windows.get() != 0 || !rest.is_empty() {
            self.sized(CONTROL_WITH_WINDOWS)?;
        }
        Ok(ControlRegion {
            offset: self.offset,
            index: raw.index.get(),
            vendor: raw.vendor.get(),
            device: raw.device.get(),
            revision: raw.revision.get(),
            manufacturing_location: raw.manufacturing_location,
            manufacturing_date: raw.manufacturing_date.get(),
            valid_fields: raw.valid_fields,
            serial: raw.serial.get(),
            interface: raw.interface.get(),
            windows: raw.windows.get(),
        })
    }

    pub(super) fn hints(&self) -> Result<FlushHints, Reason> {
        let (raw, rest) = self.fixed::<raw::FlushHints>()?;
        self.sized(size_of::<raw::FlushHints>() + usize::from(raw.count.get()) * 8)?;
        let addresses = rest
            .as_chunks()
            .0
            .iter()
            .map(|bytes| u64::from_le_bytes(*bytes));
        Ok(FlushHints {
            offset: self.offset,
            handle: raw.handle.get(),
            count: raw.count.get(),
            addresses: addresses.take(super::MAX_HINTS).collect(),
        })
    }

    pub(super) fn capabilities(&self) -> Result<Capabilities, Reason> {
        let (raw, _) = self.fixed::<raw::Capabilities>()?;
        self.sized(size_of::<raw::Capabilities>())?;
        Ok(Capabilities {
            offset: self.offset,
            highest: raw.highest,
            raw: raw.capabilities.get(),
        })
    }
}

const PERSISTENT: [u8; 16] = guid(0x66f0d379_b4f3_4074_ac43_0d3318b78cdb);
const VOLATILE: [u8; 16] = guid(0x7305944f_fdda_44e3_b16c_3f22d252e5d0);
const CONTROL: [u8; 16] = guid(0x92f701f6_13b4_405d_910b_299367e8234c);
const BLOCK_DATA: [u8; 16] = guid(0x91af0530_5d86_470e_a6b0_0a2db9408249);
const VIRTUAL_DISKS: [[u8; 16]; 4] = [
    guid(0x77ab535a_45fc_624b_5560_f7b281d1f96e),
    guid(0x3d5abd30_4175_87ce_6d64_d2ade523c4bb),
    guid(0x5cea02c9_4d07_69d3_269f_4496fbe096f9),
    guid(0x08018188_42cd_bb48_100f_5387d53ded3d),
];

impl SpaKind {
    pub(super) fn from_guid(guid: [u8; 16]) -> Self {
        match guid {
            PERSISTENT => Self::Persistent,
            VOLATILE => Self::Volatile,
            CONTROL => Self::Control,
            BLOCK_DATA => Self::BlockData,
            _ if VIRTUAL_DISKS.contains(&guid) => Self::VirtualDisk,
            _ => Self::Other(guid),
        }
    }
}
