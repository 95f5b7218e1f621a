//! The thin hardware layer, the shell and the tour.
//!
//! A kernel binary is this library and a `main`: see `entry!`. Modules that touch hardware exist on the bare target
//! only; the rest is compiled and tested on the host too.

#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

#[cfg(any(test, target_os = "none"))]
pub mod memmap;
pub mod selftest;
pub mod shell;

#[cfg(target_os = "none")]
pub mod acpi;
#[cfg(target_os = "none")]
pub mod bench;
#[cfg(target_os = "none")]
pub mod boot;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
pub mod cpu;
#[cfg(target_os = "none")]
pub mod dsm;
#[cfg(target_os = "none")]
pub mod exit;
#[cfg(target_os = "none")]
pub mod fault;
#[cfg(target_os = "none")]
pub mod fw_cfg;
#[cfg(target_os = "none")]
pub mod irq;
#[cfg(target_os = "none")]
pub mod lock;
#[cfg(target_os = "none")]
mod logger;
#[cfg(target_os = "none")]
pub mod machine;
#[cfg(target_os = "none")]
pub mod mem;
#[cfg(target_os = "none")]
pub mod nfit;
#[cfg(target_os = "none")]
pub mod panic;
#[cfg(target_os = "none")]
pub mod pci;
#[cfg(target_os = "none")]
pub mod pmem;
#[cfg(target_os = "none")]
pub mod session;
#[cfg(target_os = "none")]
mod start;
#[cfg(target_os = "none")]
pub mod thread;
#[cfg(target_os = "none")]
pub mod time;
#[cfg(target_os = "none")]
pub mod tour;
#[cfg(target_os = "none")]
pub mod trace;
#[cfg(target_os = "none")]
pub mod uaccess;
#[cfg(target_os = "none")]
pub mod virtio;

#[cfg(target_os = "none")]
pub use start::{boot_info, cmdline, start};

/// Makes a kernel binary of a function: `kernel::entry!(main);` with `fn main() -> kernel::exit::ExitCode`.
///
/// Both ways in (PVH and bootloader_api) end in [`start`], which brings the machine up and runs the function as the
/// first thread. What it returns becomes the exit code of the machine.
#[cfg(target_os = "none")]
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        const _: () = {
            #[allow(
                unsafe_code,
                reason = "the one symbol by which the library finds its binary"
            )]
            #[unsafe(no_mangle)]
            extern "Rust" fn holdfast_main() -> $crate::exit::ExitCode {
                let main: fn() -> $crate::exit::ExitCode = $main;
                main()
            }
        };
    };
}
