//! The Holdfast kernel.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is a kernel: boot it with `cargo run`");
    std::process::exit(2);
}

#[cfg(target_os = "none")]
kernel::entry!(kernel::session::main);
