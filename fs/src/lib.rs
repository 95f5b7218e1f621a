//! A tiny extent file system on persistent memory.
//!
//! - [`layout`]: what stands on the media.
//! - [`commit`]: how metadata changes: one redo record, one fence, then in place. Rules R1 to R8.
//! - [`space`]: free space, derived at mount; the quarantine between a file and the allocator.
//! - [`Fs`], [`Inode`]: a mounted file system and its files, which are mapped through the DAX layer.
//! - [`mkfs()`], [`fsck()`]: made and checked without mounting.
//!
//! Generic over [`Pmem`](dax::pmem::Pmem), it is the same code in the kernel, in host tools and under the crash explorer.

#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

mod api;
mod attr;
mod bits;
mod change;
mod claims;
pub mod commit;
mod cut;
pub mod dir;
pub mod error;
pub mod extents;
mod failure;
mod file;
#[cfg(test)]
mod fixture;
mod fs;
mod fsck;
mod gate;
mod inode;
mod inodes;
pub mod layout;
mod make;
pub mod media_inode;
mod mkfs;
mod names;
mod path;
mod record;
mod removal;
mod rename;
mod shared;
mod slots;
pub mod space;
mod superblock;
mod survey;
mod symlink;
mod sync;
mod table;
mod worker;
mod zero;

pub use api::CreateSizedError;
pub use attr::{NewInode, Owner, SetAttr};
pub use cut::TruncateReport;
pub use failure::Lost;
pub use file::{Fill, MAX_SIZE};
pub use fs::{Fs, MountReport, StatFs};
pub use fsck::{
    Finding, Fix, FsckReport, Pass, Problem, Progress, RepairError, RepairReport, Statistics,
    Structure, fsck, fsck_with, repair,
};
pub use gate::Gone;
pub use inode::{Content, Inode, Stat, Vnode};
pub use layout::{BLOCK_SIZE, Ino, Kind, ROOT};
pub use mkfs::{MkfsError, MkfsOptions, MkfsReport, mkfs};
pub use path::LINKS_MAX;
pub use removal::{HeldPage, RemovalError, remove_pgmap};
pub use rename::RenameMode;
pub use shared::Backing;
pub use superblock::{Chosen, choose as choose_superblock};
pub use symlink::TargetError;
pub use worker::{Finished, Worker};
