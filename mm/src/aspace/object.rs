//! What stands behind a mapping, and what passes between it and the address space.

use alloc::sync::Arc;
use core::ops::Range;

use thiserror::Error;

use super::range::{Access, Prot, VaRange};
use super::sink::FaultSink;
use super::translations::Translations;
use crate::addr::VirtAddr;
use crate::lease::Leases;
use crate::mem::OutOfMemory;

/// The number of an address space, never used twice while the machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpaceId(pub(super) u64);

/// Why an access to a mapped address cannot be satisfied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FaultError {
    /// Nothing is mapped at the address.
    #[error("nothing is mapped at the address")]
    NoMapping,
    /// The mapping does not permit this access.
    #[error("the mapping does not permit this access")]
    Permission,
    /// No memory for a page table or for metadata.
    #[error("out of memory")]
    OutOfMemory,
    /// The file system has no block left for a store into a hole.
    #[error("no space left on the file system")]
    NoSpace,
    /// The device behind the page is going away.
    #[error("the device is being removed")]
    Dying,
    /// The page is mapped as often as it can be counted (2^31 - 1 times).
    #[error("too many mappings of one page")]
    TooManyMappings,
    /// The medium reports an error there.
    #[error("I/O error")]
    Io,
    /// The page lies wholly beyond the end of the file.
    #[error("beyond the end of the file")]
    PastEof,
}

/// One fault, as the object behind the mapping sees it.
#[derive(Clone, Copy, Debug)]
pub struct FaultAt {
    /// The address space that faulted.
    pub space: SpaceId,
    /// The page that faulted: the address, rounded down to 4 KiB.
    pub va: VirtAddr,
    /// The page of the file that is mapped there, in 4 KiB pages.
    pub file_page: u64,
    /// What the access was for; the mapping permits it.
    pub access: Access,
    /// The whole mapping: a large page must lie inside.
    pub vma: VaRange,
    /// The page of the file that is mapped at the start of `vma`.
    pub vma_file_page: u64,
    /// What the mapping permits.
    pub prot: Prot,
}

/// Something that can be mapped: a file, or memory without a name.
pub trait VmObject: Send + Sync {
    /// Makes the page at `at` accessible by calling `sink`, or says why not.
    ///
    /// Called with the address space's lock held shared (class ASPACE), from the page-fault handler or from gup.
    /// May sleep. Returning Ok without having installed anything is allowed: the access is tried again.
    ///
    /// # Errors
    ///
    /// As [`FaultError`] says; the access then fails.
    fn fault(&self, at: &FaultAt, sink: &FaultSink<'_>) -> Result<(), FaultError>;

    /// Records that a range of this object is mapped from now on; faults may follow.
    ///
    /// Called with the address space's lock held exclusively. The object must not call back into the address space
    /// other than through the attachment.
    ///
    /// # Errors
    ///
    /// `OutOfMemory`; the mapping is then not made.
    fn attach(&self, attachment: Attachment) -> Result<(), OutOfMemory>;

    /// Forgets the attachment of this address space at exactly this range: its entries are cleared and flushed.
    ///
    /// Called with the address space's lock held exclusively. Does not allocate.
    fn detach(&self, space: SpaceId, range: VaRange);

    /// Where leases on its pages are entered: for an object whose pages are storage that somebody may want back. `None`: its
    /// pages may be pinned for any time without one.
    fn leases(&self) -> Option<&Leases> {
        None
    }
}

/// Where an object is mapped: one range of one address space, and the means to take its translations away.
///
/// It holds the translations, not the address space: so it can be used as long as it exists, never keeps a process
/// alive, and dropping the last one never runs the teardown of an address space under the locks of a file.
#[derive(Clone)]
pub struct Attachment {
    pub(super) translations: Arc<Translations>,
    pub(super) range: VaRange,
    pub(super) file_page: u64,
}

impl Attachment {
    /// The address space.
    pub fn space(&self) -> SpaceId {
        self.translations.id()
    }

    /// The range of addresses.
    pub fn range(&self) -> VaRange {
        self.range
    }

    /// The pages of the object that are mapped here.
    pub fn file_pages(&self) -> Range<u64> {
        self.file_page..self.file_page + self.range.pages()
    }

    /// Where some pages of the object are mapped here; None if none of them is.
    pub fn va_of(&self, pages: Range<u64>) -> Option<VaRange> {
        let mine = self.file_pages();
        let first = pages.start.max(mine.start);
        let count = pages.end.min(mine.end).checked_sub(first)?;
        self.range.part(first - mine.start, count)
    }

    /// Takes away every translation of these pages of the object: cleared, flushed on every CPU, references
    /// dropped, in this order. See [`AddressSpace::zap`](super::AddressSpace::zap).
    pub fn zap(&self, pages: Range<u64>) {
        if let Some(range) = self.va_of(pages) {
            self.translations.zap(range);
        }
    }

    /// Takes away the permission to store through every translation of these pages, and returns when no CPU has it.
    pub fn write_protect(&self, pages: Range<u64>) {
        if let Some(range) = self.va_of(pages) {
            self.translations.write_protect(range);
        }
    }
}

impl core::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "Attachment({:?} {:?} page {})",
            self.space(),
            self.range,
            self.file_page
        )
    }
}
