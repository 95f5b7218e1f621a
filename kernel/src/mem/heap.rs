//! The kernel heap: linked_list_allocator, grown by frames at its end; small blocks that come back are kept by size ([`mm::classes`]).
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
use mm::classes::{Class, Classes};

const BASE: u64 = 0xffff_d000_0000_0000;
const FIRST_BYTES: u64 = 2 << 20;
const STEP_BYTES: u64 = 1 << 20;
const MAX_BYTES: u64 = 1 << 34;
const RESERVE_FRAMES: u64 = 256;

/// The heap, and the small blocks that were taken from it and are kept for the next user.
struct Parts {
    heap: Heap,
    kept: Classes,
}

struct KernelHeap(IrqLock<Parts>);

#[global_allocator]
static HEAP: KernelHeap = KernelHeap(IrqLock::new(Parts {
    heap: Heap::empty(),
    kept: Classes::new(),
}));

// SAFETY: the inner heap hands out disjoint blocks, each of the layout asked for or of its class's, which is as large and as aligned; a
// block is kept only after it was given back; and the lock makes each call exclusive.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let class = Class::of(layout);
        let mut parts = self.0.lock();
        let kept = class.and_then(|class| parts.kept.take(class));
        kept.or_else(|| parts.take(class.map_or(layout, Class::layout)))
            .map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(block) = NonNull::new(block) else {
            return;
        };
        let mut parts = self.0.lock();
        // SAFETY: the caller hands back a block with the layout that it asked for, so `alloc` took it with its class's, if it has one.
        unsafe {
            match Class::of(layout) {
                Some(class) => parts.kept.give(class, block),
                None => parts.heap.deallocate(block, layout),
            }
        }
    }
}

impl Parts {
    /// A block of the heap: as it is, or grown, or with every kept block back in it.
    fn take(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let block = self.heap.allocate_first_fit(layout);
        block.ok().or_else(|| {
            if grow(&mut self.heap, layout).is_err() {
                self.give_back();
            }
            self.heap.allocate_first_fit(layout).ok()
        })
    }

    fn give_back(&mut self) {
        let heap = &mut self.heap;
        // SAFETY: a kept block was taken from the heap with the layout of its class, and nobody uses it.
        self.kept
            .drain(|block, layout| unsafe { heap.deallocate(block, layout) });
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
    unsafe {
        HEAP.0
            .lock()
            .heap
            .init(BASE as *mut u8, FIRST_BYTES as usize)
    };
    mm::mem::set_headroom_probe(headroom);
}

/// The heap's size and how much of it is in use, in bytes.
pub fn usage() -> (u64, u64) {
    let parts = HEAP.0.lock();
    let (size, used) = (parts.heap.size(), parts.heap.used());
    (size as u64, (used - parts.kept.bytes()) as u64)
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
