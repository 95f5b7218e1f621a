//! The region, with its stores sorted by who may use them.

use super::Run;
use crate::layout::{BLOCK_SIZE, DENTRY_SIZE, Geometry, Ino};
use dax::pmem::{MediaError, Pmem};

/// What is stored at once where zeroes go through the caches.
const ZEROES: [u8; 512] = [0; 512];

/// The place of a word of metadata. Only places that a record may target can be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaAddr(u64);

impl MetaAddr {
    /// The word that says how many inodes are initialised.
    #[must_use]
    pub const fn state(g: &Geometry) -> Self {
        Self(g.state_off())
    }

    /// Word `word` (below 32) of inode `ino` (below `g.inodes()`).
    #[must_use]
    pub const fn inode(g: &Geometry, ino: Ino, word: usize) -> Self {
        Self(g.inode_off(ino) + 8 * word as u64)
    }

    /// Word `word` (below 8) of slot `slot` (below 64) of a directory's block.
    #[must_use]
    pub(crate) const fn dentry(block: u64, slot: u64, word: u64) -> Self {
        Self(block * BLOCK_SIZE + slot * DENTRY_SIZE + 8 * word)
    }

    /// Byte offset in the region.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.0
    }
}

/// The region: everyone reads; data is written by runs; metadata only by a committed transaction.
pub struct Media<P> {
    pmem: P,
}

impl<P: Pmem> Media<P> {
    /// Takes the region over.
    #[must_use]
    pub const fn new(pmem: P) -> Self {
        Self { pmem }
    }

    /// The region itself.
    #[must_use]
    pub const fn pmem(&self) -> &P {
        &self.pmem
    }

    /// Gives the region back.
    #[must_use]
    pub fn into_inner(self) -> P {
        self.pmem
    }

    /// Whole blocks of the region.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.pmem.len() / BLOCK_SIZE
    }

    /// Copies bytes out.
    pub fn read(&self, off: u64, buf: &mut [u8]) -> Result<(), MediaError> {
        self.pmem.read(off, buf)
    }

    /// Copies `N` words out; `off` is a multiple of 8.
    #[inline]
    pub fn words<const N: usize>(&self, off: u64) -> Result<[u64; N], MediaError> {
        let mut words = [0; N];
        self.pmem.load_words(off, &mut words)?;
        Ok(words)
    }

    /// Copies words out; `off` is a multiple of 8.
    #[inline(always)]
    pub fn read_words(&self, off: u64, words: &mut [u64]) -> Result<(), MediaError> {
        self.pmem.load_words(off, words)
    }

    /// Says that `lines` lines from `off` on will soon be wanted.
    pub(crate) fn prefetch(&self, off: u64, lines: u64) {
        self.pmem.prefetch(off, lines);
    }

    /// Writes `data` at byte `at` of a run of data blocks; durable after the next fence. Lines written whole can be read again.
    pub(crate) fn write_data(&self, run: Run, at: u64, data: &[u8]) {
        assert!(
            at + data.len() as u64 <= run.len * BLOCK_SIZE,
            "write leaves its run"
        );
        let off = run.block * BLOCK_SIZE + at;
        self.pmem.copy_nt(off, data);
        self.pmem.heal(off, data.len() as u64);
    }

    /// Zeroes `len` bytes at byte `at` of a run of data blocks; durable after the next fence.
    pub(crate) fn zero_data(&self, run: Run, at: u64, len: u64) {
        assert!(at + len <= run.len * BLOCK_SIZE, "zeroing leaves its run");
        if len == 0 {
            return;
        }
        let off = run.block * BLOCK_SIZE + at;
        self.pmem.zero_nt(off, len);
        self.pmem.heal(off, len);
    }

    /// Zeroes as [`Media::zero_data`], through the caches: stores of other CPUs that come later stay later, without a fence between.
    pub(crate) fn zero_cached(&self, run: Run, at: u64, len: u64) {
        assert!(at + len <= run.len * BLOCK_SIZE, "zeroing leaves its run");
        let off = run.block * BLOCK_SIZE + at;
        let (mut at, end) = (off, off + len);
        while at < end {
            // Pieces end at multiples of their size: no word is stored in two parts.
            let next = end.min((at + 1).next_multiple_of(ZEROES.len() as u64));
            self.pmem.store(at, &ZEROES[..(next - at) as usize]);
            at = next;
        }
        self.pmem.flush(off, len);
        self.pmem.heal(off, len);
    }

    /// All of a run was stored to, in pieces that may meet within a line.
    pub(crate) fn filled(&self, run: Run) {
        self.pmem.heal(run.block * BLOCK_SIZE, run.len * BLOCK_SIZE);
    }

    /// Zeroes a slot of the ring that holds nothing whole; durable after the next fence.
    pub(super) fn empty(&self, off: u64, len: u64) {
        self.pmem.zero_nt(off, len);
        self.pmem.heal(off, len);
    }

    /// Makes what this CPU wrote to data durable.
    pub(crate) fn fence(&self) {
        self.pmem.fence();
    }

    /// Stores words of metadata, cached; the caller flushes. For transactions and recovery only.
    pub(super) fn store_words(&self, off: u64, words: &[u64]) {
        self.pmem.store_words(off, words);
        self.pmem.heal(off, 8 * words.len() as u64);
    }

    /// Starts the write-back of `words` words.
    pub(super) fn flush_words(&self, off: u64, words: usize) {
        self.pmem.flush(off, 8 * words as u64);
    }
}
