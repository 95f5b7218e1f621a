//! A file on a pgmap, an address space over a TLB that keeps stale translations, and a watch on the order of the
//! zap.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::vec::Vec;

use super::*;
use crate::addr::PAGE_SIZE;
use crate::fake::{HeapTables, ModelTlb};
use crate::page::{Counts, Owner};
use crate::pgmap::{Pgmap, PgmapOps, find_pgmap, scratch_range};

/// The frame of the shared zero page, which lies in no pgmap.
pub(crate) const ZERO_PAGE: u64 = 7;

pub(crate) const WINDOW_START: u64 = 1 << 40;

/// Told of every page that becomes idle; notes those that a TLB still reached at that moment.
pub(crate) struct Watch {
    tlb: Arc<ModelTlb>,
    pub(crate) idle: Mutex<Vec<Pfn>>,
    pub(crate) early: Mutex<Vec<Pfn>>,
}

impl PgmapOps for Watch {
    fn page_idle(&self, pfn: Pfn, size: PageSize) {
        if self.reached_while_idle(pfn, size) {
            lock(&self.early).push(pfn);
        }
        lock(&self.idle).push(pfn);
    }
}

impl Watch {
    /// Whether a TLB reaches a page that has no count. A translation that is stale stays for as long as this call lasts: the flush
    /// that comes too late comes after it. Another thread's new fault may show one too, but then with a count, or gone at the next look.
    fn reached_while_idle(&self, pfn: Pfn, size: PageSize) -> bool {
        let idle = || {
            find_pgmap(pfn)
                .and_then(|p| p.folio(pfn).map(|f| f.counts().is_idle()))
                .unwrap_or(true)
        };
        (0..8).all(|_| idle() && self.tlb.reaches(pfn, size.pages()) && idle())
    }
}

/// One machine with one device and one address space.
pub(crate) struct World {
    pub(crate) mem: Arc<HeapTables>,
    pub(crate) tlb: Arc<ModelTlb>,
    pub(crate) pgmap: Arc<Pgmap>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) space: Arc<AddressSpace>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(HeapTables::new())
    }

    pub(crate) fn with(mem: Arc<HeapTables>) -> Self {
        let tlb = ModelTlb::new();
        let watch = Arc::new(Watch {
            tlb: tlb.clone(),
            idle: Mutex::default(),
            early: Mutex::default(),
        });
        let pgmap = Pgmap::new("test", scratch_range(1 << 18), Some(watch.clone())).unwrap();
        let window = VaRange::new(VirtAddr::new(WINDOW_START), 1 << 27).unwrap();
        let space = AddressSpace::new(mem.clone(), tlb.clone(), window).unwrap();
        Self {
            mem,
            tlb,
            pgmap,
            watch,
            space,
        }
    }

    /// A second address space on the same machine.
    pub(crate) fn another_space(&self) -> Arc<AddressSpace> {
        AddressSpace::new(self.mem.clone(), self.tlb.clone(), self.space.window()).unwrap()
    }

    /// The n-th frame of the device.
    pub(crate) fn pfn(&self, n: u64) -> Pfn {
        self.pgmap.range().start().checked_add(n).unwrap()
    }

    pub(crate) fn counts(&self, n: u64) -> Counts {
        self.pgmap
            .folio(self.pfn(n))
            .map_or(Counts::IDLE, |f| f.counts())
    }

    /// A file whose pages 0, 1, 2 and so on lie in the frames `first`, `first` + 1 and so on.
    pub(crate) fn file(&self, first: u64, pages: u64) -> Arc<TestFile> {
        let file = TestFile::new(&self.pgmap, first);
        (0..pages).for_each(|p| file.add_block(p, self.pfn(first + p), PageSize::Size4K));
        file
    }

    pub(crate) fn map(&self, file: &Arc<TestFile>, pages: u64, prot: Prot) -> VaRange {
        self.space
            .map(file.clone(), 0, pages, prot, PageSize::Size4K)
            .unwrap()
    }

    /// Accesses every page of the range through the TLB.
    pub(crate) fn touch(&self, range: VaRange, access: Access) {
        for page in 0..range.pages() {
            self.tlb
                .access(&self.space, range.start() + page * PAGE_SIZE, access)
                .unwrap();
        }
    }

    /// No page became idle while a translation of it was left.
    pub(crate) fn assert_order_kept(&self) {
        assert_eq!(
            *lock(&self.watch.early),
            [],
            "idle while a TLB still reached them"
        );
    }
}

#[derive(Default)]
pub(crate) struct FileState {
    pub(crate) blocks: BTreeMap<u64, (Pfn, PageSize)>,
    pub(crate) attachments: Vec<Attachment>,
    pub(crate) dirty: BTreeSet<u64>,
    pub(crate) faults: Vec<(u64, Access)>,
    pub(crate) broken: BTreeMap<u64, FaultError>,
}

/// A file: blocks of a pgmap, holes that read as the zero page, stores into holes that take the next frame.
pub(crate) struct TestFile {
    pgmap: Arc<Pgmap>,
    pub(crate) inode: u64,
    pub(crate) state: Mutex<FileState>,
    /// Held shared by faults; whoever takes blocks away holds it exclusively (the invalidate lock).
    pub(crate) invalidate: RwLock<()>,
    next: Mutex<u64>,
}

impl TestFile {
    /// An empty file; `first` numbers it, and is where the frames for its holes begin, after its blocks.
    pub(crate) fn new(pgmap: &Arc<Pgmap>, first: u64) -> Arc<Self> {
        let (state, invalidate) = (Mutex::default(), RwLock::new(()));
        Arc::new(Self {
            pgmap: pgmap.clone(),
            inode: first,
            state,
            invalidate,
            next: Mutex::new(first),
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, FileState> {
        lock(&self.state)
    }

    pub(crate) fn add_block(&self, page: u64, pfn: Pfn, size: PageSize) {
        self.pgmap
            .associate(
                pfn,
                size,
                Owner {
                    inode: self.inode,
                    index: page,
                },
            )
            .unwrap();
        self.state().blocks.insert(page, (pfn, size));
        let mut next = lock(&self.next);
        *next = (*next).max(pfn.get() - self.pgmap.range().start().get() + size.pages());
    }

    /// Zaps the pages everywhere.
    pub(crate) fn zap(&self, pages: core::ops::Range<u64>) {
        let attachments = self.state().attachments.clone();
        attachments.iter().for_each(|a| a.zap(pages.clone()));
    }

    fn block(&self, page: u64) -> Option<(u64, Pfn, PageSize)> {
        let state = self.state();
        let (&start, &(pfn, size)) = state.blocks.range(..=page).next_back()?;
        (page < start + size.pages()).then_some((start, pfn, size))
    }

    fn allocate(&self, page: u64) -> (u64, Pfn, PageSize) {
        let pfn = self
            .pgmap
            .range()
            .start()
            .checked_add(*lock(&self.next))
            .unwrap();
        self.add_block(page, pfn, PageSize::Size4K);
        (page, pfn, PageSize::Size4K)
    }

    /// The whole folio if it fits the mapping, else its one page.
    fn install(
        &self,
        at: &FaultAt,
        block: (u64, Pfn, PageSize),
        sink: &FaultSink<'_>,
    ) -> Result<(), FaultError> {
        let (start, pfn, size) = block;
        let folio = self.pgmap.folio(pfn).unwrap();
        let writable = at.access == Access::Write;
        let inside = (at.file_page - start) * PAGE_SIZE;
        let whole = VirtAddr::try_new(at.va.as_u64().wrapping_sub(inside)).unwrap_or(at.va);
        if size == PageSize::Size4K
            || sink.install(whole, &folio, &self.pgmap, writable)? == Installed::Fallback
        {
            let page = pfn.checked_add(at.file_page - start).unwrap();
            let part = sink.install_part(
                at.va,
                (page, PageSize::Size4K),
                &folio,
                &self.pgmap,
                writable,
            )?;
            assert_ne!(part, Installed::Fallback);
        }
        Ok(())
    }
}

impl VmObject for TestFile {
    fn fault(&self, at: &FaultAt, sink: &FaultSink<'_>) -> Result<(), FaultError> {
        let _shared = self.invalidate.read().unwrap();
        self.state().faults.push((at.file_page, at.access));
        if let Some(&error) = self.state().broken.get(&at.file_page) {
            return Err(error);
        }
        match (self.block(at.file_page), at.access) {
            (None, Access::Read | Access::Execute) => sink
                .install_uncounted(at.va, Pfn::new(ZERO_PAGE).unwrap(), PageSize::Size4K)
                .map(drop),
            (found, access) => {
                if access == Access::Write {
                    self.state().dirty.insert(at.file_page);
                }
                self.install(
                    at,
                    found.unwrap_or_else(|| self.allocate(at.file_page)),
                    sink,
                )
            }
        }
    }

    fn attach(&self, attachment: Attachment) -> Result<(), OutOfMemory> {
        let mut state = self.state();
        if state.broken.contains_key(&u64::MAX) {
            return Err(OutOfMemory);
        }
        state.attachments.push(attachment);
        Ok(())
    }

    fn detach(&self, space: SpaceId, range: VaRange) {
        let mut state = self.state();
        let before = state.attachments.len();
        state
            .attachments
            .retain(|a| (a.space(), a.range()) != (space, range));
        assert_eq!(
            state.attachments.len(),
            before - 1,
            "exactly one attachment goes"
        );
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
