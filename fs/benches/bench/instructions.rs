//! Instructions of a thousand operations each, counted by callgrind: `cargo bench --bench instructions`.
#![allow(missing_docs, reason = "the macros of iai-callgrind")]

use dax::pmem::MappedPmem;
use fs_bench::{Op, World, memory};
use iai_callgrind::{library_benchmark, library_benchmark_group, main};

/// Operations that are counted.
const ROUND: usize = 1_000;

/// A file system on which every operation before `op` was done.
fn before(op: Op) -> (World<MappedPmem>, Op) {
    let mut world = World::new(memory(64 << 20).pmem(), 2 * ROUND);
    for before in Op::ALL.into_iter().take_while(|before| *before != op) {
        (0..ROUND).for_each(|i| world.run(before, i));
    }
    (world, op)
}

#[library_benchmark]
#[bench::create(before(Op::Create))]
#[bench::readdir(before(Op::Readdir))]
#[bench::rename(before(Op::Rename))]
#[bench::unlink(before(Op::Unlink))]
#[bench::append(before(Op::Append))]
#[bench::overwrite(before(Op::Overwrite))]
#[bench::read(before(Op::Read))]
fn thousand((mut world, op): (World<MappedPmem>, Op)) -> World<MappedPmem> {
    (0..ROUND).for_each(|i| world.run(op, i));
    world
}

library_benchmark_group!(name = operations; benchmarks = thousand);
main!(library_benchmark_groups = operations);
