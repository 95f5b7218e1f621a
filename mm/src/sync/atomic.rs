//! The atomics of the whole project: core's; under `cfg(loom)` loom's and under `cfg(shuttle)` shuttle's, in disguise.
//!
//! The disguises (`super::model`) keep what core's atomics promise and the models' own do not: `const fn new`, and all
//! bytes zero is a valid atomic of value 0. So the same statics, page tables and sparse page maps run in the models.

pub use core::sync::atomic::Ordering;

#[cfg(not(any(loom, shuttle)))]
pub use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, fence,
};

#[cfg(any(loom, shuttle))]
pub use super::model::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, fence,
};

/// To be called in every loop that waits for another processor.
pub fn spin_loop() {
    #[cfg(any(loom, shuttle))]
    super::model::yield_now();
    #[cfg(not(any(loom, shuttle)))]
    core::hint::spin_loop();
}
