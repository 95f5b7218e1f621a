//! Counts what a thread allocates: for tests of the rule that paths which reclaim do not allocate.

#![expect(
    unsafe_code,
    reason = "a global allocator that counts and passes everything on to the system's"
)]

use core::alloc::{GlobalAlloc, Layout};
use std::alloc::System;
use std::cell::Cell;

std::thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static HEAP: Counting = Counting;

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

/// How many allocations (and reallocations) `f` makes on this thread.
pub(crate) fn allocations(f: impl FnOnce()) -> u64 {
    let before = COUNT.get();
    f();
    COUNT.get() - before
}

#[test]
fn the_watch_sees_allocations() {
    let seen = allocations(|| {
        let mut v = std::vec::Vec::with_capacity(1);
        v.extend([1, 2, 3]);
        drop(std::hint::black_box(v));
    });
    assert_eq!(seen, 2);
}
