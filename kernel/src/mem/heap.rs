//! The kernel heap: linked_list_allocator, grown by frames at its end.
//!
//! The heap owns a range of addresses and maps frames behind it when an allocation finds no room, up to [`MAX_BYTES`] and as long as
//! [`RESERVE_FRAMES`] frames stay free for page tables and stacks. An allocation that still finds none returns null, and the
//! fallible ones (`try_reserve`, `mm::mem::try_box`) make an error of it.
#![expect(unsafe_code, reason = "the global allocator")]

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use linked_list_allocator::Heap;
use mm::addr::{PAGE_SIZE, VirtAddr};
use mm::mem::OutOfMemory;

use super::{frames, paging};
use crate::lock::IrqLock;

const BASE: u64 = 0xffff_d000_0000_0000;
const FIRST_BYTES: u64 = 2 << 20;
const STEP_BYTES: u64 = 1 << 20;
const MAX_BYTES: u64 = 1 << 34;
const RESERVE_FRAMES: u64 = 256;

struct KernelHeap(IrqLock<Heap>);

#[global_allocator]
static HEAP: KernelHeap = KernelHeap(IrqLock::new(Heap::empty()));

// SAFETY: the inner heap hands out disjoint blocks of the layout asked for, and the lock makes each call exclusive.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut heap = self.0.lock();
        let mut block = heap.allocate_first_fit(layout);
        if block.is_err() && grow(&mut heap, layout).is_ok() {
            block = heap.allocate_first_fit(layout);
        }
        block.map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller hands back a block of this heap with its layout.
            unsafe { self.0.lock().deallocate(block, layout) };
        }
    }
}

/// Gives the heap its first pages.
///
/// # Panics
/// Without memory for them; the machine cannot start then.
pub fn init() {
    assert_eq!(
        map(BASE, FIRST_BYTES),
        FIRST_BYTES,
        "memory for the first heap pages"
    );
    // SAFETY: the range has just been mapped for the heap alone.
    unsafe { HEAP.0.lock().init(BASE as *mut u8, FIRST_BYTES as usize) };
    mm::mem::set_headroom_probe(headroom);
}

/// The heap's size and how much of it is in use, in bytes.
pub fn usage() -> (u64, u64) {
    let heap = HEAP.0.lock();
    (heap.size() as u64, heap.used() as u64)
}

/// Bytes that could still be allocated in small pieces.
fn headroom() -> usize {
    let (size, used) = usage();
    let growth = (growable_frames() * PAGE_SIZE).min(MAX_BYTES - size);
    (size - used + growth) as usize
}

fn growable_frames() -> u64 {
    frames::free_frames().saturating_sub(RESERVE_FRAMES)
}

/// Maps enough behind the heap's end for `layout`.
fn grow(heap: &mut Heap, layout: Layout) -> Result<(), OutOfMemory> {
    let want = (layout.size() as u64)
        .checked_add(layout.align() as u64)
        .ok_or(OutOfMemory)?;
    let by = want
        .max(STEP_BYTES)
        .checked_next_multiple_of(PAGE_SIZE)
        .ok_or(OutOfMemory)?;
    let size = heap.size() as u64;
    if size == 0 || by > MAX_BYTES - size || by / PAGE_SIZE > growable_frames() {
        return Err(OutOfMemory);
    }
    let got = map(BASE + size, by);
    // SAFETY: the bytes behind the end have just been mapped for the heap.
    unsafe { heap.extend(got as usize) };
    if got == by { Ok(()) } else { Err(OutOfMemory) }
}

/// Maps up to `len` bytes of new frames at `start`; says how many. What was mapped stays, for taking it back would need a shootdown,
/// which cannot be done under the heap's lock.
fn map(start: u64, len: u64) -> u64 {
    let pages = (start..start + len).step_by(PAGE_SIZE as usize);
    pages.take_while(|&at| map_one(at).is_ok()).count() as u64 * PAGE_SIZE
}

fn map_one(va: u64) -> Result<(), OutOfMemory> {
    let frame = frames::alloc(0).ok_or(OutOfMemory)?;
    paging::map_page(VirtAddr::new(va), frame.phys()).inspect_err(|_| frames::free(frame, 0))
}
