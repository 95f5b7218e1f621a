//! Links the test kernel as the kernel itself is linked, by kernel/kernel.ld, on the bare target only.

use std::env;

fn main() {
    let script = env::var("DEP_HOLDFAST_KERNEL_LINKER_SCRIPT")
        .expect("kernel/build.rs exports the linker script");
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo:rustc-link-arg-bins=-T{script}");
    }
}
