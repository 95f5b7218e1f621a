//! Physical memory, the kernel's page tables, and the heap.
//!
//! ```text
//! 0000_1000_0000_0000  the kernel's address space: mapped files (16 TiB)
//! ffff_8000_0000_0000  physical memory; RAM from the start, devices and pmem on demand (64 TiB)
//! ffff_c000_0000_0000  kernel stacks with guard pages
//! ffff_d000_0000_0000  the heap, grown in place
//! ffff_ffff_8020_0000  the kernel's image
//! ```

pub mod frames;
pub(crate) mod heap;
pub mod paging;
pub mod tlb;

pub use frames::inject_failures;

/// Totals for `mem`, in bytes unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// RAM in the machine, as the firmware reports it.
    pub ram: u64,
    /// RAM that the frame allocator manages.
    pub managed: u64,
    /// Free frames.
    pub free: u64,
    /// The heap's present size.
    pub heap: u64,
    /// Bytes of the heap in use.
    pub heap_used: u64,
}

/// The totals now.
pub fn totals() -> Totals {
    let (heap, heap_used) = heap::usage();
    Totals {
        ram: crate::boot_info().memory.ram_bytes(),
        managed: frames::total() * mm::addr::PAGE_SIZE,
        free: frames::free_frames() * mm::addr::PAGE_SIZE,
        heap,
        heap_used,
    }
}
