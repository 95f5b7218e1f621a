//! The command line and the exit codes.

use libtest_mimic::Failed;
use tests::driver::{Ran, holdfast};

use crate::Check;

/// The cases.
pub const CASES: &[(&str, Check)] = &[
    ("usage::a_wrong_word_ends_with_2", a_wrong_word),
    (
        "usage::a_missing_pmem_file_without_a_size_ends_with_5_and_says_what_to_do",
        a_missing_file,
    ),
    (
        "usage::qemu_without_words_from_the_kernel_ends_with_5",
        qemu_refuses,
    ),
    ("usage::a_machine_that_never_ends_ends_with_4", never_ends),
];

fn expect(ran: &Ran, code: i32, part: &str) -> Result<(), Failed> {
    match ran.code == Some(code) && ran.stderr.contains(part) && ran.stdout.is_empty() {
        true => Ok(()),
        false => Err(format!("wanted code {code} and {part:?}: {ran:?}").into()),
    }
}

fn a_wrong_word() -> Result<(), Failed> {
    expect(
        &holdfast(&["exec", "nfit", "--memory", "12X"])?,
        2,
        "a size is a number",
    )?;
    expect(&holdfast(&["frobnicate"])?, 2, "frobnicate")
}

fn a_missing_file() -> Result<(), Failed> {
    expect(
        &holdfast(&["--pmem", "/nonexistent/a.img", "exec", "nfit"])?,
        5,
        "size=1G",
    )
}

fn qemu_refuses() -> Result<(), Failed> {
    expect(
        &holdfast(&["exec", "nfit", "--", "-no-such-option"])?,
        5,
        "QEMU ended",
    )
}

fn never_ends() -> Result<(), Failed> {
    expect(
        &holdfast(&["--timeout", "500ms", "exec", "nfit", "--", "-S"])?,
        4,
        "time ran out",
    )
}
