//! A region mapped into the address space: real stores, write-backs and fences.
//!
//! The kernel maps a region of the NFIT write-back cached; a host tool maps a file. Either way the bytes are shared with
//! writers unknown to the compiler (user mappings, DMA, other processes), so that no Rust reference to them is ever made:
//! single words and bytes are accessed as atomics, bulk goes through assembly, which the compiler cannot look into.
//!
//! Order: cached stores are Release stores, which on x86_64 are plain `mov`s that neither the compiler nor the CPU
//! reorders. The assembly blocks lack `nomem`, so that no store moves across a write-back or a fence.

#![expect(
    unsafe_code,
    reason = "accesses raw mapped memory, and needs instructions that have no stable safe form"
)]

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use arrayvec::ArrayVec;

use super::bad::BadRanges;
use super::stream;
use super::{
    BadRangesFull, FlushOp, LINE, MediaError, Persistence, Pmem, StreamOp, check_range, check_word,
};

/// CPUID leaf 7, sub-leaf 0, or `None` on a CPU without that leaf.
pub(super) fn leaf7() -> Option<CpuidResult> {
    let highest = __cpuid(0).eax;
    (highest >= 7).then(|| __cpuid_count(7, 0))
}

/// A region of pmem that is mapped at `base`.
pub struct MappedPmem {
    base: NonNull<u8>,
    len: u64,
    domain: Persistence,
    stream: StreamOp,
    writable: bool,
    hints: Hints,
    bad: BadRanges,
}

/// Addresses of flush hints, one for each device of a region.
pub type Hints = ArrayVec<NonNull<u64>, MAX_HINTS>;

/// Devices of one region whose hints can be written.
pub const MAX_HINTS: usize = 16;

// SAFETY: the pointers are only used for atomic, volatile and assembly accesses, which any thread may make at any time.
unsafe impl Send for MappedPmem {}
// SAFETY: as for Send; the list of bad ranges has its own lock.
unsafe impl Sync for MappedPmem {}

impl MappedPmem {
    /// A writable region of `len` bytes at `base`. Panics unless `base` is a multiple of [`LINE`].
    ///
    /// # Safety
    /// `base..base + len` must be mapped write-back cached, readable and writable, for as long as the value lives; the
    /// CPU must have the instruction that `domain` names; and no Rust reference to these bytes may exist.
    #[must_use]
    pub unsafe fn new(base: NonNull<u8>, len: u64, domain: Persistence) -> Self {
        assert!(
            (base.as_ptr() as u64).is_multiple_of(LINE),
            "pmem must start at a cache line"
        );
        Self {
            base,
            len,
            domain,
            stream: StreamOp::of_this_cpu(),
            writable: true,
            hints: Hints::new_const(),
            bad: BadRanges::new(),
        }
    }

    /// The same region, for reading only; the mapping then need not be writable.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self {
            writable: false,
            ..self
        }
    }

    /// The same region, on a platform that drains its queues only when told: each fence writes every one of `hints`.
    ///
    /// # Safety
    /// Each must be mapped, uncached, aligned to 8, writable for as long as the value lives, and a device's flush hint.
    #[must_use]
    pub unsafe fn with_flush_hints(self, hints: Hints) -> Self {
        Self { hints, ..self }
    }

    /// The same region, stored to past the caches by `op` instead of the best that this CPU has.
    ///
    /// # Safety
    /// The CPU must have the instruction.
    #[must_use]
    pub unsafe fn with_stream(self, stream: StreamOp) -> Self {
        Self { stream, ..self }
    }

    /// Where a store must arrive to be durable.
    #[must_use]
    pub fn persistence(&self) -> Persistence {
        self.domain
    }

    /// Records `range` as bad: every read that touches it fails. Panics if it leaves the region.
    pub fn mark_bad(&self, range: Range<u64>) -> Result<(), BadRangesFull> {
        check_range(self.len, range.start, range.end.saturating_sub(range.start));
        self.bad.add(range)
    }

    /// Forgets that `range` was bad, after it has been written whole.
    pub fn clear_bad(&self, range: &Range<u64>) -> Result<(), BadRangesFull> {
        self.bad.clear(range)
    }

    /// The bad ranges, by offset: for listings. Those that change meanwhile may be left out.
    pub fn bad_ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut at = 0;
        core::iter::from_fn(move || {
            let bad = self.bad.after(at)?;
            at = bad.end;
            Some(bad)
        })
    }

    /// Address of `off` for a read of `len` bytes. Panics if it leaves the region.
    #[inline]
    fn source(&self, off: u64, len: u64) -> *mut u8 {
        check_range(self.len, off, len);
        // SAFETY: `off` is within the mapping, just checked.
        unsafe { self.base.as_ptr().add(off as usize) }
    }

    /// Address of `off` for a store of `len` bytes. Panics if it leaves the region or the region is read-only.
    fn target(&self, off: u64, len: u64) -> *mut u8 {
        assert!(self.writable, "store to a read-only pmem region");
        self.source(off, len)
    }

    /// Cached store of bytes, each on its own; for edges shorter than a word.
    ///
    /// # Safety
    /// `to..to + data.len()` lies in the mapping.
    unsafe fn store_bytes(to: *mut u8, data: &[u8]) {
        for (i, byte) in data.iter().enumerate() {
            // SAFETY: by the caller's promise. Release: program order; partner: whoever reads after a crash.
            unsafe { AtomicU8::from_ptr(to.add(i)).store(*byte, Ordering::Release) };
        }
    }

    /// Writes back the lines of a region's edges, where `store_bytes` left cached bytes.
    fn flush_edges(&self, off: u64, len: u64, (head, tail): (usize, usize)) {
        if head > 0 {
            self.flush(off, head as u64);
        }
        if tail > 0 {
            self.flush(off + len - tail as u64, tail as u64);
        }
    }
}

/// Splits `len` bytes at `off` into bytes up to a multiple of 8, whole words, and the bytes left.
fn edges(off: u64, len: usize) -> (usize, usize, usize) {
    let head = len.min((off.wrapping_neg() % 8) as usize);
    let words = (len - head) / 8;
    (head, words, len - head - words * 8)
}

impl Pmem for MappedPmem {
    fn len(&self) -> u64 {
        self.len
    }

    fn writable(&self) -> bool {
        self.writable
    }

    fn read(&self, off: u64, buf: &mut [u8]) -> Result<(), MediaError> {
        let from = self.source(off, buf.len() as u64);
        self.bad.check(off, buf.len() as u64)?;
        // SAFETY: the source is in the mapping, the target is `buf`, and they cannot overlap.
        unsafe { copy_out(buf.as_mut_ptr(), from, buf.len()) };
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
        let from = self.source(off, 8).cast::<u64>();
        self.bad.check(off, 8)?;
        // SAFETY: in the mapping and aligned. Acquire: partner of the Release stores of `store64`.
        Ok(unsafe { AtomicU64::from_ptr(from) }.load(Ordering::Acquire))
    }

    #[inline(always)]
    fn load_words(&self, off: u64, words: &mut [u64]) -> Result<(), MediaError> {
        check_word(off);
        let len = 8 * words.len() as u64;
        let from = self.source(off, len).cast::<u64>();
        self.bad.check(off, len)?;
        for (i, word) in words.iter_mut().enumerate() {
            // SAFETY: within the range that `source` checked, and aligned. Acquire: as in `load64`.
            *word = unsafe { AtomicU64::from_ptr(from.add(i)) }.load(Ordering::Acquire);
        }
        Ok(())
    }

    #[inline]
    fn prefetch(&self, off: u64, lines: u64) {
        let end = off.saturating_add(lines * LINE).min(self.len);
        let mut at = off;
        while at < end {
            // SAFETY: `at` is within the mapping. The hints never fault; in 64-bit mode every CPU takes them, at worst as no-ops.
            unsafe {
                let line = self.base.as_ptr().add(at as usize);
                if self.writable {
                    asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags, readonly));
                } else {
                    asm!("prefetcht0 [{}]", in(reg) line, options(nostack, preserves_flags, readonly));
                }
            }
            at += LINE;
        }
    }

    fn store64(&self, off: u64, v: u64) {
        check_word(off);
        let to = self.target(off, 8).cast::<u64>();
        // SAFETY: in the mapping and aligned. Release: program order; partner: the Acquire of `load64`.
        unsafe { AtomicU64::from_ptr(to) }.store(v, Ordering::Release);
    }

    fn store(&self, off: u64, data: &[u8]) {
        let to = self.target(off, data.len() as u64);
        let (head, words, _) = edges(off, data.len());
        let (first, rest) = data.split_at(head);
        let (body, last) = rest.split_at(words * 8);
        // SAFETY: all three pieces lie within the range that `target` checked.
        unsafe { Self::store_bytes(to, first) };
        for (i, word) in body.as_chunks().0.iter().enumerate() {
            // SAFETY: within the range that `target` checked, and aligned by `edges`. Release: as in `store64`.
            unsafe {
                let place = to.add(head + i * 8).cast::<u64>();
                AtomicU64::from_ptr(place).store(u64::from_le_bytes(*word), Ordering::Release);
            }
        }
        // SAFETY: as above.
        unsafe { Self::store_bytes(to.add(head + words * 8), last) };
    }

    fn store_words(&self, off: u64, words: &[u64]) {
        check_word(off);
        let to = self.target(off, 8 * words.len() as u64).cast::<u64>();
        for (i, word) in words.iter().enumerate() {
            // SAFETY: within the range that `target` checked, and aligned. Release: as in `store64`.
            unsafe { AtomicU64::from_ptr(to.add(i)) }.store(*word, Ordering::Release);
        }
    }

    fn copy_nt(&self, off: u64, data: &[u8]) {
        let to = self.target(off, data.len() as u64);
        let (head, words, tail) = edges(off, data.len());
        let rest = head + words * 8;
        // SAFETY: all three pieces lie within the range that `target` checked; the middle one is aligned by `edges`. The CPU has the instruction,
        // found by CPUID or by the promise of `with_stream`.
        unsafe {
            Self::store_bytes(to, &data[..head]);
            stream::copy(self.stream, to.add(head), data.as_ptr().add(head), words);
            Self::store_bytes(to.add(rest), &data[rest..]);
        }
        self.flush_edges(off, data.len() as u64, (head, tail));
    }

    fn zero_nt(&self, off: u64, len: u64) {
        let to = self.target(off, len);
        let (head, words, tail) = edges(off, len as usize);
        // SAFETY: as in `copy_nt`; edges are shorter than 8 bytes.
        unsafe {
            Self::store_bytes(to, &[0; 8][..head]);
            stream::zero(self.stream, to.add(head), words);
            Self::store_bytes(to.add(head + words * 8), &[0; 8][..tail]);
        }
        self.flush_edges(off, len, (head, tail));
    }

    fn flush(&self, off: u64, len: u64) {
        let first = self.source(off, len) as usize;
        let Persistence::MemoryController(op) = self.domain else {
            return;
        };
        if len == 0 {
            return;
        }
        let (mut line, end) = (first & !(LINE as usize - 1), first + len as usize);
        while line < end {
            // SAFETY: the line holds a byte of the mapping, and the CPU has the instruction by the promise of `new`.
            unsafe { write_back(line, op) };
            line += LINE as usize;
        }
    }

    fn fence(&self) {
        store_fence();
        if self.hints.is_empty() {
            return;
        }
        for hint in &self.hints {
            // SAFETY: a flush hint, by the promise of `with_flush_hints`; any value drains the device's queues.
            unsafe { hint.write_volatile(1) };
        }
        store_fence();
    }
}

/// Waits for this CPU's write-backs and non-temporal stores.
fn store_fence() {
    // SAFETY: sfence only orders. No `nomem`: the compiler must not move stores across it either.
    unsafe { asm!("sfence", options(nostack, preserves_flags)) };
}

/// Writes one line back.
///
/// # Safety
/// `line` is mapped and the CPU has the instruction.
unsafe fn write_back(line: usize, op: FlushOp) {
    // SAFETY: by the caller's promise; no register but the operand is touched.
    unsafe {
        match op {
            FlushOp::Clwb => asm!("clwb [{}]", in(reg) line, options(nostack, preserves_flags)),
            FlushOp::ClflushOpt => {
                asm!("clflushopt [{}]", in(reg) line, options(nostack, preserves_flags))
            }
            FlushOp::Clflush => {
                asm!("clflush [{}]", in(reg) line, options(nostack, preserves_flags))
            }
        }
    }
}

/// Copies `len` bytes out of pmem by words, then bytes.
///
/// # Safety
/// Both ranges are valid and do not overlap; `from` may be written by others meanwhile.
unsafe fn copy_out(to: *mut u8, from: *mut u8, len: usize) {
    // SAFETY: by the caller's promise. The direction flag is clear in Rust code.
    unsafe {
        asm!(
            "rep movsq",
            "mov rcx, {tail}",
            "rep movsb",
            tail = in(reg) len % 8,
            inout("rcx") len / 8 => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
}
