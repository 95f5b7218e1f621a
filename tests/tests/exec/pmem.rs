//! What ACPI tables and labels make of the machine's persistent memory.
//!
//! `tests/guest/nfit/second` is the body of a table, without the header: QEMU adds one. It describes a range within the
//! default machine's NVDIMM, and one behind it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use libtest_mimic::Failed;
use serde_json::Value;
use tests::driver::{Ran, exec};

use crate::Check;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A label area with two namespaces, for QEMU's first device: 64 MiB as it is, then 64 MiB for a file system of Linux.
const LABELS: &[u8] = include_bytes!("../../../dax/fuzz/corpus/label/seed-v1.2");

/// The cases.
pub const CASES: &[(&str, Check)] = &[
    ("pmem::a_second_table_is_looked_at_too", second_table),
    ("pmem::capabilities_say_what_a_store_takes", capabilities),
    ("pmem::labels_divide_a_region", labels),
    ("pmem::an_area_of_zeros_divides_nothing", fresh_labels),
    (
        "pmem::damaged_labels_keep_a_region_from_use",
        damaged_labels,
    ),
];

/// The objects that a script printed.
fn objects(ran: &Ran) -> Result<Vec<Value>, Failed> {
    if ran.code != Some(0) {
        return Err(format!("{ran:?}").into());
    }
    let lines = ran.stdout.lines().map(serde_json::from_str);
    Ok(lines.collect::<Result<_, _>>()?)
}

/// Base, size and persistence of each device.
fn devices<'a>(objects: &'a [Value]) -> Vec<(u64, u64, &'a str)> {
    let devices = objects.iter().filter(|object| object["name"].is_string());
    let number = |value: &Value| value.as_u64().unwrap_or(u64::MAX);
    let how = |device: &'a Value| device["persistence"].as_str().unwrap_or("");
    devices
        .map(|d| (number(&d["base"]), number(&d["size"]), how(d)))
        .collect()
}

fn wanted<T: PartialEq + std::fmt::Debug>(got: &T, want: &T, ran: &Ran) -> Result<(), Failed> {
    match got == want {
        true => Ok(()),
        false => Err(format!("got {got:?}, wanted {want:?}: {ran:?}").into()),
    }
}

fn second_table() -> Result<(), Failed> {
    let table = "sig=NFIT,rev=1,data=tests/guest/nfit/second";
    let words = [
        "exec",
        "pmem --json; nfit --json",
        "--",
        "-acpitable",
        table,
    ];
    let ran = tests::driver::holdfast(&words)?;
    let objects = objects(&ran)?;
    let want = vec![(4 * GIB, GIB, "clwb+sfence"), (5 * GIB, 64 * MIB, "sfence")];
    wanted(&devices(&objects), &want, &ran)?;
    let refused = objects.iter().find(|object| object["kind"] == "rejected");
    let why = refused.and_then(|object| object["why"].as_str());
    wanted(
        &why.is_some_and(|why| why.contains("overlaps region 0")),
        &true,
        &ran,
    )
}

fn capabilities() -> Result<(), Failed> {
    for (platform, want) in [("cpu", "sfence"), ("mem-ctrl", "clwb+sfence")] {
        let machine = format!("nvdimm-persistence={platform}");
        let words = ["exec", "nfit --json", "--", "-machine", &machine];
        let ran = tests::driver::holdfast(&words)?;
        let objects = objects(&ran)?;
        let region = objects.iter().find(|object| object["kind"] == "region");
        let got = region.and_then(|region| region["persistence"].as_str());
        wanted(&got, &Some(want), &ran)?;
    }
    Ok(())
}

/// Runs `pmem` on a machine whose NVDIMM of 256 MiB has these bytes at the start of its label area.
fn with_labels(bytes: &[u8]) -> Result<Ran, Failed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("pmem.img");
    let file = File::create_new(&path)?;
    file.set_len(256 * MIB)?;
    file.write_all_at(bytes, 256 * MIB - (128 << 10))?;
    let option = format!("{},label-size=128K", path.display());
    Ok(exec(&["--pmem", &option], "pmem --json")?)
}

fn labels() -> Result<(), Failed> {
    let ran = with_labels(LABELS)?;
    let objects = objects(&ran)?;
    wanted(
        &devices(&objects),
        &vec![(4 * GIB, 64 * MIB, "clwb+sfence")],
        &ran,
    )?;
    wanted(
        &ran.stdout.contains("Fsdax namespaces are not supported"),
        &true,
        &ran,
    )
}

fn fresh_labels() -> Result<(), Failed> {
    let ran = with_labels(&[])?;
    let found = objects(&ran)?;
    let bases: Vec<u64> = devices(&found).into_iter().map(|device| device.0).collect();
    wanted(&bases, &vec![4 * GIB], &ran)
}

fn damaged_labels() -> Result<(), Failed> {
    let mut bytes = LABELS.to_vec();
    bytes[30] ^= 1;
    bytes[256 + 30] ^= 1;
    let ran = with_labels(&bytes)?;
    wanted(&devices(&objects(&ran)?), &vec![], &ran)?;
    wanted(&ran.stdout.contains("the labels are damaged"), &true, &ran)
}
