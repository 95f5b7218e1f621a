//! Address spaces: which object is mapped where, and the faults that fill the page table.
//!
//! **Invariant.** The mappings are sorted, disjoint and inside the window. An entry of the page table inside the
//! window lies in a mapping, and was put there by a fault on that mapping's object, under the lock held shared; so
//! whoever holds the lock knows to which object a page in the table belongs, and whoever removes a mapping (lock
//! held exclusively) clears its entries before the object forgets the attachment.
//!
//! **Locks.** `turn` is the AddressSpace lock (class ASPACE, sleeping). Faults and gup hold it shared, map and
//! unmap exclusively. [`AddressSpace::zap`] and [`AddressSpace::write_protect`] do not take it: they come from an
//! object that holds locks of later classes, and need only the page-table lock. The last reference to an object is
//! dropped with no lock held, because the end of an inode takes locks of earlier classes.
//!
//! The law of the zap stands at the head of `translations.rs`.

#![expect(
    unsafe_code,
    reason = "an address space may live in a table that the machine runs on"
)]

mod gather;
mod object;
mod range;
mod sink;
#[cfg(all(test, not(any(loom, shuttle))))]
pub(crate) mod testing;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
mod translations;
mod vma;
mod walk;

use alloc::sync::Arc;

use thiserror::Error;

pub use object::{Attachment, FaultAt, FaultError, SpaceId, VmObject};
pub use range::{Access, Prot, VaRange};
pub use sink::{FaultSink, Installed};
pub use translations::Mapped;
pub(crate) use translations::Translations;
pub(crate) use vma::Vma;
use vma::{Retired, Turn, VmaList};
pub(crate) use walk::Walk;

use crate::addr::{PageSize, Pfn, VirtAddr};
use crate::mem::{OutOfMemory, check_headroom, try_box};
use crate::sync::{RwLock, class, irq_off};
use crate::table::PageTableMem;
use crate::tlb::Tlb;

/// Why a mapping was not made; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MapError {
    /// No pages were asked for, or their numbers in the file overflow.
    #[error("not a range of pages")]
    BadRange,
    /// The window has no hole of this size and alignment.
    #[error("no room in the address space")]
    NoRoom,
    /// No memory for the list of mappings, here or in the object.
    #[error("out of memory")]
    OutOfMemory,
}

impl From<OutOfMemory> for MapError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Why a range is still mapped, or partly so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UnmapError {
    /// Nothing was mapped in the range.
    #[error("nothing is mapped there")]
    NotMapped,
    /// No memory to record what remains of a mapping that was cut; that mapping and the ones after it stay.
    #[error("out of memory")]
    OutOfMemory,
}

impl From<OutOfMemory> for UnmapError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// A set of mappings, and the page table that they fill by faults.
pub struct AddressSpace {
    translations: Arc<Translations>,
    list: VmaList,
    turn: RwLock<Turn>,
}

/// A mapping, or a part of one, that was removed: its object, and where it was.
type Removed = (Arc<dyn VmObject>, VaRange);

impl AddressSpace {
    /// An empty address space with a page table of its own, which maps nothing outside the window.
    ///
    /// # Errors
    ///
    /// `OutOfMemory` if there is no memory for it.
    pub fn new(
        mem: Arc<dyn PageTableMem>,
        tlb: Arc<dyn Tlb>,
        window: VaRange,
    ) -> Result<Arc<Self>, OutOfMemory> {
        check_headroom()?;
        Ok(Self::build(Translations::new(mem, tlb, window)?))
    }

    /// An empty address space that uses a window of an existing page table.
    ///
    /// # Errors
    ///
    /// `OutOfMemory` if there is no memory for it.
    ///
    /// # Safety
    ///
    /// `root` and the tables below it belong to `mem` as [`PageTableMem`] describes, and outlive the address space.
    /// Nothing but this address space maps or unmaps anything in the window, and nothing is mapped there now.
    pub unsafe fn with_root(
        mem: Arc<dyn PageTableMem>,
        tlb: Arc<dyn Tlb>,
        root: Pfn,
        window: VaRange,
    ) -> Result<Arc<Self>, OutOfMemory> {
        check_headroom()?;
        // SAFETY: passed on to the caller.
        let translations = unsafe { Translations::with_root(mem, tlb, root, window) }?;
        Ok(Self::build(translations))
    }

    fn build(translations: Translations) -> Arc<Self> {
        let turn = RwLock::new(&class::ASPACE, Turn::new(translations.window()));
        Arc::new(Self {
            translations: Arc::new(translations),
            list: VmaList::new(),
            turn,
        })
    }

    /// The number of this address space.
    pub fn id(&self) -> SpaceId {
        self.translations.id()
    }

    /// The frame of the root table. A CPU must have left it before the address space is dropped, if it was made by
    /// [`AddressSpace::new`].
    pub fn root(&self) -> Pfn {
        self.translations.root()
    }

    /// The addresses that mappings are put into.
    pub fn window(&self) -> VaRange {
        self.translations.window()
    }

    /// Maps `pages` pages of `object`, from its page `file_page` on, somewhere in the window.
    ///
    /// The address agrees with the file offset modulo `align`, so that pages of up to this size can be used where
    /// the storage allows it. Nothing enters the page table before the first fault.
    ///
    /// # Errors
    ///
    /// As [`MapError`] says.
    pub fn map(
        &self,
        object: Arc<dyn VmObject>,
        file_page: u64,
        pages: u64,
        prot: Prot,
        align: PageSize,
    ) -> Result<VaRange, MapError> {
        check_headroom()?;
        file_page
            .checked_add(pages)
            .filter(|_| pages > 0)
            .ok_or(MapError::BadRange)?;
        // Made before the lock is taken: on an error it, and perhaps the last reference to the object, is dropped after the lock.
        let range = self.window();
        let mut vma = try_box(Vma {
            range,
            object,
            file_page,
            prot,
            #[cfg(loom)]
            life: vma::Life::default(),
        })?;
        let mut turn = self.turn.write();
        let hole = self
            .list
            .find_hole(&mut turn, self.window(), pages, file_page, align);
        vma.range = hole.ok_or(MapError::NoRoom)?;
        self.reserve(&mut turn, 1)?;
        vma.object.attach(self.attachment(vma.range, file_page))?;
        let range = vma.range;
        self.list.insert(&mut turn, vma);
        Ok(range)
    }

    /// Makes room in the list. Walkers that may read the old array are waited for.
    fn reserve(&self, turn: &mut Turn, more: usize) -> Result<(), OutOfMemory> {
        let outgrown = self.list.reserve(turn, more)?;
        if outgrown.is_some() {
            self.translations.expel_walkers();
        }
        Ok(())
    }

    fn attachment(&self, range: VaRange, file_page: u64) -> Attachment {
        Attachment {
            translations: self.translations.clone(),
            range,
            file_page,
        }
    }

    /// Removes whatever is mapped in the range: translations cleared, flushed on every CPU, references dropped; the
    /// objects told; page tables that are empty now freed. A mapping that reaches out of the range is cut.
    ///
    /// # Errors
    ///
    /// As [`UnmapError`] says.
    pub fn unmap(&self, range: VaRange) -> Result<(), UnmapError> {
        let mut found = false;
        let mut rest = Some(range);
        while let Some(left) = rest {
            // The object is dropped at the end of each turn, after the lock: it may be the last reference to an inode.
            let Some((_object, cut)) = self.unmap_first(left)? else {
                break;
            };
            found = true;
            // Only what follows: somebody else may have mapped these addresses by now.
            rest = left.part(left.page_of(cut.end()), left.pages());
        }
        if found {
            Ok(())
        } else {
            Err(UnmapError::NotMapped)
        }
    }

    /// Removes the first mapping, or part of one, in the range, and says which addresses; its object is the caller's to drop,
    /// without a lock.
    fn unmap_first(&self, range: VaRange) -> Result<Option<Removed>, OutOfMemory> {
        let mut turn = self.turn.write();
        let Some((index, vma, cut)) = self.list.first_in(&turn, range) else {
            return Ok(None);
        };
        let (before, after) = vma.without(cut)?;
        // Only a mapping cut in the middle leaves more than it was, so taking whole mappings away cannot fail.
        self.reserve(&mut turn, usize::from(before.is_some() && after.is_some()))?;
        self.attach_rest(before.as_deref(), after.as_deref())?;
        let old = self.list.replace(&mut turn, index, (before, after));
        self.take_down(&old, cut);
        Ok(Some((old.into_object(), cut)))
    }

    /// Attaches what remains of a mapping that is cut, both parts or none.
    fn attach_rest(&self, before: Option<&Vma>, after: Option<&Vma>) -> Result<(), OutOfMemory> {
        let attach = |v: &Vma| v.object.attach(self.attachment(v.range, v.file_page));
        before.map_or(Ok(()), attach)?;
        after.map_or(Ok(()), attach).inspect_err(|_| {
            if let Some(v) = before {
                v.object.detach(self.id(), v.range);
            }
        })
    }

    /// Clears the part `cut` of a mapping that left the list, detaches its object, and waits for the walkers that may still look at it.
    fn take_down(&self, old: &Retired, cut: VaRange) {
        if !self.translations.zap(cut) {
            self.translations.expel_walkers();
        }
        let vma = old.vma();
        vma.object.detach(self.id(), vma.range);
        self.translations.free_tables(cut);
    }

    /// Makes the page at `va` accessible; the page-fault handler calls this, with interrupts on, and tries the
    /// access again.
    ///
    /// Takes the address space's lock shared, and whatever the object's fault takes. May sleep.
    ///
    /// # Errors
    ///
    /// As [`FaultError`] says.
    pub fn handle_fault(&self, va: VirtAddr, access: Access) -> Result<(), FaultError> {
        let turn = self.turn.read();
        let vma = self.list.find(&turn, va).ok_or(FaultError::NoMapping)?;
        if !vma.prot.permits(access) {
            return Err(FaultError::Permission);
        }
        if self.translations.permits(va, access) {
            return Ok(());
        }
        let at = self.fault_at(vma, va, access);
        vma.object
            .fault(&at, &FaultSink::new(&self.translations, &at))
    }

    fn fault_at(&self, vma: &Vma, va: VirtAddr, access: Access) -> FaultAt {
        FaultAt {
            space: self.id(),
            va: va.align_down(PageSize::Size4K.bytes()),
            file_page: vma.file_page + vma.range.page_of(va),
            access,
            vma: vma.range,
            vma_file_page: vma.file_page,
            prot: vma.prot,
        }
    }

    /// Takes away every translation of the range: cleared, flushed on every CPU, references dropped, in this order.
    ///
    /// The mappings stay, and later accesses fault anew. Large pages that reach into the range go whole. Takes only
    /// the page-table lock, in short holds; allocates nothing; sleeps only in the TLB flush.
    pub fn zap(&self, range: VaRange) {
        self.translations.zap(range);
    }

    /// Takes away the permission to store through every translation of the range, and returns when no CPU has it.
    ///
    /// Large pages that reach into the range lose it whole. Locks as [`AddressSpace::zap`].
    pub fn write_protect(&self, range: VaRange) {
        self.translations.write_protect(range);
    }

    /// The number of mappings. Takes the lock shared.
    pub fn mappings(&self) -> usize {
        self.list.count(&self.turn.read())
    }

    /// What `va` maps to at this moment. Lock-free; a snapshot.
    pub fn translate(&self, va: VirtAddr) -> Option<Mapped> {
        self.translations.translate(va)
    }

    /// Runs `f` with the mapping that covers `va`, under the lock held shared; it must not fault.
    pub(crate) fn with_vma<R>(
        &self,
        va: VirtAddr,
        f: impl FnOnce(Option<&Vma>, &Translations) -> R,
    ) -> R {
        let turn = self.turn.read();
        f(self.list.find(&turn, va), &self.translations)
    }

    /// Runs `f` with interrupts off, if this CPU runs on this address space; else None.
    ///
    /// What `f` finds (mappings, tables, pages that entries hold) stays until it returns: it is freed only after a flush
    /// of this root, which waits for this section.
    pub(crate) fn section<R>(&self, f: impl FnOnce(Walk<'_>) -> R) -> Option<R> {
        irq_off(|| {
            let here = self.translations.runs_here();
            here.then(|| f(Walk::new(&self.list, &self.translations)))
        })
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        // Nothing faults any more: nobody else has a reference. Whole mappings are taken away, so nothing can fail.
        while let Ok(Some(_object)) = self.unmap_first(self.window()) {}
    }
}

impl core::fmt::Debug for AddressSpace {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "AddressSpace({:?} {:?})", self.id(), self.window())
    }
}
