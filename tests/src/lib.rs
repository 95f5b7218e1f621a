//! The harness that boots the guest cases and reports one line for each.
//!
//! - [`list`]: the cases, read from the test kernel's ELF file.
//! - [`guest`]: one running test kernel, and the orders to it.
//! - [`fleet`]: the running test kernels, kept between cases; one that a case has broken is replaced.
//! - [`powercut`]: machines that vanish under load, and whether what they had said is done is there.
//! - [`driver`]: the real `holdfast` program, run as a user runs it.

pub mod driver;
pub mod fleet;
pub mod guest;
pub mod list;
pub mod powercut;
