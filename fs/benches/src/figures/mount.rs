//! How long a mount takes, by inodes and by blocks.

use std::time::Instant;

use dax::layout::{BreakReport, How};
use fs::Fill;
use fs_bench::{Bytes, Op, World, large_pages, memory, untouched, world};
use serde::Serialize;

use super::{progress, units};

/// Inodes of the large mounts.
const MANY: usize = 1_000_000;
/// A step that, taken again and again, comes by each of them once.
const STRIDE: usize = 611_953;
/// Mounts of each; the table shows the median and the best.
const ROUNDS: usize = 9;

/// One kind of file system.
#[derive(Serialize)]
pub struct Row {
    what: String,
    /// Bytes of the region.
    bytes: u64,
    /// Inodes in use.
    inodes: u32,
    /// Bytes of the region that the machine maps by large pages.
    large: u64,
    median_ns: f64,
    best_ns: f64,
}

/// All of them.
pub fn measure() -> Vec<Row> {
    vec![
        timed("nothing in it", untouched(1 << 30), |_| ()),
        timed("nothing in it", untouched(1 << 38), |_| ()),
        timed("empty files in one directory", memory(1 << 30), |world| {
            (0..MANY).for_each(|i| world.run(Op::Create, i));
        }),
        timed("files of one block each", untouched(8 << 30), |world| {
            (0..MANY).for_each(|i| {
                world.run(Op::Create, i);
                allocate(world, i, 1);
            });
        }),
        timed(
            "the same in no order, a free block behind each",
            untouched(16 << 30),
            |world| {
                (0..MANY).for_each(|i| world.run(Op::Create, i));
                (0..MANY).for_each(|i| {
                    let i = i * STRIDE % MANY;
                    allocate(world, i, 2);
                    punch(world, i);
                });
            },
        ),
    ]
}

type Mapped = World<dax::pmem::MappedPmem>;

fn allocate(world: &Mapped, i: usize, blocks: u64) {
    let made = world.find(i);
    let done = world.fs.fallocate(&made, 0, 4096 * blocks, Fill::Unwritten);
    done.expect("room");
}

/// Takes the second block of a file away.
fn punch(world: &Mapped, i: usize) {
    let made = world.find(i);
    let report = &mut BreakReport::default();
    let done = world.fs.punch(&made, 4096, 4096, How::NoWait, report);
    done.expect("nobody holds it");
}

fn timed(what: &str, bytes: Bytes, fill: impl FnOnce(&mut Mapped)) -> Row {
    let len = bytes.len() as u64;
    progress(&format!("mount: {what}, {}", units::bytes(len)));
    let mut world = World::with_room(bytes.pmem(), MANY, 1024);
    fill(&mut world);
    world.fs.sync().expect("sync");
    drop(world);
    let mut times = Vec::new();
    let mut inodes = 0;
    for _ in 0..ROUNDS {
        let backing = world::backing(len);
        let start = Instant::now();
        let fs = fs::Fs::mount(bytes.pmem(), backing).expect("mount");
        times.push(start.elapsed().as_nanos() as f64);
        inodes = fs.mount_report().inodes;
    }
    let large = large_pages();
    bytes.give_back();
    times.sort_by(f64::total_cmp);
    Row {
        what: what.into(),
        bytes: len,
        inodes,
        large,
        median_ns: times[ROUNDS / 2],
        best_ns: times[0],
    }
}

/// The table.
pub fn print(rows: &[Row]) {
    if rows.is_empty() {
        return;
    }
    let columns = [
        "mount of",
        "region",
        "by large pages",
        "inodes in use",
        "median",
        "best",
    ];
    let cells = |row: &Row| {
        vec![
            row.what.clone(),
            units::bytes(row.bytes),
            units::bytes(row.large),
            row.inodes.to_string(),
            units::time(row.median_ns),
            units::time(row.best_ns),
        ]
    };
    let heading =
        format!("Mount, of {ROUNDS} each; the table of inodes is in the caches as far as it fits");
    units::table(&heading, &columns, rows.iter().map(cells).collect());
}
