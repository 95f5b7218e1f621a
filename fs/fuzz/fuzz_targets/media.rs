//! An image with arbitrary words in it: see the module.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/common/patched.rs"]
mod patched;

fuzz_target!(|bytes: &[u8]| patched::look(bytes));
