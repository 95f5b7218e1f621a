//! The frame allocator of RAM.

use crate::addr::{Pfn, PfnRange};
use crate::sync::SpinLock;
use arrayvec::ArrayVec;
use core::borrow::BorrowMut;
use thiserror::Error;

/// The greatest order: blocks of 2^18 frames, 1 GiB.
pub const MAX_ORDER: u8 = 18;
/// How many separate ranges of RAM one allocator takes.
pub const MAX_RANGES: usize = 64;

/// Something that hands out page frames.
pub trait FrameSource: Send + Sync {
    /// 2^`order` frames, aligned to their number, contents undefined. `None`: no such block is free.
    fn alloc(&self, order: u8) -> Option<Pfn>;
    /// Takes a block back, as it was handed out. Debug builds panic on frames that are not out.
    fn free(&self, pfn: Pfn, order: u8);
}

/// Why an allocator could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BuddyError {
    /// No range was given.
    #[error("no RAM ranges")]
    Empty,
    /// More than [`MAX_RANGES`].
    #[error("more than {MAX_RANGES} RAM ranges")]
    TooMany,
    /// Two ranges share a frame.
    #[error("RAM range {0} overlaps another")]
    Overlap(PfnRange),
    /// The storage is smaller than [`BuddyAllocator::words_needed`].
    #[error("{have} words of storage, {need} needed")]
    Storage {
        /// Words given.
        have: usize,
        /// Words needed.
        need: usize,
    },
}

/// A buddy allocator over RAM, orders 0 to [`MAX_ORDER`].
pub struct BuddyAllocator<S = &'static mut [u64]> {
    inner: SpinLock<(ArrayVec<PfnRange, MAX_RANGES>, S)>,
}

impl BuddyAllocator {
    /// How many words of storage an allocator over `ranges` needs: about a quarter of a byte for each frame from the lowest
    /// to the highest.
    pub fn words_needed(_ranges: &[PfnRange]) -> usize {
        todo!()
    }
}

impl<S: BorrowMut<[u64]> + Send> BuddyAllocator<S> {
    /// An allocator over `ranges`, all free. `storage` holds its bitmaps; its contents do not matter. The ranges exclude
    /// frames in use, the storage's own among them.
    pub fn new(_ranges: &[PfnRange], _storage: S) -> Result<Self, BuddyError> {
        todo!()
    }

    /// Frames managed, free or not.
    pub fn total_frames(&self) -> u64 {
        todo!()
    }

    /// Frames free.
    pub fn free_frames(&self) -> u64 {
        let _ = self.inner.lock();
        todo!()
    }

    /// Free blocks of exactly `order`.
    pub fn free_blocks(&self, _order: u8) -> u64 {
        todo!()
    }
}

impl<S: BorrowMut<[u64]> + Send> FrameSource for BuddyAllocator<S> {
    fn alloc(&self, _order: u8) -> Option<Pfn> {
        todo!()
    }
    fn free(&self, _pfn: Pfn, _order: u8) {
        todo!()
    }
}
