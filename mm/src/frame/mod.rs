//! The frame allocator: buddies over RAM.
//!
//! Free blocks of each order are the set bits of one bitmap (module `bits`), one bit for each aligned block of that order between
//! the lowest and the highest frame. A frame is free exactly when one bit of one order covers it; two free buddies never stay
//! two (freeing merges them). Nothing is written to the frames themselves, so the allocator needs no mapping of them, and its
//! state cannot be damaged through a stray write to a free frame.
//!
//! Cost: about a quarter of a byte of storage for each frame. Allocation and release take at most a few steps for each
//! order. The lowest suitable block of the smallest sufficient order is handed out, which keeps large blocks together.
//!
//! One spin lock guards all; allocation never sleeps and is allowed in any context.

mod bits;

use self::bits::Bits;
use crate::addr::{PageSize, Pfn, PfnRange};
use crate::sync::{SpinLock, class};
use arrayvec::ArrayVec;
use core::borrow::BorrowMut;
use thiserror::Error;

/// The greatest order: blocks of 2^18 frames, 1 GiB.
pub const MAX_ORDER: u8 = PageSize::Size1G.order();
/// How many separate ranges of RAM one allocator takes.
pub const MAX_RANGES: usize = 64;
const ORDERS: usize = MAX_ORDER as usize + 1;

/// Something that hands out page frames.
pub trait FrameSource: Send + Sync {
    /// 2^`order` frames, aligned to their number, contents undefined. `None`: no such block is free, or the order is above
    /// [`MAX_ORDER`].
    fn alloc(&self, order: u8) -> Option<Pfn>;

    /// Takes a block back. Debug builds panic on frames that are not out, or were never managed; release builds leave the
    /// allocator as it is: a lost frame is better than one with two users.
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

/// The bitmaps of all orders, and the frames that they cover.
struct Plan {
    /// The first frame covered, a multiple of the greatest block.
    base: u64,
    bits: ArrayVec<Bits, ORDERS>,
}

impl Plan {
    /// A plan from the lowest to the highest frame of `ranges`, rounded to whole greatest blocks.
    fn new(ranges: &[PfnRange]) -> Self {
        let block = 1 << MAX_ORDER;
        let low = ranges.iter().map(|r| r.start().get()).min().unwrap_or(0);
        let high = ranges.iter().map(|r| r.end()).max().unwrap_or(0);
        let base = low & !(block - 1);
        let span = (high - base).next_multiple_of(block);
        let mut bits = ArrayVec::<Bits, ORDERS>::new();
        for order in 0..=MAX_ORDER {
            let start = bits.last().map_or(0, Bits::end);
            bits.push(Bits::lay_out(span >> order, start));
        }
        Self { base, bits }
    }

    fn words(&self) -> usize {
        self.bits.last().map_or(0, Bits::end)
    }
}

struct Buddies<S> {
    plan: Plan,
    /// Ascending, disjoint.
    ranges: ArrayVec<PfnRange, MAX_RANGES>,
    words: S,
    /// Free blocks of each order.
    free: [u64; ORDERS],
}

/// A buddy allocator over RAM, orders 0 to [`MAX_ORDER`]. `S` holds its bitmaps: any storage that gives out words.
pub struct BuddyAllocator<S = &'static mut [u64]> {
    inner: SpinLock<Buddies<S>>,
}

impl BuddyAllocator {
    /// How many words of storage an allocator over `ranges` needs: about a quarter of a byte for each frame from the lowest
    /// to the highest, gaps included.
    pub fn words_needed(ranges: &[PfnRange]) -> usize {
        Plan::new(ranges).words()
    }
}

impl<S: BorrowMut<[u64]> + Send> BuddyAllocator<S> {
    /// An allocator over `ranges`, all free. The former contents of `storage` do not matter. The ranges leave out frames that
    /// are in use, the storage's own among them.
    pub fn new(ranges: &[PfnRange], mut storage: S) -> Result<Self, BuddyError> {
        let ranges = sorted(ranges)?;
        let plan = Plan::new(&ranges);
        let (have, need) = (storage.borrow().len(), plan.words());
        if have < need {
            return Err(BuddyError::Storage { have, need });
        }
        storage.borrow_mut()[..need].fill(0);
        let mut buddies = Buddies {
            plan,
            ranges: ranges.clone(),
            words: storage,
            free: [0; ORDERS],
        };
        for range in ranges {
            buddies.add(range);
        }
        Ok(Self {
            inner: SpinLock::with_class(&class::ALLOC, buddies),
        })
    }

    /// Frames managed, free or not.
    pub fn total_frames(&self) -> u64 {
        self.inner.lock().ranges.iter().map(|r| r.pages()).sum()
    }

    /// Frames free.
    pub fn free_frames(&self) -> u64 {
        let inner = self.inner.lock();
        inner
            .free
            .iter()
            .enumerate()
            .map(|(order, n)| n << order)
            .sum()
    }

    /// Free blocks of exactly `order`.
    pub fn free_blocks(&self, order: u8) -> u64 {
        self.inner
            .lock()
            .free
            .get(usize::from(order))
            .copied()
            .unwrap_or(0)
    }
}

impl<S: BorrowMut<[u64]> + Send> FrameSource for BuddyAllocator<S> {
    fn alloc(&self, order: u8) -> Option<Pfn> {
        self.inner.lock().alloc(order)
    }

    fn free(&self, pfn: Pfn, order: u8) {
        let freed = self.inner.lock().free(pfn, order);
        debug_assert!(freed, "freed frames that are not out: {pfn}, order {order}");
        if !freed {
            log::error!("frames that are not out were freed: {pfn}, order {order}");
        }
    }
}

/// The ranges in ascending order, if there are some, few enough, and disjoint.
fn sorted(ranges: &[PfnRange]) -> Result<ArrayVec<PfnRange, MAX_RANGES>, BuddyError> {
    let mut all = ArrayVec::<PfnRange, MAX_RANGES>::new();
    for range in ranges {
        all.try_push(*range).map_err(|_| BuddyError::TooMany)?;
    }
    all.sort_unstable_by_key(|r| r.start());
    if let Some(pair) = all.windows(2).find(|pair| pair[0].overlaps(pair[1])) {
        return Err(BuddyError::Overlap(pair[1]));
    }
    if all.is_empty() {
        Err(BuddyError::Empty)
    } else {
        Ok(all)
    }
}

impl<S: BorrowMut<[u64]>> Buddies<S> {
    fn set(&mut self, order: u8, i: u64) {
        self.plan.bits[usize::from(order)].set(self.words.borrow_mut(), i);
        self.free[usize::from(order)] += 1;
    }

    fn clear(&mut self, order: u8, i: u64) {
        self.plan.bits[usize::from(order)].clear(self.words.borrow_mut(), i);
        self.free[usize::from(order)] -= 1;
    }

    fn is_set(&self, order: u8, i: u64) -> bool {
        self.plan.bits[usize::from(order)].get(self.words.borrow(), i)
    }

    /// Frees a range in the largest blocks that fit.
    fn add(&mut self, range: PfnRange) {
        let (mut at, end) = (
            range.start().get() - self.plan.base,
            range.end() - self.plan.base,
        );
        while at < end {
            let order = (at | 1 << MAX_ORDER)
                .trailing_zeros()
                .min((end - at).ilog2()) as u8;
            self.merge(at >> order, order);
            at += 1 << order;
        }
    }

    fn alloc(&mut self, order: u8) -> Option<Pfn> {
        let mut from = (order..=MAX_ORDER).find(|&o| self.free[usize::from(o)] > 0)?;
        let mut i = self.plan.bits[usize::from(from)].first(self.words.borrow())?;
        self.clear(from, i);
        while from > order {
            from -= 1;
            i *= 2;
            self.set(from, i + 1);
        }
        Pfn::new(self.plan.base + (i << order))
    }

    /// Frees a block that is out; `false` when it is not.
    fn free(&mut self, pfn: Pfn, order: u8) -> bool {
        if order > MAX_ORDER || !self.is_out(pfn, order) {
            return false;
        }
        self.merge((pfn.get() - self.plan.base) >> order, order);
        true
    }

    /// Adds a free block, joined with its buddy for as long as that is free too.
    fn merge(&mut self, mut i: u64, mut order: u8) {
        while order < MAX_ORDER && self.is_set(order, i ^ 1) {
            self.clear(order, i ^ 1);
            i /= 2;
            order += 1;
        }
        self.set(order, i);
    }

    /// Whether the block is aligned, managed, and none of it free. Release builds do not look at smaller free blocks within.
    fn is_out(&self, pfn: Pfn, order: u8) -> bool {
        let managed = PfnRange::new(pfn, 1 << order).is_some_and(|block| self.manages(block));
        if !managed || pfn.get() & ((1 << order) - 1) != 0 {
            return false;
        }
        let at = pfn.get() - self.plan.base;
        let free_above = (order..=MAX_ORDER).any(|o| self.is_set(o, at >> o));
        let free_within = cfg!(debug_assertions) && self.any_free_within(at, order);
        !free_above && !free_within
    }

    fn any_free_within(&self, at: u64, order: u8) -> bool {
        (0..order).any(|o| {
            self.plan.bits[usize::from(o)]
                .any(self.words.borrow(), at >> o..(at + (1 << order)) >> o)
        })
    }

    /// Whether every frame of `block` lies in a range; neighbouring ranges may share a block.
    fn manages(&self, block: PfnRange) -> bool {
        let common = |r: &PfnRange| r.intersect(block).map_or(0, PfnRange::pages);
        self.ranges.iter().map(common).sum::<u64>() == block.pages()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
