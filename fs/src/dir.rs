//! A directory in memory: where each name is, and which slots are free.
//!
//! The index holds hashes and slots, not names: a name is compared with what stands on the media. It is built at the first
//! lookup, changed only under the commit lock, and read under the inode's spin lock. Its hash table is divided in many once it is
//! large (`names::Names`), so that none of them takes long to grow.
//!
//! An entry never moves while it exists, and its slot is its cookie: whoever reads a directory bit by bit sees what stays exactly
//! once, whatever comes and goes meanwhile. Room for a new name is found in a few steps, however large the directory is: for each
//! number of slots that a name can take, a set of the blocks that have so many in a row.

mod names;

use alloc::vec::Vec;

use dax::pmem::Pmem;
use mm::mem::{OutOfMemory, check_headroom};

use crate::bits::Bits;
use crate::commit::MetaAddr;
use crate::extents::{ExtentMap, Spot};
use crate::layout::{
    Block, DENTRY_SIZE, Dentry, HEAD_NAME, Ino, Kind, NAME_MAX, TAIL_NAME, name_hash, slots_for,
};
use crate::media_inode::{Corrupt, DentryFault, Ground, LoadError};

/// Slots of a block: one bit each of a word.
pub const SLOTS: u32 = 64;

/// Most slots that a name takes.
const SLOTS_MAX: usize = slots_for(NAME_MAX);

/// A name that may stand in a directory: 1 to 255 bytes, no `/`, no zero byte, not `.` or `..`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a> {
    bytes: &'a [u8],
    hash: u32,
}

/// Why bytes are no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// More than 255 bytes.
    #[error("the name has {0} bytes, but 255 is the most")]
    TooLong(usize),
    /// Empty, `.`, `..`, or with a `/` or a zero byte in it.
    #[error("not a name that can be made or removed")]
    Invalid,
}

/// Whether one of two bytes is among `bytes`; by words, since every operation on a name asks.
fn has_either(bytes: &[u8], either: [u8; 2]) -> bool {
    const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    // Has a bit where a byte is 0, and none if no byte is.
    let zeroes = |word: u64| word.wrapping_sub(LOW) & !word & HIGH;
    let masks = either.map(|byte| LOW * u64::from(byte));
    let found = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        zeroes(word ^ masks[0]) | zeroes(word ^ masks[1]) != 0
    };
    match bytes.last_chunk() {
        Some(last) => found(last) || bytes.as_chunks().0.iter().any(found),
        None => bytes.iter().any(|byte| either.contains(byte)),
    }
}

impl<'a> Name<'a> {
    /// Checks a name.
    pub fn new(name: &'a [u8]) -> Result<Self, NameError> {
        if name.len() > NAME_MAX {
            return Err(NameError::TooLong(name.len()));
        }
        let special = matches!(name, b"" | b"." | b"..");
        if special || has_either(name, [b'/', 0]) {
            return Err(NameError::Invalid);
        }
        let hash = name_hash(name);
        Ok(Self { bytes: name, hash })
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// Its hash.
    #[must_use]
    pub const fn hash(self) -> u32 {
        self.hash
    }

    /// Slots that it takes.
    #[must_use]
    pub const fn slots(self) -> u32 {
        slots_for(self.bytes.len()) as u32
    }
}

/// A whole name, copied out of a directory.
#[derive(Clone, Copy)]
pub struct NameBuf {
    bytes: [u8; NAME_MAX],
    len: u8,
}

impl NameBuf {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// An entry as `readdir` gives it.
#[derive(Clone, Copy)]
pub struct DirEntry {
    /// The inode.
    pub ino: Ino,
    /// What it is.
    pub kind: Kind,
    /// Where to go on after this entry; stable while the entry exists.
    pub cookie: u64,
    /// The name.
    pub name: NameBuf,
}

/// A live entry: where it is, and what it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Slot of the head, in the directory.
    pub slot: u32,
    /// The inode.
    pub ino: Ino,
    /// Its kind.
    pub kind: Kind,
}

/// What a directory holds.
#[derive(Debug, Default)]
pub struct DirIndex {
    names: names::Names,
    /// One word a block, one bit a slot in use.
    used: Vec<u64>,
    /// For each number of slots that a name can take, less one: the blocks with so many free ones in a row.
    room: [Bits; SLOTS_MAX],
}

/// A directory on the media: its number, and its blocks.
pub struct Dir<'a, P> {
    /// The file system.
    pub ground: Ground<'a, P>,
    /// The directory.
    pub ino: Ino,
    /// Its blocks.
    pub map: &'a ExtentMap,
}

impl<P> Clone for Dir<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Dir<'_, P> {}

impl<P: Pmem> Dir<'_, P> {
    /// The block of the region that holds slot `slot`.
    pub fn block_of(&self, slot: u32) -> Result<Block, Corrupt> {
        let block = u64::from(slot / SLOTS);
        match self.map.at(block) {
            Spot::Extent(extent) if !extent.unwritten => Ok(extent.phys),
            _ => Err(Corrupt::DirHole {
                dir: self.ino,
                block,
            }),
        }
    }

    /// The address of word `word` of slot `slot`.
    pub fn addr(&self, slot: u32, word: u64) -> Result<MetaAddr, Corrupt> {
        let block = self.block_of(slot)?;
        Ok(MetaAddr::dentry(block, u64::from(slot % SLOTS), word))
    }

    fn words(&self, slot: u32) -> Result<([u64; 8], MetaAddr), Corrupt> {
        let at = self.addr(slot, 0)?;
        let (dir, offset) = (self.ino, at.offset());
        let words = self.ground.media.words(offset);
        let words = words.map_err(|source| Corrupt::DentryMedia {
            dir,
            slot,
            offset,
            source,
        })?;
        Ok((words, at))
    }

    /// Reads the entry whose head is in `slot`, whole, without checking sums; `None`: the slot is free.
    fn raw(&self, slot: u32) -> Result<Option<(Dentry, u32, NameBuf, u64)>, Corrupt> {
        let (words, at) = self.words(slot)?;
        let offset = at.offset();
        if words[0] == 0 {
            return Ok(None);
        }
        let dir = self.ino;
        let wrong = |fault| Corrupt::Dentry {
            dir,
            slot,
            offset,
            fault,
        };
        let (dentry, sum) = Dentry::decode(&words).ok_or(wrong(DentryFault::Head))?;
        let len = usize::from(dentry.len);
        if slot % SLOTS + slots_for(len) as u32 > SLOTS {
            return Err(wrong(DentryFault::Tail));
        }
        let mut name = NameBuf {
            bytes: [0; NAME_MAX],
            len: dentry.len,
        };
        let head = len.min(HEAD_NAME);
        name.bytes[..head].copy_from_slice(&Dentry::head_name(&words)[..head]);
        for (tail, part) in (1..).zip(name.bytes[head..len].chunks_mut(TAIL_NAME)) {
            let from = offset + tail * DENTRY_SIZE;
            let media = self.ground.media;
            let read = media.words::<1>(from).and_then(|begins| {
                media.read(from + 8, part)?;
                Ok(begins)
            });
            let begins = read.map_err(|source| Corrupt::DentryMedia {
                dir,
                slot,
                offset: from,
                source,
            })?;
            // It looks free to whoever does not come from the head, also when the head is gone.
            if begins != [0] {
                return Err(wrong(DentryFault::Tail));
            }
        }
        Ok(Some((dentry, sum, name, offset)))
    }

    /// Reads the entry whose head is in `slot` and checks it; `None`: the slot is free.
    pub fn entry(&self, slot: u32) -> Result<Option<(Dentry, NameBuf)>, Corrupt> {
        let Some((dentry, found, name, offset)) = self.raw(slot)? else {
            return Ok(None);
        };
        let dir = self.ino;
        let wrong = |fault| Corrupt::Dentry {
            dir,
            slot,
            offset,
            fault,
        };
        let expected = dentry.checksum(self.ground.uuid, dir, name.as_bytes());
        if found != expected {
            return Err(wrong(DentryFault::Checksum { found, expected }));
        }
        let (found, expected) = (dentry.hash, name_hash(name.as_bytes()));
        if found != expected {
            return Err(wrong(DentryFault::Hash { found, expected }));
        }
        if dentry.ino >= self.ground.geometry.inodes() {
            return Err(wrong(DentryFault::Dangling(dentry.ino)));
        }
        Ok(Some((dentry, name)))
    }

    /// Where the entry in `slot` is, if it has this name.
    fn named(&self, slot: u32, name: Name<'_>) -> Result<Option<MetaAddr>, Corrupt> {
        let (words, at) = self.words(slot)?;
        // Most names stand in their head whole. What is longer, or no entry, is for the long way.
        if let Some((dentry, _)) = Dentry::decode(&words).filter(|_| words[0] != 0)
            && usize::from(dentry.len) <= HEAD_NAME
        {
            let head = Dentry::head_name(&words);
            let same = head[..usize::from(dentry.len)] == *name.bytes();
            return Ok(same.then_some(at));
        }
        let entry = self.raw(slot)?;
        let same = entry.is_some_and(|(_, _, found, _)| found.as_bytes() == name.bytes());
        Ok(same.then_some(at))
    }

    /// Reads all of it. `blocks` is its size in blocks.
    pub fn index(&self, blocks: u64) -> Result<DirIndex, LoadError> {
        let mut index = DirIndex::default();
        let blocks = usize::try_from(blocks).map_err(|_| OutOfMemory)?;
        // A directory cannot have more blocks than it has storage for; an impossible size must not ask for memory.
        if blocks as u64 > self.map.blocks() {
            let block = self.map.blocks();
            return Err(Corrupt::DirHole {
                dir: self.ino,
                block,
            }
            .into());
        }
        index.reserve(blocks)?;
        index.cover(blocks);
        let mut slot = 0;
        while (slot / SLOTS) < blocks as u32 {
            if slot % SLOTS == 0 {
                check_headroom()?;
            }
            let Some((dentry, _)) = self.entry(slot)? else {
                slot += 1;
                continue;
            };
            index.names.reserve(dentry.hash)?;
            let name = (dentry.hash, dentry.len.into());
            index.note(slot, name, (dentry.ino, dentry.kind));
            slot += slots_for(dentry.len.into()) as u32;
        }
        Ok(index)
    }
}

impl DirIndex {
    /// Entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether it holds no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Blocks that it covers.
    #[must_use]
    pub const fn blocks(&self) -> usize {
        self.used.len()
    }

    /// Takes the memory to cover `blocks` blocks.
    pub fn reserve(&mut self, blocks: usize) -> Result<(), OutOfMemory> {
        let more = blocks.saturating_sub(self.used.len());
        self.used.try_reserve(more).map_err(|_| OutOfMemory)?;
        self.room
            .iter_mut()
            .try_for_each(|room| room.reserve(blocks))
    }

    /// Covers `blocks` blocks, for which memory is reserved; the new ones are free.
    pub fn cover(&mut self, blocks: usize) {
        for room in &mut self.room {
            room.cover(blocks, true);
        }
        self.used.resize(blocks.max(self.used.len()), 0);
    }

    /// Finds a name, and where its entry is.
    pub fn find<P: Pmem>(
        &self,
        dir: &Dir<'_, P>,
        name: Name<'_>,
    ) -> Result<Option<(Found, MetaAddr)>, Corrupt> {
        for found in self.names.with_hash(name.hash()) {
            if let Some(at) = dir.named(found.slot, name)? {
                return Ok(Some((found, at)));
            }
        }
        Ok(None)
    }

    /// Takes the memory for one more entry of this name: then [`DirIndex::add`] takes none.
    pub fn reserve_name(&mut self, name: Name<'_>) -> Result<(), OutOfMemory> {
        self.names.reserve(name.hash())
    }

    /// The first of `n` free slots in a row (1 to 5), within one block.
    #[must_use]
    pub fn vacancy(&self, n: u32) -> Option<u32> {
        let block = self.room.get(n as usize - 1)?.first()?;
        let runs = free_runs(*self.used.get(block)?, n);
        (runs != 0).then(|| block as u32 * SLOTS + runs.trailing_zeros())
    }

    /// Changes which slots of a block are in use, and notes what it has room for then.
    fn set_used(&mut self, block: usize, used: u64) {
        let old = !core::mem::replace(&mut self.used[block], used);
        let new = !used;
        let (mut before, mut after) = (old, new);
        for room in &mut self.room {
            // Few changes make the first row of a length, or the last one go.
            if (before == 0) != (after == 0) {
                room.put(block, after != 0);
            }
            (before, after) = (old & before >> 1, new & after >> 1);
        }
    }

    fn mask(slot: u32, name_len: usize) -> u64 {
        let n = slots_for(name_len) as u32;
        ((1u64 << n) - 1) << (slot % SLOTS)
    }

    /// Notes a new entry, in slots that were free.
    pub fn add(&mut self, slot: u32, name: Name<'_>, names: (Ino, Kind)) {
        self.note(slot, (name.hash(), name.bytes().len()), names);
    }

    /// Notes a new inode behind an old entry.
    pub fn replace(&mut self, slot: u32, name: Name<'_>, (ino, kind): (Ino, Kind)) {
        self.names.replace(name.hash(), Found { slot, ino, kind });
    }

    fn note(&mut self, slot: u32, (hash, len): (u32, usize), (ino, kind): (Ino, Kind)) {
        let block = (slot / SLOTS) as usize;
        self.set_used(block, self.used[block] | Self::mask(slot, len));
        self.names.add(hash, Found { slot, ino, kind });
    }

    /// Forgets an entry.
    pub fn remove(&mut self, slot: u32, name: Name<'_>) {
        let block = (slot / SLOTS) as usize;
        let left = self.used[block] & !Self::mask(slot, name.bytes().len());
        self.set_used(block, left);
        self.names.remove(name.hash(), slot);
    }

    /// The first entry at or after `slot`.
    pub fn next<P: Pmem>(&self, dir: &Dir<'_, P>, slot: u32) -> Result<Option<DirEntry>, Corrupt> {
        let mut at = slot;
        while (at / SLOTS) < self.used.len() as u32 {
            let rest = self.used[(at / SLOTS) as usize] >> (at % SLOTS);
            if rest == 0 {
                at = (at / SLOTS + 1) * SLOTS;
                continue;
            }
            at += rest.trailing_zeros();
            if let Some((dentry, name)) = dir.entry(at)? {
                let n = slots_for(dentry.len.into()) as u32;
                let cookie = u64::from(at + n);
                let (ino, kind) = (dentry.ino, dentry.kind);
                return Ok(Some(DirEntry {
                    ino,
                    kind,
                    cookie,
                    name,
                }));
            }
            // A tail of an entry before `slot`.
            at += 1;
        }
        Ok(None)
    }
}

/// Of a block with the slots `used`: where `n` free ones in a row begin.
fn free_runs(used: u64, n: u32) -> u64 {
    (1..n).fold(!used, |runs, _| runs & runs >> 1)
}
