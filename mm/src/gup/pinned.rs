//! Pinned pages and what keeps them: see the head of `gup`.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::leased::Leased;
use crate::addr::{PAGE_SIZE, Pfn, PhysAddr};
use crate::aspace::VmObject;
use crate::few::Few;
use crate::lease::LeaseState;
use crate::mem::OutOfMemory;
use crate::pgmap::{Peeked, Pgmap, find_pgmap};

/// Consecutive frames of one device, pinned.
struct Run {
    first: Pfn,
    pages: u64,
    /// Which of `PinnedPages::devices`.
    device: usize,
}

impl Run {
    /// The frame after the last.
    fn end(&self) -> u64 {
        self.first.get() + self.pages
    }
}

/// Pages that are pinned until this value is dropped. See the head of this module.
#[must_use = "the pages are unpinned when this is dropped"]
pub struct PinnedPages {
    runs: Few<Run, 4>,
    // Below the runs: `drop` has unpinned them before any field is dropped.
    pub(super) leased: Vec<Leased>,
    devices: Few<Arc<Pgmap>, 1>,
    objects: Few<Arc<dyn VmObject>, 1>,
}

impl PinnedPages {
    pub(super) const fn empty() -> Self {
        Self {
            runs: Few::new(),
            leased: Vec::new(),
            devices: Few::new(),
            objects: Few::new(),
        }
    }

    /// The number of 4 KiB pages.
    pub fn pages(&self) -> u64 {
        self.runs.iter().map(|r| r.pages).sum()
    }

    /// The frames, in the order of the addresses.
    pub fn pfns(&self) -> impl Iterator<Item = Pfn> {
        self.runs
            .iter()
            .flat_map(|r| (r.first.get()..r.end()).filter_map(Pfn::new))
    }

    /// The physical memory in the order of the addresses: (address, bytes) of each contiguous part.
    pub fn segments(&self) -> impl Iterator<Item = (PhysAddr, u64)> {
        self.runs
            .iter()
            .map(|r| (r.first.phys(), r.pages * PAGE_SIZE))
    }

    /// The leases of a long-term pin, one for each range of pages of each object, as they stand.
    pub fn leases(&self) -> impl Iterator<Item = LeaseState> {
        self.leased.iter().filter_map(Leased::state)
    }

    /// Wakes who waits for one of the pages: they are held by a lease now, which can be revoked.
    pub(super) fn tell_waiters(&self) {
        for run in self.runs.iter() {
            if let Some(pgmap) = self.devices.get(run.device) {
                pgmap.wake_waiters(run.first, run.pages);
            }
        }
    }

    /// Makes room for one more object, one more device and `runs` more runs, for a section with interrupts off.
    pub(super) fn reserve(&mut self, runs: usize) -> Result<(), OutOfMemory> {
        self.objects.reserve(1)?;
        self.devices.reserve(1)?;
        self.runs.reserve(runs)
    }

    /// How many runs can be added without an allocation.
    pub(super) fn room(&self) -> usize {
        self.runs.room()
    }

    /// Keeps the object alive as long as the pins. Room was reserved.
    pub(super) fn keep(&mut self, object: &Arc<dyn VmObject>) {
        if !self.objects.last().is_some_and(|o| Arc::ptr_eq(o, object)) {
            self.objects.push(object.clone());
        }
    }

    /// The pgmap of a frame; mostly that of the last run.
    pub(super) fn pgmap_of(&self, pfn: Pfn) -> Option<Arc<Pgmap>> {
        let last = self.devices.last().filter(|p| p.range().contains(pfn));
        last.cloned().or_else(|| find_pgmap(pfn))
    }

    /// Keeps the pgmap as long as the pins; says its place in the list. Room was reserved.
    pub(super) fn keep_device(&mut self, pgmap: &Arc<Pgmap>) -> usize {
        if !self.devices.last().is_some_and(|d| Arc::ptr_eq(d, pgmap)) {
            self.devices.push(pgmap.clone());
        }
        self.devices.len() - 1
    }

    /// As [`PinnedPages::keep_device`], for a pgmap that a section with interrupts off found: one atomic operation if it is new.
    pub(super) fn keep_peeked(&mut self, pgmap: Peeked<'_>) -> usize {
        let known = |d: &Arc<Pgmap>| core::ptr::eq(&raw const **d, pgmap.get());
        if !self.devices.last().is_some_and(known) {
            self.devices.push(pgmap.own());
        }
        self.devices.len() - 1
    }

    /// Adds frames that were pinned, joined to the last run if they continue it. Room was reserved.
    pub(super) fn push(&mut self, device: usize, first: Pfn, pages: u64) {
        match self.runs.last_mut() {
            Some(last) if last.end() == first.get() && last.device == device => last.pages += pages,
            _ => self.runs.push(Run {
                first,
                pages,
                device,
            }),
        }
    }
}

impl Drop for PinnedPages {
    fn drop(&mut self) {
        for run in self.runs.iter() {
            if let Some(pgmap) = self.devices.get(run.device) {
                pgmap.unpin_pages(run.first, run.pages);
            }
        }
    }
}

impl core::fmt::Debug for PinnedPages {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.segments()).finish()
    }
}
