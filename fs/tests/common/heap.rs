//! Counts what a thread allocates, and can refuse it all: for the rule that the end of an orphan takes no memory.

#![expect(
    unsafe_code,
    reason = "a global allocator that counts and passes everything on to the system's"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

std::thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

pub struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches a thread-local number only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has no counter any more, and is not watched.
        let _ = COUNT.try_with(|c| c.set(c.get() + 1));
        // SAFETY: passed on to the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: passed on to the caller; all memory comes from the system's allocator.
        unsafe { System.dealloc(at, layout) }
    }
}

/// What `f` gives, and how many allocations (and reallocations) it made on this thread.
pub fn counted<R>(f: impl FnOnce() -> R) -> (R, u64) {
    let before = COUNT.get();
    let result = f();
    (result, COUNT.get() - before)
}
