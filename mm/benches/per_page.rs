//! Instructions per page of gup-fast, unpin and zap, on the host, counted by callgrind.
//!
//! ```text
//! cargo bench -p mm --bench per_page --no-run
//! valgrind --tool=callgrind --toggle-collect='*measured_pin*' target/release/deps/per_page-… small 64
//! ```
//!
//! What is counted is chosen by the name: `measured_pin`, `measured_unpin`, `measured_zap`. The arguments are the size of the pages (`small`:
//! 4 KiB, `large`: 2 MiB) and how many pages of 4 KiB are pinned at a time. 64 MiB are mapped, pinned in batches, unpinned, and zapped at
//! once; the counted instructions are to be divided by 16,384 pages or by 32 large ones. The machine is one CPU without a TLB, its page tables an
//! array, as the kernel's direct map is; what only the host does is the counting of sections with interrupts off.

#![expect(unsafe_code, reason = "hands out pointers to page tables")]

use std::env::args;
use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use mm::addr::{PAGE_SIZE, PageSize, Pfn, VirtAddr};
use mm::aspace::{
    Access, AddressSpace, Attachment, FaultAt, FaultError, FaultSink, Prot, SpaceId, VaRange,
    VmObject,
};
use mm::gup::{PinnedPages, pin_user_pages_fast};
use mm::mem::OutOfMemory;
use mm::page::Owner;
use mm::pgmap::{Pgmap, scratch_range};
use mm::table::{ENTRIES, PageTableMem};
use mm::tlb::Tlb;

/// Pages of 4 KiB that are mapped.
const PAGES: u64 = 16_384;

/// Page tables in an array; none is used twice.
struct Flat {
    tables: Vec<[AtomicU64; ENTRIES]>,
    next: AtomicUsize,
}

impl Flat {
    fn new() -> Arc<Self> {
        let mut tables = Vec::new();
        tables.resize_with(64, || [const { AtomicU64::new(0) }; ENTRIES]);
        let next = AtomicUsize::new(0);
        Arc::new(Self { tables, next })
    }
}

// SAFETY: each frame number is handed out once and stands for one table, zeroed and never freed.
unsafe impl PageTableMem for Flat {
    fn alloc_table(&self) -> Option<Pfn> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        Pfn::new(n as u64).filter(|_| n < self.tables.len())
    }

    unsafe fn free_table(&self, _: Pfn) {}

    fn table(&self, table: Pfn) -> NonNull<[AtomicU64; ENTRIES]> {
        NonNull::from(&self.tables[table.get() as usize])
    }
}

/// One CPU, which caches nothing.
struct NoTlb;

impl Tlb for NoTlb {
    fn flush(&self, _: Pfn, _: VirtAddr, _: VirtAddr) {}

    fn quiesce(&self) {}

    fn runs_on(&self, _: Pfn) -> bool {
        true
    }
}

/// A file in one piece from the first frame of its device on.
struct File {
    pgmap: Arc<Pgmap>,
    size: PageSize,
}

impl File {
    fn frame(&self, page: u64) -> Pfn {
        let start = self.pgmap.range().start();
        start.checked_add(page).expect("a page of the file")
    }
}

impl VmObject for File {
    fn fault(&self, at: &FaultAt, sink: &FaultSink<'_>) -> Result<(), FaultError> {
        let page = at.file_page - at.file_page % self.size.pages();
        let (pfn, inside) = (self.frame(page), at.file_page - page);
        let owner = Owner {
            inode: 1,
            index: page,
        };
        let folio = self
            .pgmap
            .associate(pfn, self.size, owner)
            .expect("metadata");
        let va = VirtAddr::new(at.va.as_u64() - inside * PAGE_SIZE);
        sink.install(va, &folio, &self.pgmap, true).map(drop)
    }

    fn attach(&self, _: Attachment) -> Result<(), OutOfMemory> {
        Ok(())
    }

    fn detach(&self, _: SpaceId, _: VaRange) {}
}

struct World {
    space: Arc<AddressSpace>,
    range: VaRange,
}

impl World {
    fn new(size: PageSize) -> Self {
        let pgmap = Pgmap::new("bench", scratch_range(1 << 18), None).expect("a pgmap");
        let window = VaRange::new(VirtAddr::new(1 << 40), 1 << 27).expect("a range");
        let space = AddressSpace::new(Flat::new(), Arc::new(NoTlb), window).expect("a space");
        let file = Arc::new(File { pgmap, size });
        let range = space.map(file, 0, PAGES, Prot::WRITE, size).expect("a map");
        let world = Self { space, range };
        world.touch();
        world
    }

    fn touch(&self) {
        for page in 0..PAGES {
            let va = self.range.start() + page * PAGE_SIZE;
            self.space.handle_fault(va, Access::Write).expect("a page");
        }
    }

    fn pin(&self, batch: u64) -> Vec<PinnedPages> {
        let mut pins = Vec::with_capacity((PAGES / batch) as usize);
        for n in 0..PAGES / batch {
            let at = self.range.start() + n * batch * PAGE_SIZE;
            pins.push(measured_pin(&self.space, at, batch as usize));
        }
        pins
    }
}

#[inline(never)]
fn measured_pin(space: &AddressSpace, at: VirtAddr, pages: usize) -> PinnedPages {
    pin_user_pages_fast(space, at, pages, true).expect("pins")
}

#[inline(never)]
fn measured_unpin(pins: PinnedPages) {
    drop(black_box(pins));
}

#[inline(never)]
fn measured_zap(space: &AddressSpace, range: VaRange) {
    space.zap(range);
}

fn main() {
    let mut args = args().skip(1).filter(|a| !a.starts_with("--"));
    let what = args.next().unwrap_or_default();
    let batch = args.next().and_then(|n| n.parse().ok()).unwrap_or(64);
    let size = match what.as_str() {
        "large" => PageSize::Size2M,
        _ => PageSize::Size4K,
    };
    let world = World::new(size);
    world.pin(batch).into_iter().for_each(measured_unpin);
    measured_zap(&world.space, world.range);
    println!("{what} {batch}: {} pages, {} large", PAGES, PAGES / 512);
    println!("{:?}", mm::gup::stats());
}
