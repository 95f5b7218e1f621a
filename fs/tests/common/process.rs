//! A process that maps one file from its start on.

use std::sync::Arc;

use dax::pmem::Pmem;
use fs::Inode;
use mm::addr::{PAGE_SIZE, PageSize, Pfn, VirtAddr};
use mm::aspace::{Access, AddressSpace, FaultError, Prot, VaRange};
use mm::fake::{HeapTables, ModelTlb};
use mm::gup::{GupError, PinnedPages, pin_user_pages};

pub struct Process {
    pub space: Arc<AddressSpace>,
    pub tlb: Arc<ModelTlb>,
    pub at: VaRange,
}

impl Process {
    pub fn new<P: Pmem + 'static>(file: &Arc<Inode<P>>, pages: u64) -> Self {
        let tlb = ModelTlb::new();
        let window = VaRange::new(VirtAddr::new(0x1000_0000_0000), 1 << 20).expect("range");
        let space = AddressSpace::new(HeapTables::new(), tlb.clone(), window).expect("memory");
        let prot = Prot::WRITE | Prot::USER;
        let at = space
            .map(file.clone(), 0, pages, prot, PageSize::Size4K)
            .expect("map");
        Self { space, tlb, at }
    }

    pub fn va(&self, page: u64) -> VirtAddr {
        self.at.start() + page * PAGE_SIZE
    }

    pub fn touch(&self, page: u64, access: Access) -> Result<Pfn, FaultError> {
        self.tlb.access(&self.space, self.va(page), access)
    }

    pub fn pin(&self, page: u64) -> Result<PinnedPages, GupError> {
        pin_user_pages(&self.space, self.va(page), 1, true)
    }
}
