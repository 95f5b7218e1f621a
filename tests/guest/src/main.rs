//! The test kernel.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is a kernel: boot it with `cargo run`");
    std::process::exit(2);
}

#[cfg(target_os = "none")]
kernel::entry!(main);

#[cfg(target_os = "none")]
fn main() -> kernel::exit::ExitCode {
    kernel::println!("Holdfast test kernel");
    kernel::exit::ExitCode::Success
}
