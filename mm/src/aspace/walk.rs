//! An address space as a walker without locks sees it.

#![expect(
    unsafe_code,
    reason = "looks at mappings and pgmaps that only the section keeps"
)]

use super::translations::Translations;
use super::vma::{Vma, VmaList};
use crate::addr::VirtAddr;
use crate::pgmap::{Peeked, peek_pgmap};
use crate::table::{Leaf, Stretch};

/// One section with interrupts off on a CPU that runs on the address space; see `AddressSpace::section`, which alone makes it.
///
/// **What keeps what.** A mapping that leaves the list, and the reference that an entry holds, go only after a flush of the root, and
/// the flush waits for this section. So a mapping that was found stays, and so does a page whose entry was seen present: its
/// reference, and with it its metadata and its pgmap, which outlives its references. Page tables are freed only after `Tlb::quiesce`.
pub(crate) struct Walk<'s> {
    list: &'s VmaList,
    translations: &'s Translations,
}

impl<'s> Walk<'s> {
    pub(super) fn new(list: &'s VmaList, translations: &'s Translations) -> Self {
        Self { list, translations }
    }

    /// The number of clears so far; see [`Walk::no_clears_since`].
    pub(crate) fn clears(&self) -> u64 {
        self.translations.clears()
    }

    /// Whether no entry of the address space was cleared or write-protected since `before` was read. After a SeqCst fence.
    pub(crate) fn no_clears_since(&self, before: u64) -> bool {
        self.translations.clears() == before
    }

    /// The mapping that covers `va`; None also while the list is being changed.
    pub(crate) fn vma(&self, va: VirtAddr) -> Option<&'s Vma> {
        // SAFETY: this value exists only inside such a section, and 's ends with it.
        unsafe { self.list.peek(va) }
    }

    /// What stands from `va` on.
    pub(crate) fn stretch(&self, va: VirtAddr) -> Stretch<'s> {
        self.translations.table().stretch(va)
    }

    /// The pgmap of the page that the leaf, which was seen present in this section and counts, maps at `va`.
    pub(crate) fn pgmap(&self, leaf: &Leaf<'s>, va: VirtAddr) -> Option<Peeked<'s>> {
        debug_assert!(leaf.entry.is_counted());
        // SAFETY: the entry, read in this section, holds a reference on the page until the section has ended.
        unsafe { peek_pgmap(leaf.pfn_at(va)) }
    }
}
