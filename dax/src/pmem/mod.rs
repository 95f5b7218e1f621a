//! Persistent memory as bytes: loads, stores, write-back and fences.
//!
//! [`Pmem`] is the only way by which Holdfast's own code changes the bytes of a region. (Users change them by mapping
//! them, and devices by DMA; both go past this trait.) It is small so that the file system runs unchanged on real memory
//! ([`MappedPmem`]), on the heap ([`RamPmem`]) and on a recorder that enumerates the states a crash can leave.
//!
//! What the hardware promises, and what every implementation therefore keeps:
//!
//! - An aligned 8-byte store is atomic: after a power failure it is there whole or not at all.
//! - Cached stores to one 64-byte line become durable in program order; lines among each other in any order.
//!   [`Pmem::store`] and [`Pmem::store64`] keep program order; [`Pmem::copy_nt`] and [`Pmem::zero_nt`] keep none.
//! - A store is durable once its line was written back ([`Pmem::flush`]) *and* a [`Pmem::fence`] **on the same CPU** has
//!   returned. Non-temporal stores need only the fence. A fence waits for the write-backs of its own CPU alone: whoever
//!   hands a half-flushed line to another CPU must fence first.
//! - Where the caches are within the persistence domain ([`Persistence::CpuCache`]) write-back costs nothing and is not done.
//!
//! Reads can fail, since media can: [`MediaError`]. Stores cannot, as on the machine; a bad line is found when it is read. A line that
//! was stored to whole can be read again once the region is told ([`Pmem::heal`]).

mod bad;
mod mapped;
mod ram;
mod stream;

use alloc::sync::Arc;

use thiserror::Error;
use zerocopy::IntoBytes;

pub use bad::BadRangesFull;
pub use mapped::{Hints, MAX_HINTS, MappedPmem};
pub use ram::RamPmem;
pub use stream::StreamOp;

/// Bytes of a cache line, the unit of write-back.
pub const LINE: u64 = 64;

/// A failed read: the media could not give back what was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "media error in {len} bytes at offset {offset:#x} of the region (write these bytes whole to repair them)"
)]
pub struct MediaError {
    /// First bad byte that the read touched, from the start of the region.
    pub offset: u64,
    /// Bad bytes from there on, as far as the read touched them.
    pub len: u64,
}

/// The instruction that writes a line back; each later one in [`FlushOp::ALL`] is slower and more widely available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushOp {
    /// `clwb`: writes back, may keep the line cached; ordered by `sfence` only.
    Clwb,
    /// `clflushopt`: writes back and drops the line; ordered by `sfence` only.
    ClflushOpt,
    /// `clflush`: writes back and drops the line, ordered with every store; each x86_64 CPU has it.
    Clflush,
}

impl FlushOp {
    /// All instructions, best first.
    pub const ALL: [Self; 3] = [Self::Clwb, Self::ClflushOpt, Self::Clflush];

    /// The best instruction by EBX of CPUID leaf 7, sub-leaf 0: bit 24 is `clwb`, bit 23 is `clflushopt`.
    #[must_use]
    pub const fn from_leaf7_ebx(ebx: u32) -> Self {
        match (ebx & 1 << 24 != 0, ebx & 1 << 23 != 0) {
            (true, _) => Self::Clwb,
            (false, true) => Self::ClflushOpt,
            (false, false) => Self::Clflush,
        }
    }

    /// The best instruction of the CPU this runs on, by CPUID.
    #[must_use]
    pub fn of_this_cpu() -> Self {
        mapped::leaf7().map_or(Self::Clflush, |leaf| Self::from_leaf7_ebx(leaf.ebx))
    }
}

/// Where a store must arrive to survive a power failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// The CPU caches are flushed by the platform on power loss (eADR): no write-back, only ordering.
    CpuCache,
    /// The memory controller's queues are (ADR): lines must be written back to it.
    MemoryController(FlushOp),
}

/// A region of persistent memory, addressed in bytes from its start.
///
/// All methods take `&self` and may run on several CPUs at once; who may write which bytes when is the caller's affair.
/// An access outside `0..len` is the caller's bug and panics, as slice indexing does; so does a misaligned 8-byte one.
pub trait Pmem: Send + Sync {
    /// Length in bytes; never changes.
    fn len(&self) -> u64;

    /// True for a region of no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether stores are allowed; an unarmed region is for reading only. Storing to one panics.
    fn writable(&self) -> bool;

    /// Copies `buf.len()` bytes at `off` into `buf`. On error the contents of `buf` are unspecified.
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<(), MediaError>;

    /// Fails if a byte of the range cannot be read; reads nothing. A region that knows of no bad bytes passes.
    fn check(&self, _off: u64, _len: u64) -> Result<(), MediaError> {
        Ok(())
    }

    /// Tells the region that the `len` bytes at `off` were stored anew: bad lines that lie wholly within can be read again.
    fn heal(&self, _off: u64, _len: u64) {}

    /// Loads the 8 bytes at `off` (a multiple of 8), little-endian, at once.
    fn load64(&self, off: u64) -> Result<u64, MediaError>;

    /// Loads `words.len()` words at `off` (a multiple of 8), each as [`Pmem::load64`], in ascending order.
    fn load_words(&self, off: u64, words: &mut [u64]) -> Result<(), MediaError> {
        for (place, word) in (off..).step_by(8).zip(words) {
            *word = self.load64(place)?;
        }
        Ok(())
    }

    /// Says that `lines` lines from `off` on will soon be wanted, to be stored to where that is allowed, so that they may be fetched meanwhile.
    /// A hint: it changes nothing and cannot fail, whatever the numbers.
    fn prefetch(&self, _off: u64, _lines: u64) {}

    /// Stores 8 bytes at `off` (a multiple of 8), cached, at once.
    fn store64(&self, off: u64, v: u64);

    /// Stores `data` at `off`, cached, in ascending order; each aligned 8 bytes within it at once.
    fn store(&self, off: u64, data: &[u8]);

    /// Stores `words` at `off` (a multiple of 8), cached, little-endian, in ascending order, each at once.
    fn store_words(&self, off: u64, words: &[u64]) {
        const { assert!(cfg!(target_endian = "little")) }
        self.store(off, words.as_bytes());
    }

    /// Stores `data` at `off` in no particular order; durable after [`Pmem::fence`], unaligned edges included.
    fn copy_nt(&self, off: u64, data: &[u8]);

    /// Stores `len` zero bytes at `off` in no particular order; durable after [`Pmem::fence`], unaligned edges included.
    fn zero_nt(&self, off: u64, len: u64);

    /// Starts the write-back of every line that `off..off + len` touches; done when the next [`Pmem::fence`] returns.
    fn flush(&self, off: u64, len: u64);

    /// Returns once all that this CPU flushed or stored past the caches is durable.
    fn fence(&self);
}

/// Forwards every method to what a pointer points to.
macro_rules! forward {
    ($pointer:ty) => {
        impl<P: Pmem + ?Sized> Pmem for $pointer {
            fn len(&self) -> u64 {
                (**self).len()
            }
            fn writable(&self) -> bool {
                (**self).writable()
            }
            fn read(&self, off: u64, buf: &mut [u8]) -> Result<(), MediaError> {
                (**self).read(off, buf)
            }
            fn check(&self, off: u64, len: u64) -> Result<(), MediaError> {
                (**self).check(off, len)
            }
            fn heal(&self, off: u64, len: u64) {
                (**self).heal(off, len);
            }
            fn load64(&self, off: u64) -> Result<u64, MediaError> {
                (**self).load64(off)
            }
            #[inline]
            fn load_words(&self, off: u64, words: &mut [u64]) -> Result<(), MediaError> {
                (**self).load_words(off, words)
            }
            fn prefetch(&self, off: u64, lines: u64) {
                (**self).prefetch(off, lines);
            }
            fn store64(&self, off: u64, v: u64) {
                (**self).store64(off, v);
            }
            fn store(&self, off: u64, data: &[u8]) {
                (**self).store(off, data);
            }
            fn store_words(&self, off: u64, words: &[u64]) {
                (**self).store_words(off, words);
            }
            fn copy_nt(&self, off: u64, data: &[u8]) {
                (**self).copy_nt(off, data);
            }
            fn zero_nt(&self, off: u64, len: u64) {
                (**self).zero_nt(off, len);
            }
            fn flush(&self, off: u64, len: u64) {
                (**self).flush(off, len);
            }
            fn fence(&self) {
                (**self).fence();
            }
        }
    };
}

forward!(&P);
forward!(Arc<P>);

/// Panics unless `off..off + len` lies within a region of `size` bytes.
#[track_caller]
#[inline]
fn check_range(size: u64, off: u64, len: u64) {
    let fits = off.checked_add(len).is_some_and(|end| end <= size);
    assert!(
        fits,
        "pmem access of {len} bytes at {off:#x} leaves the region of {size:#x} bytes"
    );
}

/// Panics unless `off` is a multiple of 8.
#[track_caller]
#[inline]
fn check_word(off: u64) {
    assert!(
        off.is_multiple_of(8),
        "8-byte pmem access at {off:#x} is not aligned"
    );
}
