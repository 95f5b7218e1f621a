//! The shell's commands on a whole machine: what they print, and what becomes of the script.

use libtest_mimic::Failed;
use serde_json::Value;
use tests::driver::{Ran, exec};

use crate::Check;

/// The cases.
pub const CASES: &[(&str, Check)] = &[
    ("shell::a_truncate_waits_for_a_pin_and_then_is_done", waits),
    (
        "shell::a_truncate_that_may_not_wait_names_the_page_and_its_holder",
        names_the_holder,
    ),
    (
        "shell::dma_writes_into_the_file_and_holds_a_truncate_up",
        dma,
    ),
    (
        "shell::a_failed_command_fails_the_script_which_goes_on",
        fails,
    ),
    ("shell::the_tour_holds_and_leaves_a_sound_file_system", tour),
    ("shell::a_panic_ends_with_3", panics),
];

fn wrong(what: &str, ran: &Ran) -> Failed {
    format!("{what}: {ran:?}").into()
}

fn require(holds: bool, what: &str, ran: &Ran) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(wrong(what, ran)) }
}

/// The objects that a script printed.
fn objects(ran: &Ran) -> Result<Vec<Value>, Failed> {
    let lines = ran.stdout.lines().map(serde_json::from_str);
    lines
        .collect::<Result<_, _>>()
        .map_err(|e| wrong(&e.to_string(), ran))
}

fn waits() -> Result<(), Failed> {
    let script = "mkfs --json; mount --json; create /f 64K --json; pin /f 0 4096 --json; truncate /f 0 --json & \
                  sleep 100; jobs --json; page /f:0 --json; unpin 1 --json; wait --json; stat /f --json";
    let ran = exec(&[], script)?;
    let all = objects(&ran)?;
    require(ran.code == Some(0), "the script succeeds", &ran)?;
    let has = |wanted: &[(&str, Value)]| all.iter().any(|o| wanted.iter().all(|(k, v)| o[k] == *v));
    require(
        has(&[
            ("state", "running".into()),
            ("command", "truncate /f 0 --json".into()),
        ]),
        "it waits",
        &ran,
    )?;
    let page = [
        ("mapped", 0.into()),
        ("pinned", 1.into()),
        ("index", 0.into()),
        ("holder", "pin 1".into()),
    ];
    require(has(&page), "the page is held", &ran)?;
    let waited = all
        .iter()
        .any(|o| o["retries"].as_u64() >= Some(1) && o["waited_us"].as_u64() >= Some(50_000));
    require(waited, "it tells how long it waited", &ran)?;
    require(
        has(&[
            ("path", "/f".into()),
            ("size", 0.into()),
            ("kind", "file".into()),
        ]),
        "it is done",
        &ran,
    )
}

fn names_the_holder() -> Result<(), Failed> {
    let script = "mkfs --json; mount --json; create /f 64K --json; pin /f 8K 4096 --json; truncate /f 0 --nowait --json; \
                  truncate /f 0 --timeout 50 --json; stat /f --json; truncate /f 12K --nowait --json";
    let ran = exec(&[], script)?;
    require(ran.code == Some(1), "the script fails", &ran)?;
    let all = objects(&ran)?;
    for kind in ["would_block", "timed_out"] {
        let error = all
            .iter()
            .map(|o| &o["error"])
            .find(|e| e["kind"] == kind)
            .ok_or_else(|| wrong(kind, &ran))?;
        require(
            error["index"] == 2 && error["pinned"] == 1 && error["holder"] == "pin 1",
            kind,
            &ran,
        )?;
    }
    require(
        all.iter()
            .any(|o| o["size"] == 65536 && o["kind"] == "file"),
        "the file is as it was",
        &ran,
    )?;
    require(
        all.iter().any(|o| o["freed_blocks"] == 13),
        "what nobody holds can go",
        &ran,
    )
}

fn dma() -> Result<(), Failed> {
    let script = "mkfs --json; mount --json; create /f 16K --json; create /same 8K --json; \
                  dma read 0 32 /f 0 8K --delay 200 --json; truncate /f 8K --json; truncate /f 4K --json; wait --json; \
                  dma read 0 32 /same 0 8K --json; wait --json; truncate /same 4K --json; sum /f --json; sum /same --json";
    let ran = exec(&[], script)?;
    require(ran.code == Some(0), "the script succeeds", &ran)?;
    let all = objects(&ran)?;
    let waits: Vec<_> = all.iter().filter_map(|o| o["retries"].as_u64()).collect();
    require(
        waits == [0, 1, 0],
        "only the pages of the transfer are waited for",
        &ran,
    )?;
    let sums: Vec<_> = all.iter().filter_map(|o| o["crc32c"].as_u64()).collect();
    require(
        sums.len() == 2 && sums[0] == sums[1],
        "both files hold the disk's data",
        &ran,
    )
}

fn fails() -> Result<(), Failed> {
    let ran = exec(&[], "frobnicate; uptime; stat /f")?;
    require(ran.code == Some(1), "the script fails", &ran)?;
    let lines: Vec<_> = ran.stdout.lines().collect();
    require(
        lines.len() == 3 && lines[1].starts_with("up "),
        "the others run",
        &ran,
    )?;
    require(
        lines[0].starts_with("error: frobnicate: ") && lines[2].starts_with("error: /f: "),
        "each is named",
        &ran,
    )
}

fn tour() -> Result<(), Failed> {
    let ran = exec(&[], "tour --json; df --json; umount --json; fsck --json")?;
    require(ran.code == Some(0), "every fact holds", &ran)?;
    let all = objects(&ran)?;
    require(
        all.iter().any(|o| o["facts"].as_u64() > Some(20)),
        "facts were checked",
        &ran,
    )?;
    require(
        all.iter().any(|o| o["problems"] == 0 && o["files"] == 0),
        "the file system is sound and empty",
        &ran,
    )
}

fn panics() -> Result<(), Failed> {
    let ran = exec(&[], "uptime; panic; uptime")?;
    require(
        ran.code == Some(3) && ran.stderr.contains("asked for by the command"),
        "it says so",
        &ran,
    )
}
