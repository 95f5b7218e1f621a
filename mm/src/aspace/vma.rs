//! The sorted list of mappings.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::object::VmObject;
use super::range::{Prot, VaRange};
use crate::addr::{PAGE_SIZE, PageSize, VirtAddr};
use crate::mem::OutOfMemory;

/// One mapping: a range of addresses over a range of pages of an object.
pub(crate) struct Vma {
    pub(crate) range: VaRange,
    pub(crate) object: Arc<dyn VmObject>,
    /// The page of the object at the start of the range.
    pub(crate) file_page: u64,
    pub(crate) prot: Prot,
}

impl Vma {
    /// What remains before and after `cut`, which lies inside.
    pub(super) fn without(&self, cut: VaRange) -> (Option<Self>, Option<Self>) {
        let (first, end) = (
            self.range.page_of(cut.start()),
            self.range.page_of(cut.start()) + cut.pages(),
        );
        (
            self.part(0, first),
            self.part(end, self.range.pages() - end),
        )
    }

    fn part(&self, first: u64, pages: u64) -> Option<Self> {
        let range = self.range.part(first, pages)?;
        Some(Self {
            range,
            object: self.object.clone(),
            file_page: self.file_page + first,
            prot: self.prot,
        })
    }
}

/// Mappings, sorted by address and disjoint.
pub(super) struct VmaList(Vec<Vma>);

impl VmaList {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Makes room for `more` mappings, so that as many inserts cannot fail.
    pub(super) fn reserve(&mut self, more: usize) -> Result<(), OutOfMemory> {
        self.0.try_reserve(more).map_err(|_| OutOfMemory)
    }

    /// Where the first mapping that ends after `va` stands.
    fn position(&self, va: VirtAddr) -> usize {
        self.0.partition_point(|v| v.range.end() <= va)
    }

    /// The mapping that covers `va`.
    pub(super) fn find(&self, va: VirtAddr) -> Option<&Vma> {
        self.0
            .get(self.position(va))
            .filter(|v| v.range.contains(va))
    }

    /// The first mapping that shares pages with the range, and which pages.
    pub(super) fn first_in(&self, range: VaRange) -> Option<(usize, VaRange)> {
        let index = self.position(range.start());
        let cut = self.0.get(index)?.range.intersection(range)?;
        Some((index, cut))
    }

    pub(super) fn at(&self, index: usize) -> &Vma {
        &self.0[index]
    }

    /// Adds a mapping; room was reserved, and it overlaps none.
    pub(super) fn insert(&mut self, vma: Vma) {
        let index = self.position(vma.range.start());
        self.0.insert(index, vma);
    }

    /// Puts what remains of a mapping in its place; room for one more was reserved.
    pub(super) fn replace(&mut self, index: usize, before: Option<Vma>, after: Option<Vma>) -> Vma {
        let old = self.0.remove(index);
        before.into_iter().chain(after).for_each(|v| self.insert(v));
        old
    }

    /// The lowest hole in the window for `pages` pages whose address agrees with the offset of `file_page` modulo
    /// `align`.
    pub(super) fn find_hole(
        &self,
        window: VaRange,
        pages: u64,
        file_page: u64,
        align: PageSize,
    ) -> Option<VaRange> {
        let bytes = pages.checked_mul(PAGE_SIZE)?;
        let colour = (file_page % align.pages()) * PAGE_SIZE;
        let ends = core::iter::once(window.start()).chain(self.0.iter().map(|v| v.range.end()));
        let starts = self
            .0
            .iter()
            .map(|v| v.range.start())
            .chain(core::iter::once(window.end()));
        ends.zip(starts).find_map(|(from, to)| {
            let start = next_with_colour(from.as_u64(), colour, align.bytes())?;
            let fits = start.checked_add(bytes)? <= to.as_u64();
            fits.then(|| VaRange::new(VirtAddr::new(start), pages))
                .flatten()
        })
    }
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
