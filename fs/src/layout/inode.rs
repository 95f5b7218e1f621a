//! An inode: one line of attributes, three lines of extents (or of the text of a short symbolic link).

use thiserror::Error;

use super::{Ino, Sum};

/// Bytes of an inode.
pub const INODE_SIZE: u64 = 256;
/// Extents (or index entries) that an inode holds itself.
pub const INLINE_EXTENTS: usize = 12;
/// Bytes of a symbolic link's text that an inode holds itself.
pub const INLINE_TEXT: usize = 16 * INLINE_EXTENTS;
/// Longest text of a symbolic link, in bytes.
pub const TEXT_MAX: usize = 4095;
/// Words of the attributes.
pub const CORE_WORDS: usize = 8;
/// The word of the attributes that has the checksum.
pub const SUM_WORD: usize = 3;

/// What an inode is; the type bits of its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe. Only the name and the attributes are kept here, as of the three below.
    Fifo,
    /// A socket.
    Socket,
    /// A device of characters.
    CharDev,
    /// A device of blocks.
    BlockDev,
}

impl Kind {
    const MASK: u16 = 0o170_000;

    /// The type bits, as POSIX has them.
    #[must_use]
    pub const fn bits(self) -> u16 {
        match self {
            Self::File => 0o100_000,
            Self::Dir => 0o040_000,
            Self::Symlink => 0o120_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
            Self::CharDev => 0o020_000,
            Self::BlockDev => 0o060_000,
        }
    }

    /// Reads the type bits of a mode.
    #[must_use]
    pub const fn of_mode(mode: u16) -> Option<Self> {
        match mode & Self::MASK {
            0o100_000 => Some(Self::File),
            0o040_000 => Some(Self::Dir),
            0o120_000 => Some(Self::Symlink),
            0o010_000 => Some(Self::Fifo),
            0o140_000 => Some(Self::Socket),
            0o020_000 => Some(Self::CharDev),
            0o060_000 => Some(Self::BlockDev),
            _ => None,
        }
    }

    /// Whether it is a device, and has a device number.
    #[must_use]
    pub const fn is_device(self) -> bool {
        matches!(self, Self::CharDev | Self::BlockDev)
    }
}

/// The attributes of an inode in use, 64 bytes on the media:
///
/// ```text
/// word 0   mode u16 | entries u8 | depth u8 | nlink u32
/// word 1   time of the last change of the content, ns
/// word 2   time of the last change of the attributes, ns
/// word 3   checksum u32 | parent u32 (directories)
/// word 4   size in bytes
/// word 5   uid u32 | gid u32
/// word 6   generation u32 | extra u32 (device number; checksum of a symbolic link's text in a block)
/// word 7   time of the last access as set by its owner, ns
/// ```
///
/// The order of the words is chosen so that what one operation changes is one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Core {
    /// Type and permission bits.
    pub mode: u16,
    /// Inline entries in use, at most [`INLINE_EXTENTS`].
    pub entries: u8,
    /// 0: the entries are extents; else each names a node of the level below, at most [`MAX_DEPTH`](super::MAX_DEPTH).
    pub depth: u8,
    /// Names that lead here. 0: an orphan, alive only until the last user in memory is gone.
    pub nlink: u32,
    /// Nanoseconds.
    pub mtime: u64,
    /// Nanoseconds.
    pub ctime: u64,
    /// Of a directory: the directory that holds it; the root is its own parent.
    pub parent: Ino,
    /// Bytes.
    pub size: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Counts the uses of this slot of the table.
    pub generation: u32,
    /// Of a device: its number. Of a symbolic link whose text stands in a block: the CRC-32C of the text. Else 0.
    pub extra: u32,
    /// Nanoseconds.
    pub atime: u64,
}

/// What is wrong with an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InodeFault {
    /// The checksum does not match.
    #[error("checksum is {found:#010x}, should be {expected:#010x}")]
    Checksum {
        /// On the media.
        found: u32,
        /// By the content.
        expected: u32,
    },
    /// Type bits that no file has.
    #[error("mode {0:#o} is of no known type")]
    Mode(u16),
    /// More entries than there is room for.
    #[error("{0} inline entries, but there is room for 12")]
    Entries(u8),
    /// A depth from the future.
    #[error("extent depth {0}, but this version knows 0 to 6")]
    Depth(u8),
    /// An inline extent that lies outside the region or is empty.
    #[error("extent {index} ({words:#x?}) does not lie in the data blocks")]
    Extent {
        /// Index among the inline entries.
        index: usize,
        /// As found.
        words: [u64; 2],
    },
    /// Two extents claim the same block of the file.
    #[error("extents overlap at file block {0}")]
    Overlap(u64),
    /// The size is beyond the largest file, or is none that this type can have.
    #[error("size {0} is impossible for this type")]
    Size(u64),
}

/// The 12 pairs of words after the attributes: entries, or the text of a short symbolic link.
pub type Body = [[u64; 2]; INLINE_EXTENTS];

/// An inode as read: attributes and the raw words of its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct InodeImage {
    /// The attributes.
    pub core: Core,
    /// Lines 1 to 3; the first `core.entries` count (for a symbolic link without entries, the first `core.size` bytes: its text).
    pub body: Body,
}

impl Core {
    /// The type.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        Kind::of_mode(self.mode)
    }

    /// The words of the media form, with `checksum` put in.
    #[must_use]
    pub fn to_words(&self, checksum: u32) -> [u64; CORE_WORDS] {
        let w0 = u64::from(self.mode)
            | u64::from(self.entries) << 16
            | u64::from(self.depth) << 24
            | u64::from(self.nlink) << 32;
        [
            w0,
            self.mtime,
            self.ctime,
            u64::from(checksum) | u64::from(self.parent) << 32,
            self.size,
            u64::from(self.uid) | u64::from(self.gid) << 32,
            u64::from(self.generation) | u64::from(self.extra) << 32,
            self.atime,
        ]
    }

    /// Takes the words apart; the checksum comes second. Checks nothing.
    #[must_use]
    pub const fn from_words(w: &[u64; CORE_WORDS]) -> (Self, u32) {
        let core = Self {
            mode: w[0] as u16,
            entries: (w[0] >> 16) as u8,
            depth: (w[0] >> 24) as u8,
            nlink: (w[0] >> 32) as u32,
            mtime: w[1],
            ctime: w[2],
            parent: (w[3] >> 32) as u32,
            size: w[4],
            uid: w[5] as u32,
            gid: (w[5] >> 32) as u32,
            generation: w[6] as u32,
            extra: (w[6] >> 32) as u32,
            atime: w[7],
        };
        (core, w[3] as u32)
    }
}

impl Core {
    /// The checksum of the inode in place `ino` that has these attributes and this body.
    #[must_use]
    pub fn checksum(&self, body: &Body, uuid: &[u8; 16], ino: Ino) -> u32 {
        self.checksum_from(Sum::new(uuid, u64::from(ino)), body)
    }

    /// As [`Core::checksum`]; `start`: the sum as it begins in its place.
    #[must_use]
    pub fn checksum_from(&self, start: Sum, body: &Body) -> u32 {
        let after = &body.as_flattened()[..InodeImage::body_words(self)];
        start.words(&self.to_words(0)).words(after).finish()
    }
}

impl InodeImage {
    /// Words of the body that the checksum covers: the entries in use, or the text of a symbolic link.
    #[inline]
    fn body_words(core: &Core) -> usize {
        match core.kind() {
            Some(Kind::Symlink) if core.entries == 0 => {
                core.size.min(INLINE_TEXT as u64).div_ceil(8) as usize
            }
            _ => 2 * (core.entries as usize).min(INLINE_EXTENTS),
        }
    }

    /// The checksum this inode should have in place `ino`.
    #[must_use]
    pub fn checksum(&self, uuid: &[u8; 16], ino: Ino) -> u32 {
        self.core.checksum(&self.body, uuid, ino)
    }

    /// Whether the bytes at the start of a table entry say "in use": a type and at least one link.
    #[must_use]
    pub const fn in_use(first_word: u64) -> bool {
        first_word as u16 != 0 && first_word >> 32 != 0
    }

    /// Words after the attributes that mean something, by the attributes: at most 24.
    #[must_use]
    #[inline]
    pub fn words_after(core: &[u64; CORE_WORDS]) -> usize {
        Self::body_words(&Core::from_words(core).0)
    }

    /// Reads a table entry and checks what it says about itself; its extents are checked by whoever loads them.
    pub fn decode(words: &[u64; 32], uuid: &[u8; 16], ino: Ino) -> Result<Self, InodeFault> {
        let (head, rest) = words.split_first_chunk().unwrap_or((&[0; CORE_WORDS], &[]));
        let start = Sum::new(uuid, u64::from(ino));
        let core = Core::decode(head, &rest[..Self::words_after(head)], start)?;
        let mut body = [[0; 2]; INLINE_EXTENTS];
        body.as_flattened_mut().copy_from_slice(rest);
        Ok(Self { core, body })
    }
}

impl Core {
    /// Reads the attributes and checks what they say about the inode. `after`: the words after them that mean something, which the checksum
    /// covers too ([`InodeImage::words_after`]). `start`: the sum as it begins in this place.
    #[inline(always)]
    pub fn decode(
        words: &[u64; CORE_WORDS],
        after: &[u64],
        start: Sum,
    ) -> Result<Self, InodeFault> {
        let (core, found) = Self::from_words(words);
        // Over the words as they stand: bits that mean nothing count too.
        let mut as_found = *words;
        as_found[3] &= !0xffff_ffff;
        let expected = start.words(&as_found).words(after).finish();
        if found != expected {
            return Err(InodeFault::Checksum { found, expected });
        }
        core.check()?;
        Ok(core)
    }

    #[inline(always)]
    fn check(&self) -> Result<(), InodeFault> {
        let core = self;
        let kind = core.kind().ok_or(InodeFault::Mode(core.mode))?;
        if usize::from(core.entries) > INLINE_EXTENTS {
            return Err(InodeFault::Entries(core.entries));
        }
        if core.depth > super::MAX_DEPTH {
            return Err(InodeFault::Depth(core.depth));
        }
        let sound = match kind {
            Kind::File => core.size <= super::BLOCK_SIZE << 32,
            Kind::Dir => core.size.is_multiple_of(super::BLOCK_SIZE) && core.size < 1 << 38,
            Kind::Symlink if core.entries == 0 => (1..=INLINE_TEXT as u64).contains(&core.size),
            Kind::Symlink => {
                let in_a_block = INLINE_TEXT as u64 + 1..=TEXT_MAX as u64;
                in_a_block.contains(&core.size) && (core.entries, core.depth) == (1, 0)
            }
            Kind::Fifo | Kind::Socket | Kind::CharDev | Kind::BlockDev => {
                core.size == 0 && core.entries == 0
            }
        };
        if sound {
            Ok(())
        } else {
            Err(InodeFault::Size(core.size))
        }
    }
}
