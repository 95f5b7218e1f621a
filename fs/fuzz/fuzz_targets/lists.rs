//! A list of operations on five handles, on a small image, against a tree in memory: see the module.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/common/lists.rs"]
mod lists;

fuzz_target!(|bytes: &[u8]| {
    let (room, steps) = lists::parse(bytes, 20);
    lists::run(room, &steps);
});
