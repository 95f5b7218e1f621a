//! What is in the pmem file when the machine is off.

use std::process::Stdio;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use tests::driver::{command, holdfast};

use crate::Check;
use crate::story::{check, well, with};

/// The cases.
pub const CASES: &[(&str, Check)] = &[
    (
        "reboot::what_was_stored_through_a_mapping_is_there_on_the_next_boot",
        stored,
    ),
    (
        "reboot::a_machine_that_is_killed_leaves_a_sound_file_system",
        killed,
    ),
    (
        "reboot::the_host_reads_what_the_guest_wrote_and_the_other_way_round",
        host,
    ),
    ("reboot::an_unarmed_nvdimm_is_not_written", unarmed),
    ("reboot::two_nvdimms_are_two_devices", two),
];

/// The options for one NVDIMM in a directory.
fn nvdimm(directory: &tempfile::TempDir, words: &str) -> (String, String) {
    let file = directory.path().join("a.pm").display().to_string();
    (format!("{file}{words}"), file)
}

fn stored() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let (pmem, file) = nvdimm(&directory, ",size=64M");
    well(
        &["--pmem", &pmem],
        &[
            "mkfs",
            "mount",
            "create /f 8192",
            "mmap /f",
            "store 1 5000 77",
            "store 1 0 78",
            "msync 1",
        ],
    )?;
    let objects = well(
        &["--pmem", &file],
        &["mount", "mmap /f", "load 1 5000", "load 1 0"],
    )?;
    let values: Vec<_> = objects.iter().filter_map(|o| o["value"].as_u64()).collect();
    check(values == [77, 78], &objects)
}

/// The file system is used until the machine vanishes; what a command had reported before is there afterwards.
fn killed() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let (pmem, file) = nvdimm(&directory, ",size=64M");
    let script = directory.path().join("script");
    let many: String = (0..10_000)
        .map(|n| format!("create /f{n} 4096\nrm /f{}\n", (n + 7) % 10))
        .collect();
    std::fs::write(
        &script,
        format!("mkfs\nmount\ncreate /kept 4096\nwrite /kept 0 kept\nsum /kept\n{many}"),
    )?;
    let output = directory.path().join("output");
    let mut driver = command(&[
        "--pmem",
        &pmem,
        "exec",
        "--file",
        &script.display().to_string(),
    ]);
    let mut driver = driver
        .stdout(std::fs::File::create(&output)?)
        .stderr(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while std::fs::read_to_string(&output)?.lines().count() < 100 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    driver.kill()?;
    driver.wait()?;
    let told = std::fs::read_to_string(&output)?;
    check(told.lines().count() >= 100, &told)?;
    let fsck = holdfast(&["fs", "fsck", &file])?;
    check(fsck.code == Some(0), &fsck)?;
    let objects = well(
        &["--pmem", &file],
        &["mount", "stat /kept", "create /new 4096", "df"],
    )?;
    check(with(&objects, "links")?["size"] == 4096, &objects)?;
    let text = holdfast(&["fs", "get", &file, "/kept"])?;
    check(text.stdout.starts_with("kept"), &text)
}

fn host() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let (_, file) = nvdimm(&directory, "");
    let there = directory.path().join("there").display().to_string();
    std::fs::write(&there, "from the host\n")?;
    for words in [
        vec!["fs", "mkfs", &file, "--size", "64M"],
        vec!["fs", "put", &file, &there, "/host"],
    ] {
        let ran = holdfast(&words)?;
        check(ran.code == Some(0), &ran)?;
    }
    let ran = tests::driver::exec(
        &["--pmem", &file],
        "mount; cat /host; create /guest 4096; write /guest 0 hello",
    )?;
    check(
        ran.code == Some(0) && ran.stdout.contains("from the host\n"),
        &ran,
    )?;
    let ran = holdfast(&["fs", "get", &file, "/guest"])?;
    check(ran.code == Some(0) && ran.stdout.starts_with("hello"), &ran)
}

fn unarmed() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let (pmem, file) = nvdimm(&directory, ",size=64M,unarmed");
    let ran = tests::driver::exec(&["--pmem", &pmem], "pmem; mkfs")?;
    check(
        ran.code == Some(1) && ran.stdout.contains("read-only"),
        &ran,
    )?;
    check(
        std::fs::read(&file)?.iter().all(|b| *b == 0),
        "the file was written",
    )
}

fn two() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let (one, _) = nvdimm(&directory, ",size=64M");
    let other = format!(
        "{},size=128M,label-size=128K",
        directory.path().join("b.pm").display()
    );
    let objects = well(&["--pmem", &one, "--pmem", &other], &["pmem"])?;
    let sizes: Vec<_> = objects.iter().filter_map(|o| o["size"].as_u64()).collect();
    check(sizes == [64 << 20, (128 << 20) - (128 << 10)], &objects)
}
