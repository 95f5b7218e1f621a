//! The host side of Holdfast: builds the kernel, makes machines for it, and drives them.
//!
//! From the outside in:
//! - [`cli`]: the command line of `cargo run`; [`options`] and [`pmem`] are its words for a machine.
//! - [`session`]: one run of the kernel from its start to an exit code.
//! - [`mod@bench`]: the benchmarks: their table, their JSON file, and whether two runs agree.
//! - [`machine`]: a machine as data, and the QEMU command line that it becomes; [`scratch`] files live as long as it does.
//! - [`qemu`]: the running process, which never outlives this one; [`console`] and [`terminal`]: what passes through it.
//! - [`host_fs`]: the file system in a pmem image, without a machine; [`pmem_file`] is its memory.
//! - [`kernel`], [`image`], [`toolchain`], [`packages`]: what must be built or installed first.

pub mod bench;
pub mod cli;
pub mod console;
pub mod host_fs;
pub mod image;
pub mod kernel;
pub mod machine;
pub mod options;
pub mod outcome;
pub mod packages;
pub mod pmem;
pub mod pmem_file;
pub mod qemu;
pub mod scratch;
pub mod session;
pub mod size;
pub mod spawn;
pub mod terminal;
pub mod toolchain;

/// Tells the user what is about to happen; on standard error, because standard output is the guest's.
#[macro_export]
macro_rules! say {
    ($($part:tt)*) => { eprintln!("holdfast: {}", format_args!($($part)*)) };
}
