//! A device goes out of service under its users, and comes back; files without a name end with their last user.

use libtest_mimic::Failed;

use crate::Check;
use crate::script::{crc32c, expect, pattern};

/// The cases.
pub const CASES: &[(&str, Check)] = &[
    ("removal::users_get_errors_and_contents_are_kept", story),
    ("removal::what_is_in_flight_ends", in_flight),
    ("removal::again_and_again", again),
    ("removal::a_device_that_is_not_there_is_refused", refused),
    ("orphans::a_pinned_file_without_a_name_is_named", orphan),
];

fn story() -> Result<(), Failed> {
    expect(
        &[],
        1,
        &[
            ("mkfs", ""),
            ("mount", ""),
            ("create /f 64K", ""),
            ("fill /f 0 64K 7", ""),
            ("mmap /f", "map 1"),
            ("store 1 4096 9", ""),
            ("pin /f 8K 4K", "pin 1"),
            (
                "pmem remove --nowait",
                "error: pmem remove pmem0: timed out: inode 2 page 2",
            ),
            ("pmem remove --timeout 20 --json", "error"),
            ("pmem --json", "\"state\":\"removing\""),
            // Nobody gets anything new.
            ("ls /", "error: /: the device is gone"),
            ("load 1 0", "error: "),
            ("store 1 8192 1", "error: "),
            ("pin /f 0 4K", "error"),
            ("msync 1", "error"),
            ("create /g", "error"),
            ("umount", "error"),
            ("mkfs --force", "error"),
            ("df", ""),
            ("unpin 1", ""),
            ("pmem remove", "removed with its file system"),
            ("pmem --json", "\"state\":\"removed\""),
            ("pages --json", "\"metadata_bytes\":0"),
            ("load 1 0", "error: "),
            ("mount", "error: mount pmem0: the device is removed"),
            ("pmem remove", "error"),
            ("pmem add", "back in service"),
            ("fsck", ""),
            ("mount", "0 records replayed"),
            ("stat /f --json", "\"size\":65536"),
            ("mmap /f", "map 2"),
            ("load 2 4096", "0x09"),
            ("load 2 0", "0x07"),
            // The mapping from before stays what it is: of a device that is gone.
            ("load 1 4096", "error: "),
            ("munmap 1", ""),
            ("load 2 4096", "0x09"),
            ("munmap 2", ""),
            ("umount", ""),
        ],
    )
    .map(drop)
}

/// A transfer, a truncate that waits and the removal wait for the same pages; all end.
fn in_flight() -> Result<(), Failed> {
    let kept = crc32c(&pattern(8, 65536));
    expect(
        &[],
        0,
        &[
            ("mkfs", ""),
            ("mount", ""),
            ("create /f 64K", ""),
            ("create /g 64K", ""),
            ("dma read 0 8 /f 0 64K --delay 300", "dma 1"),
            ("pin /g 0 4K", "pin 1"),
            ("truncate /g 0 &", "[2]"),
            ("sleep 50", ""),
            ("pmem remove &", "[3]"),
            ("sleep 50", ""),
            ("unpin 1", ""),
            ("wait", "removed with its file system"),
            ("pmem add", ""),
            ("mount", ""),
            ("sum /f", &kept),
            ("stat /g --json", "\"size\":0"),
            ("umount", ""),
            ("fsck --json", "\"problems\":0"),
        ],
    )
    .map(drop)
}

fn again() -> Result<(), Failed> {
    let mut pairs = vec![
        ("mkfs", ""),
        ("mount", ""),
        ("create /f 16K", ""),
        ("fill /f 0 16K 3", ""),
    ];
    for _ in 0..12 {
        pairs.extend([
            ("pmem remove", "removed"),
            ("pmem add", ""),
            ("mount", ""),
            ("stat /f --json", "\"size\":16384"),
            ("create /g 1M", ""),
            ("rm /g", ""),
        ]);
    }
    pairs.extend([("df --json", "\"orphans\":0"), ("umount", ""), ("fsck", "")]);
    expect(&["--pmem-size", "16M"], 0, &pairs).map(drop)
}

fn refused() -> Result<(), Failed> {
    expect(
        &[],
        1,
        &[
            ("pmem add", "error: pmem add pmem0: it is not removed"),
            ("pmem remove pmem7", "error"),
            ("pmem bogus", "error"),
            ("pmem remove", "pmem0: removed after"),
            ("mkfs", "error: mkfs pmem0: the device is removed"),
            ("fsck", "error"),
            ("pmem add 0", ""),
            ("mkfs", ""),
        ],
    )
    .map(drop)
}

fn orphan() -> Result<(), Failed> {
    expect(
        &[],
        1,
        &[
            ("mkfs", ""),
            ("mount", ""),
            ("create /f 64K", ""),
            ("pin /f 4K 4K", "pin 1"),
            ("rm /f", ""),
            ("df --json", "\"orphans\":1"),
            ("stat --inode 2 --json", "\"links\":0"),
            ("stat --inode 3", "error: inode 3: not found"),
            (
                "umount",
                "error: umount: a file without a name is in use: inode 2 page 1",
            ),
            ("umount --json", "error"),
            ("unpin 1", ""),
            ("df --json", "\"orphans\":0"),
            ("stat --inode 2", "error"),
            ("umount", ""),
            ("fsck --json", "\"blocks_used\":1,"),
        ],
    )
    .map(drop)
}
