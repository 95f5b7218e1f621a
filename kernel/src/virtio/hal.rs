//! What virtio-drivers asks of the kernel: memory that the device may reach, and where it lies.
#![expect(
    unsafe_code,
    reason = "the Hal trait is unsafe: its results are handed to a device"
)]

use crate::mem::frames;
use crate::mem::paging::{Cache, direct, map_phys, phys_of};
use core::ptr::NonNull;
use mm::addr::{Pfn, PhysAddr, VirtAddr};
use mm::mem::OutOfMemory;
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE};

/// Maps device registers for good, uncached; `None` when there is no memory for the page tables.
pub fn map_device(base: PhysAddr, len: u64) -> Option<NonNull<u8>> {
    let at = map_phys(base, len, Cache::Device).ok()?;
    NonNull::new(at.as_mut_ptr())
}

/// This kernel, for virtio-drivers. There is no IOMMU: devices use physical addresses.
pub struct KernelHal;

// SAFETY: dma_alloc gives whole zeroed frames that the frame allocator gave to nobody else, by their place in the map of all
// RAM; mmio_phys_to_virt gives a mapping of just that range; share translates the address of mapped memory.
unsafe impl Hal for KernelHal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (u64, NonNull<u8>) {
        let frame = frames::alloc(order_of(pages));
        let at = frame.and_then(|f| NonNull::new(direct(f.phys()).as_mut_ptr::<u8>()));
        let (Some(frame), Some(at)) = (frame, at) else {
            // Physical 0 is the crate's sign for failure.
            return (0, NonNull::dangling());
        };
        // SAFETY: the frames are RAM, mapped at their place in the direct map, and ours.
        unsafe { at.write_bytes(0, pages * PAGE_SIZE) };
        (frame.phys().as_u64(), at)
    }

    unsafe fn dma_dealloc(paddr: u64, _: NonNull<u8>, pages: usize) -> i32 {
        frames::free(Pfn::from_phys(PhysAddr::new(paddr)), order_of(pages));
        0
    }

    unsafe fn mmio_phys_to_virt(paddr: u64, size: usize) -> NonNull<u8> {
        // The trait leaves no way to fail. A kernel that has no frame for a page table while it looks for its devices cannot
        // go on anyway.
        map_device(PhysAddr::new(paddr), size as u64).expect("device registers can be mapped")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> u64 {
        // Each buffer that this kernel's drivers share lies inside one allocation or one segment of pinned pages, so it is
        // physically contiguous from its first byte.
        let at = VirtAddr::from_ptr(buffer.as_ptr().cast::<u8>());
        phys_of(at).expect("a shared buffer is mapped").as_u64()
    }

    unsafe fn unshare(_: u64, _: NonNull<[u8]>, _: BufferDirection) {}
}

fn order_of(pages: usize) -> u8 {
    const { assert!(PAGE_SIZE == mm::addr::PAGE_SIZE as usize) };
    pages.next_power_of_two().trailing_zeros() as u8
}

/// One zeroed page of RAM that a device may reach, by its place in the direct map.
pub struct DmaPage(NonNull<u8>);

// SAFETY: the page is owned; the pointer says nothing about a thread.
unsafe impl Send for DmaPage {}

impl DmaPage {
    /// Takes a page.
    pub fn new() -> Result<Self, OutOfMemory> {
        match KernelHal::dma_alloc(1, BufferDirection::Both) {
            (0, _) => Err(OutOfMemory),
            (_, at) => Ok(Self(at)),
        }
    }

    /// A pointer to byte `offset`.
    ///
    /// # Panics
    /// When that lies outside the page.
    pub fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < PAGE_SIZE);
        // SAFETY: inside the page.
        unsafe { self.0.add(offset) }
    }
}

impl Drop for DmaPage {
    fn drop(&mut self) {
        if let Some(phys) = phys_of(VirtAddr::from_ptr(self.0.as_ptr())) {
            frames::free(Pfn::from_phys(phys), 0);
        }
    }
}
