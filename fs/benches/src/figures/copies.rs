//! Bandwidth: `write` over storage that is there, against plain copies to memory of the same kind.

use std::time::Instant;

use fs_bench::{Bytes, World, memory};
use serde::Serialize;

use super::{progress, units};

/// Bytes that one pass copies: more than the caches hold.
const TOTAL: usize = 128 << 20;
/// Passes; the best one counts, since all else a machine does only takes bandwidth away.
const PASSES: usize = 7;

/// GB (10⁹ bytes) a second, of copies of one size.
#[derive(Serialize)]
pub struct Row {
    /// Bytes of a copy.
    bytes: usize,
    write: f64,
    read: f64,
    /// Words past the caches: what a kernel without vector registers has.
    movnti: f64,
    /// 16 bytes at a time past the caches.
    movntdq: f64,
    /// 64 bytes at a time past the caches, where the CPU has it.
    movdir64b: Option<f64>,
    /// The C library's, through the caches: durable at no time.
    memcpy: f64,
    /// The same, and then each line written back.
    memcpy_write_back: f64,
}

/// GB a second of `copy`, which copies `len` bytes at the place it is given.
fn bandwidth(len: usize, mut copy: impl FnMut(usize)) -> f64 {
    let pass = |_| {
        let start = Instant::now();
        (0..TOTAL / len).for_each(|i| copy(i * len));
        start.elapsed().as_secs_f64()
    };
    let best = (0..PASSES).map(pass).fold(f64::MAX, f64::min);
    TOTAL as f64 / best / 1e9
}

/// All sizes.
pub fn measure() -> Vec<Row> {
    let raw = memory(TOTAL);
    let world = World::new(memory(TOTAL + (64 << 20)).pmem(), 16);
    [4096, 65_536, 1 << 20]
        .map(|len| row(len, raw, &world))
        .into()
}

fn row(len: usize, raw: Bytes, world: &World<dax::pmem::MappedPmem>) -> Row {
    progress(&format!("copies of {}", units::bytes(len as u64)));
    let data = vec![0x5a; len];
    let mut buffer = vec![0; len];
    let path = format!("/copies of {len}");
    let made = world.fs.create_sized(&path, 0o644, TOTAL as u64);
    let file = made.expect("room");
    let row = Row {
        bytes: len,
        write: bandwidth(len, |at| {
            world.fs.write(&file, at as u64, &data).expect("write");
        }),
        read: bandwidth(len, |at| {
            world.fs.read(&file, at as u64, &mut buffer).expect("read");
        }),
        movnti: bandwidth(len, |at| raw.movnti(at, &data)),
        movntdq: bandwidth(len, |at| raw.movntdq(at, &data)),
        movdir64b: Bytes::has_movdir64b().then(|| bandwidth(len, |at| raw.movdir64b(at, &data))),
        memcpy: bandwidth(len, |at| raw.memcpy(at, &data)),
        memcpy_write_back: bandwidth(len, |at| raw.memcpy_write_back(at, &data)),
    };
    drop(file);
    world.fs.unlink(&path).expect("unlink");
    world.fs.settle();
    row
}

/// The table.
pub fn print(rows: &[Row]) {
    if rows.is_empty() {
        return;
    }
    let columns = [
        "bytes at once",
        "write",
        "of movnti",
        "movnti",
        "movntdq",
        "movdir64b",
        "memcpy + write-back",
        "memcpy",
        "read",
    ];
    let cells = |row: &Row| {
        let gb = |value: f64| format!("{value:.2}");
        vec![
            units::bytes(row.bytes as u64),
            gb(row.write),
            format!("{:.0} %", 100.0 * row.write / row.movnti),
            gb(row.movnti),
            gb(row.movntdq),
            row.movdir64b.map_or("-".into(), gb),
            gb(row.memcpy_write_back),
            gb(row.memcpy),
            gb(row.read),
        ]
    };
    let heading = format!(
        "Copies, GB/s: the best of {PASSES} passes over {}; memcpy leaves the data in the caches and is durable at no time",
        units::bytes(TOTAL as u64)
    );
    units::table(&heading, &columns, rows.iter().map(cells).collect());
}
