//! A file without a file system, and an address space on the host: for tests.

use crate::mapping::{Block, BlockMap, Mapping};
use crate::xarray::NodePool;
use alloc::boxed::Box;
use alloc::sync::Arc;
use mm::addr::{PAGE_SIZE, PageSize, Pfn, VirtAddr};
use mm::aspace::{
    Access, AddressSpace, Attachment, FaultAt, FaultError, FaultSink, Prot, SpaceId, VaRange,
    VmObject,
};
use mm::fake::{HeapTables, ModelTlb};
use mm::gup::{PinnedPages, pin_user_pages};
use mm::lease::Leases;
use mm::mem::OutOfMemory;
use mm::pgmap::{Counts, Pgmap, scratch_range};
use mm::sync::{Mutex, class};
use std::collections::BTreeMap;
use std::sync::Mutex as StdMutex;

/// The number of the fake file.
pub(crate) const INODE: u64 = 7;

/// A frame that holds zeroes.
pub(crate) fn zero_page() -> Pfn {
    Pfn::new(0x999).unwrap()
}

/// What is stored of the file: page → (frame, unwritten).
struct Stored {
    pages: BTreeMap<u64, (Pfn, bool)>,
    free: u64,
    size: u64,
}

/// A file whose inode lock protects a number, the times it was truncated.
pub(crate) struct File {
    pub(crate) inode: Mutex<u64>,
    pub(crate) mapping: Mapping,
    stored: StdMutex<Stored>,
    observer: StdMutex<Option<Observer>>,
}

/// Told of each page that has just been given storage.
type Observer = Box<dyn Fn(u64) + Send + Sync>;

impl File {
    /// An empty file of `pages` pages, and a device twice as large.
    pub(crate) fn holes(pages: u64) -> Arc<Self> {
        let range = scratch_range(pages * 2 + 512);
        let pgmap = Pgmap::new("test", range, None).unwrap();
        let nodes = NodePool::new(1).unwrap();
        let free = range.start().get();
        Arc::new(Self {
            inode: Mutex::new(&class::INODE, 0),
            mapping: Mapping::new(INODE, pgmap, nodes, zero_page()),
            stored: StdMutex::new(Stored {
                pages: BTreeMap::new(),
                free,
                size: pages * PAGE_SIZE,
            }),
            observer: StdMutex::new(None),
        })
    }

    /// A file of `pages` pages, contiguous from an aligned frame on.
    pub(crate) fn full(pages: u64) -> Arc<Self> {
        let file = Self::holes(pages);
        (0..pages).for_each(|p| file.store(p, false));
        file
    }

    /// Gives page `page` the next free frame.
    pub(crate) fn store(&self, page: u64, unwritten: bool) {
        let mut stored = self.stored.lock().unwrap();
        let pfn = Pfn::new(stored.free).unwrap();
        stored.free += 1;
        stored.pages.insert(page, (pfn, unwritten));
    }

    /// Has `observer` told of each page that a fault is given storage for, at the moment in which others can see it.
    pub(crate) fn observe(&self, observer: impl Fn(u64) + Send + Sync + 'static) {
        *self.observer.lock().unwrap() = Some(Box::new(observer));
    }

    /// The frame behind a page that is stored.
    pub(crate) fn pfn(&self, page: u64) -> Pfn {
        self.stored.lock().unwrap().pages[&page].0
    }

    pub(crate) fn counts(&self, page: u64) -> Counts {
        self.mapping
            .pgmap()
            .folio(self.pfn(page))
            .map_or(Counts::IDLE, |f| f.counts())
    }

    /// (mapped, pinned) of a page that is stored.
    pub(crate) fn count(&self, page: u64) -> (u32, u32) {
        let counts = self.counts(page);
        (counts.mapped, counts.pinned)
    }
}

impl BlockMap for File {
    fn lookup(&self, page: u64) -> Result<Block, FaultError> {
        let stored = self.stored.lock().unwrap();
        let Some(&(pfn, unwritten)) = stored.pages.get(&page) else {
            return Ok(Block::Hole);
        };
        let follows = |n: &u64| {
            stored
                .pages
                .get(&(page + n))
                .is_some_and(|p| *p == (pfn.checked_add(*n).unwrap(), unwritten))
        };
        let pages = (0..).take_while(follows).count() as u64;
        Ok(Block::Extent {
            pfn,
            pages,
            unwritten,
        })
    }

    fn allocate(&self, page: u64) -> Result<Block, FaultError> {
        if self.lookup(page)? == Block::Hole {
            self.store(page, false);
        }
        self.stored.lock().unwrap().pages.get_mut(&page).unwrap().1 = false;
        if let Some(observer) = &*self.observer.lock().unwrap() {
            observer(page);
        }
        self.lookup(page)
    }

    fn size(&self) -> u64 {
        self.stored.lock().unwrap().size
    }
}

impl VmObject for File {
    fn fault(&self, at: &FaultAt, sink: &FaultSink<'_>) -> Result<(), FaultError> {
        self.mapping.fault(self, at, sink)
    }

    fn attach(&self, attachment: Attachment) -> Result<(), OutOfMemory> {
        self.mapping.attach(attachment)
    }

    fn detach(&self, space: SpaceId, range: VaRange) {
        self.mapping.detach(space, range);
    }

    fn leases(&self) -> Option<&Leases> {
        Some(self.mapping.leases())
    }
}

/// A process that maps one file from its first page on.
pub(crate) struct Process {
    pub(crate) space: Arc<AddressSpace>,
    pub(crate) tlb: Arc<ModelTlb>,
    pub(crate) at: VaRange,
}

impl Process {
    pub(crate) fn new(file: &Arc<File>, align: PageSize) -> Self {
        Self::with_tables(file, align, HeapTables::new())
    }

    pub(crate) fn with_tables(file: &Arc<File>, align: PageSize, tables: Arc<HeapTables>) -> Self {
        let tlb = ModelTlb::new();
        let window = VaRange::new(VirtAddr::new(0x1000_0000_0000), 1 << 20).unwrap();
        let space = AddressSpace::new(tables, tlb.clone(), window).unwrap();
        let at = space
            .map(
                file.clone(),
                0,
                file.size() / PAGE_SIZE,
                Prot::WRITE | Prot::USER,
                align,
            )
            .unwrap();
        Self { space, tlb, at }
    }

    pub(crate) fn va(&self, page: u64) -> VirtAddr {
        self.at.start() + page * PAGE_SIZE
    }

    pub(crate) fn read(&self, page: u64) -> Result<Pfn, FaultError> {
        self.tlb.access(&self.space, self.va(page), Access::Read)
    }

    pub(crate) fn write(&self, page: u64) -> Result<Pfn, FaultError> {
        self.tlb.access(&self.space, self.va(page), Access::Write)
    }

    pub(crate) fn pin(&self, page: u64) -> PinnedPages {
        pin_user_pages(&self.space, self.va(page), 1, true).unwrap()
    }

    pub(crate) fn unmap(&self) {
        self.space.unmap(self.at).unwrap();
    }
}
