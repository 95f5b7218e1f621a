//! Page metadata, pgmap, frames, page tables, address spaces and gup.
//!
//! Under `cfg(loom)` only the counting protocol is built (`addr`, `sync::atomic`, `page`, `life`): loom's atomics have no
//! all-zero representation, which the sparse page map lives on.

#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(
    loom,
    allow(dead_code, reason = "what only the modules left out under loom use")
)]

extern crate alloc;

pub mod addr;
#[cfg(not(loom))]
pub mod aspace;
#[cfg(all(not(loom), not(target_os = "none")))]
pub mod fake;
#[cfg(not(loom))]
mod few;
#[cfg(not(loom))]
pub mod frame;
#[cfg(not(loom))]
pub mod gup;
#[cfg(not(loom))]
pub mod lease;
pub mod life;
pub mod mem;
pub mod page;
#[cfg(not(loom))]
pub mod pgmap;
#[cfg(not(loom))]
pub mod sparse;
pub mod sync;
#[cfg(not(loom))]
pub mod table;
#[cfg(not(loom))]
pub mod tlb;
pub mod trace;
