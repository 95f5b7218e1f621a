//! Who holds a page is waited for, and nobody else is kept waiting; what was taken away is nobody's until it is free.

use libtest_mimic::Failed;

use crate::Check;
use crate::script::{check, crc32c, expect, pattern, tell};

/// The cases.
pub const CASES: &[(&str, Check)] = &[
    (
        "waits::dma_and_truncate_of_one_file_both_end",
        dma_while_cut,
    ),
    (
        "waits::pins_and_faults_during_the_wait_do_not_starve_it",
        new_users,
    ),
    ("waits::a_page_behind_the_end_is_nobodys", behind_the_end),
    ("waits::a_pinned_page_outlives_its_file", unlinked),
    ("waits::a_full_device_keeps_a_held_block", full),
];

fn dma_while_cut() -> Result<(), Failed> {
    let kept = crc32c(&pattern(8, 4096));
    let told = expect(
        &[],
        0,
        &[
            ("mkfs", ""),
            ("mount", ""),
            ("create /f 64K", ""),
            ("mmap /f", "map 1"),
            ("load 1 4096", "0x00"),
            ("dma read 0 8 /f 0 64K --delay 300", "dma 1"),
            ("truncate /f 4K --json &", "{\"job\":2}"),
            ("sleep 50", ""),
            // The other direction, of pages that the truncate takes: at once or when it is done.
            ("dma write 0 9000 /f 0 4K --delay 50", "dma 3"),
            ("jobs --json", "running"),
            ("wait", "truncate /f 4K"),
            ("sum /f", &kept),
            ("stat /f --json", "\"size\":4096"),
            ("pages --json", "\"pinned\":0"),
        ],
    )?;
    let report = told.ran.stdout.lines().find(|l| l.contains("\"retries\""));
    let report: serde_json::Value = serde_json::from_str(report.ok_or("no report")?)?;
    check("it waited", report["retries"].as_u64() >= Some(1), &told)
}

/// While the truncate waits for one page, the same file's others are mapped, touched, pinned and let go.
fn new_users() -> Result<(), Failed> {
    let mut commands: Vec<String> = [
        "mkfs",
        "mount",
        "create /f 64K",
        "mmap /f",
        "pin /f 0 4K",
        "truncate /f 0 &",
        "sleep 30",
    ]
    .map(String::from)
    .into();
    for round in 0..20 {
        commands.push(format!("load 1 {}", round % 16 * 4096));
        commands.push(format!("store 1 {} 1", round % 16 * 4096));
    }
    let more = [
        "pin /f 4K 4K",
        "unpin 1",
        "sleep 30",
        "jobs --json",
        "unpin 2",
        "wait",
        "stat /f --json",
        "load 1 0",
    ];
    commands.extend(more.map(String::from));
    let told = tell(&[], &commands)?;
    let errors: Vec<_> = told
        .answers
        .iter()
        .filter(|a| a.contains("error"))
        .collect();
    let last = told
        .answers
        .last()
        .is_some_and(|a| a.contains("beyond the end"));
    check("only the last load fails", errors.len() == 1 && last, &told)?;
    let at = |n: usize| &told.answers[told.answers.len() - n];
    check(
        "the second pin is waited for",
        at(5).contains("\"running\""),
        &told,
    )?;
    check(
        "it ends",
        at(3).contains("[1] done") && at(2).contains("\"size\":0"),
        &told,
    )
}

fn behind_the_end() -> Result<(), Failed> {
    let mine = crc32c(&[0x22; 65536]);
    expect(
        &["--pmem-size", "16M"],
        1,
        &[
            ("mkfs", ""),
            ("mount", ""),
            ("create /f 64K", ""),
            ("fill /f 0 64K 0x11", ""),
            ("mmap /f", "map 1"),
            ("load 1 4096", "0x11"),
            ("store 1 60K 0x12", ""),
            ("truncate /f 0", "16 blocks"),
            ("load 1 4096", "error: beyond the end of the file"),
            ("store 1 4096 0x66", "error: beyond the end of the file"),
            ("create /g 64K", ""),
            // Every block of the device: those that were /f's are among them.
            ("create /h 0", ""),
            ("fill /h 0 16M 0x33", "error: no space left"),
            ("fill /g 0 64K 0x22", ""),
            ("load 1 4096", "error: beyond the end of the file"),
            ("truncate /f 64K", ""),
            ("load 1 4096", "0x00"),
            ("load 1 60K", "0x00"),
            ("sum /f", &crc32c(&[0; 65536])),
            ("store 1 4096 0x66", "error: no space left"),
            ("sum /g", &mine),
            ("rm /h", ""),
            ("store 1 4096 0x66", "stored"),
            ("sum /g", &mine),
            ("truncate /f 5000", ""),
            ("load 1 8191", "0x00"),
            ("load 1 8192", "error: beyond"),
            ("load 1 4096", "0x66"),
        ],
    )?;
    Ok(())
}

fn unlinked() -> Result<(), Failed> {
    let told = expect(
        &["--pmem-size", "16M"],
        0,
        &[
            ("mkfs", ""),
            ("mount", ""),
            ("df --json", "\"quarantined\":0"),
            ("create /f 64K", ""),
            ("pin /f 4K 4K", "pin 1"),
            ("page /f:4K --json", "\"pinned\":1"),
            ("dma read 0 0 /f 0 64K --delay 200", "dma 1"),
            ("rm /f", ""),
            ("ls", "empty"),
            ("pages --json", ""),
            ("df --json", "\"orphans\":1"),
            ("wait", "done"),
            ("df --json", "\"orphans\":1"),
            ("pages --json", "\"pinned\":1"),
            ("unpin 1", ""),
            ("df --json", "\"orphans\":0"),
            ("pages --json", "\"pinned\":0"),
            ("umount", ""),
        ],
    )?;
    let free = |n: usize| told.object(n).map(|o| o["free_blocks"].as_u64());
    check("16 pages are held", told.object(9)?["pinned"] == 16, &told)?;
    check(
        "the storage stays taken",
        free(10)?.map(|n| n + 16) <= free(2)?,
        &told,
    )?;
    check("until the last pin ends", free(12)? == free(10)?, &told)?;
    check(
        "then it is free",
        free(15)? >= free(10)?.map(|n| n + 16),
        &told,
    )
}

fn full() -> Result<(), Failed> {
    let kept = crc32c(&[0x77; 4096]);
    expect(
        &["--pmem-size", "16M"],
        1,
        &[
            ("mkfs", ""),
            ("mount", ""),
            ("create /f 4M", ""),
            ("fill /f 0 4M 0x77", ""),
            ("pin /f 0 4M", "pin 1"),
            ("rm /f", ""),
            ("create /all 0", ""),
            ("fill /all 0 16M 1", "error: no space left"),
            ("create /more 2M", "error: no space left"),
            ("write /all 15M x", "error: no space left"),
            ("df --json", "\"free_blocks\":0"),
            ("pages --json", "\"pinned\":1024"),
            ("unpin 1", ""),
            ("create /more 2M", "inode"),
            ("create /f 4K", ""),
            ("fill /f 0 4K 0x77", ""),
            ("pin /f 0 4K", "pin 2"),
            ("truncate /f 0 --timeout 10", "error: held by pin 2"),
            ("punch /f 0 4K --nowait", "error: held by pin 2"),
            ("sum /f", &kept),
            ("unpin 2", ""),
        ],
    )?;
    Ok(())
}
