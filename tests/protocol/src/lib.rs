//! What the host and the machine say to each other: names, marks, codes and messages that both sides must spell alike.
//!
//! - [`fw_cfg`], [`cmdline`]: what the driver hands to the kernel before it starts.
//! - [`console`]: marks in the first serial port's stream that keep command output apart from everything else.
//! - [`exit`]: what the kernel writes to the debug-exit device, and what the driver makes of it.
//! - [`pattern`]: the contents of the scratch disk, which the tour checks after a DMA transfer.
//! - [`mod@bench`]: the table of the benchmarks.
//! - [`control`], [`case`]: the test kernel's control port (the second serial port) and its list of cases.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod bench;
pub mod case;
pub mod cmdline;
pub mod console;
pub mod control;
pub mod exit;
pub mod fw_cfg;
pub mod pattern;
