//! NFIT, persistent memory, the XArray, the DAX mapping and break_layouts.

#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(
    any(loom, shuttle),
    allow(
        dead_code,
        reason = "what only the tests use that are left out of the models"
    )
)]

extern crate alloc;

pub mod entry;
#[cfg(test)]
mod fake;
pub mod fault;
mod guid;
#[cfg(test)]
mod heap_watch;
pub mod label;
pub mod layout;
pub mod mapping;
pub mod nfit;
pub mod pmem;
pub mod region;
pub mod xarray;
