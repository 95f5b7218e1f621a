//! Why a piece of the table was refused.

use core::fmt;
use core::ops::Range;

use thiserror::Error;

/// A kind of structure in the NFIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Piece {
    /// The table as a whole.
    Table,
    /// Type 0: a range of system physical addresses.
    Spa,
    /// Type 1: a memory device's part in a range.
    MemoryDevice,
    /// Type 2: how devices are interleaved.
    Interleave,
    /// Type 4: who made a device, and its serial number.
    ControlRegion,
    /// Type 6: addresses to write for a device's queues to drain.
    FlushHints,
    /// Type 7: what the platform saves on power loss.
    Capabilities,
    /// Any other type, by its number.
    Other(u16),
}

impl Piece {
    pub(super) const fn from_type(number: u16) -> Self {
        match number {
            0 => Self::Spa,
            1 => Self::MemoryDevice,
            2 => Self::Interleave,
            4 => Self::ControlRegion,
            6 => Self::FlushHints,
            7 => Self::Capabilities,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table => f.write_str("table"),
            Self::Spa => f.write_str("SPA range"),
            Self::MemoryDevice => f.write_str("memory device"),
            Self::Interleave => f.write_str("interleave table"),
            Self::ControlRegion => f.write_str("control region"),
            Self::FlushHints => f.write_str("flush hints"),
            Self::Capabilities => f.write_str("platform capabilities"),
            Self::Other(number) => write!(f, "structure of type {number}"),
        }
    }
}

/// A piece that was refused: which one, where in the table, and why.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{piece} at byte {offset:#x}: {reason}")]
pub struct Rejected {
    /// First byte of the piece, from the start of the table.
    pub offset: usize,
    /// What it is.
    pub piece: Piece,
    /// What is wrong with it, and what to do.
    pub reason: Reason,
}

/// What is wrong with a piece. The text ends with what to do about it.
///
/// The first group refuses the table as a whole; the second ends the walk over its pieces, keeping those before; the
/// third refuses one piece; the fourth, found by [`crate::region::discover`], refuses the use of one SPA range.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Reason {
    /// Fewer bytes than the fixed part of a table.
    #[error(
        "{have} bytes are no table, its fixed part alone has {need} (pass the whole table, header included)"
    )]
    TooShort {
        /// Bytes given.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// The signature is another one.
    #[error("signature {0:02x?} is not \"NFIT\" (pass the NFIT)")]
    Signature([u8; 4]),
    /// The header's length does not fit the bytes that there are.
    #[error(
        "the header says {says} bytes, {have} are there (correct the length, or pass the whole table)"
    )]
    TableLength {
        /// The header's length field.
        says: u32,
        /// Bytes given.
        have: usize,
    },
    /// The bytes do not add up to 0.
    #[error(
        "checksum: the bytes add up to {sum:#04x} instead of 0; no piece of it can be trusted (correct the table)"
    )]
    Checksum {
        /// The sum of all bytes, modulo 256.
        sum: u8,
    },
    /// The heap could not hold it.
    #[error("out of memory (give the machine more)")]
    OutOfMemory,

    /// Fewer bytes are left than a structure's type and length.
    #[error(
        "{left} stray bytes, a structure starts with 4 (remove them, or correct the length before them)"
    )]
    Truncated {
        /// Bytes left.
        left: usize,
    },
    /// The length is less than the type and length fields themselves.
    #[error(
        "length {says} does not reach the next structure, and nothing after it can be found (correct the length)"
    )]
    ShortLength {
        /// The length field.
        says: u16,
    },
    /// The length passes the end of the table.
    #[error(
        "length {says} passes the end of the table, {left} bytes are left (correct one of the two lengths)"
    )]
    Overrun {
        /// The length field.
        says: u16,
        /// Bytes left.
        left: usize,
    },

    /// The length is not that of the type.
    #[error("{is} bytes long, this type has {expected} (correct the length)")]
    Size {
        /// The length field.
        is: usize,
        /// The length that the type, and its count where it has one, asks for.
        expected: usize,
    },
    /// Index 0 stands for "none".
    #[error("index 0 is reserved (number it from 1)")]
    ReservedIndex,
    /// Another piece of this kind has the index, handle or place already.
    #[error("{0:#x} is taken by an earlier one, which is kept (number them apart)")]
    Duplicate(u32),
    /// It refers to a piece that is not there, or was refused itself.
    #[error("refers to {to} {index:#x}, which is missing or was refused (add or correct that one)")]
    Dangling {
        /// The kind of piece missing.
        to: Piece,
        /// Its index or handle.
        index: u32,
    },
    /// There are more of this kind than are kept.
    #[error("more than {0} of these (the rest is left out; split the machine)")]
    TooMany(usize),

    /// The range has no bytes.
    #[error("the range has length 0 (remove it, or give its length)")]
    Empty,
    /// The base or the length is no multiple of 4 KiB.
    #[error(
        "base {base:#x} and length {length:#x} must be multiples of 0x1000 (and the base one of 0x200000 for 2 MiB pages: \
         the next is {next_2m:#x})"
    )]
    Misaligned {
        /// First byte.
        base: u64,
        /// Bytes.
        length: u64,
        /// The next base at which 2 MiB pages are possible.
        next_2m: u64,
    },
    /// The range ends past what the CPU can address.
    #[error(
        "base {base:#x} and length {length:#x} pass the CPU's last address {last:#x} (correct them)"
    )]
    Unreachable {
        /// First byte.
        base: u64,
        /// Bytes.
        length: u64,
        /// The last physical address.
        last: u64,
    },
    /// The range overlaps an earlier region.
    #[error("overlaps region {region}, {:#x}..{:#x}, which is kept (correct the base or length of one)", .range.start, .range.end)]
    Overlap {
        /// Number of the other region.
        region: u32,
        /// Its addresses.
        range: Range<u64>,
    },
    /// The range overlaps RAM, or device windows at fixed places.
    #[error("overlaps RAM or devices at {:#x}..{:#x} (correct the base or length)", .0.start, .0.end)]
    Taken(Range<u64>),
    /// A device of the range has the "map failed" flag.
    #[error(
        "the firmware could not map device {handle:#x} (see the firmware's log; reseat or replace it)"
    )]
    NotMapped {
        /// NFIT handle of the device.
        handle: u32,
    },
}
