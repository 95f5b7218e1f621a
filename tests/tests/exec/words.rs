//! The words of the shell: every command in both forms, and every wrong one an error of one shape.

use std::collections::BTreeSet;

use libtest_mimic::Failed;
use serde_json::Value;
use tests::driver::exec;

use crate::Check;
use crate::script::{Told, check, expect, raw, tell};

/// The cases.
pub const CASES: &[(&str, Check)] = &[
    (
        "words::every_command_runs_in_text_and_in_json",
        every_command,
    ),
    (
        "words::every_command_refuses_what_it_does_not_know",
        wrong_words,
    ),
    ("words::odd_scripts_do_what_they_say", odd_scripts),
    ("words::poweroff_ends_well_and_at_once", power_off),
];

/// One use of each command, in an order in which all of them succeed; the text form first.
const USES: &[&str] = &[
    "help",
    "nfit",
    "pmem",
    "mkfs --force",
    "mount",
    "df",
    "mkdir /dN",
    "ls",
    "create /fN 64K",
    "cat /fN",
    "stat /fN",
    "extents /fN",
    "write /fN 0 text",
    "fill /fN 4K 4K 7",
    "sum /fN",
    "fallocate /fN 64K 64K",
    "page /fN:0",
    "pages",
    "mmap /fN",
    "maps",
    "load N 0",
    "store N 1 2",
    "msync N",
    "munmap N",
    "pin /fN 0 4K",
    "pins",
    "unpin N",
    "dma read 0 0 /fN 0 4K",
    "wait",
    "jobs",
    "truncate /fN 32K",
    "punch /fN 0 4K",
    "ln /fN /lN",
    "mv /lN /mN",
    "ln -s fN /sN",
    "readlink /sN",
    "stat --nofollow /sN",
    "mv --no-replace /sN /tN",
    "mv --exchange /tN /mN",
    "chmod 640 /tN",
    "chown 7:8 /tN",
    "touch /tN",
    "rm /tN",
    "rm /mN",
    "rmdir /dN",
    "sleep 1",
    "threads",
    "locks",
    "uptime",
    "mem",
    "badblocks",
    "create /badN 4K",
    "poison /badN 0",
    "fill /badN 0 4K 1",
    "rm /badN",
    "rm /fN",
    // On a device whose pages were used, and then on one whose were not.
    "tour",
    "umount",
    "fsck",
    "tour",
    "umount",
    "bench --list",
    "bench touch.mapped",
    "umount",
    "selftest",
    "trace on",
    "trace dump --last 2",
    "trace off",
];

/// Ends of a machine: tried apart.
const ENDS: [&str; 2] = ["panic", "poweroff"];

fn name_of(usage: &str) -> String {
    usage.split(' ').next().unwrap_or_default().to_owned()
}

fn every_command() -> Result<(), Failed> {
    let mut commands = vec!["help --json".to_owned()];
    commands.extend(USES.iter().map(|line| line.replace('N', "1")));
    commands.extend(USES.iter().map(|line| line.replace('N', "2") + " --json"));
    let told = tell(&[], &commands)?;
    let listed = told.objects(0)?;
    let names: BTreeSet<String> = listed
        .iter()
        .filter_map(|o| o["usage"].as_str())
        .map(name_of)
        .collect();
    let used: BTreeSet<String> = USES.iter().chain(&ENDS).map(|line| name_of(line)).collect();
    let missed: Vec<_> = names.symmetric_difference(&used).collect();
    check(
        &format!("all are tried, but {missed:?}"),
        missed.is_empty(),
        &told,
    )?;
    for (n, command) in commands.iter().enumerate() {
        let answer = &told.answers[n];
        check(
            command,
            !answer.contains("error: ") && !answer.contains("{\"error\""),
            &told,
        )?;
        match n > USES.len() {
            true => told.objects(n)?.iter().try_for_each(|o| keys(o, command))?,
            // Nothing is shown by what only waits.
            false => check(
                command,
                !answer.is_empty() || command.starts_with("sleep"),
                &told,
            )?,
        }
    }
    check("code 0", told.ran.code == Some(0), &told)
}

/// Keys are in snake_case, also of objects inside.
fn keys(value: &Value, command: &str) -> Result<(), Failed> {
    let snake = |key: &str| {
        key.chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    match value {
        Value::Object(fields) => fields.iter().try_for_each(|(key, value)| match snake(key) {
            true => keys(value, command),
            false => Err(format!("{command}: the key {key:?}").into()),
        }),
        Value::Array(list) => list.iter().try_for_each(|value| keys(value, command)),
        _ => Ok(()),
    }
}

fn error(told: &Told, command: usize) -> Result<(String, String), Failed> {
    let object = told.object(command)?;
    let text = |key: &str| object["error"][key].as_str().map(str::to_owned);
    let pair = text("kind").zip(text("message"));
    pair.ok_or_else(|| format!("command {command}: {object}").into())
}

/// Unknown options and a row of words too many; nothing may come of them but an error.
fn wrong_words() -> Result<(), Failed> {
    let mut commands = vec!["mkfs".to_owned(), "mount".to_owned()];
    for name in USES.iter().chain(&ENDS).map(|line| name_of(line)) {
        commands.push(format!("{name} --no-such --json"));
        commands.push(format!(
            "{name} -1 'a b' '' 99999999999999999999 \u{20ac} /f read 0 0 0 0 --json"
        ));
    }
    commands.extend(
        ["nothing", "HELP", "'help ' a", "/", "''", "\u{1}"].map(|word| format!("{word} --json")),
    );
    let told = tell(&[], &commands)?;
    for (n, command) in commands.iter().enumerate().skip(2) {
        let (kind, message) = error(&told, n)?;
        let snake = kind.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        check(command, snake && !message.is_empty(), &told)?;
    }
    check("code 1", told.ran.code == Some(1), &told)
}

fn odd_scripts() -> Result<(), Failed> {
    for nothing in ["", " ", ";", ";; ;;", "# only a remark", "\n\n"] {
        let ran = exec(&[], nothing)?;
        if ran.code != Some(0) || !ran.stdout.is_empty() {
            return Err(format!("{nothing:?}: {ran:?}").into());
        }
    }
    raw("&", 1, "no command before the & at byte 0")?;
    raw("uptime; & uptime", 1, "no command before the &")?;
    raw(
        "uptime 'open",
        1,
        "the quote opened at byte 7 is not closed (nothing was run)",
    )?;
    raw("uptime \"open", 1, "not closed")?;
    raw("uptime \\", 1, "error")?;
    raw("sleep 100000 &", 1, "still running when the script ended")?;
    raw("sleep x & wait", 1, "[1] failed")?;
    let long = format!("/{}", "z".repeat(100_000));
    let bad_names = format!("stat {long}");
    let text = "t".repeat(60_000);
    let write = format!("write /f 0 {text}");
    let sum = crate::script::crc32c(text.as_bytes());
    expect(
        &[],
        1,
        &[
            ("mkfs", ""),
            ("mount", ""),
            (&bad_names, "error"),
            ("create /f 0", ""),
            (&write, "60000 bytes"),
            ("sum /f", &sum),
            ("\"help\" 'pin'", "pins the pages"),
            ("create '/a\u{1b}[2J' 0", "/a\\u{1b}[2J"),
            ("ls", "a\\u{1b}[2J"),
            ("write /f 0 --text", "6 bytes"),
            ("cat /f", "--text"),
            ("jobs --json &", "{\"job\":1}"),
            ("wait", "done"),
        ],
    )?;
    Ok(())
}

fn power_off() -> Result<(), Failed> {
    raw("poweroff; panic", 0, "")?;
    raw(
        "mkfs; mount; create /f 4K; mmap /f; store 1 0 1; poweroff",
        0,
        "stored",
    )
}
