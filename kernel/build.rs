//! Links the kernel by `kernel.ld`, on the bare target only.
//!
//! Another kernel binary over this library (tests/guest) does the same with the path that this script exports:
//! `println!("cargo:rustc-link-arg-bins=-T{}", std::env::var("DEP_HOLDFAST_KERNEL_LINKER_SCRIPT")?)`.

use std::env;

fn main() {
    let dir = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let script = format!("{dir}/kernel.ld");
    println!("cargo:rerun-if-changed=kernel.ld");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:linker_script={script}");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo:rustc-link-arg-bins=-T{script}");
    }
}
