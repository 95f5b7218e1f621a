//! The waiter for a page's pins against the last unpin, through the shipped pgmap, under loom.

use super::*;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::model::{Bounds, check, spawn};
use std::sync::Arc as StdArc;

/// A pgmap with one page that is mapped once and pinned `pins` times.
fn one_page(pins: u32) -> (StdArc<Pgmap>, Pfn) {
    let range = scratch_range(1);
    let pgmap: StdArc<Pgmap> = Pgmap::new("model", range, None).expect("a new range");
    let pfn = range.start();
    let folio = pgmap.populate(pfn, PageSize::Size4K).expect("memory");
    pgmap.map_get(&folio).expect("alive");
    pgmap.try_pin(&folio, pins).expect("mapped");
    (pgmap, pfn)
}

fn end(pgmap: &Pgmap, unmap: impl FnMut()) {
    pgmap
        .remove(unmap, &Wait::forever())
        .expect("no page is in use");
}

/// The last unpin wakes who waits for the pins, whatever is mapped: before, during and after the waiter's look.
#[test]
fn the_last_unpin_wakes_the_waiter() {
    check(Bounds::preemptions(2).objects(128), || {
        let (pgmap, pfn) = one_page(2);
        let unpin = |_| {
            let pgmap = pgmap.clone();
            spawn(move || pgmap.unpin(&pgmap.folio(pfn).expect("it has metadata"), 1))
        };
        let unpinners: [_; 2] = core::array::from_fn(unpin);
        assert_eq!(pgmap.wait_unpinned(pfn, &Wait::forever()), Ok(()));
        let folio = pgmap.folio(pfn).expect("it has metadata");
        assert_eq!(
            folio.counts(),
            Counts {
                mapped: 1,
                pinned: 0
            }
        );
        unpinners.map(|t| t.join().expect("an unpin ends"));
        end(&pgmap, || {
            pgmap.map_put(&folio);
        });
    });
}

/// What the holder of a pin did to the page is seen by who waited for the pin.
#[test]
fn who_waited_sees_what_the_holder_did() {
    check(Bounds::preemptions(3).objects(128), || {
        let (pgmap, pfn) = one_page(1);
        let stored = StdArc::new(AtomicU32::new(0));
        let holder = {
            let (pgmap, stored) = (pgmap.clone(), stored.clone());
            spawn(move || {
                stored.store(1, Ordering::Relaxed);
                pgmap.unpin(&pgmap.folio(pfn).expect("it has metadata"), 1);
            })
        };
        assert_eq!(pgmap.wait_unpinned(pfn, &Wait::forever()), Ok(()));
        assert_eq!(stored.load(Ordering::Relaxed), 1);
        holder.join().expect("an unpin ends");
        end(&pgmap, || {
            pgmap.map_put(&pgmap.folio(pfn).expect("it has metadata"));
        });
    });
}

/// The removal's sweep waits for a pin, and is woken by its end.
#[test]
fn the_last_reference_wakes_the_removal() {
    check(Bounds::preemptions(2).objects(128), || {
        let (pgmap, pfn) = one_page(1);
        let holder = {
            let pgmap = pgmap.clone();
            spawn(move || pgmap.unpin(&pgmap.folio(pfn).expect("it has metadata"), 1))
        };
        end(&pgmap, || {
            pgmap.map_put(&pgmap.folio(pfn).expect("it has metadata"));
        });
        assert_eq!(pgmap.first_busy(), None);
        holder.join().expect("an unpin ends");
    });
}
