//! Machines with no persistent memory, with two devices, and with tables that are not sound.

use libtest_mimic::Failed;

use crate::Check;
use crate::script::{check, expect};

/// The cases.
pub const CASES: &[(&str, Check)] = &[
    (
        "machines::without_persistent_memory_the_shell_works",
        no_pmem,
    ),
    ("machines::two_nvdimms_are_two_devices", two_nvdimms),
    (
        "machines::a_malformed_table_is_refused_piece_by_piece",
        malformed_nfit,
    ),
    ("machines::what_is_no_table_is_named", no_table),
    ("machines::one_cpu_and_sixteen_come_up", cpus),
];

fn no_pmem() -> Result<(), Failed> {
    expect(
        &["--no-pmem"],
        1,
        &[
            (
                "nfit",
                "0 NFIT, 0 regions, 0 refused (the firmware describes no persistent memory)",
            ),
            ("nfit --json", "\"tables\":0"),
            ("pmem", "no persistent memory"),
            ("pages --json", "\"pages\":0"),
            (
                "mkfs",
                "error: there is no persistent memory (start the machine with --pmem)",
            ),
            ("mount", "error: there is no persistent memory"),
            ("tour", "error: there is no persistent memory"),
            ("df", "error: no file system is mounted"),
            ("create /f 1", "error: no file system is mounted"),
            ("dma read 0 0 /f 0 512", "error: no file system is mounted"),
            ("page 0x100000", "error: belongs to no pmem device"),
            ("mem --json", "\"free\""),
            ("threads --json", "\"name\":\"idle\""),
            ("uptime", "up"),
        ],
    )?;
    Ok(())
}

fn cpus() -> Result<(), Failed> {
    for (count, told) in [("1", "1 CPU, idle"), ("16", "16 CPUs, idle")] {
        let json = format!("\"cpus\":{count},");
        let threads = format!("\"cpu\":{}", count.parse::<u32>()? - 1);
        expect(
            &["--no-pmem", "--cpus", count],
            0,
            &[
                ("uptime", told),
                ("uptime --json", &json),
                ("threads --json", &threads),
            ],
        )?;
    }
    Ok(())
}

fn two_nvdimms() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let [a, b] = ["a.pm", "b.pm"].map(|name| folder.path().join(name).display().to_string());
    let labelled = format!("{b},size=96M,label-size=128K");
    let options = ["--pmem", &format!("{a},size=64M"), "--pmem", &labelled];
    let told = expect(
        &options,
        1,
        &[
            ("pmem --json", ""),
            ("mkfs pmem0", "64 MiB"),
            ("mkfs pmem1", "pmem1: file system"),
            ("mkfs pmem2", "error: no such pmem device"),
            ("mount pmem1", "mounted"),
            ("create /on-the-second 4K", ""),
            ("mount pmem0", "error: mounted already"),
            ("page /on-the-second:0 --json", "\"device\":\"pmem1\""),
            ("umount", ""),
            ("mount pmem0", ""),
            ("ls", "empty"),
            ("create /on-the-first 4K", ""),
            ("page /on-the-first:0 --json", "\"device\":\"pmem0\""),
        ],
    )?;
    let devices = told.objects(0)?;
    let sizes: Vec<_> = devices.iter().filter_map(|d| d["size"].as_u64()).collect();
    check(
        "64 MiB, and 96 MiB without the labels",
        sizes == [64 << 20, (96 << 20) - (128 << 10)],
        &told,
    )?;
    let other_way = format!("{b},label-size=128K");
    expect(
        &["--pmem", &other_way, "--pmem", &a],
        0,
        &[
            ("mount pmem0", ""),
            ("ls", "on-the-second"),
            ("umount", ""),
            ("mount pmem1", ""),
            ("ls", "on-the-first"),
        ],
    )?;
    Ok(())
}

/// The bytes of tables, as ACPI 6.4 section 5.2.25 lays them out.
mod table {
    /// Persistent memory, 66F0D379-B4F3-4074-AC43-0D3318B78CDB as it lies in memory.
    const PERSISTENT: [u8; 16] = [
        0x79, 0xd3, 0xf0, 0x66, 0xf3, 0xb4, 0x74, 0x40, 0xac, 0x43, 0x0d, 0x33, 0x18, 0xb7, 0x8c,
        0xdb,
    ];

    pub fn whole(pieces: &[Vec<u8>]) -> Vec<u8> {
        let mut table = b"NFIT".to_vec();
        let len = 40 + pieces.iter().map(Vec::len).sum::<usize>();
        table.extend((len as u32).to_le_bytes());
        table.extend([1, 0]);
        table.resize(40, 0);
        table.extend(pieces.concat());
        sealed(table)
    }

    /// With the checksum that makes all bytes add up to 0.
    pub fn sealed(mut table: Vec<u8>) -> Vec<u8> {
        table[9] = 0;
        table[9] = table.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
        table
    }

    pub fn spa(index: u16, base: u64, length: u64) -> Vec<u8> {
        let mut piece = vec![0, 0, 56, 0];
        piece.extend(index.to_le_bytes());
        piece.resize(16, 0);
        piece.extend(PERSISTENT);
        piece.extend(base.to_le_bytes());
        piece.extend(length.to_le_bytes());
        piece.extend(0x8008u64.to_le_bytes());
        piece
    }

    /// A device of one range, with control region 1.
    pub fn device(handle: u32, spa: u16, length: u64) -> Vec<u8> {
        let mut piece = vec![1, 0, 48, 0];
        piece.extend(handle.to_le_bytes());
        piece.resize(12, 0);
        piece.extend(spa.to_le_bytes());
        piece.extend(1u16.to_le_bytes());
        piece.extend(length.to_le_bytes());
        piece.resize(42, 0);
        piece.extend(1u16.to_le_bytes());
        piece.resize(48, 0);
        piece
    }

    pub fn control() -> Vec<u8> {
        let mut piece = vec![4, 0, 32, 0, 1, 0];
        piece.resize(28, 0);
        piece.extend(0x301u16.to_le_bytes());
        piece.resize(32, 0);
        piece
    }
}

/// What `nfit` and `pmem` say of these bytes, on a machine with 256 MiB of persistent memory at 4 GiB.
fn with_nfit(bytes: &[u8], regions: usize, why: &[&str]) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("nfit").display().to_string();
    std::fs::write(&file, bytes)?;
    let options = ["--pmem-size", "256M", "--nfit", &file];
    let told = expect(
        &options,
        0,
        &[
            ("nfit --json", ""),
            ("pmem --json", ""),
            ("nfit", ""),
            ("uptime", "up"),
        ],
    )?;
    let found = told.objects(1)?;
    let found = found.iter().filter(|o| o["name"].is_string()).count();
    check(&format!("{regions} regions"), found == regions, &told)?;
    let objects = told.objects(0)?;
    let refused: Vec<&str> = objects.iter().filter_map(|o| o["why"].as_str()).collect();
    let matching = refused.len() == why.len()
        && why
            .iter()
            .all(|part| refused.iter().any(|r| r.contains(part)));
    check(&format!("{why:?} of {refused:?}"), matching, &told)
}

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

fn malformed_nfit() -> Result<(), Failed> {
    use table::{control, device, sealed, spa, whole};
    let sound = [spa(1, 4 * GIB, 64 * MIB), device(1, 1, 64 * MIB), control()];
    with_nfit(&whole(&sound), 1, &[])?;
    // One table with a sound region and four that are not.
    let mut pieces = sound.to_vec();
    pieces.extend([spa(2, 4 * GIB + 32 * MIB, 64 * MIB), device(2, 2, 64 * MIB)]);
    pieces.extend([spa(3, MIB, 64 * MIB), device(3, 3, 64 * MIB)]);
    pieces.extend([spa(4, 5 * GIB + 5, 64 * MIB), device(4, 4, 64 * MIB)]);
    pieces.extend([spa(5, u64::MAX - 4095, 64 * MIB), device(5, 5, 64 * MIB)]);
    pieces.push(spa(1, 8 * GIB, MIB));
    pieces.push(vec![0x7f, 0, 8, 0, 1, 2, 3, 4]);
    let why = [
        "overlaps region",
        "overlaps RAM",
        "must be multiples",
        "last address",
        "is taken by an earlier one",
    ];
    with_nfit(&whole(&pieces), 1, &why)?;
    let mut flipped = whole(&sound);
    flipped[60] ^= 1;
    with_nfit(&flipped, 0, &["checksum"])?;
    // What stands behind is lost; a range that no device vouches for is read-only.
    let mut endless = whole(&sound);
    endless[40 + 56 + 2] = 0;
    with_nfit(&sealed(endless), 1, &["length 0 does not reach the next"])?;
    let mut overrun = whole(&sound);
    overrun[40 + 56 + 48 + 2] = 0xff;
    with_nfit(
        &sealed(overrun),
        1,
        &[
            "0x90: length 255 passes the end",
            "which is missing or was refused",
        ],
    )
}

fn no_table() -> Result<(), Failed> {
    with_nfit(&[], 0, &["0 bytes are no table"])?;
    with_nfit(&[0; 39], 0, &["39 bytes are no table"])?;
    with_nfit(&[0; 40], 0, &["is not \"NFIT\""])?;
    with_nfit(&table::whole(&[]), 0, &[])?;
    let mut longer = table::whole(&[table::spa(1, 4 * GIB, MIB)]);
    longer.truncate(50);
    with_nfit(&longer, 0, &["at byte"])
}
