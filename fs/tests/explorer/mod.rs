//! Crashes: what a file system does to its region is recorded, and every state that a power failure could leave behind is recovered,
//! mounted, walked and compared with what may be there.
//!
//! - [`region`]: the region under test: it notes stores, flushes and fences with the CPU that did them, and can take stores back.
//! - [`flight`]: stores that may not have arrived yet, line by line; what a fence of one CPU retires.
//! - [`states`]: which subsets of them a crash leaves, under two models of tearing.
//! - [`tree`]: what a walk finds, and what of a mixture an operation on content may leave.
//! - [`act`]: operations; [`worlds`]: lists of them, and the tree that each list begins with.
//! - [`lab`]: one worker: runs a workload, crashes it everywhere, judges each state.
//! - [`crew`]: many workloads on all CPUs, with progress and figures.
//!
//! # Why not every state is mounted
//!
//! Every state is recovered by the shipped [`fs::commit::recover`], in which a mount reads the ring for the only time. What comes after
//! depends on the words outside of the ring alone. So a worker remembers, by a 64-bit hash of those words after recovery, what the
//! mount and the walk of such an image found, and mounts the crash state itself only if the image is new to it. One of
//! [`lab::TRUST`] images that are known is mounted and walked again, and must be found the same.

#![allow(
    dead_code,
    reason = "the tests and the command each use their own part"
)]

pub mod act;
pub mod crew;
pub mod figures;
pub mod flight;
pub mod lab;
pub mod region;
pub mod second;
pub mod states;
pub mod tree;
pub mod worlds;
