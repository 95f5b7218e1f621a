//! Page metadata, pgmap, frames, page tables, address spaces and gup.
//!
//! Under `cfg(loom)` and `cfg(shuttle)` the same code runs in a model: `sync::model`.

#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(
    any(loom, shuttle),
    allow(
        dead_code,
        reason = "what only the tests use that are left out of the models"
    )
)]

extern crate alloc;

pub mod addr;
pub mod aspace;
pub mod classes;
#[cfg(not(target_os = "none"))]
pub mod fake;
mod few;
pub mod frame;
pub mod gup;
pub mod lease;
pub mod life;
pub mod mem;
pub mod page;
pub mod pgmap;
pub mod sparse;
pub mod sync;
pub mod table;
pub mod tlb;
pub mod trace;
