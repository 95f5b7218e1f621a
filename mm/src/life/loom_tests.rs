//! Every interleaving of the counting protocol, by loom: `RUSTFLAGS="--cfg loom" cargo test -p mm --release --lib loom`.

use super::*;
use crate::page::Counts;
use crate::sync::model::{Bounds, JoinHandle, check, spawn};
use std::sync::Arc;

/// Every interleaving.
const EVERY: Bounds = Bounds {
    preemptions: None,
    ..Bounds::preemptions(0)
};

struct Device {
    gate: Gate,
    refs: RefCount,
}

fn device() -> Arc<Device> {
    Arc::new(Device {
        gate: Gate::new(),
        refs: RefCount::new(),
    })
}

/// Removal marks the gate and looks once. What it finds at rest must stay at rest: no mapping is granted, not even for a
/// moment, and none that was granted goes unseen.
fn removal_against<L: LifePolicy>(mappers: usize, pin: bool) {
    // Three forced switches: enough for every mistake known (each of which needs one or two), and a second instead of minutes.
    check(Bounds::preemptions(3), move || {
        let device = device();
        let threads: Vec<_> = (0..mappers)
            .map(|_| spawn_mapper::<L>(device.clone(), pin))
            .collect();
        device.gate.kill();
        let at_rest = if L::SWEEPS {
            device.refs.is_settled_idle()
        } else {
            device.gate.held() == 0
        };
        if at_rest {
            assert_eq!(device.refs.counts(), Counts::IDLE);
        }
        let granted = threads
            .into_iter()
            .map(|t| t.join().unwrap())
            .filter(|&got| got)
            .count();
        assert_eq!(device.refs.counts().mapped as usize, granted);
        assert!(
            !at_rest || granted == 0,
            "a reference was granted behind the removal"
        );
    });
}

/// Maps once; with `pin`, also tries to pin whatever count it finds.
fn spawn_mapper<L: LifePolicy>(device: Arc<Device>, pin: bool) -> JoinHandle<bool> {
    spawn(move || {
        let got = L::get(&device.gate, &device.refs).is_ok();
        if pin && device.refs.try_pin(1).is_ok() {
            device.refs.put_pinned(1);
        }
        got
    })
}

#[test]
fn sweep_one_mapper() {
    removal_against::<Sweep>(1, true);
}

#[test]
fn sweep_two_mappers_share_a_claim() {
    removal_against::<Sweep>(2, false);
}

#[test]
fn counted_one_mapper() {
    removal_against::<Counted>(1, false);
}

#[test]
fn counted_two_mappers() {
    removal_against::<Counted>(2, false);
}

/// The test of the test: the historical mistake does not survive the model.
#[test]
#[should_panic(expected = "behind the removal")]
fn legacy_is_caught() {
    removal_against::<Legacy>(1, false);
}

/// A mapping is granted and withdrawn while the removal looks: a claim that fails is never seen as a reference, nor pinned.
#[test]
fn a_withdrawn_claim_cannot_be_pinned() {
    check(EVERY, || {
        let device = device();
        device.gate.kill();
        let claimant = {
            let device = device.clone();
            spawn(move || {
                assert_eq!(device.refs.get_or_claim(), Ok(false));
                assert!(!device.refs.settle(false));
            })
        };
        assert_eq!(device.refs.try_pin(1), Err(PinError::Idle));
        assert_eq!(device.refs.counts(), Counts::IDLE);
        claimant.join().unwrap();
        assert!(device.refs.is_settled_idle());
    });
}

/// gup against the last unmap: the pin either holds the page or fails, and exactly one thread reports the page idle.
#[test]
fn a_pin_against_the_last_unmap() {
    check(EVERY, || {
        let device = device();
        assert!(device.refs.first_mapped());
        let pinner = {
            let device = device.clone();
            spawn(move || device.refs.try_pin(2).is_ok() && device.refs.put_pinned(2).is_idle())
        };
        let unmapped_last = device.refs.put_mapped().is_idle();
        let unpinned_last = pinner.join().unwrap();
        assert!(unmapped_last != unpinned_last, "idle is reported once");
        assert!(device.refs.is_settled_idle());
    });
}
