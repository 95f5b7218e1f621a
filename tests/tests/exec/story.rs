//! The whole path through the shell: what a user types to see a truncate wait for a transfer.

use libtest_mimic::Failed;
use serde_json::Value;
use tests::driver::{Ran, exec};

use crate::Check;

/// The cases.
pub const CASES: &[(&str, Check)] = &[
    ("story::nfit_and_pmem_are_valid_json", json),
    ("story::a_large_nvdimm_comes_up_in_little_ram", large),
    ("story::without_waiting_the_page_is_named", nowait),
    ("story::a_truncate_gives_up_at_its_deadline", timeout),
    (
        "story::a_truncate_waits_for_a_transfer_which_arrives_whole",
        transfer,
    ),
    (
        "story::a_transfer_from_page_to_page_of_one_file_while_it_is_truncated",
        page_to_page,
    ),
    (
        "story::a_file_removed_while_pinned_is_freed_at_the_last_unpin",
        removed,
    ),
    ("story::output_is_all_there_is_on_standard_output", purity),
    ("story::a_shell_ends_at_the_end_of_its_input", shell),
];

/// Runs commands with --json; returns the exit code and the object that each line is.
pub fn objects(options: &[&str], commands: &[&str]) -> Result<(Ran, Vec<Value>), Failed> {
    let script: Vec<String> = commands.iter().map(|command| with_json(command)).collect();
    let ran = exec(options, &script.join("; "))?;
    let lines: Result<Vec<Value>, _> = ran.stdout.lines().map(serde_json::from_str).collect();
    let lines = lines.map_err(|why| format!("{why}: {ran:?}"))?;
    Ok((ran, lines))
}

fn with_json(command: &str) -> String {
    match command.strip_suffix(" &") {
        Some(command) => format!("{command} --json &"),
        None => format!("{command} --json"),
    }
}

/// Runs commands that must all succeed.
pub fn well(options: &[&str], commands: &[&str]) -> Result<Vec<Value>, Failed> {
    let (ran, objects) = objects(options, commands)?;
    if ran.code == Some(0) {
        Ok(objects)
    } else {
        Err(format!("{ran:?}").into())
    }
}

/// The last object that has a key.
pub fn with<'a>(objects: &'a [Value], key: &str) -> Result<&'a Value, Failed> {
    let found = objects.iter().rev().find(|object| !object[key].is_null());
    found.ok_or_else(|| format!("no object has {key:?}: {objects:?}").into())
}

/// Fails with what was seen unless the condition holds.
pub fn check(holds: bool, seen: impl std::fmt::Debug) -> Result<(), Failed> {
    if holds {
        Ok(())
    } else {
        Err(format!("{seen:#?}").into())
    }
}

fn json() -> Result<(), Failed> {
    let objects = well(&[], &["nfit", "pmem"])?;
    let device = with(&objects, "metadata_bytes")?;
    check(
        device["base"] == 4_294_967_296_u64
            && device["size"] == 1 << 30
            && device["pages"] == 1 << 18,
        &objects,
    )
}

fn large() -> Result<(), Failed> {
    let objects = well(
        &["--pmem-size", "512G", "--memory", "256M"],
        &["pmem", "pages"],
    )?;
    let pages = with(&objects, "idle")?;
    let metadata = pages["metadata_bytes"].as_u64().ok_or("no number")?;
    check(pages["pages"] == 1 << 27 && metadata < 64 << 10, &objects)
}

fn nowait() -> Result<(), Failed> {
    let (ran, objects) = objects(
        &[],
        &[
            "mkfs",
            "mount",
            "create /f 64K",
            "pin /f 8192 4096",
            "truncate /f 0 --nowait",
            "stat /f",
            "unpin 1",
            "truncate /f 0 --nowait",
        ],
    )?;
    let error = &with(&objects, "error")?["error"];
    check(
        ran.code == Some(1)
            && (error["kind"] == "would_block"
                && error["index"] == 2
                && error["holder"] == "pin 1")
            && with(&objects, "links")?["size"] == 65536
            && with(&objects, "freed_blocks")?["freed_blocks"] == 16,
        &objects,
    )
}

fn timeout() -> Result<(), Failed> {
    let (ran, objects) = objects(
        &[],
        &[
            "mkfs",
            "mount",
            "create /f 8K",
            "fill /f 0 8192 7",
            "sum /f",
            "pin /f 0 4096",
            "truncate /f 0 --timeout 50",
            "sum /f",
            "stat /f",
        ],
    )?;
    let sums: Vec<_> = objects
        .iter()
        .filter(|o| !o["crc32c"].is_null())
        .map(|o| &o["crc32c"])
        .collect();
    check(
        ran.code == Some(1)
            && with(&objects, "error")?["error"]["kind"] == "timed_out"
            && matches!(sums[..], [before, after] if before == after)
            && with(&objects, "links")?["size"] == 8192,
        &objects,
    )
}

/// The disk holds a known pattern; a page before the new end of the file gets it whole.
fn transfer() -> Result<(), Failed> {
    let objects = well(
        &[],
        &[
            "mkfs",
            "mount",
            "create /f 16K",
            "dma read 0 8 /f 0 16384 --delay 300",
            "truncate /f 4096 &",
            "sleep 50",
            "page /f:8192",
            "wait",
            "sum /f",
            "create /g 4096",
            "dma read 0 8 /g 0 4096",
            "wait",
            "sum /g",
        ],
    )?;
    let page = objects
        .iter()
        .find(|o| !o["holder"].is_null())
        .ok_or("no held page")?;
    let sums: Vec<_> = objects
        .iter()
        .filter(|o| !o["crc32c"].is_null())
        .map(|o| &o["crc32c"])
        .collect();
    check(
        page["pinned"] == 1
            && page["mapped"] == 0
            && matches!(sums[..], [truncated, whole] if truncated == whole && *whole == pattern_sum(4096, 4096))
            && with(&objects, "freed_blocks")?["freed_blocks"] == 3,
        &objects,
    )
}

/// The CRC-32C of a piece of the scratch disk.
fn pattern_sum(offset: u64, len: usize) -> u32 {
    let mut bytes = vec![0; len];
    protocol::pattern::fill(offset, &mut bytes);
    let step = |sum: u32, byte: u8| {
        (0..8).fold(sum ^ u32::from(byte), |s, _| {
            (s >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(s & 1))
        })
    };
    !bytes.into_iter().fold(!0, step)
}

/// One page is held while the truncate waits; the transfer then wants another page of the same file.
fn page_to_page() -> Result<(), Failed> {
    let objects = well(
        &["--timeout", "60"],
        &[
            "mkfs",
            "mount",
            "create /f 16K",
            "pin /f 0 4096",
            "truncate /f 0 &",
            "sleep 50",
            "dma write 0 8 /f 12288 4096",
            "unpin 1",
            "wait",
            "stat /f",
        ],
    )?;
    check(with(&objects, "links")?["size"] == 0, &objects)
}

fn removed() -> Result<(), Failed> {
    let objects = well(
        &[],
        &[
            "mkfs",
            "mount",
            "create /first 4096",
            "rm /first",
            "df",
            "create /f 64K",
            "pin /f 0 4096",
            "rm /f",
            "df",
            "unpin 1",
            "create /next 4096",
            "df",
        ],
    )?;
    let frees: Vec<_> = objects
        .iter()
        .filter_map(|o| Some(o["free_blocks"].as_u64()? + o["quarantined"].as_u64()?))
        .collect();
    check(
        matches!(frees[..], [before, held, after] if held + 16 == before && after + 1 == before),
        &objects,
    )
}

fn purity() -> Result<(), Failed> {
    let ran = exec(
        &["--log", "trace"],
        "mkfs; mount; create /f 4096; write /f 0 hello; cat /nothing; ls",
    )?;
    let lines: Vec<_> = ran.stdout.lines().collect();
    check(
        ran.stderr.contains("TRACE") || ran.stderr.contains("INFO"),
        &ran,
    )?;
    check(
        !ran.stdout.contains('\u{1}')
            && !ran.stdout.contains('\u{2}')
            && !lines
                .iter()
                .any(|l| l.contains("INFO ") || l.contains("Finished")),
        &ran,
    )
}

fn shell() -> Result<(), Failed> {
    use std::io::Write;
    let mut command = tests::driver::command(&["shell", "--timeout", "60"]);
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    let mut shell = command.spawn()?;
    shell
        .stdin
        .take()
        .ok_or("no pipe")?
        .write_all(b"mkfs\rmount\rcreate /typed 4096\rls\r")?;
    let output = shell.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    check(
        output.status.success() && text.matches("typed").count() >= 2,
        &text,
    )
}
