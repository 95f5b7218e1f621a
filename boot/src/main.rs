//! `cargo run`: boots Holdfast in QEMU.

fn main() {}
