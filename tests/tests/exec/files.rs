//! Files, directories and space under wrong, huge and impossible requests: an error that says why, and all else as before.

use libtest_mimic::Failed;

use crate::Check;
use crate::script::{check, crc32c, expect, tell};

/// The cases.
pub const CASES: &[(&str, Check)] = &[
    ("files::names_that_cannot_be_are_refused", names),
    ("files::directories_are_not_lost_or_looped", directories),
    ("files::a_directory_is_no_file", no_file),
    ("files::links_modes_and_owners", links),
    ("files::sizes_beyond_the_device_and_the_format", sizes),
    ("files::space_comes_back_after_a_failure", space_back),
    ("files::pieces_of_blocks_read_as_written", pieces),
    ("files::mounting_and_unmounting_out_of_turn", mounting),
    ("files::maps_and_pins_of_impossible_ranges", ranges),
    ("files::transfers_that_cannot_be", transfers),
    ("files::memory_that_is_not_armed_is_only_read", unarmed),
    (
        "files::a_small_machine_says_that_memory_is_short",
        small_machine,
    ),
];

fn names() -> Result<(), Failed> {
    let longest = format!("/{}", "a".repeat(255));
    let create = |name: &str| format!("create '{name}' 1");
    let deep: Vec<String> = (1..=40).map(|depth| "/x".repeat(depth)).collect();
    let mut commands = vec!["mkfs".to_owned(), "mount".to_owned()];
    let good = [
        &longest,
        "/a b;c & d",
        "/\u{e9}\u{20ac}\u{1f40c}",
        "//double//",
        "/.hidden",
        "/...",
    ];
    commands.extend(good.iter().map(|name| create(name)));
    commands.extend(deep.iter().map(|path| format!("mkdir {path}")));
    commands.push(create(&format!("{}/f", deep[39])));
    commands.push("ls --json".to_owned());
    let first_bad = commands.len();
    let too_long = format!("/{}", "b".repeat(256));
    let endless = "/y".repeat(5000);
    let bad = [
        &too_long,
        "/",
        "",
        "/.",
        "/..",
        "/x/.",
        "/no/where",
        &endless,
    ];
    commands.extend(bad.iter().map(|name| create(name)));
    commands.extend([
        format!("stat {longest}/x"),
        format!("mv /x {too_long}"),
        "ln /x /y".into(),
    ]);
    let told = tell(&[], &commands)?;
    let refused = told
        .answers
        .iter()
        .map(|answer| answer.starts_with("error: "));
    check(
        "the bad ones only",
        refused.clone().take(first_bad).all(|e| !e),
        &told,
    )?;
    check("all of them", refused.skip(first_bad).all(|e| e), &told)?;
    let listed = told.objects(first_bad - 1)?;
    let has = |name: &str| listed.iter().any(|o| o["name"] == name);
    check(
        "listed",
        has(&longest[1..]) && has("a b;c & d") && has("double") && has("..."),
        &told,
    )
}

fn directories() -> Result<(), Failed> {
    let held = crc32c(b"here");
    expect(
        &[],
        1,
        &[
            ("mkfs", ""),
            ("mount", ""),
            ("mkdir /d", "made"),
            ("mkdir /d/e", "made"),
            ("create /d/e/f 0", ""),
            ("write /d/e/f 0 here", ""),
            ("mv /d /d/e/x", "error: below itself"),
            ("mv /d /d/x", "error: below itself"),
            ("mv /d /d", ""),
            ("mv /d/e /d", "error: not empty"),
            ("rmdir /d", "error: not empty"),
            ("rm /d", "error: it is a directory"),
            ("rmdir /d/e/f", "error: not a directory"),
            ("ln /d /l", "error: a directory"),
            ("mkdir /d", "error: exists"),
            ("create /d 1", "error: exists"),
            ("create /d/e/f 1", "error: exists"),
            ("mkdir /d/e/f", "error: exists"),
            ("create /d/e/f/g 1", "error: not a directory"),
            ("ls /d/e/f", "error: not a directory"),
            ("mv / /r", "error"),
            ("rmdir /", "error"),
            ("rm /", "error"),
            ("rm /nothing", "error: not found"),
            ("mv /nothing /d", "error: not found"),
            ("create /file 0", ""),
            ("mv /file /d", "error: directory"),
            ("mv /d /file", "error: directory"),
            ("mv /d/e /moved", ""),
            ("sum /moved/f", &held),
            ("ls /d", "empty"),
            ("rmdir /d", ""),
            ("ln /moved/f /second", ""),
            ("rm /moved/f", ""),
            ("sum /second", &held),
            ("stat /second --json", "\"links\":1"),
            ("mv /file /second", ""),
            ("stat /second --json", "\"size\":0"),
            ("rmdir /moved", ""),
        ],
    )?;
    Ok(())
}

fn links() -> Result<(), Failed> {
    let held = crc32c(b"here");
    expect(
        &[],
        1,
        &[
            ("mkfs", ""),
            ("mount", ""),
            ("mkdir /d", ""),
            ("create /d/f 0", ""),
            ("write /d/f 0 here", ""),
            ("ln -s d/f /l", ""),
            ("readlink /l", "d/f"),
            ("sum /l", &held),
            ("stat /l --json", "\"kind\":\"file\""),
            ("stat --nofollow /l --json", "\"kind\":\"symlink\""),
            ("readlink /d", "error: not a symbolic link"),
            ("ln -s /r /r", ""),
            ("stat /r", "error: more than 40 symbolic links"),
            ("mv --no-replace /l /r", "error: exists"),
            ("mv --exchange /l /none", "error: not found"),
            ("mv --exchange --no-replace /l /d", "error: --no-replace"),
            ("mv --exchange /l /d", "changed places"),
            ("readlink /d", "d/f"),
            ("sum /l/f", &held),
            ("chmod 4751 /l/f", "mode 104751"),
            ("chmod 10000 /l/f", "error: more than"),
            ("chmod 9 /l/f", "error: not a number"),
            ("chown 7:8 /l/f", "owner 7:8"),
            ("chown 4294967296 /l/f", "error: more than"),
            ("stat /l/f --json", "\"uid\":7"),
            ("stat /l/f --json", "\"mode\":\"104751\""),
            ("touch /l/f", "mode 104751"),
            ("touch /new", "made"),
            ("stat /new --json", "\"size\":0"),
        ],
    )?;
    Ok(())
}

/// The entries of a directory are the file system's: no store and no device may reach them.
fn no_file() -> Result<(), Failed> {
    expect(
        &[],
        1,
        &[
            ("mkfs", ""),
            ("mount", ""),
            ("mkdir /d", ""),
            ("mkdir /d/e", ""),
            ("mmap /d", "error: it is not a file"),
            ("mmap /d 0 4096", "error: it is not a file"),
            ("pin /d 0 1", "error: it is not a file"),
            ("dma read 0 0 /d 0 512", "error: it is not a file"),
            ("dma write 0 0 /d 0 512", "error: it is not a file"),
            ("cat /d", "error"),
            ("sum /", "error"),
            ("write /d 0 a", "error"),
            ("fill /d 0 1 1", "error"),
            ("truncate /d 0", "error"),
            ("punch /d 0 4096", "error"),
            ("fallocate /d 0 1", "error"),
            ("jobs", "no jobs"),
            ("ls /d", "directory"),
            ("umount", ""),
            ("mount", ""),
            ("ls /d", "directory"),
        ],
    )?;
    Ok(())
}

const END: &str = "18446744073709551615";

fn sizes() -> Result<(), Failed> {
    let fill = format!("fill /s 0 {END} 1");
    let last = format!("write /s {END} a");
    let around = format!("write /s {} abc", u64::MAX - 1);
    let [create, cut, give, give_at] =
        ["create /f", "truncate /s", "fallocate /s 0", "fallocate /s"]
            .map(|c| format!("{c} {END}"));
    let give_at = give_at + " 1";
    let [hole, hole_at] = [format!("punch /s 0 {END}"), format!("punch /s {END} {END}")];
    let told = expect(
        &["--pmem-size", "64M"],
        1,
        &[
            ("mkfs", ""),
            ("mount", ""),
            ("df --json", ""),
            ("create /s 0", ""),
            (&create, "error: cannot be that big"),
            ("create /f 99999999999999999999", "error: it is more than"),
            ("create /f -1", "error: not a number"),
            ("create /f 1K2", "error: not a number"),
            ("create /f 16777216T", "error: it is more than"),
            ("create /f 16777215T", "error: cannot be that big"),
            ("create /f 1T", "error: no space left"),
            ("create /f 64M", "error: no space left"),
            (&cut, "error: cannot be that big"),
            (
                "truncate /s 9223372036854775808",
                "error: cannot be that big",
            ),
            ("truncate /s 1T", "1 TiB"),
            ("extents /s", "no storage"),
            ("truncate /s 0", ""),
            (&last, "error: cannot be that big"),
            (&around, "error: cannot be that big"),
            (&give, "error: cannot be that big"),
            (&give_at, "error: cannot be that big"),
            ("fallocate /s 0 0", ""),
            (&hole, ""),
            (&hole_at, "error: cannot be that big"),
            ("punch /s 5 0", ""),
            ("stat /s --json", "\"size\":0"),
            (&fill, "error: no space left"),
            ("truncate /s 0", "blocks freed"),
            ("ls --json", "\"name\":\"s\""),
            ("df --json", ""),
        ],
    )?;
    let (before, after) = (told.object(2)?, told.object(29)?);
    // The root directory has got its first block.
    let lost = before["free_blocks"]
        .as_u64()
        .zip(after["free_blocks"].as_u64())
        .map(|(b, a)| b - a);
    check(
        "nothing is lost",
        lost <= Some(1) && after["orphans"] == 0,
        &told,
    )
}

fn space_back() -> Result<(), Failed> {
    let told = expect(
        &["--pmem-size", "16M"],
        1,
        &[
            ("mkfs", ""),
            ("mount", ""),
            ("create /s 0", ""),
            ("df --json", "\"orphans\":0"),
            ("create /big 16M", "error: no space left"),
            ("df --json", "\"orphans\":0"),
            ("fallocate /s 0 16M", "error: no space left"),
            // What a fallocate has allocated before it failed stays, and the end of the file goes along.
            ("truncate /s 0", "blocks freed"),
            ("df --json", ""),
            ("create /m 4M", ""),
            ("mmap /m", ""),
            ("store 1 0 1", ""),
            ("rm /m", ""),
            ("df --json", "\"orphans\":1"),
            ("munmap 1", ""),
            ("df --json", "\"orphans\":0"),
        ],
    )?;
    let free = |n: usize| told.object(n).map(|o| o["free_blocks"].as_u64());
    check("after create", free(5)? == free(3)?, &told)?;
    check("after fallocate", free(8)? == free(3)?, &told)?;
    check(
        "while mapped",
        free(13)?.map(|n| n + 1024) <= free(3)?,
        &told,
    )?;
    check("after munmap", free(15)? == free(3)?, &told)
}

fn pieces() -> Result<(), Failed> {
    let mut bytes = vec![0u8; 20_000];
    bytes[3000..13_000].fill(7);
    bytes[4000..4003].copy_from_slice(b"abc");
    let written = crc32c(&bytes);
    bytes[5000..12_345].fill(0);
    let punched = crc32c(&bytes);
    let cut = crc32c(&[&bytes[..4001], &vec![0; 10_000][..]].concat());
    expect(
        &[],
        0,
        &[
            ("mkfs", ""),
            ("mount", ""),
            ("create /f 0", ""),
            ("fill /f 3000 10000 7", ""),
            ("write /f 4000 abc", ""),
            ("truncate /f 20000", ""),
            ("sum /f", &written),
            ("punch /f 5000 7345", ""),
            ("sum /f", &punched),
            ("truncate /f 4001", ""),
            ("truncate /f 14001", ""),
            ("sum /f", &cut),
            ("create /t 0", ""),
            (r#"write /t 0 "one\ntwo\t\"three\"""#, ""),
            ("cat /t", "one\ntwo\t\"three\"\n"),
            ("cat /t --json", "{\"text\":"),
            ("create /u 3", ""),
            ("cat /u", "\\x00\\x00\\x00"),
        ],
    )?;
    Ok(())
}

fn mounting() -> Result<(), Failed> {
    expect(
        &[],
        1,
        &[
            ("umount", "error: no file system is mounted"),
            ("mount", "error: no magic number (`mkfs` makes one)"),
            ("mount pmem9", "error: no such pmem device"),
            ("mkfs foo", "error: no such pmem device"),
            ("mkfs pmem0 extra", "error: one argument too many"),
            ("mkfs", ""),
            ("mkfs", "error: holds a file system"),
            ("mkfs --force", ""),
            ("mount 0", ""),
            ("mount", "error: mounted already"),
            ("mkfs --force", "error: its file system is mounted"),
            ("create /f 64K", ""),
            ("mmap /f", ""),
            ("umount", "error: in use"),
            ("pin /f 0 1", ""),
            ("munmap 1", ""),
            ("umount", "error: in use"),
            ("unpin 1", ""),
            ("dma read 0 0 /f 0 4K --delay 300", "dma 1"),
            ("umount", "error: in use"),
            ("wait", "done"),
            ("rm /f", ""),
            ("umount", "unmounted"),
            ("ls", "error: no file system is mounted"),
            ("mmap /f", "error: no file system is mounted"),
            ("mount", "1 inodes in use"),
            ("ls", "empty"),
        ],
    )?;
    Ok(())
}

fn ranges() -> Result<(), Failed> {
    let all = format!("mmap /f 0 {END}");
    let end = format!("mmap /f {} 8192", u64::MAX - 4095);
    let pin_end = format!("pin /f {END} 2");
    let pin_all = format!("pin /f 0 {END}");
    expect(
        &[],
        1,
        &[
            ("mkfs", ""),
            ("mount", ""),
            ("create /f 64K", ""),
            ("mmap /f 0 0", "error: not a range"),
            (&all, "error: no room"),
            (&end, "error: not a range"),
            ("mmap /f 0", "error: LEN is missing"),
            ("mmap /nothing", "error: not found"),
            ("create /e 0", ""),
            ("mmap /e", "error: not a range"),
            ("mmap /f 60K 1M", "map 1"),
            ("load 1 4095", "0x00"),
            ("load 1 4096", "error: beyond the end"),
            ("store 1 4096 1", "error: beyond the end"),
            ("load 1 1M", "error: outside the mapping"),
            ("store 1 0 256", "error: more than 255"),
            ("mmap /f 4095 2", "map 2"),
            ("store 2 1 9", ""),
            ("munmap 1", ""),
            ("munmap 1", "error: no such mapping"),
            ("load 1 0", "error: no such mapping"),
            ("store 99999999999 0 1", "error: no such mapping"),
            ("msync 1", "error: no such mapping"),
            ("pin /f 0 0", "error: not a range"),
            ("pin /f 64K 1", "error: beyond the end"),
            ("pin /f 0 1M", "error: beyond the end"),
            (&pin_end, "error: not a range"),
            (&pin_all, "error: no room"),
            ("pin /e 0 1", "error: beyond the end"),
            ("unpin 1", "error: no such pin"),
            ("pages --json", "\"pinned\":0"),
            ("pins", "no pins"),
            ("page /f:1G", "error: no storage there"),
            ("page 0", "error: belongs to no pmem device"),
            ("page 0x140000", "error: belongs to no pmem device"),
            (
                "page 18446744073709551615",
                "error: belongs to no pmem device",
            ),
            ("page /f:x", "error: not a number"),
            ("maps --json", "\"map\":2"),
        ],
    )?;
    Ok(())
}

fn transfers() -> Result<(), Failed> {
    expect(
        &[],
        1,
        &[
            ("mkfs", ""),
            ("mount", ""),
            ("create /f 64K", ""),
            ("create /hole 0", ""),
            ("truncate /hole 64K", ""),
            (
                "dma read 0 32768 /f 0 512",
                "error: the disk ends after sector 32768",
            ),
            ("dma read 0 32767 /f 0 1024", "error: the disk ends"),
            (
                "dma read 0 18446744073709551615 /f 0 4K",
                "error: the disk ends",
            ),
            ("dma read 0 0 /f 0 0", "error: must be multiples of 512"),
            ("dma read 0 0 /f 0 100", "error: must be multiples of 512"),
            ("dma read 0 0 /f 100 512", "error: must be multiples of 512"),
            ("dma read 0 0 /f 60K 8K", "error: beyond the end"),
            ("dma read 0 0 /f 18446744073709551104 1024", "error"),
            ("dma read 5 0 /f 0 512", "error: no such disk"),
            ("dma read x 0 /f 0 512", "error: not a number"),
            ("dma copy 0 0 /f 0 512", "error: none of read, write"),
            ("dma read 0 0 /f 0 512 --delay", "error: wants a value"),
            (
                "dma read 0 0 /f 0 512 --delay 99999999999999999999",
                "error: it is more than",
            ),
            ("jobs", "no jobs"),
            ("pages --json", "\"pinned\":0"),
            ("sum /f", &crc32c(&[0; 65536])),
            // A hole gets storage for it.
            ("dma write 0 64 /hole 0 4K", "dma"),
            ("wait", "done"),
            ("dma read 0 64 /hole 8K 4K", "dma"),
            ("wait", "done"),
            ("sum /hole", &crc32c(&[0; 65536])),
            ("dma read 0 32767 /f 512 512", "dma"),
            ("wait", "done"),
            ("wait 99", "error: no such job"),
            ("wait x", "error: not a number"),
        ],
    )?;
    Ok(())
}

fn unarmed() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("a.pm").display().to_string();
    let (armed, not) = (format!("{file},size=64M"), format!("{file},unarmed"));
    let sum = crc32c(&[0x5a; 8192]);
    let lines = [
        ("mkfs", ""),
        ("mount", ""),
        ("create /f 8K", ""),
        ("fill /f 0 8K 0x5a", ""),
        ("umount", ""),
    ];
    expect(&["--pmem", &armed], 0, &lines)?;
    let before = std::fs::read(&file)?;
    expect(
        &["--pmem", &not],
        1,
        &[
            ("pmem", "is not armed: a power failure would lose stores"),
            ("mkfs --force", "error: read-only"),
            ("mount", "read-only: device"),
            ("df --json", "\"read_only\":true"),
            ("sum /f", &sum),
            ("mmap /f", "map 1"),
            ("load 1 5000", "0x5a"),
            ("store 1 0 1", "error: does not permit"),
            ("load 1 0", "0x5a"),
            ("msync 1", "0 pages"),
            ("pin /f 0 4K", "error: does not permit"),
            ("dma read 0 0 /f 0 4K", "error: does not permit"),
            ("dma write 0 0 /f 0 8K", "dma"),
            ("wait", "done"),
            ("create /g 1", "error: read-only"),
            ("mkdir /d", "error: read-only"),
            ("rm /f", "error: read-only"),
            ("ln -s f /l", "error: read-only"),
            ("chmod 600 /f", "error: read-only"),
            ("touch /f", "error: read-only"),
            ("mv /f /g", "error: read-only"),
            ("truncate /f 0", "error: read-only"),
            ("write /f 0 a", "error: read-only"),
            ("fallocate /f 0 1M", "error: read-only"),
            ("sum /f", &sum),
            ("munmap 1", ""),
            ("umount", "unmounted"),
        ],
    )?;
    match std::fs::read(&file)? == before {
        true => Ok(()),
        false => Err("the memory is another than before".into()),
    }
}

/// Each store takes page tables, index nodes and a block. Memory ends long before the stores do.
fn small_machine() -> Result<(), Failed> {
    let stores = (0..2000_u64).map(|n| format!("store 1 {}M 7", n * 2053));
    let begin = ["mkfs", "mount", "create /f 0", "truncate /f 4T", "mmap /f"].map(String::from);
    let end = [
        "mem --json",
        "munmap 1",
        "truncate /f 0",
        "create /k 64K",
        "mmap /k",
        "store 2 0 1",
        "sum /k",
    ];
    let end = end.map(String::from);
    let commands: Vec<String> = begin.into_iter().chain(stores).chain(end).collect();
    let told = tell(&["--memory", "12M"], &commands)?;
    let stored = &told.answers[5..2005];
    let count = |part: &str| stored.iter().filter(|answer| answer.contains(part)).count();
    let (good, short) = (count("stored"), count("out of memory (`mem`"));
    check(
        "some",
        good > 100 && short > 100 && good + short == 2000,
        &told,
    )?;
    let mut bytes = vec![0; 65536];
    bytes[0] = 1;
    let last = told
        .answers
        .last()
        .is_some_and(|answer| answer.contains(&crc32c(&bytes)));
    let rest = told.answers[2005..]
        .iter()
        .all(|answer| !answer.contains("error"));
    check(
        "the rest works",
        last && rest && told.ran.code == Some(1),
        &told,
    )
}
