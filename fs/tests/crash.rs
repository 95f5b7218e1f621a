//! The file system is cut off at every store, flush and fence of an operation, in every state that the lines in flight allow; what the
//! next mount finds must be the tree before the operation or after it, and nothing else.
//!
//! The engine is in `explorer/`; docs/crash.md tells what it tries and what not. The figures are printed with `--nocapture`.

mod common;
mod explorer;
mod regressions;
mod repair;

use std::sync::Arc;

use common::model::Op;
use explorer::act::Act;
use explorer::crew::{Job, all_sequences, prefixes, run};
use explorer::lab::{Plan, TORN};
use explorer::states::Depth;
use explorer::worlds::{self, World};

/// Explores the sequences of those numbers.
fn explore(
    name: &str,
    world: &Arc<World>,
    plan: Plan,
    numbers: Vec<u64>,
    sequence: &(dyn Fn(u64) -> Vec<usize> + Sync),
) {
    let outcome = run(&Job {
        world: world.clone(),
        plan,
        numbers,
        sequence,
        progress: None,
    });
    println!("{}", outcome.figures.line(name, outcome.time));
    if let Some(found) = outcome.found {
        panic!("{found}");
    }
}

/// Every sequence of `length` operations of a list, or every `step`th.
fn all(name: &str, world: &Arc<World>, length: u32, step: usize, plan: Plan) {
    let (total, sequence) = all_sequences(world.acts.len(), length);
    let numbers = (0..total).step_by(step).collect();
    explore(name, world, plan, numbers, &sequence);
}

/// The first operation of `seeds` random sequences, the first two, and so on up to `length`.
fn random(name: &str, world: &Arc<World>, seeds: u64, length: u64, plan: Plan) {
    let sequence = prefixes(world.acts.len(), length);
    explore(name, world, plan, (0..seeds * length).collect(), &sequence);
}

const fn plan(depth: Depth, recovery: u8) -> Plan {
    Plan {
        depth,
        recovery,
        torn: TORN,
        more: false,
    }
}

/// A file made and removed until the ring has wrapped: the last few operations.
fn round_the_ring(plan: Plan) {
    let world = worlds::crowded();
    let at = |op: Op| {
        world
            .acts
            .iter()
            .position(|act| *act == Act::Op(op.clone()))
    };
    let pair =
        [Op::Create("/B/x".into()), Op::Unlink("/B/x".into())].map(|op| at(op).expect("listed"));
    let sequence = |number: u64| (0..number as usize + 15).map(|i| pair[i % 2]).collect();
    explore("round the ring", &world, plan, (0..6).collect(), &sequence);
}

/// What the mutations are tried on first: a little of everything, in seconds.
#[test]
fn a_little_of_everything() {
    let thin = plan(Depth::Thin, 1);
    all("ACE, one operation", &worlds::ace(), 1, 1, thin);
    all("own list, one operation", &worlds::own(), 1, 1, thin);
    all("ends of files, pairs", &worlds::tails(), 2, 1, thin);
    all("own list, some pairs", &worlds::own(), 2, 47, thin);
    random("a crowded region", &worlds::crowded(), 4, 30, thin);
    round_the_ring(thin);
}

#[test]
fn one_operation_of_ace() {
    all(
        "ACE, one operation",
        &worlds::ace(),
        1,
        1,
        plan(Depth::Normal, 2),
    );
}

#[test]
fn one_operation_of_the_own_list() {
    all(
        "own list, one operation",
        &worlds::own(),
        1,
        1,
        plan(Depth::Normal, 2),
    );
}

#[test]
fn one_operation_then_a_crash_then_another() {
    let plan = Plan {
        depth: Depth::Bare,
        recovery: 0,
        torn: TORN,
        more: true,
    };
    all("ACE, crash, one more", &worlds::ace(), 1, 1, plan);
    all("own list, crash, one more", &worlds::own(), 1, 1, plan);
}

#[test]
fn two_operations_of_ace() {
    all(
        "ACE, two operations",
        &worlds::ace(),
        2,
        1,
        plan(Depth::Normal, 1),
    );
}

/// ACE's fallocate in all its modes; the list of 56 has one. Of the pairs a seventh: all of them take two minutes.
#[test]
fn two_operations_of_ace_with_all_modes_of_fallocate() {
    let world = worlds::ace_modes();
    all("ACE's fallocate", &world, 1, 1, plan(Depth::Normal, 2));
    all("ACE's fallocate, two", &world, 2, 7, plan(Depth::Normal, 1));
}

/// A tree of two levels, whose nodes split and join.
#[test]
fn one_operation_in_a_deep_tree() {
    let deep = worlds::deep();
    all("a deep tree", &deep, 1, 1, plan(Depth::Normal, 1));
    all("a deep tree, pairs", &deep, 2, 1, plan(Depth::Bare, 0));
}

#[test]
fn two_operations_of_the_own_list() {
    all(
        "own list, two operations",
        &worlds::own(),
        2,
        1,
        plan(Depth::Normal, 1),
    );
}

#[test]
fn long_sequences_in_a_crowded_region() {
    random(
        "a crowded region",
        &worlds::crowded(),
        12,
        40,
        plan(Depth::Normal, 1),
    );
}
