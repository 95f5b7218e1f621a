//! A file system on memory that is written as pmem is: with write-backs, fences and stores past the caches.
//!
//! [`World`] does one operation at a time, the same for every bench; [`Counted`] counts what reaches the region.

pub mod counted;
pub mod memory;
pub mod world;

pub use counted::{Counted, Counts};
pub use memory::{Bytes, large_pages, memory, untouched};
pub use world::{Op, World};
