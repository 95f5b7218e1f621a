//! Page metadata: the count and what the page belongs to.
//!
//! # The count
//! One 64-bit atomic with two exact halves. `mapped` (bits 0..31) counts page-table entries that map the folio; `pinned`
//! (bits 32..64) counts pins. Values:
//!
//! | bits 0..31 | `CLAIM`, bit 31 | pinned, bits 32..64 | meaning |
//! |---|---|---|---|
//! | 0 | 0 | 0 | idle: nobody refers to the page |
//! | n > 0 | 1 | 0 | idle, and n first mappings ask whether the pgmap is alive (`life`); reads as 0, cannot be pinned |
//! | m | 0 | p | m entries map it, p pins hold it; m + p > 0 |
//! | any other | 1 | any | never |
//!
//! The two halves are refused before they overflow, and an underflow leaves the count as it is and panics in debug builds:
//! a page held for ever is a leak, a page falsely idle is corruption.
//!
//! # The owner
//! Written under the entry lock of the owning file, read by anyone (memory failure, a shell). A reader takes the generation,
//! the fields and the generation again, and repeats until both are the same and no write was under way: the sequence-lock
//! protocol, with the generation in the upper half of `flags`.

use crate::addr::PageSize;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence, spin_loop};
use core::fmt;
use thiserror::Error;

/// Set while the first reference is being granted; see the module head.
pub(crate) const CLAIM: u64 = 1 << 31;
/// The greatest mapped count: 2^31 - 1.
pub const MAPPED_MAX: u32 = (CLAIM - 1) as u32;
const PIN: u64 = 1 << 32;

/// The two halves of a page's count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counts {
    /// Page-table entries that map the folio.
    pub mapped: u32,
    /// Pins, each of one page (a batch that holds n pages of a folio counts n).
    pub pinned: u32,
}

impl Counts {
    /// Nobody refers to the page.
    pub const IDLE: Self = Self {
        mapped: 0,
        pinned: 0,
    };

    /// Whether nobody refers to the page.
    pub const fn is_idle(self) -> bool {
        self.mapped == 0 && self.pinned == 0
    }

    const fn from_raw(raw: u64) -> Self {
        if raw & CLAIM != 0 {
            return Self::IDLE;
        }
        Self {
            mapped: (raw & (CLAIM - 1)) as u32,
            pinned: (raw >> 32) as u32,
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mapped {}, pinned {}", self.mapped, self.pinned)
    }
}

/// Why a pin was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PinError {
    /// The total count is 0: only a mapping takes a page from 0, so the caller looked at an entry that has gone.
    #[error("the page is idle")]
    Idle,
    /// The pinned half would exceed 2^32 - 1.
    #[error("too many pins")]
    Overflow,
    /// The device behind the page accepts no new pins (the `Legacy` policy alone says so).
    #[error("the device is going away")]
    Dying,
}

/// The count of one folio.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct RefCount(AtomicU64);

impl RefCount {
    /// An idle count.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Both halves at one moment.
    pub fn counts(&self) -> Counts {
        Counts::from_raw(self.load())
    }

    /// Whether the count is 0 and no first reference is being granted. The answer of a removal's sweep.
    pub fn is_settled_idle(&self) -> bool {
        self.load() == 0
    }

    /// SeqCst: half of two store-load pairs. Who writes back pages protects their entries and then reads the pins, gup raises a
    /// count and then reads the entry again; removal marks the pgmap dying and then reads counts, a first mapping claims the
    /// count and then reads the mark. In each pair one side must see the other.
    fn load(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Adds one mapping if the total is not 0; `Ok(false)` when it is.
    pub(crate) fn get_mapped(&self) -> Result<bool, Overflow> {
        let mut seen = self.0.load(Ordering::Relaxed);
        while seen != 0 && seen & CLAIM == 0 {
            let next = one_more(seen)?;
            // Acquire pairs with the Release of the puts: what earlier holders did to the page is visible.
            match self
                .0
                .compare_exchange_weak(seen, next, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return Ok(true),
                Err(now) => seen = now,
            }
        }
        Ok(false)
    }

    /// Adds one mapping if the total is not 0 (`Ok(true)`), else makes or joins a claim (`Ok(false)`), which the caller
    /// then settles.
    pub(crate) fn get_or_claim(&self) -> Result<bool, Overflow> {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            let next = if seen == 0 {
                CLAIM | 1
            } else {
                one_more(seen)?
            };
            // SeqCst: first half of the store-load pair with removal (`load`), and Acquire as in get_mapped.
            match self
                .0
                .compare_exchange_weak(seen, next, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => return Ok(next & CLAIM == 0),
                Err(now) => seen = now,
            }
        }
    }

    /// Settles the caller's claim: grants it, and all that joined it, when `live`; else withdraws it. Returns whether the
    /// caller holds a mapping now, which is also so when another claimant granted first.
    pub(crate) fn settle(&self, live: bool) -> bool {
        let mut seen = self.0.load(Ordering::Relaxed);
        while seen & CLAIM != 0 {
            let withdrawn = if seen == CLAIM | 1 { 0 } else { seen - 1 };
            let next = if live { seen & !CLAIM } else { withdrawn };
            // AcqRel: Acquire pairs with the Release of the puts before the claim; Release lets later readers of the count
            // see what was done before it was granted.
            match self
                .0
                .compare_exchange_weak(seen, next, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return live,
                Err(now) => seen = now,
            }
        }
        true
    }

    /// Takes a count from 0 to one mapping. For policies that made sure of the device beforehand.
    pub(crate) fn first_mapped(&self) -> bool {
        // Acquire pairs with the Release of the puts.
        self.0
            .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Adds `n` pins if the total is not 0: one compare-and-exchange, repeated only while others change the count.
    pub(crate) fn try_pin(&self, n: u32) -> Result<(), PinError> {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            if seen == 0 || seen & CLAIM != 0 {
                return Err(PinError::Idle);
            }
            let next = seen
                .checked_add(PIN * u64::from(n))
                .ok_or(PinError::Overflow)?;
            // SeqCst: first half of the store-load pair with write protection (`load`).
            match self
                .0
                .compare_exchange_weak(seen, next, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => return Ok(()),
                Err(now) => seen = now,
            }
        }
    }

    /// Adds the pins of `guess` if an entry maps the folio; says whether it did. For gup without locks: an entry that was read holds a mapping's
    /// reference, so a mapped half of 0 says that the entry is on its way out. Refuses also what [`RefCount::try_pin`] refuses.
    ///
    /// Starts from a guess of the count, mostly that of the page before: one compare-and-exchange and no look at it first.
    #[inline]
    pub(crate) fn pin_mapped(&self, guess: &mut Guess) -> bool {
        // SeqCst: as in `try_pin`. A guess is a count that can be pinned, so only such a one is exchanged.
        let tried =
            self.0
                .compare_exchange(guess.from, guess.to, Ordering::SeqCst, Ordering::Relaxed);
        tried.is_ok() || tried.is_err_and(|seen| self.pin_mapped_from(seen, guess))
    }

    #[cold]
    #[inline(never)]
    fn pin_mapped_from(&self, mut seen: u64, guess: &mut Guess) -> bool {
        let add = guess.to - guess.from;
        loop {
            // The lower half as a signed number: 0 is not mapped, and below 0 is a claim.
            let Some(next) = seen.checked_add(add).filter(|_| seen as i32 > 0) else {
                return false;
            };
            // SeqCst: as in `try_pin`.
            match self
                .0
                .compare_exchange(seen, next, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => {
                    guess.learn(seen);
                    return true;
                }
                Err(now) => seen = now,
            }
        }
    }

    /// Drops one mapping; returns the counts left.
    pub(crate) fn put_mapped(&self) -> Counts {
        Counts::from_raw(self.drop_mappings(1))
    }

    /// Drops `n` pins; returns the counts left.
    pub(crate) fn put_pinned(&self, n: u32) -> Counts {
        Counts::from_raw(self.drop_pins(n))
    }

    /// Drops `n` mappings, at most 2^31 - 1; returns the word left, 0 when it is idle.
    pub(crate) fn drop_mappings(&self, n: u32) -> u64 {
        self.subtract(u64::from(n), self.raw())
    }

    /// Drops `n` pins; returns the word left, 0 when it is idle.
    pub(crate) fn drop_pins(&self, n: u32) -> u64 {
        self.subtract(PIN * u64::from(n), self.raw())
    }

    /// Drops one mapping, or one pin; says whether the count is idle now. Starts from a guess, as [`RefCount::pin_mapped`].
    #[inline]
    pub(crate) fn drop_one(&self, guess: &mut Drop1) -> bool {
        // AcqRel: as in `subtract`.
        let tried =
            self.0
                .compare_exchange(guess.from, guess.to, Ordering::AcqRel, Ordering::Relaxed);
        match tried {
            Ok(_) => guess.to == 0,
            Err(seen) => self.drop_one_from(seen, guess),
        }
    }

    #[cold]
    #[inline(never)]
    fn drop_one_from(&self, seen: u64, guess: &mut Drop1) -> bool {
        let what = guess.from - guess.to;
        let Ok(left) = self.try_subtract(what, seen) else {
            return false;
        };
        *guess = Drop1 {
            from: left + what,
            to: left,
        };
        left == 0
    }

    fn raw(&self) -> u64 {
        // Relaxed: a first guess; the exchange decides.
        self.0.load(Ordering::Relaxed)
    }

    fn subtract(&self, what: u64, seen: u64) -> u64 {
        let (Ok(left) | Err(left)) = self.try_subtract(what, seen);
        left
    }

    /// Ok: what is left. Err: what is there, which is less than `what`.
    fn try_subtract(&self, what: u64, mut seen: u64) -> Result<u64, u64> {
        loop {
            if !covers(seen, what) {
                debug_assert!(false, "count underflow: {}", Counts::from_raw(seen));
                return Err(seen);
            }
            // AcqRel: Release hands the holder's accesses to whoever sees the lower count; Acquire takes those of the other
            // holders, for the one who reaches 0 and reports the page idle.
            match self.0.compare_exchange_weak(
                seen,
                seen - what,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(seen - what),
                Err(now) => seen = now,
            }
        }
    }
}

/// Whether the count holds as much as `what`, which is some mappings or some pins.
fn covers(seen: u64, what: u64) -> bool {
    match what >> 32 {
        0 => i64::from(seen as i32) >= what as i64,
        pins => seen >> 32 >= pins && seen & CLAIM == 0,
    }
}

/// Some pins to be taken on each page of a run, and what the count of the next probably is: always one that can be pinned (mapped, no
/// claim, room for the pins).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guess {
    from: u64,
    to: u64,
}

impl Guess {
    /// `n` pins, at most 2^31, on pages probably mapped once.
    pub(crate) fn pins(n: u32) -> Self {
        let to = 1 + PIN * u64::from(n);
        Self { from: 1, to }
    }

    /// The last page had this count, and could be pinned.
    fn learn(&mut self, seen: u64) {
        let add = self.to - self.from;
        if seen >> 63 == 0 {
            self.from = seen;
            self.to = seen + add;
        }
    }
}

/// One mapping or one pin to be dropped from each page of a run, and what the count of the next probably is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drop1 {
    from: u64,
    to: u64,
}

impl Drop1 {
    /// A mapping, probably the only reference.
    pub(crate) const MAPPING: Self = Self { from: 1, to: 0 };
    /// A pin, probably of a page mapped once.
    pub(crate) const PIN: Self = Self {
        from: PIN + 1,
        to: 1,
    };
}

/// A half of the count is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("too many references")]
pub struct Overflow;

/// `seen` with one more mapping or claimant.
fn one_more(seen: u64) -> Result<u64, Overflow> {
    if seen & u64::from(MAPPED_MAX) == u64::from(MAPPED_MAX) {
        Err(Overflow)
    } else {
        Ok(seen + 1)
    }
}

/// The file page that a storage page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The inode's number.
    pub inode: u64,
    /// The page's place in the file, in base pages.
    pub index: u64,
}

const ORDER_MASK: u32 = 0xFF;
const OWNED: u32 = 1 << 8;
const POISONED: u32 = 1 << 9;
const WRITING: u32 = 1 << 10;
const GENERATION: u32 = 1 << 16;

/// The metadata of one folio, kept at its head: 32 bytes. All bytes zero: idle, order 0, no owner.
///
/// `flags`: bits 0..8 the order while the folio is associated (0, 9 or 18), bit 8 OWNED, bit 9 POISONED (media failure),
/// bit 10 WRITING (the owner is being changed), bits 16..32 the generation of the owner, wrapping.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Page {
    refs: RefCount,
    inode: AtomicU64,
    index: AtomicU64,
    flags: AtomicU32,
    reserved: u32,
}

#[cfg(not(loom))] // whose atomics are larger
const _: () = assert!(size_of::<Page>() == 32 && align_of::<Page>() == 8);

impl Page {
    /// The count.
    pub const fn refs(&self) -> &RefCount {
        &self.refs
    }

    /// Both halves of the count at one moment.
    pub fn counts(&self) -> Counts {
        self.refs.counts()
    }

    /// The order of the folio that this page heads: 0, 9 or 18. 0 also while it heads none.
    pub fn order(&self) -> u8 {
        // Acquire pairs with the Release that ends `write`: who sees the order sees the folio as it was built.
        (self.flags.load(Ordering::Acquire) & ORDER_MASK) as u8
    }

    /// The size of the folio that this page heads.
    pub fn size(&self) -> PageSize {
        PageSize::from_order(self.order()).unwrap_or(PageSize::Size4K)
    }

    /// Whether memory failure struck the page.
    pub fn is_poisoned(&self) -> bool {
        // Acquire pairs with the Release in set_poisoned.
        self.flags.load(Ordering::Acquire) & POISONED != 0
    }

    /// Notes or forgets a memory failure.
    pub fn set_poisoned(&self, poisoned: bool) {
        // Release pairs with the Acquire in is_poisoned.
        if poisoned {
            self.flags.fetch_or(POISONED, Ordering::Release);
        } else {
            self.flags.fetch_and(!POISONED, Ordering::Release);
        }
    }

    /// The file page that this page holds, or `None` while it holds none. Spins while a write is under way: not from
    /// interrupt context, which may have interrupted the writer.
    pub fn owner(&self) -> Option<Owner> {
        loop {
            // Acquire pairs with the Release that ends `write`: the fields read next are at least that new.
            let before = self.flags.load(Ordering::Acquire);
            let owner = Owner {
                inode: self.inode.load(Ordering::Relaxed),
                index: self.index.load(Ordering::Relaxed),
            };
            // The fence pairs with the one in `write`: a field read from a later write makes that write's mark visible.
            fence(Ordering::Acquire);
            let after = self.flags.load(Ordering::Relaxed);
            if before & WRITING == 0 && same_generation(before, after) {
                return (before & OWNED != 0).then_some(owner);
            }
            spin_loop();
        }
    }

    /// Writes owner and order; the caller holds the entry lock, so it is the only writer.
    pub(crate) fn write(&self, owner: Option<Owner>, order: u8) {
        let next = self.begin_write();
        let Owner { inode, index } = owner.unwrap_or(Owner { inode: 0, index: 0 });
        self.inode.store(inode, Ordering::Relaxed);
        self.index.store(index, Ordering::Relaxed);
        let state = next | u32::from(order) | if owner.is_some() { OWNED } else { 0 };
        // Release pairs with the Acquires in `owner` and `order`. An update, not a store: POISONED may change meanwhile.
        let _ = self
            .flags
            .fetch_update(Ordering::Release, Ordering::Relaxed, |f| {
                Some(f & POISONED | state)
            });
    }

    /// Marks a write as under way; returns the generation that it will have.
    fn begin_write(&self) -> u32 {
        let old = self.flags.fetch_or(WRITING, Ordering::Relaxed);
        debug_assert!(
            old & WRITING == 0,
            "two writers of one page's owner: the entry lock is not held"
        );
        // Pairs with the fence in `owner`.
        fence(Ordering::Release);
        (old & !(GENERATION - 1)).wrapping_add(GENERATION)
    }
}

fn same_generation(a: u32, b: u32) -> bool {
    (a ^ b) & !POISONED == 0
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
