//! Lists of operations on the file system and on a tree in memory: the same answers, the same content, and the same again after
//! each mount. On images with room, on full ones, and on one with a single free block.
//!
//! `HOLDFAST_OPS=1000000 cargo test -p fs --test suite differential:: -- --nocapture` is the long form. A list that fails is shrunk and printed as Rust
//! that [`run`] takes.

use crate::lists::Step::{self, *};
use crate::lists::{HANDLES, Path, Room, run};
use fs::Fill;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

fn path() -> impl Strategy<Value = Path> {
    let name = || prop_oneof![4 => 1u8..3, 1 => 3u8..5];
    let below = || prop_oneof![2 => Just(0u8), 3 => 1u8..3, 1 => 3u8..5];
    (name(), below(), below()).prop_map(|(a, b, c)| (a, b, if b == 0 { 0 } else { c }))
}

fn fill() -> impl Strategy<Value = Fill> {
    prop_oneof![
        Just(Fill::Unwritten),
        Just(Fill::Zeroed),
        Just(Fill::KeepSize)
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let h = || 0..HANDLES as u8;
    let at = || prop_oneof![0u64..20_000, (0u64..16).prop_map(|b| b * 4096)];
    let len = || prop_oneof![1u64..200, 1u64..20_000, (1u64..5).prop_map(|b| b * 4096)];
    prop_oneof![
        4 => path().prop_map(Create),
        2 => path().prop_map(Mkdir),
        1 => path().prop_map(Rmdir),
        2 => path().prop_map(Unlink),
        1 => (path(), path()).prop_map(|(a, b)| Link(a, b)),
        2 => (path(), path(), any::<bool>()).prop_map(|(a, b, r)| Rename(a, b, r)),
        6 => (h(), path()).prop_map(|(h, p)| Open(h, p)),
        1 => h().prop_map(Close),
        2 => (h(), at(), len()).prop_map(|(h, o, l)| Read(h, o, l)),
        7 => (h(), at(), len(), any::<u8>()).prop_map(|(h, o, l, s)| Write(h, o, l, s)),
        3 => (h(), at()).prop_map(|(h, s)| Truncate(h, s)),
        3 => (h(), at(), len()).prop_map(|(h, o, l)| Punch(h, o, l)),
        3 => (h(), at(), len(), fill()).prop_map(|(h, o, l, f)| Fallocate(h, o, l, f)),
        2 => (h(), at(), len(), fill()).prop_map(|(h, o, l, f)| ZeroRange(h, o, l, f)),
        1 => prop_oneof![Just(Sync), Just(Remount)],
    ]
}

fn room() -> impl Strategy<Value = Room> {
    let small = 160 << 10;
    prop_oneof![
        3 => Just(Room { len: 8 << 20, free: None }),
        1 => Just(Room { len: small, free: None }),
        1 => (0u64..4).prop_map(move |free| Room { len: small, free: Some(free) }),
        1 => Just(Room { len: small, free: Some(1) }),
    ]
}

#[test]
fn answers_as_the_model_does() {
    const STEPS: usize = 200;
    let ops = std::env::var("HOLDFAST_OPS")
        .ok()
        .and_then(|n| n.parse().ok());
    let cases: u32 = ops.unwrap_or(10_000u32).div_ceil(STEPS as u32);
    let lists = (room(), prop::collection::vec(step(), 1..2 * STEPS));
    let done = std::cell::Cell::new(0);
    let config = Config {
        max_shrink_iters: 4000,
        ..Config::with_cases(cases)
    };
    let outcome = TestRunner::new(config).run(&lists, |(room, steps)| {
        run(room, &steps);
        done.set(done.get() + steps.len());
        Ok(())
    });
    if let Err(why) = outcome {
        panic!("{why}");
    }
    println!("{} operations", done.get());
}
