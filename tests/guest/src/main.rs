//! The test kernel: the kernel's own library, with cases in the shell's place.
//!
//! The host reads the list of cases from this program's ELF file, boots it, and orders case after case over the second serial port
//! (see [`protocol::control`]). A case is a function that panics when something is wrong:
//!
//! ```ignore
//! case! {
//!     /// What must hold.
//!     fn an_idle_page_has_no_owner() { assert!(...); }
//! }
//! case! {
//!     machine = "--pmem-size 512G --memory 256M", seconds = 20,
//!     /// The words are those of the driver's command line.
//!     fn a_large_nvdimm_comes_up() { ... }
//! }
//! ```

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is a kernel: boot it with `cargo test`");
    std::process::exit(2);
}

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod case;
#[cfg(target_os = "none")]
mod cases;
#[cfg(target_os = "none")]
mod control;

#[cfg(target_os = "none")]
kernel::entry!(control::serve);
