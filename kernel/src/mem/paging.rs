//! The kernel's own page tables.
//!
//! [`build`] makes them while still on the boot path's tables: the image with the permissions of its segments (found by walking
//! the old tables, for a boot loader may put each page anywhere), all usable RAM at [`PHYS_OFFSET`], and nothing else. The image
//! itself is *not* in the direct map, so its text has no writable alias. [`enter`] moves the CPU over, and
//! [`map_phys`] adds devices, firmware tables and pmem when somebody asks for them; what it maps stays for ever.
//!
//! Everything is supervisor-only. All CPUs start on this root; every other root has the same upper half ([`TableMem`]'s `new_root`), whose mappings are
//! only ever added to.
#![expect(unsafe_code, reason = "page tables of the running kernel")]

use core::arch::asm;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use mm::addr::{PAGE_SIZE, PageSize, Pfn, PhysAddr, VirtAddr};
use mm::mem::OutOfMemory;
use mm::table::{ENTRIES, MapFlags, MapPageError, PageTable, PageTableMem};
use spin::Once;
use x86_64::registers::control::Cr3;

use super::{frames, tlb};
use crate::boot::{BootInfo, PHYS_OFFSET};
use crate::cpu;
use crate::memmap::{Kind, free_parts};

/// Where the direct map ends: physical addresses above its size cannot be mapped.
const DIRECT_BYTES: u64 = 1 << 46;

/// What one entry of the root table covers.
const TOP_ENTRY_BYTES: u64 = 1 << 39;

const KERNEL_DATA: MapFlags = MapFlags::WRITABLE
    .union(MapFlags::NO_EXECUTE)
    .union(MapFlags::UNCOUNTED);

/// The memory of the kernel's page tables: frames, through the direct map.
#[derive(Clone, Copy, Debug)]
pub struct TableMem;

// SAFETY: frames come zeroed from the frame allocator and are nobody else's; the direct map reaches them for ever.
unsafe impl PageTableMem for TableMem {
    fn alloc_table(&self) -> Option<Pfn> {
        frames::alloc_zeroed()
    }

    fn new_root(&self) -> Option<Pfn> {
        let root = frames::alloc_zeroed()?;
        if let Some(kernel) = KERNEL.get() {
            share_upper_half(kernel.root(), root);
        }
        Some(root)
    }

    /// Panics if a CPU runs on the table: better than to let it read what comes next in that frame.
    unsafe fn free_table(&self, table: Pfn) {
        assert!(
            !tlb::is_loaded(table),
            "a root table is freed while a CPU runs on it"
        );
        frames::free(table, 0);
    }

    fn table(&self, table: Pfn) -> NonNull<[AtomicU64; ENTRIES]> {
        NonNull::new(direct(table.phys()).as_mut_ptr()).expect("the direct map is not at address 0")
    }

    fn largest_page(&self) -> PageSize {
        if cpu::features().gib_pages {
            PageSize::Size1G
        } else {
            PageSize::Size2M
        }
    }
}

/// Lets the new table `root` show what the kernel's shows above the lower half, now and later: all tables below those entries exist
/// from the start and stay ([`build`]).
fn share_upper_half(kernel: Pfn, root: Pfn) {
    let (from, to) = (TableMem.table(kernel), TableMem.table(root));
    // SAFETY: both are tables, one for ever and one new.
    let (from, to) = unsafe { (from.as_ref(), to.as_ref()) };
    for (from, to) in from.iter().zip(to).skip(ENTRIES / 2) {
        // Relaxed, both: the entries never change after `build`, and the new root is published by whoever hands it over.
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

static KERNEL: Once<PageTable<TableMem>> = Once::new();

/// The kernel's tables.
///
/// # Panics
/// Before [`build`].
pub fn kernel() -> &'static PageTable<TableMem> {
    KERNEL
        .get()
        .expect("the page tables are built before anything maps memory")
}

/// Where the direct map shows `phys`, mapped or not.
pub fn direct(phys: PhysAddr) -> VirtAddr {
    VirtAddr::new(PHYS_OFFSET + phys.as_u64())
}

/// The physical address behind a mapped kernel address; `None` if nothing is mapped there.
pub fn phys_of(va: VirtAddr) -> Option<PhysAddr> {
    let leaf = kernel().walk(va)?;
    Some(leaf.pfn_at(va).phys() + va.as_u64() % PAGE_SIZE)
}

/// Whether the kernel's tables map `va`; false before there are any.
pub(crate) fn is_mapped(va: VirtAddr) -> bool {
    KERNEL.get().is_some_and(|k| k.walk(va).is_some())
}

unsafe extern "C" {
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __text_start: u8;
    static __text_end: u8;
    static __data_start: u8;
    static __data_end: u8;
}

/// Builds the tables: the image and RAM. On the boot path's tables, with the early frame allocator.
///
/// # Panics
/// Without memory for the tables; the machine cannot start then.
pub fn build(boot: &BootInfo) {
    let table = PageTable::new(TableMem).expect("memory for the first page table");
    // SAFETY: CR3 names the root of the boot path's tables, which lie in mapped RAM; they are only walked.
    let old =
        unsafe { PageTable::from_root(TableMem, Pfn::from_phys(Cr3::read().0.start_address())) };
    let read_only = MapFlags::UNCOUNTED.union(MapFlags::NO_EXECUTE);
    map_section(
        &table,
        &old,
        (&raw const __rodata_start, &raw const __rodata_end),
        read_only,
    );
    map_section(
        &table,
        &old,
        (&raw const __text_start, &raw const __text_end),
        MapFlags::UNCOUNTED,
    );
    map_section(
        &table,
        &old,
        (&raw const __data_start, &raw const __data_end),
        KERNEL_DATA,
    );
    for range in boot
        .memory
        .ranges()
        .iter()
        .filter(|r| r.kind == Kind::Usable)
    {
        free_parts(*range, &[boot.image], |start, end| {
            let phys = PhysAddr::new(start);
            table
                .map_range(direct(phys), phys, end - start, KERNEL_DATA)
                .expect("memory to map RAM");
        });
    }
    // Every top-level entry of the upper half that anything will ever be mapped below; see `share_upper_half`.
    for at in [0xffff_c000_0000_0000, 0xffff_d000_0000_0000]
        .into_iter()
        .chain((PHYS_OFFSET..PHYS_OFFSET + DIRECT_BYTES).step_by(TOP_ENTRY_BYTES as usize))
    {
        table
            .add_top_level(VirtAddr::new(at))
            .expect("memory for the kernel's top-level tables");
    }
    KERNEL.call_once(|| table);
}

fn map_section(
    new: &PageTable<TableMem>,
    old: &PageTable<TableMem>,
    part: (*const u8, *const u8),
    flags: MapFlags,
) {
    for at in (part.0 as u64..part.1 as u64).step_by(PAGE_SIZE as usize) {
        let va = VirtAddr::new(at);
        let phys = old
            .walk(va)
            .expect("the boot path maps the whole image")
            .pfn_at(va)
            .phys();
        new.map(va, phys, PageSize::Size4K, flags)
            .expect("memory to map the image");
    }
}

/// Moves this CPU to the kernel's tables and to the stack that ends at `stack_top`, and goes on with `next`.
pub fn enter(stack_top: u64, next: extern "sysv64" fn() -> !) -> ! {
    let root = kernel().root().phys().as_u64();
    // SAFETY: the tables map the code that runs and the new stack; nothing on the old stack is used again.
    unsafe {
        asm!(
            "mov cr3, {root}",
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "call {next}",
            "ud2",
            root = in(reg) root,
            stack = in(reg) stack_top,
            next = in(reg) next,
            options(noreturn),
        )
    }
}

/// The entries of the kernel's root table now.
pub(crate) fn top_level() -> [u64; ENTRIES] {
    let root = TableMem.table(kernel().root());
    // SAFETY: the root is a table for ever.
    let entries = unsafe { root.as_ref() };
    // Acquire: pairs with the Release that added the table below.
    core::array::from_fn(|i| entries[i].load(Ordering::Acquire))
}

/// Maps one page of kernel data.
pub(crate) fn map_page(va: VirtAddr, phys: PhysAddr) -> Result<(), OutOfMemory> {
    kernel()
        .map(va, phys, PageSize::Size4K, KERNEL_DATA)
        .map_err(|_| OutOfMemory)
}

/// How the CPU caches a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// RAM and pmem.
    WriteBack,
    /// Device registers: strongly uncached.
    Device,
}

impl Cache {
    fn flags(self) -> MapFlags {
        match self {
            Self::WriteBack => KERNEL_DATA,
            Self::Device => KERNEL_DATA.union(MapFlags::DEVICE),
        }
    }
}

/// Why a physical range could not be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapPhysError {
    /// No memory for page tables.
    #[error("no memory for page tables")]
    OutOfMemory,
    /// The range is empty, wraps, or lies above the direct map (64 TiB).
    #[error("no such physical range")]
    Range,
}

/// Maps `len` bytes of physical memory at `base`, both of any alignment; says where `base` is.
///
/// The pages get their place in the direct map. Those that are mapped already stay as they are, with their cache type:
/// nobody asks for one page in two ways. Mapped pages stay for ever.
pub fn map_phys(base: PhysAddr, len: u64, cache: Cache) -> Result<VirtAddr, MapPhysError> {
    let start = base.as_u64() & !(PAGE_SIZE - 1);
    let end = base
        .as_u64()
        .checked_add(len)
        .and_then(|e| e.checked_next_multiple_of(PAGE_SIZE));
    let end = end
        .filter(|&e| len != 0 && e <= DIRECT_BYTES)
        .ok_or(MapPhysError::Range)?;
    let mut at = start;
    while at < end {
        at = map_some(at, end, cache.flags())?;
    }
    Ok(direct(base))
}

/// Maps from `at` on until `end` or until something is in the way; says where to go on.
fn map_some(at: u64, end: u64, flags: MapFlags) -> Result<u64, MapPhysError> {
    let phys = PhysAddr::new(at);
    match kernel().map_range(direct(phys), phys, end - at, flags) {
        Ok(()) => Ok(end),
        Err(MapPageError::AlreadyMapped { at: va }) => pass(va, flags),
        Err(MapPageError::OutOfMemory { .. }) => Err(MapPhysError::OutOfMemory),
        Err(MapPageError::NotAligned { .. }) => Err(MapPhysError::Range),
    }
}

/// Passes what is in the way at `va`: a leaf is left alone; a table where a large page would go gets a small page.
fn pass(va: VirtAddr, flags: MapFlags) -> Result<u64, MapPhysError> {
    let phys = va.as_u64() - PHYS_OFFSET;
    if let Some(leaf) = kernel().walk(va) {
        return Ok((phys & !(leaf.size.bytes() - 1)) + leaf.size.bytes());
    }
    match kernel().map(va, PhysAddr::new(phys), PageSize::Size4K, flags) {
        Err(MapPageError::OutOfMemory { .. }) => Err(MapPhysError::OutOfMemory),
        // Mapped by us, or by another CPU at the same moment.
        _ => Ok(phys + PAGE_SIZE),
    }
}
