//! The rules of the commit protocol, as a model: with all of them no crash does harm, and without any one of them some crash does.
//!
//! The figures are printed with `--nocapture`. `HOLDFAST_RULES_DEEPER=1` makes every sequence longer by one.

use crate::rules_model::explore::{Bounds, Found, explore};
use crate::rules_model::memory::Tearing;
use crate::rules_model::protocol::{Rule, Setup, WriteBack};

fn bounds(slots: u64, depth: usize) -> Bounds {
    let setup = Setup {
        slots,
        without: &[],
        two_cpus: true,
        write_back: WriteBack::Checkpoint,
    };
    Bounds {
        setup,
        tearing: Tearing::Words,
        depth,
        recovery: false,
        again: 0,
    }
}

/// The same where the next record writes back.
fn by_the_next(slots: u64, depth: usize) -> Bounds {
    let mut bounds = bounds(slots, depth);
    bounds.setup.write_back = WriteBack::Next;
    bounds
}

fn sound(name: &str, bounds: Bounds) -> Found {
    let deeper = usize::from(std::env::var_os("HOLDFAST_RULES_DEEPER").is_some());
    let depth = bounds.depth + deeper;
    let found = explore(Bounds { depth, ..bounds });
    println!(
        "{name}, {} slots, {depth} operations: {found:?}",
        bounds.setup.slots
    );
    assert!(found.wrong.is_none(), "{found:?}");
    found
}

/// Without these rules some ring of up to four slots goes wrong within `bounds`.
fn needed(rules: &'static [Rule], bounds: impl Fn(u64) -> Bounds) {
    let found = (1..=4).find_map(|slots| {
        let mut bounds = bounds(slots);
        if bounds.setup.write_back == WriteBack::Next && slots < 2 {
            return None;
        }
        bounds.setup.without = rules;
        let found = explore(bounds);
        println!("without {rules:?}, {slots} slots: {found:?}");
        found.wrong
    });
    assert!(found.is_some(), "{rules:?} could be left out");
}

#[test]
fn with_all_rules_no_crash_does_harm() {
    for (slots, depth) in [(1, 5), (2, 5), (3, 5), (4, 5)] {
        let found = sound("all rules", bounds(slots, depth));
        assert!(found.sequences > 1000 && found.states > 10_000);
    }
}

#[test]
fn with_all_rules_a_recovery_may_be_cut_off() {
    for slots in 2..=4 {
        let recovery = true;
        let found = sound(
            "recoveries",
            Bounds {
                recovery,
                ..bounds(slots, 4)
            },
        );
        assert!(found.recoveries > 1000);
    }
}

#[test]
fn with_all_rules_a_second_crash_does_no_harm() {
    for slots in [1, 2, 4] {
        let again = if slots == 4 { 1 } else { 2 };
        let found = sound(
            "second crashes",
            Bounds {
                again,
                ..bounds(slots, 2)
            },
        );
        assert!(found.reboots > 100 && found.second > 1000);
    }
}

/// What the file system does: each record writes back what the one before stored in place, but for what it stores anew.
#[test]
fn with_all_rules_the_next_record_may_write_back() {
    for slots in 2..=4 {
        let found = sound("by the next", by_the_next(slots, 5));
        assert!(found.sequences > 1000 && found.states > 10_000);
    }
    let recovery = true;
    let cut_off = Bounds {
        recovery,
        ..by_the_next(3, 4)
    };
    assert!(sound("by the next, recoveries", cut_off).recoveries > 1000);
    for (slots, again) in [(2, 2), (4, 1)] {
        let bounds = Bounds {
            again,
            ..by_the_next(slots, 2)
        };
        let found = sound("by the next, second crashes", bounds);
        assert!(found.reboots > 100 && found.second > 1000);
    }
}

#[test]
fn with_lines_in_order_numbers_make_torn_slots_harmless() {
    for slots in [1, 2] {
        let mut bounds = Bounds {
            again: 2,
            ..bounds(slots, 2)
        };
        bounds.setup.without = &[Rule::Void];
        bounds.tearing = Tearing::Prefix;
        let found = sound("torn slots stay, lines in order", bounds);
        assert!(found.second > 1000);
    }
}

#[test]
fn r1_in_place_stores_only_after_the_fence() {
    needed(&[Rule::R1], |slots| bounds(slots, 3));
}

#[test]
fn r2_a_record_counts_only_whole() {
    needed(&[Rule::R2], |slots| bounds(slots, 3));
}

#[test]
fn r3_a_slot_is_reused_only_when_its_targets_are_durable() {
    needed(&[Rule::R3], |slots| bounds(slots, 4));
}

#[test]
fn r3_what_the_last_record_stored_is_written_back_by_the_next() {
    needed(&[Rule::R3], |slots| by_the_next(slots, 4));
}

#[test]
fn only_what_the_next_record_stores_anew_is_left_out() {
    needed(&[Rule::Anew], |slots| by_the_next(slots, 4));
}

#[test]
fn r4_blocks_are_durable_before_they_are_published() {
    needed(&[Rule::R4], |slots| bounds(slots, 5));
}

#[test]
fn r5_what_an_operation_frees_it_does_not_reuse() {
    needed(&[Rule::R5], |slots| bounds(slots, 4));
}

#[test]
fn r6_a_metadata_block_waits_for_the_floor() {
    needed(&[Rule::R6], |slots| bounds(slots, 6));
}

#[test]
fn r7_replay_in_order() {
    needed(&[Rule::R7], |slots| bounds(slots, 3));
}

/// Of tags alone, and with torn slots left as they are: the checksum would find nearly all of it.
#[test]
fn r8_no_number_is_used_twice() {
    let mut bounds = Bounds {
        again: 1,
        tearing: Tearing::Prefix,
        ..bounds(4, 2)
    };
    bounds.setup.without = &[Rule::Void, Rule::Checksum];
    assert!(explore(bounds).wrong.is_none());
    bounds.setup.without = &[Rule::Void, Rule::Checksum, Rule::R8];
    let found = explore(bounds);
    println!("without R8, 4 slots: {found:?}");
    assert!(found.wrong.is_some());
}

/// A word of the next record may be just the one that a torn record lacks, which comes to life with its own number and checksum.
#[test]
fn a_torn_slot_is_overwritten_before_anything_else() {
    needed(&[Rule::Void], |slots| Bounds {
        again: 2,
        ..bounds(slots, 2)
    });
}

#[test]
fn the_checksum_is_needed_if_words_arrive_in_any_order() {
    needed(&[Rule::Checksum], |slots| bounds(slots, 3));
}

/// The tags of the old record in a slot say nothing of a payload that is being overwritten.
#[test]
fn the_checksum_is_needed_where_an_old_record_may_be_replayed() {
    needed(&[Rule::Checksum], |slots| Bounds {
        tearing: Tearing::Prefix,
        ..bounds(slots, 5)
    });
}

#[test]
fn a_checkpoint_writes_back_what_other_cpus_stored() {
    needed(&[Rule::HandOver], |slots| bounds(slots, 4));
}
