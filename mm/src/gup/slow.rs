//! The slow path: under the address space's lock held shared, faulting in what is missing.

use alloc::sync::Arc;

use super::leased::Term;
use super::pinned::PinnedPages;
use super::{GupError, between, stats};
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::aspace::{Access, AddressSpace, FaultError, Prot, VmObject, Vma};
use crate::pgmap::PinError;
use crate::sync::atomic::{Ordering, fence};
use crate::table::Leaf;

/// Pins what is present from `at` on, as far as one mapping reaches. Says how far it came, and what fault the page
/// there needs, if that is why it stopped.
pub(super) fn pin_present(
    space: &AddressSpace,
    mut at: VirtAddr,
    end: VirtAddr,
    write: bool,
    term: &Term,
    pinned: &mut PinnedPages,
) -> Result<(VirtAddr, Option<Access>), GupError> {
    space.with_vma(at, |vma, translations| {
        let want = Want::new(vma, at, end, write)?;
        pinned.enter(term, at, &want)?;
        let before = at;
        while at < want.end {
            pinned.reserve(1)?;
            match translations.with_leaf(at, |leaf| pin_leaf(leaf, at, &want, pinned))? {
                Pin::Taken(pages) => at += pages * PAGE_SIZE,
                Pin::Changed => crate::sync::atomic::spin_loop(),
                Pin::Fault(access) => {
                    stats::slow_pages((at - before) / PAGE_SIZE);
                    return Ok((at, Some(access)));
                }
            }
        }
        stats::slow_pages((at - before) / PAGE_SIZE);
        Ok((at, None))
    })
}

/// What is wanted of one mapping.
pub(super) struct Want<'a> {
    pub(super) object: &'a Arc<dyn VmObject>,
    /// The page of the object at the address where this begins.
    pub(super) file_page: u64,
    pub(super) end: VirtAddr,
    write: bool,
    may_write: bool,
}

impl<'a> Want<'a> {
    fn new(
        vma: Option<&'a Vma>,
        at: VirtAddr,
        end: VirtAddr,
        write: bool,
    ) -> Result<Self, GupError> {
        let vma = vma.ok_or(GupError::Fault {
            at,
            why: FaultError::NoMapping,
        })?;
        let may_write = vma.prot.contains(Prot::WRITE);
        if write && !may_write {
            return Err(GupError::Fault {
                at,
                why: FaultError::Permission,
            });
        }
        Ok(Self {
            object: &vma.object,
            file_page: vma.file_page + (at - vma.range.start()) / PAGE_SIZE,
            end: end.min(vma.range.end()),
            write,
            may_write,
        })
    }
}

/// What one look at an entry came to.
enum Pin {
    Taken(u64),
    /// The entry changed under our eyes; look again.
    Changed,
    Fault(Access),
}

/// Looks at the entry for `at` and pins what it maps, as far as wanted. Interrupts are off.
fn pin_leaf(
    leaf: Option<Leaf<'_>>,
    at: VirtAddr,
    want: &Want<'_>,
    pinned: &mut PinnedPages,
) -> Result<Pin, GupError> {
    let Some(leaf) = leaf else {
        return Ok(Pin::Fault(if want.write {
            Access::Write
        } else {
            Access::Read
        }));
    };
    if !leaf.entry.is_counted() {
        return uncounted(&leaf, at, want);
    }
    if want.write && !leaf.entry.is_writable() {
        return Ok(Pin::Fault(Access::Write));
    }
    take(&leaf, at, want, pinned)
}

/// A page without a count: the zero page over a hole, or memory that can never be pinned.
fn uncounted(leaf: &Leaf<'_>, at: VirtAddr, want: &Want<'_>) -> Result<Pin, GupError> {
    match (leaf.entry.is_writable(), want.may_write) {
        (true, _) => Err(GupError::Uncounted { at }),
        (false, true) => Ok(Pin::Fault(Access::Write)),
        (false, false) => Err(GupError::Hole { at }),
    }
}

/// Pins `pages` pages of the leaf from `at` on with one atomic operation, and keeps the pins if the entry is
/// unchanged.
fn take(
    leaf: &Leaf<'_>,
    at: VirtAddr,
    want: &Want<'_>,
    pinned: &mut PinnedPages,
) -> Result<Pin, GupError> {
    let first = leaf.pfn_at(at);
    let leaf_end = at.align_down(leaf.size.bytes()) + leaf.size.bytes();
    let pages = (leaf_end.min(want.end) - at) / PAGE_SIZE;
    // A page without a pgmap or without metadata is idle: the entry is on its way out.
    let Some(pgmap) = pinned.pgmap_of(first) else {
        return Ok(Pin::Changed);
    };
    let Some(folio) = pgmap.folio(first) else {
        return Ok(Pin::Changed);
    };
    between::reading_and_pinning();
    match pgmap.try_pin(&folio, count(pages)) {
        Ok(()) => {}
        Err(PinError::Idle) => return Ok(Pin::Changed),
        Err(PinError::Overflow) => return Err(GupError::TooManyPins { at }),
        Err(PinError::Dying) => {
            return Err(GupError::Fault {
                at,
                why: FaultError::Dying,
            });
        }
    }
    // SeqCst: pairs with the fence in `Translations::write_protect`; who calls the page clean sees the pin, or we see the entry
    // read-only. (A zap needs none: `fast.rs`.)
    fence(Ordering::SeqCst);
    if !leaf.unchanged() {
        stats::undone(pages);
        pgmap.unpin(&folio, count(pages));
        return Ok(Pin::Changed);
    }
    pinned.keep(want.object);
    let device = pinned.keep_device(&pgmap);
    pinned.push(device, first, pages);
    Ok(Pin::Taken(pages))
}

/// A number of pages of one folio; the largest folio has 2^18.
fn count(pages: u64) -> u32 {
    u32::try_from(pages).expect("no more pages than a folio has")
}
