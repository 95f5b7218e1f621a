//! `selftest` and the event trace.

use libtest_mimic::Failed;
use serde_json::Value;
use tests::driver::holdfast;

use crate::Check;
use crate::script::{Told, check, expect, tell};

/// The cases of this file.
pub const CASES: &[(&str, Check)] = &[
    ("selftest::stress_finds_nothing_wrong", stress),
    ("selftest::stress_on_one_cpu", one_cpu),
    ("selftest::stress_refuses_what_is_not_its_own", refuses),
    ("selftest::the_tests_are_listed", listed),
    (
        "selftest::the_load_of_the_power_cuts_says_what_is_done",
        powercut,
    ),
    ("trace::a_pages_life_in_order", life),
    ("trace::a_script_hands_over_its_trace", handed_over),
];

/// What a run reported.
fn report(told: &Told) -> Result<Value, Failed> {
    let objects = told.objects(0)?;
    let found = objects.iter().find(|o| o["test"] == "stress");
    found
        .cloned()
        .ok_or_else(|| format!("{:?}", told.ran).into())
}

fn ran_well(told: &Told, cpus: u64) -> Result<Value, Failed> {
    let report = report(told)?;
    check("no violation", report["violations"] == 0, told)?;
    check(
        "nothing missing",
        report["missing"] == serde_json::json!([]),
        told,
    )?;
    check("code 0", told.ran.code == Some(0), told)?;
    check("CPUs", report["cpus"] == cpus, told)?;
    Ok(report)
}

fn stress() -> Result<(), Failed> {
    let options = ["--cpus", "2", "--pmem-size", "64M", "--timeout", "5m"];
    let told = tell(&options, &["selftest stress 8 --seed 11 --json", "mount"])?;
    let objects = told.objects(0)?;
    check("one object", objects.len() == 1, &told)?;
    let report = report(&told)?;
    check("no violation", report["violations"] == 0, &told)?;
    check(
        "nothing missing",
        report["missing"] == serde_json::json!([]),
        &told,
    )?;
    check("2 CPUs", report["cpus"] == 2, &told)?;
    let sent = report["events"]["shootdown_ipis"].as_u64();
    check("shootdowns", sent > Some(0), &told)?;
    let gone = told.answers[1].contains("no file system");
    check("the region is left without a file system", gone, &told)
}

fn one_cpu() -> Result<(), Failed> {
    let options = ["--cpus", "1", "--pmem-size", "64M", "--timeout", "5m"];
    let told = tell(&options, &["selftest stress 4 --seed 12 --json"])?;
    let report = ran_well(&told, 1)?;
    let impossible = report["impossible"].as_array().map_or(0, Vec::len);
    check("some events need more CPUs", impossible >= 3, &told)
}

fn refuses() -> Result<(), Failed> {
    let told = expect(
        &["--cpus", "1", "--pmem-size", "64M"],
        1,
        &[
            ("mkfs", ""),
            (
                "selftest stress 1",
                "error: selftest stress: the region holds a file system",
            ),
            ("mount", ""),
            ("create /f 4K", ""),
            (
                "selftest stress 1 --force",
                "error: selftest stress: a file system is mounted",
            ),
            ("stat /f", "/f"),
            ("selftest stress 1 --seed", "error"),
            ("selftest stress never", "error"),
            ("selftest other", "error"),
        ],
    )?;
    check(
        "it says what to do",
        told.answers[1].contains("--force"),
        &told,
    )
}

fn powercut() -> Result<(), Failed> {
    let told = expect(
        &["--cpus", "2", "--pmem-size", "64M"],
        1,
        &[
            (
                "selftest powercut 1",
                "error: selftest powercut: no file system",
            ),
            ("mkfs", ""),
            ("mount", ""),
            ("selftest powercut 1 --seed 3 --session 5", "done 3 0"),
            ("ls /s5", "t3"),
            (
                "selftest powercut 1 --session 5",
                "error: selftest powercut: the directory",
            ),
            ("umount", ""),
            ("fsck", ""),
        ],
    )?;
    let done = |thread| told.answers[3].contains(&format!("done {thread} 1"));
    check("each thread did something", (0..4).all(done), &told)
}

fn listed() -> Result<(), Failed> {
    expect(
        &["--no-pmem"],
        1,
        &[("selftest", "powercut"), ("selftest stress 1", "error")],
    )?;
    Ok(())
}

/// The events that concern a page, in the order of a life.
const LIFE: [&str; 15] = [
    "alloc",
    "entry_insert",
    "map_get",
    "fault",
    "pin",
    "zap_clear",
    "drop_ref",
    "map_put",
    "break_wait",
    "break_failed",
    "unpin",
    "entry_delete",
    "quarantine_in",
    "quarantine_out",
    "alloc",
];

const SCRIPT: [&str; 8] = [
    "mkfs",
    "mount",
    "create /f 4K",
    "pin /f 0 4096",
    "truncate /f 0 --timeout 20",
    "unpin 1",
    "truncate /f 0",
    "create /g 4K",
];

/// The events of the frame that was pinned.
fn events_of_pinned(events: &[Value]) -> Vec<String> {
    let pinned = events.iter().find(|e| e["event"] == "pin");
    let pfn = pinned.map_or(&Value::Null, |e| &e["pfn"]);
    let of_page = events.iter().filter(|e| &e["pfn"] == pfn);
    of_page
        .filter_map(|e| Some(e["event"].as_str()?.to_owned()))
        .collect()
}

/// Whether `life` has all of `wanted` in their order, others between them perhaps.
fn in_order(life: &[String], wanted: &[&str]) -> bool {
    let mut rest = life.iter();
    wanted.iter().all(|w| rest.any(|l| l == w))
}

fn life() -> Result<(), Failed> {
    let commands = [
        &["trace on"][..],
        &SCRIPT,
        &["trace off", "trace dump --json", "trace dump --last 3"],
    ]
    .concat();
    let told = tell(&["--cpus", "1"], &commands)?;
    let events = told.objects(commands.len() - 2)?;
    let life = events_of_pinned(&events);
    check("a life in order", in_order(&life, &LIFE), &told)?;
    let lines = told.answers[commands.len() - 1].lines().count();
    check("the last three and their number", lines == 4, &told)
}

fn handed_over() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("trace").display().to_string();
    let ran = holdfast(&["--cpus", "1", "--trace", &file, "exec", &SCRIPT.join(";")])?;
    let lines = std::fs::read_to_string(&file)?;
    let events: Result<Vec<Value>, _> = lines.lines().map(serde_json::from_str).collect();
    let life = events_of_pinned(&events?);
    // The truncate with little time fails, and with it the script.
    match ran.code == Some(1) && in_order(&life, &LIFE) && !ran.stdout.contains("break_wait") {
        true => Ok(()),
        false => Err(format!("{life:?}: {ran:?}").into()),
    }
}
