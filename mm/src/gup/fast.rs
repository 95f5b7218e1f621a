//! The fast path: without a lock, with interrupts off.
//!
//! **One section** pins what one table maps of one mapping, at most [`ENTRIES`] entries in at most [`RUNS`] runs, and turns interrupts
//! on again; the next section goes on. Nothing is allocated inside: room is made before. Steps, in order:
//!
//! 1. this CPU runs on the address space's root, or the slow path is taken;
//! 2. the number of clears is read, and the mapping found in the list;
//! 3. entries are read and their folios pinned: each by one compare-and-swap, which fails where no entry maps the folio;
//! 4. a SeqCst fence;
//! 5. the number of clears is read again; if entries of this address space were cleared or write-protected meanwhile, anywhere, each
//!    entry is read again. One difference, and all pins of the section are undone.
//! 6. the mapping's object and the pgmap are kept by one `Arc` each.
//!
//! **Why nothing vanishes under the walker** stands at `Walk`: mappings and the references of entries go only after a flush of the
//! root, and the flush waits for this section. A page's reference keeps its metadata, and its folio as it is built, and its pgmap.
//!
//! **Why a pin is right.** Against a zap, the count's word decides: a pin is taken only while the page is mapped, so before the last
//! mapping is dropped, and whoever reads 0 after that drop has not overlooked it. What step 5 adds: a page that was zapped, freed and mapped
//! by somebody else between steps 3's two halves can be pinned; then the clear is visible, and the pin undone. Against a write protection,
//! steps 3–5 and protect–fence–read the pins are Dekker's pair: a pin for stores is seen, or the entry is seen read-only.
//!
//! **The number of clears** counts every change of the address space's entries that takes something away, once, after the entries were
//! changed. A change counted before step 2 is seen in step 3 (Acquire). One that is counted later and not seen in step 5 is of somebody whose
//! fence, or whose reading of a count, comes after ours: he sees the pins. So the same number stands for a look at each entry.
//!
//! **Why it is this mapping's page.** Whoever removes a mapping flushes before it releases the AddressSpace lock, so no later mapping of
//! the same address can be made, let alone fault, before this section has ended.
//!
//! **What needs the flush to wait, and what does not.** That nothing vanishes, and that the page is this mapping's, rests on the wait. That
//! the pin is right does not: it holds for a flush that waits for nobody too (the models run with such a one).

use arrayvec::ArrayVec;

use super::pinned::PinnedPages;
use super::{between, stats};
use crate::addr::{PAGE_SIZE, PageSize, Pfn, VirtAddr};
use crate::aspace::{AddressSpace, Prot, Walk};
use crate::mem::OutOfMemory;
use crate::page::{Guess, Page};
use crate::pgmap::Peeked;
use crate::sparse::Section;
use crate::sync::atomic::{AtomicU64, Ordering, fence};
use crate::table::{ENTRIES, Entry, Leaf, Stretch};
use crate::trace::{self, Kind, What};

/// Runs pinned in one section with interrupts off. The number of pages is bounded by a table's [`ENTRIES`] entries.
const RUNS: usize = 32;

/// Pins from `at` on as far as no lock and no fault is needed. Says how far that was.
pub(super) fn pin_ahead(
    space: &AddressSpace,
    mut at: VirtAddr,
    end: VirtAddr,
    write: bool,
    pinned: &mut PinnedPages,
) -> Result<VirtAddr, OutOfMemory> {
    let mut runs = 1;
    while at < end {
        pinned.reserve(runs)?;
        match space.section(|walk| section(&walk, at, end, write, pinned)) {
            None | Some(0) => break,
            Some(pages) => at += pages * PAGE_SIZE,
        }
        runs = RUNS;
    }
    if at < end {
        stats::slow();
    }
    Ok(at)
}

/// Entries whose pages were pinned: consecutive in their table, the frames too; or one large entry.
struct Piece<'s> {
    slots: &'s [AtomicU64],
    first: Entry,
    pfn: Pfn,
    pages: u64,
}

impl Piece<'_> {
    /// Whether every entry is what it was.
    fn is_unchanged(&self) -> bool {
        let first = self.first.bits();
        let is_as_it_was = |(n, slot): (usize, &AtomicU64)| {
            // Acquire: pairs with the Release of every store to an entry. The fence of step 4 stands before.
            slot.load(Ordering::Acquire) == first.wrapping_add(n as u64 * PAGE_SIZE)
        };
        self.slots.iter().enumerate().all(is_as_it_was)
    }
}

/// What one section pinned: of one pgmap.
struct Taken<'s> {
    pgmap: Option<Peeked<'s>>,
    pieces: ArrayVec<Piece<'s>, RUNS>,
    /// The greatest number of pieces.
    room: usize,
}

/// One section. Says how many pages it pinned; 0: the slow path has to look.
fn section(
    walk: &Walk<'_>,
    at: VirtAddr,
    end: VirtAddr,
    write: bool,
    pinned: &mut PinnedPages,
) -> u64 {
    let before = walk.clears();
    let Some(vma) = walk.vma(at) else {
        return 0;
    };
    if write && !vma.prot.contains(Prot::WRITE) {
        return 0;
    }
    let pages = (end.min(vma.range.end()) - at) / PAGE_SIZE;
    let (pieces, room) = (ArrayVec::new(), pinned.room().min(RUNS));
    let pgmap = None;
    let mut taken = Taken {
        pgmap,
        pieces,
        room,
    };
    match walk.stretch(at) {
        Stretch::Absent { .. } => {}
        Stretch::Large(leaf) => taken.large(walk, &leaf, at, pages, write),
        Stretch::Small(slots) => taken.small(walk, slots, at, pages, write),
    }
    between::pinning_and_reading();
    // SeqCst: pairs with the fence in `Translations::write_protect`, between the change of the entries and the reading of the pins.
    fence(Ordering::SeqCst);
    if !taken.is_unchanged(walk, before) {
        return taken.undo();
    }
    taken.keep(pinned, &vma.object)
}

impl<'s> Taken<'s> {
    /// Pins `pages` pages from `at` on of one large entry, as far as it reaches: one atomic operation.
    fn large(&mut self, walk: &Walk<'s>, leaf: &Leaf<'s>, at: VirtAddr, pages: u64, write: bool) {
        let pfn = leaf.pfn_at(at);
        let left = leaf.size.pages() - pfn.get() % leaf.size.pages();
        if let Some(Section::Folio { head, start, size }) = self.look(walk, leaf, at, write) {
            let pages = pages.min(left).min(start.get() + size.pages() - pfn.get());
            between::reading_and_pinning();
            if head.refs().pin_mapped(&mut Guess::pins(pages as u32)) {
                self.pieces.push(Piece {
                    slots: core::slice::from_ref(leaf.slot),
                    first: leaf.entry,
                    pfn,
                    pages,
                });
            }
        }
    }

    /// Pins what the entries of 4 KiB pages map, up to the first that has to be left to the slow path.
    fn small(
        &mut self,
        walk: &Walk<'s>,
        slots: &'s [AtomicU64],
        at: VirtAddr,
        pages: u64,
        write: bool,
    ) {
        let mut slots = &slots[..slots.len().min(pages as usize)];
        let mut at = at;
        while let Some(slot) = slots.first()
            && self.pieces.len() < self.room
        {
            // Acquire: pairs with the Release of `table::fill`; the page's metadata is seen.
            let entry = Entry::from_bits(slot.load(Ordering::Acquire));
            let size = PageSize::Size4K;
            let leaf = Leaf { entry, size, slot };
            let n = match self.look(walk, &leaf, at, write) {
                None => 0,
                Some(section) => pin_run(slots, entry, section),
            };
            if n == 0 {
                return;
            }
            let (run, rest) = slots.split_at(n);
            self.pieces.push(Piece {
                slots: run,
                first: entry,
                pfn: leaf.pfn_at(at),
                pages: n as u64,
            });
            slots = rest;
            at += n as u64 * PAGE_SIZE;
        }
    }

    /// The counts behind an entry, if it permits the access and its page is of the same pgmap as those before.
    fn look(
        &mut self,
        walk: &Walk<'s>,
        leaf: &Leaf<'s>,
        at: VirtAddr,
        write: bool,
    ) -> Option<Section<'s>> {
        if !leaf.entry.is_counted() || write && !leaf.entry.is_writable() {
            return None;
        }
        let pfn = leaf.pfn_at(at);
        let pgmap = match self.pgmap {
            Some(known) => known,
            None => walk.pgmap(leaf, at)?,
        };
        self.pgmap = Some(pgmap);
        pgmap.get().section(pfn)
    }

    /// Whether every entry is what it was: at once, if none of the address space was cleared or write-protected since `before`.
    fn is_unchanged(&self, walk: &Walk<'_>, before: u64) -> bool {
        walk.no_clears_since(before) || self.pieces.iter().all(Piece::is_unchanged)
    }

    /// Drops the pins. The entries' references, which last as long as the section, keep the pgmap.
    #[cold]
    fn undo(&self) -> u64 {
        if let Some(pgmap) = self.pgmap {
            let undo = |p: &Piece<'_>| pgmap.get().unpin_pages(p.pfn, p.pages);
            self.pieces.iter().for_each(undo);
        }
        stats::undone(self.pieces.iter().map(|p| p.pages).sum());
        0
    }

    /// Hands the pins over. Says how many pages they are.
    fn keep(&self, pinned: &mut PinnedPages, object: &super::Object) -> u64 {
        let (Some(pgmap), false) = (self.pgmap, self.pieces.is_empty()) else {
            return 0;
        };
        pinned.keep(object);
        let device = pinned.keep_peeked(pgmap);
        let mut pages = 0;
        for piece in &self.pieces {
            trace::note(Kind::Pin, || {
                What::pages(piece.pfn, piece.pages).with(piece.pages)
            });
            pinned.push(device, piece.pfn, piece.pages);
            pages += piece.pages;
        }
        stats::fast(pages);
        pages
    }
}

/// Pins the pages of a section that the entries map, from the first on, for which the entry is `first` and its continuation. Says how many.
fn pin_run(slots: &[AtomicU64], first: Entry, section: Section<'_>) -> usize {
    between::reading_and_pinning();
    match section {
        Section::Pages(pages) => pin_each(slots, first.bits(), pages),
        Section::Folio { head, start, size } => {
            let inside = start.get() + size.pages() - first.pfn(PageSize::Size4K).get();
            let slots = &slots[..slots.len().min(inside as usize)];
            let n = continued(slots, first.bits());
            if head.refs().pin_mapped(&mut Guess::pins(n as u32)) {
                n
            } else {
                0
            }
        }
    }
}

/// The hot loop: one page, one compare-and-swap. Says how many pages were pinned.
fn pin_each(slots: &[AtomicU64], first: u64, pages: &[Page]) -> usize {
    let mut expected = first;
    let mut one = Guess::pins(1);
    for (slot, page) in slots.iter().zip(pages) {
        // Acquire: as for the first entry.
        if slot.load(Ordering::Acquire) != expected || !page.refs().pin_mapped(&mut one) {
            break;
        }
        expected = expected.wrapping_add(PAGE_SIZE);
    }
    (expected.wrapping_sub(first) / PAGE_SIZE) as usize
}

/// How many entries continue `first`, itself included.
fn continued(slots: &[AtomicU64], first: u64) -> usize {
    let is_next = |(n, slot): &(usize, &AtomicU64)| {
        // Acquire: as for the first entry.
        slot.load(Ordering::Acquire) == first.wrapping_add(*n as u64 * PAGE_SIZE)
    };
    slots.iter().enumerate().take_while(is_next).count()
}

const _: () = assert!(ENTRIES <= 512, "the bound of a section with interrupts off");
