//! Tests that the kernel runs on itself, on the machine that it runs on: `selftest`.

pub mod powercut;
pub mod stress;

/// The tests: name, and what each does.
pub const TESTS: &[(&str, &str)] = &[
    (
        "stress",
        "all that may happen to a page at once, on a file system that is always full",
    ),
    (
        "powercut",
        "a load on the mounted file system that says what is done, for who cuts the power",
    ),
];
