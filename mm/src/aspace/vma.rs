//! The list of mappings: sorted, disjoint, changed under the AddressSpace lock, readable without it.
//!
//! **Layout.** An array of pointers to mappings that never change once they are in the list; a mapping that is cut leaves, and its
//! parts enter. So an insertion moves pointers and copies no mapping, and taking one away allocates nothing.
//!
//! **Reading under the lock** is ordinary: [`Turn`], the value in the lock, is the right to read (`&`) or to change (`&mut`).
//!
//! **Reading without the lock** ([`VmaList::peek`]) is a search like any other. It may run while the array changes, so it may miss; but
//! every pointer that it reads leads to a mapping that was in the list at some moment of the reader's section, and what it answers
//! contains the address. What left the list (a mapping, an array that became too small) is freed only after `Tlb::flush` of the root,
//! which waits for the sections of all CPUs that run on it; and only those may peek (`Tlb::runs_on`). A section that began too late for
//! the flush to wait for it sees the list without them: the flush stands between. Beyond the length nothing is read: a length is published
//! after the places below it.
//!
//! **Holes.** The lowest hole that fits is found without a walk from the start: [`Holes`] remembers from where on a larger one may be.

#![expect(
    unsafe_code,
    reason = "mappings are reached through pointers that outlive the lock"
)]

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr;

use super::object::VmObject;
use super::range::{Prot, VaRange};
use crate::addr::{PAGE_SIZE, PageSize, VirtAddr};
use crate::mem::{OutOfMemory, try_box};
use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// One mapping: a range of addresses over a range of pages of an object.
pub(crate) struct Vma {
    pub(crate) range: VaRange,
    pub(crate) object: Arc<dyn VmObject>,
    /// The page of the object at the start of the range.
    pub(crate) file_page: u64,
    pub(crate) prot: Prot,
    /// Told by loom: whether a walker looks at a mapping that is freed meanwhile.
    #[cfg(loom)]
    pub(super) life: Life,
}

/// Watched by loom: looked at by walkers, written when the mapping is freed.
#[cfg(loom)]
#[derive(Default)]
pub(super) struct Life(loom::cell::UnsafeCell<()>);

#[cfg(loom)]
// SAFETY: loom checks every access.
unsafe impl Sync for Life {}

/// What remains of a mapping before and after a cut.
type Rest = (Option<Box<Vma>>, Option<Box<Vma>>);

impl Vma {
    /// What remains before and after `cut`, which lies inside.
    pub(super) fn without(&self, cut: VaRange) -> Result<Rest, OutOfMemory> {
        let first = self.range.page_of(cut.start());
        let end = first + cut.pages();
        Ok((
            self.part(0, first)?,
            self.part(end, self.range.pages() - end)?,
        ))
    }

    fn part(&self, first: u64, pages: u64) -> Result<Option<Box<Self>>, OutOfMemory> {
        let Some(range) = self.range.part(first, pages) else {
            return Ok(None);
        };
        let (object, file_page, prot) = (self.object.clone(), self.file_page + first, self.prot);
        try_box(Self {
            range,
            object,
            file_page,
            prot,
            #[cfg(loom)]
            life: Life::default(),
        })
        .map(Some)
    }
}

/// The right to read the list, or, borrowed exclusively, to change it: the value in the AddressSpace lock.
pub(super) struct Turn {
    holes: Holes,
}

/// Every hole that begins below `from` has at most `largest` bytes.
#[derive(Clone, Copy)]
struct Holes {
    from: VirtAddr,
    largest: u64,
}

impl Turn {
    /// The right to the list of an address space; there is one for each.
    pub(super) const fn new(window: VaRange) -> Self {
        let from = window.start();
        Self {
            holes: Holes { from, largest: 0 },
        }
    }
}

/// Room for pointers to mappings, in a box of its own so that a thin pointer leads to it.
struct Places {
    all: Box<[AtomicPtr<Vma>]>,
    #[cfg(loom)]
    life: Life,
}

impl Places {
    fn new(all: Box<[AtomicPtr<Vma>]>) -> Self {
        Self {
            all,
            #[cfg(loom)]
            life: Life::default(),
        }
    }
}

/// An array that was replaced by a larger one. Walkers may still read it: it is dropped after a flush.
#[must_use = "dropped after `Tlb::flush`, not before"]
pub(super) struct Outgrown(Option<Box<Places>>);

#[cfg(loom)]
impl Drop for Outgrown {
    fn drop(&mut self) {
        if let Some(places) = &self.0 {
            places.life.0.with_mut(|_| ());
        }
    }
}

impl Outgrown {
    /// Whether there is something to be dropped.
    pub(super) fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

/// A mapping that left the list. Walkers may still read it: it is dropped after a flush.
#[must_use = "dropped after `Tlb::flush`, not before"]
pub(super) struct Retired(Box<Vma>);

impl Retired {
    pub(super) fn vma(&self) -> &Vma {
        &self.0
    }

    /// The object, when no walker is left: a flush of the root was made since.
    pub(super) fn into_object(self) -> Arc<dyn VmObject> {
        #[cfg(loom)]
        self.0.life.0.with_mut(|_| ());
        self.0.object
    }
}

/// Mappings, sorted by address and disjoint. See the head of this file.
pub(crate) struct VmaList {
    len: AtomicUsize,
    /// Null or a `Box<Places>`.
    places: AtomicPtr<Places>,
}

impl VmaList {
    pub(super) fn new() -> Self {
        Self {
            len: AtomicUsize::new(0),
            places: AtomicPtr::new(ptr::null_mut()),
        }
    }

    fn places(&self) -> &[AtomicPtr<Vma>] {
        // Acquire: pairs with the Release in `grow`; the array is seen as it was filled.
        let places = self.places.load(Ordering::Acquire);
        // SAFETY: null or the current array, which is freed only after it was replaced and the readers have gone: those with a
        // `Turn` exclude the replacement, those without are waited for by the flush.
        let places = unsafe { places.as_ref() };
        #[cfg(loom)]
        if let Some(places) = places {
            places.life.0.with(|_| ());
        }
        places.map_or(&[], |p| &p.all)
    }

    /// The places in use.
    fn used(&self, _turn: &Turn) -> &[AtomicPtr<Vma>] {
        // Relaxed: the lock orders it.
        &self.places()[..self.len.load(Ordering::Relaxed)]
    }

    /// The number of mappings.
    pub(super) fn count(&self, turn: &Turn) -> usize {
        self.used(turn).len()
    }

    /// Where the first mapping that ends after `va` stands.
    fn position(&self, turn: &Turn, va: VirtAddr) -> usize {
        let used = self.used(turn);
        used.partition_point(|p| deref(p).is_some_and(|v| v.range.end() <= va))
    }

    fn get<'a>(&'a self, turn: &'a Turn, index: usize) -> Option<&'a Vma> {
        self.used(turn).get(index).and_then(deref)
    }

    /// The mapping that covers `va`.
    pub(super) fn find<'a>(&'a self, turn: &'a Turn, va: VirtAddr) -> Option<&'a Vma> {
        self.get(turn, self.position(turn, va))
            .filter(|v| v.range.contains(va))
    }

    /// The first mapping that shares pages with the range, its place, and which pages.
    pub(super) fn first_in<'a>(
        &'a self,
        turn: &'a Turn,
        range: VaRange,
    ) -> Option<(usize, &'a Vma, VaRange)> {
        let index = self.position(turn, range.start());
        let vma = self.get(turn, index)?;
        Some((index, vma, vma.range.intersection(range)?))
    }

    /// The mapping that covers `va`, found without the lock; None also if the list is changing.
    ///
    /// # Safety
    ///
    /// The caller is in a section with interrupts off, on a CPU that runs on the root of the address space, and uses the answer only
    /// inside the section.
    pub(super) unsafe fn peek(&self, va: VirtAddr) -> Option<&Vma> {
        // Acquire: pairs with the Release in `set_len`; the places below it hold mappings.
        let len = self.len.load(Ordering::Acquire);
        let places = self.places();
        // An array older than the length may be shorter.
        let places = &places[..len.min(places.len())];
        let at = places.partition_point(|p| deref(p).is_some_and(|v| v.range.end() <= va));
        let vma = places.get(at).and_then(deref);
        vma.filter(|v| v.range.contains(va))
    }

    /// Makes room for `more` mappings, so that as many inserts cannot fail.
    pub(super) fn reserve(&self, turn: &mut Turn, more: usize) -> Result<Outgrown, OutOfMemory> {
        let need = self.used(turn).len() + more;
        if need <= self.places().len() {
            return Ok(Outgrown(None));
        }
        self.grow(turn, need.next_power_of_two().max(8))
    }

    fn grow(&self, turn: &mut Turn, capacity: usize) -> Result<Outgrown, OutOfMemory> {
        let mut places = Vec::new();
        places
            .try_reserve_exact(capacity)
            .map_err(|_| OutOfMemory)?;
        // Relaxed: the lock orders it.
        let pointer = |p: &AtomicPtr<Vma>| p.load(Ordering::Relaxed);
        places.extend(self.used(turn).iter().map(|p| AtomicPtr::new(pointer(p))));
        places.resize_with(capacity, || AtomicPtr::new(ptr::null_mut()));
        let new = Box::into_raw(try_box(Places::new(places.into_boxed_slice()))?);
        // Release: pairs with the Acquire in `places`. The new array says the same as the old.
        let old = self.places.swap(new, Ordering::AcqRel);
        // SAFETY: null, or it came from Box::into_raw here, and this list is the only owner.
        Ok(Outgrown(
            (!old.is_null()).then(|| unsafe { Box::from_raw(old) }),
        ))
    }

    fn set_len(&self, len: usize) {
        // Release: pairs with the Acquire in `peek`.
        self.len.store(len, Ordering::Release);
    }

    /// Adds a mapping; room was reserved, and it overlaps none.
    pub(super) fn insert(&self, turn: &mut Turn, vma: Box<Vma>) {
        let at = self.position(turn, vma.range.start());
        let len = self.used(turn).len();
        put(self.places(), len, at, vma);
        self.set_len(len + 1);
    }

    /// Puts what remains of a mapping in its place; room for one more was reserved.
    pub(super) fn replace(&self, turn: &mut Turn, index: usize, rest: Rest) -> Retired {
        let before = index.checked_sub(1).and_then(|i| self.get(turn, i));
        let hole = before.map_or(VirtAddr::zero(), |v| v.range.end());
        turn.holes.from = turn.holes.from.min(hole);
        let (places, mut len) = (self.places(), self.used(turn).len());
        // Relaxed: only the holder of the lock writes.
        let old = places[index].load(Ordering::Relaxed);
        (index + 1..len).for_each(|i| copy(&places[i], &places[i - 1]));
        len -= 1;
        self.set_len(len);
        for (n, part) in rest.0.into_iter().chain(rest.1).enumerate() {
            put(places, len, index + n, part);
            len += 1;
            self.set_len(len);
        }
        // SAFETY: it came from Box::into_raw in `put`, and has just left the only list it was in.
        Retired(unsafe { Box::from_raw(old) })
    }

    /// The lowest hole in the window for `pages` pages whose address agrees with the offset of `file_page` modulo
    /// `align`.
    pub(super) fn find_hole(
        &self,
        turn: &mut Turn,
        window: VaRange,
        pages: u64,
        file_page: u64,
        align: PageSize,
    ) -> Option<VaRange> {
        let bytes = pages.checked_mul(PAGE_SIZE)?;
        let colour = (file_page % align.pages()) * PAGE_SIZE;
        let mut holes = turn.holes;
        if bytes <= holes.largest || holes.from < window.start() {
            holes = Turn::new(window).holes;
        }
        let first = self.position(turn, holes.from);
        let found = (first..=self.used(turn).len()).find_map(|index| {
            let (from, to) = self.hole(turn, window, index);
            let start = next_with_colour(from.as_u64(), colour, align.bytes())
                .filter(|s| s.checked_add(bytes).is_some_and(|e| e <= to.as_u64()));
            holes.from = from;
            if start.is_none() {
                holes.largest = holes.largest.max(to - from);
            }
            VaRange::new(VirtAddr::new(start?), pages)
        });
        turn.holes = holes;
        found
    }

    /// The hole, perhaps empty, before the mapping at `index`.
    fn hole(&self, turn: &Turn, window: VaRange, index: usize) -> (VirtAddr, VirtAddr) {
        let before = index.checked_sub(1).and_then(|i| self.get(turn, i));
        (
            before.map_or(window.start(), |v| v.range.end()),
            self.get(turn, index)
                .map_or(window.end(), |v| v.range.start()),
        )
    }
}

impl Drop for VmaList {
    fn drop(&mut self) {
        debug_assert_eq!(
            self.len.load(Ordering::Relaxed),
            0,
            "the address space unmaps everything first"
        );
        let places = self.places.load(Ordering::Relaxed);
        if !places.is_null() {
            // SAFETY: it came from Box::into_raw in `grow`; nobody else has the list any more.
            drop(unsafe { Box::from_raw(places) });
        }
    }
}

/// The mapping behind a place of the list.
fn deref(place: &AtomicPtr<Vma>) -> Option<&Vma> {
    // Acquire: pairs with the Release in `put`; the mapping is seen as it was made.
    let vma = place.load(Ordering::Acquire);
    // SAFETY: null, or in the list when it was read; what leaves the list is freed only when its readers have gone (module head).
    let vma = unsafe { vma.as_ref() };
    #[cfg(loom)]
    if let Some(vma) = vma {
        vma.life.0.with(|_| ());
    }
    vma
}

/// Moves the places from `at` on up by one and puts the mapping there.
fn put(places: &[AtomicPtr<Vma>], len: usize, at: usize, vma: Box<Vma>) {
    for i in (at..len).rev() {
        copy(&places[i], &places[i + 1]);
    }
    // Release: pairs with the Acquire in `deref`.
    places[at].store(Box::into_raw(vma), Ordering::Release);
}

fn copy(from: &AtomicPtr<Vma>, to: &AtomicPtr<Vma>) {
    // Release: as in `put`. Relaxed: only the holder of the lock writes.
    to.store(from.load(Ordering::Relaxed), Ordering::Release);
}

/// The first address from `from` on that equals `colour` modulo `align`.
fn next_with_colour(from: u64, colour: u64, align: u64) -> Option<u64> {
    let below = from & !(align - 1);
    let candidate = below.checked_add(colour)?;
    if candidate >= from {
        Some(candidate)
    } else {
        candidate.checked_add(align)
    }
}
