//! How an object puts translations into the page table during a fault.

use super::object::{FaultAt, FaultError};
use super::range::VaRange;
use super::translations::Translations;
use crate::addr::{PageSize, Pfn, VirtAddr};
use crate::pgmap::{Folio, GetError, Pgmap};

/// What became of a request to install a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a Fallback means that nothing was installed"]
pub enum Installed {
    /// The translation is new.
    New,
    /// The page was there already; it is writable now if that was asked for.
    Present,
    /// Nothing was done: the mapping, an alignment, the CPU, or a table of smaller pages that stands there does not
    /// allow this size. Install a smaller page. Never the answer for a 4 KiB page of the mapping.
    Fallback,
}

/// The page table of the faulting address space, open for one fault.
///
/// Its methods take the page-table lock, never sleep, and may flush the TLB (with no lock of theirs held).
pub struct FaultSink<'a> {
    translations: &'a Translations,
    at: &'a FaultAt,
}

impl<'a> FaultSink<'a> {
    pub(super) fn new(translations: &'a Translations, at: &'a FaultAt) -> Self {
        Self { translations, at }
    }

    /// The largest page that this machine can map.
    pub fn largest_page(&self) -> PageSize {
        self.translations.largest_page()
    }

    /// Whether a page of `size` at `va` with frame `pfn` fits: inside the mapping, both aligned, known to the CPU.
    pub fn fits(&self, va: VirtAddr, pfn: Pfn, size: PageSize) -> bool {
        let inside = VaRange::new(va, size.pages()).is_some_and(|r| self.at.vma.covers(r));
        let aligned = va.is_aligned(size.bytes()) && pfn.get().is_multiple_of(size.pages());
        inside && aligned && size.order() <= self.largest_page().order()
    }

    /// Maps a whole folio at `va`; see [`FaultSink::install_part`].
    ///
    /// # Errors
    ///
    /// As [`FaultSink::install_part`].
    pub fn install(
        &self,
        va: VirtAddr,
        folio: &Folio<'_>,
        pgmap: &Pgmap,
        writable: bool,
    ) -> Result<Installed, FaultError> {
        self.install_part(va, (folio.pfn(), folio.size()), folio, pgmap, writable)
    }

    /// Maps the page `part` (first frame, size), which is all or a part of `folio`, at `va`.
    ///
    /// The new entry holds one reference on the folio, taken before the entry exists. Stores are permitted if
    /// `writable` and the mapping allows them. Something else that stands at `va` (the zero page, another page, a
    /// larger page that holds another one) is cleared and flushed first, and its reference dropped.
    ///
    /// # Errors
    ///
    /// `Dying` if the pgmap takes no new references; `TooManyMappings` if the folio's count is full; `OutOfMemory`
    /// if there is no memory for a page table.
    pub fn install_part(
        &self,
        va: VirtAddr,
        part: (Pfn, PageSize),
        folio: &Folio<'_>,
        pgmap: &Pgmap,
        writable: bool,
    ) -> Result<Installed, FaultError> {
        let (pfn, size) = part;
        if !self.fits(va, pfn, size) {
            return Ok(Installed::Fallback);
        }
        pgmap.map_get(folio).map_err(get_error)?;
        let result = self
            .translations
            .install(va, pfn, size, self.at.prot.flags(writable));
        if result != Ok(Installed::New) {
            pgmap.map_put(folio);
        }
        result
    }

    /// Maps memory without a reference count (the shared zero page) at `va`, read-only, if nothing is mapped there
    /// yet.
    ///
    /// # Errors
    ///
    /// `OutOfMemory` if there is no memory for a page table.
    pub fn install_uncounted(
        &self,
        va: VirtAddr,
        pfn: Pfn,
        size: PageSize,
    ) -> Result<Installed, FaultError> {
        if !self.fits(va, pfn, size) {
            return Ok(Installed::Fallback);
        }
        self.translations
            .install_uncounted(va, pfn, size, self.at.prot.flags(false))
    }
}

fn get_error(error: GetError) -> FaultError {
    match error {
        GetError::Dying => FaultError::Dying,
        GetError::Overflow => FaultError::TooManyMappings,
    }
}
