//! `fsck --repair` in the kernel, on an image that was damaged while the machine was off.

use std::path::Path;

use libtest_mimic::Failed;
use tests::driver::holdfast;

use crate::Check;
use crate::script::expect;
use crate::story::check;

/// The cases.
pub const CASES: &[(&str, Check)] = &[
    (
        "repair::a_lost_name_and_a_damaged_superblock_are_mended_once",
        mended,
    ),
    (
        "repair::a_device_that_is_not_written_is_not_repaired",
        unarmed,
    ),
];

const NAME: &str = "the-file-whose-name-goes";
const TEXT: &str = "kept, whatever its name is";

/// An image with a file, the head of whose entry was zeroed, and with a second superblock that is not whole.
fn damaged(directory: &Path) -> Result<String, Failed> {
    let name = |file: &str| directory.join(file).display().to_string();
    let (image, input) = (name("a.pm"), name("in"));
    std::fs::write(&input, TEXT)?;
    for words in [
        vec!["fs", "mkfs", &image, "--size", "64M"],
        vec!["fs", "put", &image, &input, &format!("/{NAME}")],
        vec!["fs", "fsck", &image],
    ] {
        let ran = holdfast(&words)?;
        check(ran.code == Some(0), &ran)?;
    }
    let mut bytes = std::fs::read(&image)?;
    let entry = slot_of(&bytes, NAME).ok_or("no entry has the name")?;
    bytes[entry..entry + 8].fill(0);
    bytes[4096 + 40] ^= 1;
    std::fs::write(&image, bytes)?;
    Ok(image)
}

/// The last line of 64 bytes that holds a name where entries have it: earlier ones are copies in the ring.
fn slot_of(bytes: &[u8], name: &str) -> Option<usize> {
    let lines = bytes.chunks_exact(64).enumerate();
    let mut found = lines.filter(|(_, line)| line[20..].starts_with(name.as_bytes()));
    found.next_back().map(|(number, _)| number * 64)
}

fn mended() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let image = damaged(directory.path())?;
    let told = expect(
        &["--pmem", &image],
        1,
        &[
            ("fsck", "error: fsck pmem0: 2 problems (`fsck --repair`"),
            ("fsck --repair pmem0", "pmem0: repaired: "),
            ("fsck --repair --json", "\"repaired\":0,\"problems\":0,"),
            ("fsck", ""),
            ("mount", ""),
            (
                "fsck --repair",
                "error: fsck pmem0: its file system is mounted",
            ),
            ("ls /lost+found", "#2"),
            ("cat /lost+found/#2", TEXT),
            ("rm /lost+found/#2", ""),
            ("umount", ""),
            ("fsck", ""),
        ],
    )?;
    let repairs = &told.answers[1];
    check(
        repairs.contains("superblock") && repairs.contains("inode 2"),
        repairs,
    )?;
    let host = holdfast(&["fs", "fsck", &image])?;
    check(host.code == Some(0), &host)
}

/// Nothing is stored to it, and the error says why.
fn unarmed() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let image = damaged(directory.path())?;
    let before = std::fs::read(&image)?;
    expect(
        &["--pmem", &format!("{image},unarmed")],
        1,
        &[(
            "fsck --repair",
            "error: fsck pmem0: the region is read-only",
        )],
    )?;
    check(std::fs::read(&image)? == before, "the image was written")
}
