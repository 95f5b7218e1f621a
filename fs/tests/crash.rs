//! The file system is cut off at every store, flush and fence of an operation, in every state that the lines in flight allow; what the
//! next mount finds must be the tree before the operation or after it, and nothing else.
//!
//! The engine is in `explorer/`; docs/crash.md tells what it tries and what not. The figures are printed with `--nocapture`.

mod common;
mod explorer;

use std::sync::Arc;

use explorer::crew::{Job, all_sequences, run};
use explorer::lab::Plan;
use explorer::states::Depth;
use explorer::worlds::{self, World};

/// Explores all sequences of so many operations of a list.
fn explore(name: &str, world: &Arc<World>, length: u32, plan: Plan) {
    let (total, sequence) = all_sequences(world.acts.len(), length);
    let job = Job {
        world: world.clone(),
        plan,
        numbers: (0..total).collect(),
        sequence: &sequence,
        progress: None,
    };
    let outcome = run(&job);
    println!("{}", outcome.figures.line(name, outcome.time));
    if let Some(found) = outcome.found {
        panic!("{found}");
    }
}

const fn plan(depth: Depth, recovery: u8) -> Plan {
    Plan {
        depth,
        recovery,
        more: false,
    }
}

#[test]
fn one_operation_of_ace() {
    explore(
        "ACE, one operation",
        &worlds::ace(),
        1,
        plan(Depth::Normal, 2),
    );
}

#[test]
fn one_operation_of_the_own_list() {
    explore(
        "own list, one operation",
        &worlds::own(),
        1,
        plan(Depth::Normal, 2),
    );
}

#[test]
fn one_operation_then_a_crash_then_another() {
    let plan = Plan {
        depth: Depth::Bare,
        recovery: 0,
        more: true,
    };
    explore("ACE, crash, one more", &worlds::ace(), 1, plan);
    explore("own list, crash, one more", &worlds::own(), 1, plan);
}

#[test]
fn two_operations_of_ace() {
    explore(
        "ACE, two operations",
        &worlds::ace(),
        2,
        plan(Depth::Normal, 1),
    );
}

#[test]
fn two_operations_of_the_own_list() {
    explore(
        "own list, two operations",
        &worlds::own(),
        2,
        plan(Depth::Normal, 1),
    );
}
