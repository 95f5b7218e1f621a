//! A tiny extent file system on persistent memory.

#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

pub mod commit;
pub mod dir;
pub mod extents;
pub mod layout;
pub mod media_inode;
mod mkfs;
mod record;
pub mod space;
mod superblock;

pub use mkfs::{MkfsError, MkfsOptions, MkfsReport, mkfs};
