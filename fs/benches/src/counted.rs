//! A region that counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dax::pmem::{LINE, MediaError, Pmem};

/// What reached a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Fences.
    pub fences: u64,
    /// Lines whose write-back was started.
    pub lines: u64,
    /// Bytes stored through the caches.
    pub cached: u64,
    /// Bytes stored past the caches.
    pub streamed: u64,
}

/// A region that counts what is done to it.
#[derive(Default)]
pub struct Counted<P> {
    inner: P,
    fences: AtomicU64,
    lines: AtomicU64,
    cached: AtomicU64,
    streamed: AtomicU64,
}

impl<P> Counted<P> {
    /// Counts from 0.
    pub fn new(inner: P) -> Self {
        Self {
            inner,
            fences: AtomicU64::new(0),
            lines: AtomicU64::new(0),
            cached: AtomicU64::new(0),
            streamed: AtomicU64::new(0),
        }
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        // Relaxed: one thread uses it.
        Counts {
            fences: self.fences.load(Relaxed),
            lines: self.lines.load(Relaxed),
            cached: self.cached.load(Relaxed),
            streamed: self.streamed.load(Relaxed),
        }
    }
}

impl<P: Pmem> Pmem for Counted<P> {
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn writable(&self) -> bool {
        self.inner.writable()
    }
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<(), MediaError> {
        self.inner.read(off, buf)
    }
    fn check(&self, off: u64, len: u64) -> Result<(), MediaError> {
        self.inner.check(off, len)
    }
    fn heal(&self, off: u64, len: u64) {
        self.inner.heal(off, len);
    }
    fn load64(&self, off: u64) -> Result<u64, MediaError> {
        self.inner.load64(off)
    }
    fn prefetch(&self, off: u64, lines: u64) {
        self.inner.prefetch(off, lines);
    }
    fn store64(&self, off: u64, v: u64) {
        self.cached.fetch_add(8, Relaxed);
        self.inner.store64(off, v);
    }
    fn store(&self, off: u64, data: &[u8]) {
        self.cached.fetch_add(data.len() as u64, Relaxed);
        self.inner.store(off, data);
    }
    fn store_words(&self, off: u64, words: &[u64]) {
        self.cached.fetch_add(8 * words.len() as u64, Relaxed);
        self.inner.store_words(off, words);
    }
    fn copy_nt(&self, off: u64, data: &[u8]) {
        self.streamed.fetch_add(data.len() as u64, Relaxed);
        self.inner.copy_nt(off, data);
    }
    fn zero_nt(&self, off: u64, len: u64) {
        self.streamed.fetch_add(len, Relaxed);
        self.inner.zero_nt(off, len);
    }
    fn flush(&self, off: u64, len: u64) {
        let lines = (off + len).div_ceil(LINE) - off / LINE;
        self.lines
            .fetch_add(if len == 0 { 0 } else { lines }, Relaxed);
        self.inner.flush(off, len);
    }
    fn fence(&self) {
        self.fences.fetch_add(1, Relaxed);
        self.inner.fence();
    }
}
