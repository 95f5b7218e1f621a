//! The counts of one page, and its other words, by one thread and by several.

use super::*;
use std::sync::atomic::AtomicBool;
use std::thread;

fn count(mapped: u32, pinned: u32) -> RefCount {
    RefCount(AtomicU64::new(u64::from(mapped) | u64::from(pinned) << 32))
}

#[test]
fn the_halves_are_exact() {
    let refs = count(0, 0);
    assert!(refs.first_mapped() && !refs.first_mapped());
    assert_eq!(refs.get_mapped(), Ok(true));
    assert_eq!(refs.try_pin(u32::MAX), Ok(()));
    assert_eq!(
        refs.counts(),
        Counts {
            mapped: 2,
            pinned: u32::MAX
        }
    );
    assert_eq!(
        refs.put_mapped(),
        Counts {
            mapped: 1,
            pinned: u32::MAX
        }
    );
    assert_eq!(
        refs.put_pinned(u32::MAX),
        Counts {
            mapped: 1,
            pinned: 0
        }
    );
    assert_eq!(refs.put_mapped(), Counts::IDLE);
    assert!(refs.is_settled_idle());
}

#[test]
fn overflow_is_refused_in_each_half() {
    let full = count(MAPPED_MAX, 1);
    assert_eq!(full.get_mapped(), Err(Overflow));
    assert_eq!(full.get_or_claim(), Err(Overflow));
    assert_eq!(
        full.counts(),
        Counts {
            mapped: MAPPED_MAX,
            pinned: 1
        }
    );
    let pinned = count(1, u32::MAX - 1);
    assert_eq!(pinned.try_pin(2), Err(PinError::Overflow));
    assert_eq!(pinned.try_pin(1), Ok(()));
    assert_eq!(pinned.try_pin(1), Err(PinError::Overflow));
    assert_eq!(
        pinned.counts(),
        Counts {
            mapped: 1,
            pinned: u32::MAX
        }
    );
}

#[test]
fn a_claim_is_no_reference() {
    let refs = count(0, 0);
    assert_eq!(refs.get_mapped(), Ok(false));
    assert_eq!(
        (refs.get_or_claim(), refs.get_or_claim()),
        (Ok(false), Ok(false))
    );
    assert_eq!(
        (refs.counts(), refs.is_settled_idle()),
        (Counts::IDLE, false)
    );
    assert_eq!(refs.try_pin(1), Err(PinError::Idle));
    assert!(!refs.first_mapped());
    assert!(!refs.settle(false));
    assert!(refs.settle(true));
    assert_eq!(
        refs.counts(),
        Counts {
            mapped: 1,
            pinned: 0
        }
    );
    refs.put_mapped();
    // Granted by the other claimant: a late look at a dying gate finds the reference granted.
    assert_eq!(
        (refs.get_or_claim(), refs.get_or_claim()),
        (Ok(false), Ok(false))
    );
    assert!(refs.settle(true) && refs.settle(false));
    assert_eq!(refs.counts().mapped, 2);
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "underflow")]
fn a_mapping_too_many_dropped_panics_in_debug_builds() {
    count(0, 3).put_mapped();
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "underflow")]
fn a_pin_too_many_dropped_panics_in_debug_builds() {
    count(1, 1).put_pinned(2);
}

#[test]
fn owner_order_and_poison_do_not_disturb_each_other() {
    let page = Page::default();
    assert_eq!(
        (page.owner(), page.order(), page.is_poisoned()),
        (None, 0, false)
    );
    let owner = Owner { inode: 0, index: 0 };
    page.set_poisoned(true);
    page.write(Some(owner), 9);
    assert_eq!(
        (page.owner(), page.size(), page.is_poisoned()),
        (Some(owner), PageSize::Size2M, true)
    );
    page.set_poisoned(false);
    page.write(None, 0);
    assert_eq!(
        (page.owner(), page.order(), page.is_poisoned()),
        (None, 0, false)
    );
}

#[test]
fn an_owner_is_never_a_mixture_of_two() {
    let (page, stop) = (Page::default(), AtomicBool::new(false));
    thread::scope(|s| {
        s.spawn(|| {
            for i in 0..if cfg!(miri) { 100 } else { 100_000 } {
                page.write(
                    (i % 3 > 0).then_some(Owner {
                        inode: i,
                        index: i * 7,
                    }),
                    0,
                );
                page.set_poisoned(i % 2 == 0);
            }
            stop.store(true, Ordering::SeqCst);
        });
        while !stop.load(Ordering::SeqCst) {
            if let Some(owner) = page.owner() {
                assert_eq!(owner.index, owner.inode * 7);
            }
        }
    });
}
