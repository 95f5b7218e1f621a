//! A machine on the host: page tables on the heap, and a TLB that keeps stale translations until it is told to drop
//! them.
//!
//! For tests of this crate and of the crates above it. Nothing of it exists on bare metal.

#![expect(unsafe_code, reason = "hands out pointers to tables on the heap")]

use std::boxed::Box;
use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::Arc;
use std::vec::Vec;

use crate::addr::{PAGE_SIZE, PageSize, Pfn, VirtAddr};
use crate::aspace::{Access, AddressSpace, FaultError, Mapped, VaRange};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::plain::{Mutex, MutexGuard};
use crate::sync::{in_section, wait_for_sections};
use crate::table::{ENTRIES, PageTableMem};
use crate::tlb::Tlb;

type Table = [AtomicU64; ENTRIES];

/// Page tables on the heap, with frame numbers from 1 on that have nothing to do with memory.
///
/// A freed table is never used again and stays readable until this value goes: a host thread cannot turn interrupts
/// off, so a walker may still be looking at it. Freeing a table that is not empty panics, and so does freeing one
/// twice.
#[derive(Default)]
pub struct HeapTables {
    tables: Mutex<Vec<Slot>>,
    limit: Option<usize>,
    largest: Option<PageSize>,
}

struct Slot {
    table: NonNull<Table>,
    live: bool,
}

// SAFETY: the table is a heap allocation of atomics that this slot owns.
unsafe impl Send for Slot {}

impl HeapTables {
    /// As many tables as asked for, pages of up to 2 MiB.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// At most `tables` tables in use at a time.
    pub fn with_limit(tables: usize) -> Arc<Self> {
        let mut mem = Self::default();
        mem.limit = Some(tables);
        Arc::new(mem)
    }

    /// A CPU that maps pages of up to this size.
    pub fn with_largest(size: PageSize) -> Arc<Self> {
        let mut mem = Self::default();
        mem.largest = Some(size);
        Arc::new(mem)
    }

    /// The number of tables in use.
    pub fn live(&self) -> usize {
        unpoisoned(&self.tables).iter().filter(|s| s.live).count()
    }
}

// SAFETY: each frame number stands for one heap allocation, zeroed, of its own, which is freed only in `drop`.
unsafe impl PageTableMem for HeapTables {
    fn alloc_table(&self) -> Option<Pfn> {
        let mut tables = unpoisoned(&self.tables);
        let live = tables.iter().filter(|s| s.live).count();
        if self.limit.is_some_and(|limit| live >= limit) {
            return None;
        }
        let table = Box::new([const { AtomicU64::new(0) }; ENTRIES]);
        tables.push(Slot {
            table: NonNull::from(Box::leak(table)),
            live: true,
        });
        Pfn::new(tables.len() as u64)
    }

    unsafe fn free_table(&self, table: Pfn) {
        let entries = PageTableMem::table(self, table);
        // SAFETY: tables stay allocated until `drop`.
        let left = unsafe { entries.as_ref() }
            .iter()
            .filter(|e| e.load(Ordering::Relaxed) != 0)
            .count();
        let slot = &mut unpoisoned(&self.tables)[table.get() as usize - 1];
        assert!(slot.live, "table {table:?} freed twice");
        assert_eq!(left, 0, "table {table:?} freed with entries in it");
        slot.live = false;
    }

    fn table(&self, table: Pfn) -> NonNull<Table> {
        unpoisoned(&self.tables)[table.get() as usize - 1].table
    }

    fn largest_page(&self) -> PageSize {
        self.largest.unwrap_or(PageSize::Size2M)
    }
}

impl Drop for HeapTables {
    fn drop(&mut self) {
        for slot in unpoisoned(&self.tables).drain(..) {
            // SAFETY: the pointer came from Box::leak, once, and nobody can reach this memory any more.
            drop(unsafe { Box::from_raw(slot.table.as_ptr()) });
        }
    }
}

/// The translations that the CPUs have cached.
type Cache = HashMap<Key, Mapped>;

/// CPU, root table, page.
type Key = (usize, Pfn, VirtAddr);

type Hook = Arc<dyn Fn(VaRange) + Send + Sync>;

/// The TLBs of any number of CPUs: they remember every translation used through [`ModelTlb::access_on`] until a
/// flush covers it.
///
/// As a real one does, it goes on permitting what the page table has forbidden since. Every thread counts as a CPU that runs on every root:
/// a flush waits for the sections with interrupts off.
#[derive(Default)]
pub struct ModelTlb {
    cache: Mutex<Cache>,
    on_flush: Mutex<Option<Hook>>,
    flushes: AtomicU64,
    ignores: AtomicBool,
}

impl ModelTlb {
    /// An empty TLB.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Calls `hook` at the start of every flush, while the stale translations are still there.
    pub fn on_flush(&self, hook: impl Fn(VaRange) + Send + Sync + 'static) {
        *unpoisoned(&self.on_flush) = Some(Arc::new(hook));
    }

    /// From now on a flush waits for no section with interrupts off, as on a machine that flushes without interrupting: for tests that
    /// play another CPU from inside a section, and for what must hold without that wait. Nothing may be unmapped then while gup-fast runs:
    /// mappings are freed after a flush.
    pub fn ignore_walkers(&self) {
        self.ignores.store(true, Ordering::Relaxed);
    }

    /// The number of flushes so far.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    /// Makes one access as CPU 0; see [`ModelTlb::access_on`].
    ///
    /// # Errors
    ///
    /// As [`ModelTlb::access_on`].
    pub fn access(
        &self,
        space: &AddressSpace,
        va: VirtAddr,
        access: Access,
    ) -> Result<Pfn, FaultError> {
        self.access_on(0, space, va, access)
    }

    /// Makes one access as that CPU does: through its cached translation if it permits the access, else through the
    /// page table, faulting as often as needed. Says which frame was reached.
    ///
    /// # Errors
    ///
    /// That of the fault which could not be handled.
    pub fn access_on(
        &self,
        cpu: usize,
        space: &AddressSpace,
        va: VirtAddr,
        access: Access,
    ) -> Result<Pfn, FaultError> {
        let key = (cpu, space.root(), va.align_down(PAGE_SIZE));
        loop {
            if let Some(hit) = self.lookup(key).filter(|m| permits(m, access)) {
                return Ok(hit.pfn);
            }
            // Reading the page table and filling the cache is one step, as seen by a flush on another CPU: a CPU
            // answers a shootdown between instructions.
            let mut cache = unpoisoned(&self.cache);
            cache.remove(&key);
            if let Some(found) = space.translate(va).filter(|m| permits(m, access)) {
                cache.insert(key, found);
                return Ok(found.pfn);
            }
            drop(cache);
            space.handle_fault(va, access)?;
        }
    }

    fn lookup(&self, key: Key) -> Option<Mapped> {
        unpoisoned(&self.cache).get(&key).copied()
    }

    /// Whether a cached translation reaches one of `pages` frames from `first` on.
    pub fn reaches(&self, first: Pfn, pages: u64) -> bool {
        let frames = first.get()..first.get() + pages;
        unpoisoned(&self.cache)
            .values()
            .any(|m| frames.contains(&m.pfn.get()))
    }

    /// Whether a cached translation permits stores to the frame.
    pub fn may_write(&self, pfn: Pfn) -> bool {
        unpoisoned(&self.cache)
            .values()
            .any(|m| m.pfn == pfn && m.writable)
    }
}

impl Tlb for ModelTlb {
    fn flush(&self, root: Pfn, start: VirtAddr, end: VirtAddr) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        let hook = unpoisoned(&self.on_flush).clone();
        if let (Some(hook), Some(range)) = (hook, VaRange::covering(start, end)) {
            hook(range);
        }
        unpoisoned(&self.cache).retain(|&(_, r, va), _| r != root || va < start || va >= end);
        if !self.ignores.load(Ordering::Relaxed) {
            wait_for_walkers();
        }
    }

    fn quiesce(&self) {
        wait_for_walkers();
    }

    fn runs_on(&self, _root: Pfn) -> bool {
        true
    }
}

/// A test may play another CPU from inside a section of its own thread, which must not wait for itself.
fn wait_for_walkers() {
    if !in_section() {
        wait_for_sections();
    }
}

fn permits(mapped: &Mapped, access: Access) -> bool {
    mapped.writable || access != Access::Write
}

/// A lock whose holder panicked in a test that expects it is still good.
fn unpoisoned<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock()
}
