//! break_layouts under shuttle: the shipped code of mm, dax and fs, one schedule after the other.
//!
//! ```text
//! RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR=target/shuttle CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true \
//!     cargo test --release -p fs --test shuttle -- --nocapture --test-threads 1
//! ```
//!
//! Each scenario runs under random schedules and under as many with random priorities; `HOLDFAST_SCHEDULES` is the number of each
//! (a short form otherwise). A relaxed load is no step of its own: slots of a node and entries of a table are scanned in one; those
//! scans have models of their own (loom). What is asserted: the head of [`world`].

#![cfg(shuttle)]

mod scenarios;
mod world;

use mm::sync::model::{self, Choice};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Schedules of each kind when nobody says otherwise.
const SHORT: usize = 500;
/// Changes of priority within one schedule.
const CHANGES: usize = 4;

/// Runs one scenario under both kinds of schedules and prints how many there were.
fn run(name: &str, scenario: fn()) {
    static RAN: AtomicU64 = AtomicU64::new(0);
    world::prepare();
    let start = Instant::now();
    let counted = move || {
        RAN.fetch_add(1, Relaxed);
        model::coarsely();
        scenario();
    };
    let mut ran = [0; 2];
    for (choice, ran) in [Choice::Random, Choice::Priorities(CHANGES)]
        .into_iter()
        .zip(&mut ran)
    {
        let before = RAN.load(Relaxed);
        model::check(SHORT, choice, counted);
        *ran = RAN.load(Relaxed) - before;
    }
    let seconds = start.elapsed().as_secs_f64();
    let [random, priorities] = ran;
    println!("shuttle {name}: {random} random schedules, {priorities} by priority, {seconds:.1} s");
}

macro_rules! models {
    ($($name:ident)+) => {
        $(#[test]
        fn $name() {
            run(stringify!($name), scenarios::$name);
        })+
    };
}

models! {
    truncate_against_faults
    truncate_against_pins
    truncate_against_a_holder_that_needs_more
    truncate_against_unpins
    truncate_against_munmap
    truncate_against_truncate
    truncate_against_unlink
    truncate_against_the_end_of_an_orphan
    truncate_against_device_removal
    truncate_against_umount
    truncate_against_leases
    msync_against_stores
    writes_into_holes_against_faults
}
