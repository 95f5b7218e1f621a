//! Times of single operations under criterion: `cargo bench --bench times`.
#![allow(missing_docs, reason = "criterion's macros")]

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use fs_bench::{Bytes, Op, World, memory};

/// Operations between two new file systems.
const ROUND: usize = 10_000;

/// The time of `n` runs of `op`, each on what the operations before it in [`Op::ALL`] made.
fn timed(bytes: Bytes, op: Op, n: u64) -> Duration {
    let mut spent = Duration::ZERO;
    let mut left = n as usize;
    while left > 0 {
        let round = left.min(ROUND);
        let mut world = World::new(bytes.pmem(), ROUND);
        for before in Op::ALL.into_iter().take_while(|before| *before != op) {
            (0..round).for_each(|i| world.run(before, i));
        }
        let start = Instant::now();
        (0..round).for_each(|i| world.run(op, i));
        spent += start.elapsed();
        left -= round;
    }
    spent
}

fn operations(criterion: &mut Criterion) {
    let bytes = memory(256 << 20);
    for op in Op::ALL {
        criterion.bench_function(op.name(), |bencher| {
            bencher.iter_custom(|n| timed(bytes, op, n));
        });
    }
}

criterion_group!(
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20);
    targets = operations
);
criterion_main!(benches);
