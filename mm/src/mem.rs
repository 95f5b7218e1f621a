//! Allocation that may fail, and says so.
//!
//! Two rules. Big or variable allocations are fallible: `try_reserve`, [`try_box`]. Small fixed objects that the language
//! can only allocate infallibly (`Arc`, `BTreeMap` nodes) are allocated behind a gate: an operation that a user can start
//! calls [`check_headroom`] first, and the heap keeps that many bytes free for the few small objects of one operation.

#![expect(
    unsafe_code,
    reason = "Box::try_new is not stable: the box is made from a checked raw allocation; a shared value is made in memory taken before"
)]

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use thiserror::Error;

/// The error of every allocation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("out of memory")]
pub struct OutOfMemory;

/// Free heap bytes below which [`check_headroom`] refuses: 256 KiB.
pub const HEADROOM: usize = 256 << 10;

/// Boxes `value`; the value is dropped when memory is out.
pub fn try_box<T>(value: T) -> Result<Box<T>, OutOfMemory> {
    let layout = Layout::new::<T>();
    let place = if layout.size() == 0 {
        NonNull::<T>::dangling()
    } else {
        try_alloc(layout)?.cast()
    };
    // SAFETY: `place` is aligned for T and either dangling for a zero-sized T or a fresh allocation of T's layout from the
    // global allocator, owned by nobody else: exactly what Box::from_raw asks for after the write.
    unsafe {
        place.write(value);
        Ok(Box::from_raw(place.as_ptr()))
    }
}

/// The memory of a value that will be made and shared soon. Between [`ArcSlot::new`] and [`ArcSlot::fill`] its cache lines come, so that the
/// stores of the value do not wait for them: new memory is in no cache, and the next atomic operation waits for every store before it.
pub struct ArcSlot<T>(Arc<MaybeUninit<T>>);

impl<T> ArcSlot<T> {
    /// Takes the memory, as `Arc::new` does: behind [`check_headroom`].
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "it takes memory, which a default value should not"
    )]
    pub fn new() -> Self {
        let slot = Arc::new_uninit();
        fetch_lines(&raw const *slot);
        Self(slot)
    }

    /// Puts the value there.
    pub fn fill(mut self, value: T) -> Arc<T> {
        let Some(place) = Arc::get_mut(&mut self.0) else {
            // Never: nobody else ever had it.
            return Arc::new(value);
        };
        place.write(value);
        // SAFETY: the value was just written.
        unsafe { self.0.assume_init() }
    }
}

/// Has the cache lines of `place` fetched to be stored to: a hint.
fn fetch_lines<T>(place: *const T) {
    if cfg!(any(miri, not(target_arch = "x86_64"))) {
        return;
    }
    for line in (0..size_of::<T>()).step_by(64) {
        let line = place.wrapping_byte_add(line);
        // SAFETY: a hint that never faults, whatever the address; in 64-bit mode every CPU takes it, at worst as a no-op.
        unsafe {
            core::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags, readonly));
        }
    }
}

/// A fresh allocation of `layout`, which must not have size 0, from the global allocator.
fn try_alloc(layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
    refuse_if_injected()?;
    // SAFETY: both callers pass a layout of non-zero size.
    NonNull::new(unsafe { alloc::alloc::alloc(layout) }).ok_or(OutOfMemory)
}

/// A fresh zeroed allocation of `layout` from the global allocator; size 0 is refused.
pub fn try_alloc_zeroed(layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
    refuse_if_injected()?;
    if layout.size() == 0 {
        return Err(OutOfMemory);
    }
    // SAFETY: the size is not zero.
    NonNull::new(unsafe { alloc::alloc::alloc_zeroed(layout) }).ok_or(OutOfMemory)
}

/// Passes when the heap has at least [`HEADROOM`] bytes free: the gate in front of small infallible allocations.
///
/// Bare metal asks the probe that the kernel installed ([`set_headroom_probe`]) and passes while there is none. On the host
/// it passes unless a test refuses it on this thread ([`inject::headroom`]).
pub fn check_headroom() -> Result<(), OutOfMemory> {
    if free_bytes() < HEADROOM {
        Err(OutOfMemory)
    } else {
        Ok(())
    }
}

static PROBE: spin::Once<fn() -> usize> = spin::Once::new();

/// Installs the function that tells how many heap bytes are free. The first call counts; it must not allocate or sleep.
pub fn set_headroom_probe(probe: fn() -> usize) {
    PROBE.call_once(|| probe);
}

fn free_bytes() -> usize {
    let probed = PROBE.get().map_or(usize::MAX, |probe| probe());
    probed.min(injected_free_bytes())
}

#[cfg(target_os = "none")]
const fn injected_free_bytes() -> usize {
    usize::MAX
}

#[cfg(target_os = "none")]
const fn refuse_if_injected() -> Result<(), OutOfMemory> {
    Ok(())
}

#[cfg(not(target_os = "none"))]
use inject::{injected_free_bytes, refuse_if_injected};

/// Failure injection for host tests; every setting holds for the calling thread only.
#[cfg(not(target_os = "none"))]
pub mod inject {
    use super::OutOfMemory;
    use std::cell::Cell;

    std::thread_local! {
        static FREE: Cell<usize> = const { Cell::new(usize::MAX) };
        static ALLOWED: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// Makes [`super::check_headroom`] on this thread believe that `free` heap bytes remain.
    pub fn headroom(free: usize) {
        FREE.set(free);
    }

    /// Lets `n` more fallible allocations of this crate succeed on this thread, then fails them all; `None` ends it.
    pub fn allocations(n: Option<u64>) {
        ALLOWED.set(n);
    }

    pub(super) fn injected_free_bytes() -> usize {
        FREE.get()
    }

    pub(super) fn refuse_if_injected() -> Result<(), OutOfMemory> {
        match ALLOWED.get() {
            Some(0) => Err(OutOfMemory),
            left => {
                ALLOWED.set(left.map(|n| n - 1));
                Ok(())
            }
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn boxes_hold_their_value() {
        assert_eq!(*try_box(7_u64).unwrap(), 7);
        assert_eq!(*try_box([3_u8; 5000]).unwrap(), [3; 5000]);
        let _unit: Box<()> = try_box(()).unwrap();
        assert_eq!(
            *try_box(alloc::string::String::from("dropped once")).unwrap(),
            "dropped once"
        );
    }

    #[test]
    fn injected_failures_are_reported() {
        inject::allocations(Some(1));
        assert!(try_box(1).is_ok());
        assert_eq!(try_box(2).unwrap_err(), OutOfMemory);
        inject::allocations(None);
        assert!(try_box(3).is_ok());
    }

    #[test]
    fn headroom_gate() {
        assert!(check_headroom().is_ok());
        inject::headroom(HEADROOM - 1);
        assert_eq!(check_headroom(), Err(OutOfMemory));
        inject::headroom(HEADROOM);
        assert!(check_headroom().is_ok());
        inject::headroom(usize::MAX);
    }
}
