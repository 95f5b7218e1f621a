//! NFIT, persistent memory, the XArray, the DAX mapping and break_layouts.

#![cfg_attr(target_os = "none", no_std)]

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
