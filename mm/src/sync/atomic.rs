//! The atomics of the whole project: core's, or loom's under `cfg(loom)`.

#[cfg(not(loom))]
pub use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

#[cfg(loom)]
pub use loom::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

/// Stands in front of the SeqCst loads of a store-load pair. loom takes SeqCst accesses for AcqRel ones and models only SeqCst
/// fences, so under loom this is one. Elsewhere it is nothing: the SeqCst accesses themselves order the pair.
#[cfg(loom)]
pub(crate) fn store_load() {
    fence(Ordering::SeqCst);
}

/// Nothing: the SeqCst accesses themselves order the pair.
#[cfg(not(loom))]
pub(crate) const fn store_load() {}
