//! Directory entries: one line each, with up to four more for a long name.
//!
//! ```text
//! head   ino u64 | hash u32 | checksum u32 | kind u8 | name length u8 | slots u8 | 0 | 44 bytes of name
//! tail   0 u64   | 56 bytes of name
//! ```
//!
//! `ino` is the commit word: 0 is a free slot. Tails begin with 0 too, so that they look free to anyone who does not come
//! from their head; when the head goes, they *are* free.

use super::{Ino, Kind, Sum};

/// Bytes of a slot.
pub const DENTRY_SIZE: u64 = 64;
/// Bytes of name in the head.
pub const HEAD_NAME: usize = 44;
/// Bytes of name in a tail.
pub const TAIL_NAME: usize = 56;
/// Longest name, in bytes.
pub const NAME_MAX: usize = 255;

/// The head of a directory entry, without its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dentry {
    /// The inode it names; 0: free.
    pub ino: Ino,
    /// [`name_hash`] of the whole name.
    pub hash: u32,
    /// What the inode is.
    pub kind: Kind,
    /// Bytes of the name, 1 to 255.
    pub len: u8,
}

/// Slots that a name of `len` bytes takes: 1 to 5.
#[must_use]
pub const fn slots_for(len: usize) -> usize {
    1 + len.saturating_sub(HEAD_NAME).div_ceil(TAIL_NAME)
}

/// The hash by which a name is found: its CRC-32C.
#[must_use]
pub fn name_hash(name: &[u8]) -> u32 {
    super::crc32c(name)
}

impl Dentry {
    /// The checksum of the entry in the directory `dir`, over `name` whole.
    #[must_use]
    pub fn checksum(&self, uuid: &[u8; 16], dir: Ino, name: &[u8]) -> u32 {
        self.checksum_from(Sum::new(uuid, u64::from(dir)), name)
    }

    /// As [`Dentry::checksum`]; `start`: the sum as it begins in its directory.
    #[must_use]
    pub fn checksum_from(&self, start: Sum, name: &[u8]) -> u32 {
        start
            .words(&[u64::from(self.ino), self.word2()])
            .bytes(name)
            .finish()
    }

    const fn word2(&self) -> u64 {
        let kind = self.kind.bits() as u64 >> 12;
        let slots = slots_for(self.len as usize) as u64;
        kind | (self.len as u64) << 8 | slots << 16
    }

    /// The first two words, that change when the entry comes to name another inode.
    #[must_use]
    pub const fn commit_words(&self, checksum: u32) -> [u64; 2] {
        [self.ino as u64, self.hash as u64 | (checksum as u64) << 32]
    }

    /// The words of the head that carry something: 2, and the part with the first 44 bytes of the name.
    #[must_use]
    pub fn head_words(&self, checksum: u32, name: &[u8]) -> [u64; 8] {
        let mut line = [0u8; 64];
        let part = &name[..name.len().min(HEAD_NAME)];
        line[20..20 + part.len()].copy_from_slice(part);
        let mut words = super::line_words(&line);
        [words[0], words[1]] = self.commit_words(checksum);
        words[2] |= self.word2();
        words
    }

    /// The words of tail `index` (from 0) of `name`.
    #[must_use]
    pub fn tail_words(name: &[u8], index: usize) -> [u64; 8] {
        let from = (HEAD_NAME + index * TAIL_NAME).min(name.len());
        let part = &name[from..name.len().min(from + TAIL_NAME)];
        let mut line = [0u8; 64];
        line[8..8 + part.len()].copy_from_slice(part);
        super::line_words(&line)
    }

    /// Takes a head apart: the entry and its checksum; `None` when it says something that no entry says.
    #[must_use]
    pub fn decode(words: &[u64; 8]) -> Option<(Self, u32)> {
        let len = (words[2] >> 8) as u8;
        let slots = (words[2] >> 16) as u8;
        let kind = Kind::of_mode(((words[2] & 0xff) as u16) << 12)?;
        let this = Self {
            ino: Ino::try_from(words[0]).ok()?,
            hash: words[1] as u32,
            kind,
            len,
        };
        let sound = len > 0 && usize::from(slots) == slots_for(len.into()) && words[2] as u8 <= 15;
        (sound && words[2] >> 24 & 0xff == 0).then_some((this, (words[1] >> 32) as u32))
    }

    /// The part of the name that stands in a head.
    #[must_use]
    pub fn head_name(words: &[u64; 8]) -> [u8; HEAD_NAME] {
        let mut name = [0; HEAD_NAME];
        let bytes: [[u8; 8]; 6] = core::array::from_fn(|i| words[i + 2].to_le_bytes());
        name.copy_from_slice(&bytes.as_flattened()[4..]);
        name
    }
}
