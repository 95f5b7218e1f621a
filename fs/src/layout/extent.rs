//! Extents: runs of file blocks that lie in adjacent blocks of the region.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Block, Geometry};

/// Top bit of the length: allocated, but never written; reads give zeroes.
const UNWRITTEN: u32 = 1 << 31;

/// An extent as it stands on the media, 16 bytes; all zero is none.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct RawExtent {
    /// First block of the file that it covers.
    pub file_block: U32,
    /// Blocks; the top bit says "never written".
    pub len: U32,
    /// First block of the region; in an entry that names a node, the node's.
    pub phys: U64,
}

const _: () = assert!(size_of::<RawExtent>() == 16);

/// A run of `len` > 0 blocks of a file, at `file`, that lie at `phys` of the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First block of the file.
    pub file: u64,
    /// First block of the region.
    pub phys: Block,
    /// Number of blocks; 1 to 2³¹ − 1.
    pub len: u64,
    /// Allocated, never written.
    pub unwritten: bool,
}

impl Extent {
    /// Longest run that the format can say.
    pub const MAX_LEN: u64 = (UNWRITTEN - 1) as u64;

    /// First file block after the run.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.file + self.len
    }

    /// The part that covers file blocks `start..end`, if any.
    #[must_use]
    pub fn clip(&self, start: u64, end: u64) -> Option<Self> {
        let from = self.file.max(start);
        let to = self.end().min(end);
        (from < to).then(|| Self {
            file: from,
            phys: self.phys + (from - self.file),
            len: to - from,
            unwritten: self.unwritten,
        })
    }

    /// Whether `next` continues this one, in the file and in the region, in the same state and within the format's length.
    #[must_use]
    pub const fn joins(&self, next: &Self) -> bool {
        self.end() == next.file
            && self.phys + self.len == next.phys
            && self.unwritten == next.unwritten
            && self.len + next.len <= Self::MAX_LEN
    }

    /// The two words of the media form. File blocks and lengths are within the format by construction of the callers.
    #[must_use]
    pub const fn to_words(&self) -> [u64; 2] {
        let flag = if self.unwritten { UNWRITTEN as u64 } else { 0 };
        [self.file | (self.len | flag) << 32, self.phys]
    }

    /// Reads the two words of the media form; `None` unless it lies in the data blocks of `g` and within the largest file.
    #[must_use]
    pub fn from_words(words: [u64; 2], g: &Geometry) -> Option<Self> {
        let raw_len = words[0] >> 32;
        let this = Self {
            file: words[0] & 0xffff_ffff,
            phys: words[1],
            len: raw_len & Self::MAX_LEN,
            unwritten: raw_len & UNWRITTEN as u64 != 0,
        };
        let sound = this.len > 0 && this.end() <= 1 << 32 && g.is_data(this.phys, this.len);
        sound.then_some(this)
    }
}
