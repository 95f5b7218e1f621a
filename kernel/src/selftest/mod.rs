//! Tests that the kernel runs on itself, on the machine that it runs on: `selftest`.

pub mod stress;
