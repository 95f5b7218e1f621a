//! The gather: entries on their way from the page table to the drop of their references.
//!
//! **The law of the zap**, in one type. [`MmuGather`] is filled under the page-table lock ([`MmuGather::take_small`],
//! [`MmuGather::take_large`]: the entries are cleared), and only [`MmuGather::finish`] empties it: one flush for all of it; then the
//! references. It is the only code that drops a mapping's reference, so none is dropped before the flush has ended.
//!
//! **Few rounds.** A gather holds [`Segment`]s: runs of entries whose frames follow one another. Storage that lies in one piece
//! makes one segment however large it is, and the gather goes on over as many holds of the lock as it takes: one flush, which is one
//! round of interrupts, for all of a range. Scattered pages take a segment each. A gather has room for [`ROOM`] (lent by the address
//! space to one gather at a time) or, while another CPU has that, for [`NEAR`] on the stack. Nothing is allocated.
//!
//! **What may happen in between.** The references of cleared entries are held until the flush has ended, so neither the pages' counts
//! nor their metadata nor their pgmap can go. A fault may install the same page anew meanwhile: with a reference of its own.
//!
//! **Who sees the pin.** No fence is needed between the clear and the reading of the counts: gup pins only while the page is mapped, so a
//! pin comes before the drop of the last mapping in the order of changes of one word, and whoever reads 0 there comes after both. A
//! pinner with an old entry whose page went to somebody else, who mapped it, reads that somebody's count, and with it the clear. (Write
//! protection drops nothing, and needs the fence: `Translations::write_protect`.)

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::translations::Translations;
use crate::addr::{PAGE_SIZE, PageSize, Pfn, VirtAddr};
use crate::few::Few;
use crate::pgmap::{Pgmap, find_pgmap};
use crate::sync::SpinLock;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::table::{self, Entry, Leaf};
use crate::trace::{self, Kind, What};

/// Segments on the stack.
pub(super) const NEAR: usize = 32;

/// Segments, with the room that the address space lends.
pub(super) const ROOM: usize = 512;

/// Entries that were cleared: `count` of one size, each frame following the one before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    first: Entry,
    count: u32,
    size: PageSize,
}

impl Segment {
    /// The entry that would continue it.
    fn next(&self) -> u64 {
        self.first
            .bits()
            .wrapping_add(u64::from(self.count) * self.size.bytes())
    }
}

/// Room for segments that one gather at a time may use.
pub(super) type Room = SpinLock<Vec<Segment>>;

/// Counts one batch in `Translations::flushing` while it lives: from before its first change until the end of its flush.
pub(super) struct Flushing<'a>(&'a AtomicU32);

impl<'a> Flushing<'a> {
    pub(super) fn begin(count: &'a AtomicU32) -> Self {
        // Relaxed: the entries are changed under the page-table lock after this, and the reader takes that lock
        // before it loads.
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }

    /// Whether a batch is between its first clear and the end of its flush, this one apart.
    pub(super) fn has_company(&self) -> bool {
        // Acquire: pairs with the Release in `drop`; who is not counted any more has flushed.
        self.0.load(Ordering::Acquire) > 1
    }
}

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `has_company`.
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// The addresses that a flush must cover.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span(Option<(VirtAddr, VirtAddr)>);

impl Span {
    pub(super) fn add(&mut self, start: VirtAddr, end: VirtAddr) {
        let (s, e) = self.0.unwrap_or((start, end));
        self.0 = Some((s.min(start), e.max(end)));
    }

    pub(super) fn get(self) -> Option<(VirtAddr, VirtAddr)> {
        self.0
    }
}

/// Entries that were cleared and whose references are not dropped yet. See the head of this file.
#[must_use = "cleared entries must be flushed, and their references dropped, by `finish`"]
pub(super) struct MmuGather<'a> {
    translations: &'a Translations,
    segments: Few<Segment, NEAR>,
    span: Span,
    flushing: Flushing<'a>,
    room: &'a Room,
}

impl<'a> MmuGather<'a> {
    pub(super) fn new(
        translations: &'a Translations,
        flushing: Flushing<'a>,
        room: &'a Room,
    ) -> Self {
        let mut segments = Few::new();
        if let Some(mut lent) = room.try_lock() {
            core::mem::swap(segments.far_mut(), &mut lent);
        }
        Self {
            translations,
            segments,
            span: Span::default(),
            flushing,
            room,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.segments.room() == 0
    }

    /// Clears the large leaf that maps `at`; under the lock, and not full. Says where it ends.
    pub(super) fn take_large(&mut self, at: u64, leaf: &Leaf<'_>) -> u64 {
        let (start, entry) = take_leaf(at, leaf);
        self.add(entry, 1, leaf.size);
        self.note(start, start + leaf.size.bytes())
    }

    /// Clears entries of 4 KiB pages from `at` on, as far as `end`, the table, or the room. Says where it came to.
    ///
    /// The page-table lock is held, so nobody else writes these entries, and nothing sets their accessed and dirty bits: they are set.
    pub(super) fn take_small(&mut self, at: u64, end: u64, slots: &[AtomicU64]) -> u64 {
        let pages = (end - at).div_ceil(PAGE_SIZE).min(slots.len() as u64);
        let slots = &slots[..pages as usize];
        let mut done = 0;
        while done < slots.len() && !self.is_full() {
            // Acquire: pairs with the Release of `table::fill`; whoever drops the reference sees the page as its faulter left it.
            let first = slots[done].load(Ordering::Acquire);
            if first == 0 {
                done += 1;
                continue;
            }
            let count = clear_run(&slots[done..], first);
            let from = at + done as u64 * PAGE_SIZE;
            let entry = Entry::from_bits(first);
            trace::note(Kind::ZapClear, || {
                let pfn = entry.pfn(PageSize::Size4K);
                What::pages(pfn, u64::from(count)).at(VirtAddr::new(from))
            });
            self.add(entry, count, PageSize::Size4K);
            done += count as usize;
            self.note(from, from + u64::from(count) * PAGE_SIZE);
        }
        at + done as u64 * PAGE_SIZE
    }

    fn add(&mut self, first: Entry, count: u32, size: PageSize) {
        match self.segments.last_mut() {
            Some(last) if last.size == size && last.next() == first.bits() => last.count += count,
            _ => self.segments.push(Segment { first, count, size }),
        }
    }

    fn note(&mut self, start: u64, end: u64) -> u64 {
        self.span.add(VirtAddr::new(start), VirtAddr::new(end));
        end
    }

    /// Flushes what was cleared, then drops its references. With no spin lock held. Returns whether there was anything.
    pub(super) fn finish(self) -> bool {
        let Self {
            translations,
            mut segments,
            span,
            flushing,
            room,
        } = self;
        let flushed = translations.flush(span);
        drop(flushing);
        drop_references(segments.iter());
        give_back(&mut segments, room);
        flushed
    }
}

/// One entry that was cleared, on its way to a gather of its own: small enough to be handed out of the lock.
#[must_use = "a cleared entry must be flushed, and its reference dropped, by `finish`"]
pub(super) struct Displaced<'a> {
    at: u64,
    entry: Entry,
    size: PageSize,
    flushing: Flushing<'a>,
}

impl<'a> Displaced<'a> {
    /// Clears the leaf that maps `at`; under the page-table lock.
    pub(super) fn take(at: VirtAddr, leaf: &Leaf<'_>, flushing: Flushing<'a>) -> Self {
        let (at, entry) = take_leaf(at.as_u64(), leaf);
        let size = leaf.size;
        Self {
            at,
            entry,
            size,
            flushing,
        }
    }

    /// As [`MmuGather::finish`].
    pub(super) fn finish(self, translations: &'a Translations, room: &'a Room) {
        let mut gather = MmuGather::new(translations, self.flushing, room);
        gather.add(self.entry, 1, self.size);
        gather.note(self.at, self.at + self.size.bytes());
        gather.finish();
    }
}

/// Clears the leaf that maps `at`; says where it began and what it was.
fn take_leaf(at: u64, leaf: &Leaf<'_>) -> (u64, Entry) {
    let start = at & !(leaf.size.bytes() - 1);
    let entry = table::take(leaf.slot);
    trace::note(Kind::ZapClear, || {
        What::pages(entry.pfn(leaf.size), leaf.size.pages()).at(VirtAddr::new(start))
    });
    (start, entry)
}

/// Clears the entries that continue the run which begins with `first`, the first of `slots`; says how many they are.
fn clear_run(slots: &[AtomicU64], first: u64) -> u32 {
    let mut expected = first;
    let mut count = 0;
    for slot in slots {
        // Acquire: as for `first`.
        if slot.load(Ordering::Acquire) != expected {
            break;
        }
        // Release: orders the clearing before the flush that follows.
        slot.store(0, Ordering::Release);
        expected = expected.wrapping_add(PAGE_SIZE);
        count += 1;
    }
    count
}

/// Returns the room that was lent, if any was.
fn give_back(segments: &mut Few<Segment, NEAR>, room: &Room) {
    segments.clear();
    if segments.far_mut().capacity() > 0 {
        core::mem::swap(segments.far_mut(), &mut room.lock());
    }
}

/// Drops the reference of every entry that holds one. The entries were cleared and flushed.
fn drop_references<'s>(segments: impl Iterator<Item = &'s Segment>) {
    let mut known: Option<Arc<Pgmap>> = None;
    for segment in segments.filter(|s| s.first.is_counted()) {
        let first = segment.first.pfn(segment.size).get();
        trace::note(Kind::DropRef, || {
            let pages = u64::from(segment.count) * segment.size.pages();
            What::pages(segment.first.pfn(segment.size), pages)
        });
        let step = segment.size.pages();
        let end = first + u64::from(segment.count) * step;
        let mut at = first;
        while at < end {
            let pfn = Pfn::new(at).expect("a frame of an entry");
            let pgmap = pgmap_of(pfn, known.take());
            at += put(&pgmap, pfn, end - at, segment.size);
            known = Some(pgmap);
        }
    }
}

/// Drops the references of entries of `size` over the frames from `pfn` on, as far as the pgmap reaches; says how many frames.
fn put(pgmap: &Pgmap, pfn: Pfn, frames: u64, size: PageSize) -> u64 {
    if size == PageSize::Size4K {
        let inside = frames.min(pgmap.range().end() - pfn.get());
        pgmap.map_put_pages(pfn, inside);
        return inside;
    }
    pgmap.map_put(&pgmap.folio(pfn).expect("a mapped page keeps its metadata"));
    size.pages()
}

/// The pgmap of a mapped frame, mostly the one that is known.
///
/// # Panics
///
/// If there is none: the count of a page keeps its pgmap, so someone dropped a reference too many.
fn pgmap_of(pfn: Pfn, known: Option<Arc<Pgmap>>) -> Arc<Pgmap> {
    known
        .filter(|p| p.range().contains(pfn))
        .or_else(|| find_pgmap(pfn))
        .expect("a mapped page keeps its pgmap")
}
