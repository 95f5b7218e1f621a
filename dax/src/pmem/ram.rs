//! A region on the heap.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use super::bad::BadRanges;
use super::{BadRangesFull, MediaError, Pmem, check_range, check_word};

/// Zeroed heap memory that answers as pmem does; for tests and for tools that build an image.
///
/// It is durable for as long as it lives: flush and fence do nothing.
pub struct RamPmem {
    words: Vec<AtomicU64>,
    bad: BadRanges,
}

impl RamPmem {
    /// A zeroed region of `len` bytes, rounded up to a multiple of 8. Fails when the heap cannot give it.
    pub fn new(len: u64) -> Result<Self, TryReserveError> {
        let count = usize::try_from(len.div_ceil(8)).unwrap_or(usize::MAX);
        let mut words = Vec::new();
        words.try_reserve_exact(count)?;
        words.resize_with(count, || AtomicU64::new(0));
        Ok(Self {
            words,
            bad: BadRanges::new(),
        })
    }

    /// Makes every read that touches `range` fail. Panics if it leaves the region.
    pub fn poison(&self, range: Range<u64>) -> Result<(), BadRangesFull> {
        check_range(
            self.len(),
            range.start,
            range.end.saturating_sub(range.start),
        );
        self.bad.add(range)
    }

    /// Makes `range` readable again.
    pub fn unpoison(&self, range: &Range<u64>) -> Result<(), BadRangesFull> {
        self.bad.clear(range)
    }

    fn word(&self, off: u64) -> &AtomicU64 {
        &self.words[(off / 8) as usize]
    }

    /// Stores bytes that lie within one word at `off`.
    fn store_within_word(&self, off: u64, data: &[u8]) {
        let at = (off % 8) as usize;
        if let Ok(word) = data.try_into() {
            // Release: keeps program order as on the machine; partner: the Acquire of `load64`.
            self.word(off)
                .store(u64::from_le_bytes(word), Ordering::Release);
            return;
        }
        let merge = |old: u64| {
            let mut bytes = old.to_le_bytes();
            bytes[at..at + data.len()].copy_from_slice(data);
            Some(u64::from_le_bytes(bytes))
        };
        // Release as above. The closure always answers, so that the result cannot be an error.
        let _ = self
            .word(off)
            .fetch_update(Ordering::Release, Ordering::Relaxed, merge);
    }
}

/// Cuts `off..off + len` at multiples of 8: offset of each piece, and its place in the buffer.
fn words(off: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>)> {
    let mut at = 0;
    core::iter::from_fn(move || {
        let start = at;
        let place = off + start as u64;
        at = len.min(start + (8 - place % 8) as usize);
        (start < at).then_some((place, start..at))
    })
}

impl Pmem for RamPmem {
    fn len(&self) -> u64 {
        self.words.len() as u64 * 8
    }

    fn writable(&self) -> bool {
        true
    }

    fn read(&self, off: u64, buf: &mut [u8]) -> Result<(), MediaError> {
        check_range(self.len(), off, buf.len() as u64);
        self.bad.check(off, buf.len() as u64)?;
        for (place, piece) in words(off, buf.len()) {
            // Acquire: partner of the Release stores below.
            let bytes = self.word(place).load(Ordering::Acquire).to_le_bytes();
            let at = (place % 8) as usize;
            let count = piece.len();
            buf[piece].copy_from_slice(&bytes[at..at + count]);
        }
        Ok(())
    }

    fn check(&self, off: u64, len: u64) -> Result<(), MediaError> {
        self.bad.check(off, len)
    }

    fn heal(&self, off: u64, len: u64) {
        self.bad.heal(off, len);
    }

    fn load64(&self, off: u64) -> Result<u64, MediaError> {
        check_word(off);
        check_range(self.len(), off, 8);
        self.bad.check(off, 8)?;
        // Acquire: partner of the Release stores below.
        Ok(self.word(off).load(Ordering::Acquire))
    }

    fn store64(&self, off: u64, v: u64) {
        check_word(off);
        check_range(self.len(), off, 8);
        // Release: keeps program order as on the machine; partner: the Acquire of `load64` and `read`.
        self.word(off).store(v, Ordering::Release);
    }

    fn store(&self, off: u64, data: &[u8]) {
        check_range(self.len(), off, data.len() as u64);
        for (place, piece) in words(off, data.len()) {
            self.store_within_word(place, &data[piece]);
        }
    }

    fn copy_nt(&self, off: u64, data: &[u8]) {
        self.store(off, data);
    }

    fn zero_nt(&self, off: u64, len: u64) {
        check_range(self.len(), off, len);
        for (place, piece) in words(off, len as usize) {
            self.store_within_word(place, &[0; 8][..piece.len()]);
        }
    }

    fn flush(&self, off: u64, len: u64) {
        check_range(self.len(), off, len);
    }

    fn fence(&self) {}
}
