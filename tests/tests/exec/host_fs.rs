//! The file system in an image, without a machine.

use std::path::Path;

use libtest_mimic::Failed;
use serde_json::Value;
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
    ("host_fs::what_is_damaged_is_repaired_when_asked", repaired),
    ("host_fs::mkfs_divides_the_image_as_it_is_told", divided),
    ("host_fs::each_structure_of_the_media_is_shown", dumped),
    (
        "host_fs::what_is_damaged_is_shown_as_far_as_it_goes",
        dumped_damaged,
    ),
    ("host_fs::a_listing_tells_what_a_file_is", listed),
    ("host_fs::an_export_writes_over_nothing", no_export_over),
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
    check(
        &format!("{ran:?}"),
        ran.code == Some(1) && ran.stdout.contains("superblock"),
    )?;
    let ran = holdfast(&["fs", "fsck", &image, "--json"])?;
    let object: Value =
        serde_json::from_str(&ran.stdout).map_err(|why| format!("{why}: {ran:?}"))?;
    let problem = &object["problems"][0];
    let told = object["clean"] == false && problem["pass"] == 0 && problem["offset"] == 0;
    check(&format!("what is wrong, and where: {object}"), told)?;
    well(&["ls", &image]).map(drop)
}

/// The JSON objects that a command prints.
/// The second superblock is written again, and the file is still there.
fn repaired() -> Result<(), Failed> {
    let (directory, image) = image("8M")?;
    let input = name(directory.path(), "in");
    std::fs::write(&input, bytes(5000))?;
    well(&["put", &image, &input, "/f"])?;
    let mut content = std::fs::read(&image)?;
    content[4096 + 40] ^= 1;
    std::fs::write(&image, &content)?;
    let only_looked = holdfast(&["fs", "fsck", &image])?;
    check("told", only_looked.code == Some(1))?;
    check("nothing was changed", std::fs::read(&image)? == content)?;
    let mended = well(&["fsck", &image, "--repair"])?;
    check("the repair is told", mended.stdout.contains("repaired: "))?;
    let again = well(&["fsck", &image, "--repair", "--json"])?;
    let object: Value = serde_json::from_str(&again.stdout)?;
    check(
        "a second one finds nothing",
        object["repaired"] == 0 && object["clean"] == true,
    )?;
    let output = name(directory.path(), "out");
    well(&["get", &image, "/f", &output])?;
    check(
        "the content is the same",
        std::fs::read(output)? == bytes(5000),
    )
}

fn objects(words: &[&str]) -> Result<Vec<Value>, Failed> {
    let ran = well(&[words, &["--json"]].concat())?;
    let parsed: Result<_, _> = ran.stdout.lines().map(serde_json::from_str).collect();
    parsed.map_err(|why| format!("{words:?}: {why}: {ran:?}").into())
}

fn check(what: &str, fact: bool) -> Result<(), Failed> {
    match fact {
        true => Ok(()),
        false => Err(format!("not so: {what}").into()),
    }
}

fn divided() -> Result<(), Failed> {
    let (directory, image) = image("16M")?;
    let made = objects(&[
        "mkfs",
        &image,
        "--force",
        "--bytes-per-inode",
        "4K",
        "--label",
        "x",
    ])?;
    check("one inode for 4K", made[0]["inodes"] == 4096)?;
    let made = objects(&["mkfs", &image, "--force", "--inodes", "160"])?;
    check("so many", made[0]["inodes"] == 160)?;
    let long = "l".repeat(33);
    let ran = holdfast(&["fs", "mkfs", &image, "--force", "--label", &long])?;
    check("a long label is a wrong word", ran.code == Some(2))?;
    let other = name(directory.path(), "b.pm");
    badly(&["mkfs", &other], "No such file")?;
    badly(&["mkfs", &image, "--size", "32M"], "the file has 16M")
}

fn dumped() -> Result<(), Failed> {
    let (directory, image) = image("16M")?;
    let long = "n".repeat(200);
    std::fs::create_dir_all(directory.path().join("d/e"))?;
    std::fs::write(directory.path().join("d").join(&long), bytes(5000))?;
    well(&["import", &image, &name(directory.path(), "d")])?;
    let both = objects(&["dump", &image, "superblock"])?;
    check(
        "two superblocks",
        both.len() == 2 && both[1]["fault"].is_null(),
    )?;
    let entries = objects(&["dump", &image, "directory", "1"])?;
    let entry = entries.iter().find(|e| e["name"] == long.as_str());
    let ino = entry.ok_or("the long name")?["inode"].to_string();
    check(
        "no checksum is wrong",
        entries.iter().all(|e| e["fault"].is_null()),
    )?;
    let inode = &objects(&["dump", &image, "inode", &ino])?[0];
    check("its size", inode["size"] == 5000 && inode["kind"] == "-")?;
    let extents = objects(&["dump", &image, "extents", &ino])?;
    let blocks: u64 = extents.iter().filter_map(|e| e["blocks"].as_u64()).sum();
    check("two blocks", blocks == 2)?;
    let free = objects(&["dump", &image, "free"])?;
    let free: u64 = free.iter().filter_map(|e| e["blocks"].as_u64()).sum();
    let info = &objects(&["info", &image])?[0];
    let said = info["free"].as_u64().zip(info["reserved"].as_u64());
    check("as info says", said.map(|(f, r)| f + r) == Some(free))?;
    let ring = objects(&["dump", &image, "ring"])?;
    let create = ring.iter().find(|r| r["record"] == "Create");
    let slot = create.ok_or("a record of a create")?["slot"].to_string();
    let record = objects(&["dump", &image, "record", &slot])?;
    check(
        "its stores",
        record.len() > 1 && record[1]["words"].is_array(),
    )?;
    badly(&["dump", &image, "inode", "0"], "numbered from 1")?;
    badly(&["dump", &image, "record", "4096"], "slots")
}

/// The second superblock leads to an inode that is wrong, and to an entry.
fn dumped_damaged() -> Result<(), Failed> {
    let (_directory, image) = image("16M")?;
    well(&["put", &image, "Cargo.toml", "/f"])?;
    let inode = &objects(&["dump", &image, "inode", "1"])?[0];
    let at = inode["offset"].as_u64().ok_or("an offset")? as usize;
    let mut bytes = std::fs::read(&image)?;
    bytes[20] ^= 1;
    bytes[at + 8] ^= 1;
    std::fs::write(&image, bytes)?;
    let both = objects(&["dump", &image, "superblock"])?;
    check(
        "A is wrong",
        both[0]["fault"].is_string() && both[1]["fault"].is_null(),
    )?;
    let inode = &objects(&["dump", &image, "inode", "1"])?[0];
    let told = inode["fault"].is_string() && inode["mode"] == "040755";
    check("what is wrong, and the words", told)?;
    badly(&["dump", &image, "directory", "1"], "inode 1")?;
    check("the rest", objects(&["dump", &image, "ring"])?.len() > 1)
}

fn listed() -> Result<(), Failed> {
    let (directory, image) = image("16M")?;
    std::fs::create_dir(directory.path().join("d"))?;
    std::fs::write(directory.path().join("d/f"), "1234567")?;
    std::os::unix::fs::symlink("f", directory.path().join("d/l"))?;
    well(&["import", &image, &name(directory.path(), "d")])?;
    let long = well(&["ls", "-l", &image])?.stdout;
    check(
        &format!("a link and its target: {long}"),
        long.contains(" l -> f\n"),
    )?;
    let all = objects(&["ls", &image])?;
    check(
        "both",
        all.len() == 2 && all[0]["size"] == 7 && all[1]["target"] == "f",
    )?;
    badly(&["ls", &image, "/none"], "/none: not found")
}

fn no_export_over() -> Result<(), Failed> {
    let (directory, image) = image("16M")?;
    well(&["put", &image, "Cargo.toml", "/f"])?;
    let out = name(directory.path(), "out");
    well(&["export", &image, &out])?;
    badly(&["export", &image, &out], "File exists")?;
    badly(&["export", &image, &out, "/none"], "/none: not found")
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
