//! The file system in an image, without a machine.

use std::path::Path;

use libtest_mimic::Failed;
use tests::driver::{Ran, holdfast};

use crate::Check;

/// The cases.
pub const CASES: &[(&str, Check)] = &[
    ("host_fs::what_is_put_in_comes_out", round_trip),
    ("host_fs::a_directory_tree_is_imported", tree),
    ("host_fs::looking_changes_no_byte", looking_changes_nothing),
    (
        "host_fs::a_file_system_is_not_overwritten_unasked",
        no_overwriting,
    ),
    (
        "host_fs::what_is_no_file_system_is_refused_with_a_reason",
        refused,
    ),
    ("host_fs::a_check_tells_what_is_damaged", damaged),
];

fn well(words: &[&str]) -> Result<Ran, Failed> {
    let ran = holdfast(&[&["fs"], words].concat())?;
    if ran.code == Some(0) {
        Ok(ran)
    } else {
        Err(format!("{words:?}: {ran:?}").into())
    }
}

fn badly(words: &[&str], part: &str) -> Result<(), Failed> {
    let ran = holdfast(&[&["fs"], words].concat())?;
    match ran.code == Some(5) && ran.stderr.contains(part) {
        true => Ok(()),
        false => Err(format!("{words:?}: wanted {part:?}: {ran:?}").into()),
    }
}

/// An image with an empty file system, in a directory of its own.
fn image(size: &str) -> Result<(tempfile::TempDir, String), Failed> {
    let directory = tempfile::tempdir()?;
    let image = name(directory.path(), "a.pm");
    well(&["mkfs", &image, "--size", size])?;
    Ok((directory, image))
}

fn name(directory: &Path, file: &str) -> String {
    directory.join(file).display().to_string()
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * n / 7) as u8).collect()
}

fn round_trip() -> Result<(), Failed> {
    let (directory, image) = image("64M")?;
    let (there, back) = (
        name(directory.path(), "there"),
        name(directory.path(), "back"),
    );
    for len in [0, 1, 4095, 4096, 4097, 5 << 20] {
        std::fs::write(&there, bytes(len))?;
        well(&["put", &image, &there, "/f"])?;
        well(&["get", &image, "/f", &back])?;
        if std::fs::read(&back)? != bytes(len) {
            return Err(format!("{len} bytes came back as others").into());
        }
    }
    Ok(())
}

fn tree() -> Result<(), Failed> {
    let (directory, image) = image("64M")?;
    std::fs::create_dir_all(directory.path().join("d/e"))?;
    std::fs::write(directory.path().join("d/one"), "1\n")?;
    std::fs::write(directory.path().join("d/e/two"), "22\n")?;
    well(&["import", &image, &name(directory.path(), "d")])?;
    let listed = well(&["ls", &image])?.stdout;
    let two = well(&["get", &image, "/e/two"])?.stdout;
    match listed.contains("one\n") && listed.contains("e/\n") && two == "22\n" {
        true => Ok(()),
        false => Err(format!("{listed:?} {two:?}").into()),
    }
}

fn looking_changes_nothing() -> Result<(), Failed> {
    let (_directory, image) = image("16M")?;
    well(&["put", &image, "Cargo.toml", "/f"])?;
    let before = std::fs::read(&image)?;
    for words in [
        ["info", &image, ""],
        ["fsck", &image, ""],
        ["ls", &image, "/"],
        ["get", &image, "/f"],
    ] {
        well(words.split(|w| w.is_empty()).next().unwrap_or(&[]))?;
    }
    if std::fs::read(&image)? == before {
        Ok(())
    } else {
        Err("the image is another".into())
    }
}

fn no_overwriting() -> Result<(), Failed> {
    let (_directory, image) = image("16M")?;
    well(&["put", &image, "Cargo.toml", "/f"])?;
    badly(&["mkfs", &image], "force")?;
    well(&["get", &image, "/f"])?;
    well(&["mkfs", &image, "--force"])?;
    badly(&["get", &image, "/f"], "/f: not found")
}

/// One byte of the first superblock's identity is another: the file system still mounts, and the check tells.
fn damaged() -> Result<(), Failed> {
    let (_directory, image) = image("16M")?;
    well(&["fsck", &image])?;
    let mut bytes = std::fs::read(&image)?;
    bytes[20] ^= 1;
    std::fs::write(&image, bytes)?;
    let ran = holdfast(&["fs", "fsck", &image])?;
    match ran.code == Some(1) && ran.stdout.contains("superblock") {
        true => well(&["ls", &image]).map(drop),
        false => Err(format!("{ran:?}").into()),
    }
}

fn refused() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let image = name(directory.path(), "a.pm");
    badly(&["info", &image], "No such file")?;
    std::fs::write(&image, "")?;
    badly(&["info", &image], "empty")?;
    std::fs::write(&image, "short")?;
    badly(&["info", &image], "less than a page")?;
    std::fs::write(&image, vec![0x5a; 1 << 20])?;
    badly(&["info", &image], "no file system")
}
