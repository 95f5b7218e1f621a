//! Who meets a truncate.

use crate::world::*;
use dax::layout::BreakReport;
use fs::error::{ChangeError, TruncateError, UnmountError, WriteError};
use mm::aspace::FaultError;
use mm::gup::{PinnedPages, pin_user_pages_longterm};
use mm::lease::{Lease, Why};
use mm::sync::model;
use mm::sync::plain::Mutex;
use mm::sync::{Wait, WaitQueue};
use std::sync::Arc;

fn cut_and_reuse(w: &World) {
    w.truncate().expect("truncate");
    w.reuse().expect("the blocks are free");
}

/// The file is as it was or it is cut: nothing else may come of a fault.
fn store(w: &World, page: u64, stamp: u64) {
    match w.touch(page, stamp) {
        Ok(()) | Err(FaultError::PastEof) => {}
        Err(why) => panic!("{why}"),
    }
}

fn ended(world: Arc<World>) {
    alone(world).end();
}

pub fn truncate_against_faults() {
    let world = Arc::new(World::new());
    at_once(
        &world,
        [
            cut_and_reuse,
            |w| (0..PAGES).for_each(|p| store(w, p, 1)),
            |w| store(w, 0, 2),
        ],
    );
    ended(world);
}

pub fn truncate_against_pins() {
    let world = Arc::new(World::new());
    at_once(
        &world,
        [
            cut_and_reuse,
            |w| w.pin_and_use(0, true, 1),
            |w| {
                w.pin_and_use(1, false, 2);
                // Mapped again while somebody waits for the pin.
                store(w, 0, 3);
            },
        ],
    );
    ended(world);
}

/// DMA from one page of the file to another: who holds one cannot let go before he has the other.
pub fn truncate_against_a_holder_that_needs_more() {
    let world = Arc::new(World::new());
    let first = world.pin(0, true).expect("pin");
    let threads = [
        thread(&world, cut_and_reuse),
        thread(&world, move |w| {
            w.pin_and_use(1, true, 1);
            w.use_pinned(&first, 2);
        }),
    ];
    threads
        .into_iter()
        .for_each(|t| t.join().expect("no panic"));
    ended(world);
}

pub fn truncate_against_unpins() {
    let world = Arc::new(World::new());
    let pin = |page| world.pin(page, true).expect("pin");
    let (first, second, third) = (pin(0), pin(0), pin(1));
    let threads = [
        thread(&world, cut_and_reuse),
        thread(&world, move |w| {
            w.use_pinned(&first, 1);
            drop(first);
            w.use_pinned(&third, 3);
        }),
        thread(&world, move |_| drop(second)),
    ];
    threads
        .into_iter()
        .for_each(|t| t.join().expect("no panic"));
    ended(world);
}

pub fn truncate_against_munmap() {
    let world = Arc::new(World::new());
    (0..PAGES).for_each(|p| store(&world, p, 1));
    at_once(
        &world,
        [
            cut_and_reuse,
            |w| w.process.unmap(),
            |w| w.pin_and_use(0, true, 2),
        ],
    );
    ended(world);
}

pub fn truncate_against_truncate() {
    let world = Arc::new(World::new());
    let pin = world.pin(1, true).expect("pin");
    let threads = [
        thread(&world, |w| w.truncate().expect("truncate")),
        thread(&world, |w| {
            let report = &mut BreakReport::default();
            let done = w.fs.truncate(&w.f, 4096, forever(), report);
            // The other may have been first: then it made the file longer, by a hole.
            done.expect("truncate");
        }),
        thread(&world, move |w| {
            w.use_pinned(&pin, 1);
            drop(pin);
            store(w, 0, 2);
        }),
    ];
    threads
        .into_iter()
        .for_each(|t| t.join().expect("no panic"));
    world.truncate().expect("truncate");
    world.reuse().expect("the blocks are free");
    ended(world);
}

/// A full disk is the only reason not to write, and only while somebody holds what was the file's.
fn try_reuse(w: &World) {
    match w.reuse() {
        Ok(()) | Err(WriteError::Change(ChangeError::NoSpace { .. })) => {}
        Err(why) => panic!("{why}"),
    }
}

pub fn truncate_against_unlink() {
    let world = Arc::new(World::new());
    at_once(
        &world,
        [
            |w| {
                w.truncate().expect("truncate");
                try_reuse(w);
            },
            |w| w.fs.unlink("/f").expect("unlink"),
            |w| w.pin_and_use(0, true, 1),
        ],
    );
    world.reuse().expect("the blocks are free");
    ended(world);
}

/// The file has no name, and its only users end: a truncate, a pin. Somebody ends the orphan when they have.
pub fn truncate_against_the_end_of_an_orphan() {
    let mut world = World::new();
    let pin = world.pin(1, true).expect("pin");
    world.process.unmap();
    world.fs.unlink("/f").expect("unlink");
    let f = std::mem::replace(&mut world.f, world.g.clone());
    let world = Arc::new(world);
    let threads = [
        thread(&world, move |w| {
            let report = &mut BreakReport::default();
            let done = w.fs.truncate(&f, 4096, forever(), report);
            done.expect("truncate");
            drop(f);
            try_reuse(w);
        }),
        thread(&world, move |w| {
            w.use_pinned(&pin, 1);
            drop(pin);
            w.fs.settle();
        }),
        thread(&world, |w| {
            w.fs.reap_orphans();
            try_reuse(w);
        }),
    ];
    threads
        .into_iter()
        .for_each(|t| t.join().expect("no panic"));
    world.fs.settle();
    assert_eq!(
        world.fs.statfs().orphans,
        0,
        "an orphan that nobody uses stays"
    );
    world.reuse().expect("the blocks are free");
    ended(world);
}

pub fn truncate_against_device_removal() {
    let world = Arc::new(World::new());
    at_once(
        &world,
        [
            |w| match w.truncate() {
                Ok(()) | Err(TruncateError::Change(ChangeError::Gone(_))) => {}
                Err(why) => panic!("{why}"),
            },
            |w| w.pin_and_use(0, true, 1),
            |w| {
                w.fs.remove_device(&Wait::forever())
                    .expect("the device goes");
                assert_eq!(w.pgmap.first_busy(), None, "gone with a page in use");
                let tlb = &w.process.tlb;
                let range = w.pgmap.range();
                assert!(
                    !tlb.reaches(range.start(), range.pages()),
                    "gone with a stale translation"
                );
            },
        ],
    );
    assert!(
        world.touch(0, 9).is_err(),
        "a page of a device that is gone"
    );
    let (fs, pgmap) = (world.fs.clone(), world.pgmap.clone());
    drop((alone(world), fs));
    assert_eq!(pgmap.first_busy(), None);
}

/// Unmounting fails as long as somebody uses the file, and succeeds when nobody does.
pub fn truncate_against_umount() {
    let world = Arc::new(World::new());
    let fs = world.fs.clone();
    let threads = [
        thread(&world, cut_and_reuse),
        thread(&world, |w| {
            w.pin_and_use(1, true, 1);
            w.process.unmap();
        }),
        mm::sync::model::spawn(move || match fs.unmount() {
            Err((_, UnmountError::Busy(_) | UnmountError::InUse)) => {}
            Err((_, why)) => panic!("{why}"),
            Ok(()) => panic!("unmounted while it is in use"),
        }),
    ];
    threads
        .into_iter()
        .for_each(|t| t.join().expect("no panic"));
    ended(world);
}

/// Who holds a page for long, and lets go of it some time after it was asked to.
struct Holder {
    asked: Mutex<Vec<Why>>,
    changed: WaitQueue,
}

impl Lease for Holder {
    fn revoke(&self, why: Why) {
        assert!(mm::sync::held_by_current().is_empty(), "asked under a lock");
        self.asked.lock().push(why);
        self.changed.wake_all();
    }

    fn holder(&self) -> &str {
        "holder"
    }

    fn grace_us(&self) -> u64 {
        1000
    }
}

fn hold_until_asked(w: &World, holder: &Arc<Holder>, page: u64) {
    let lease: Arc<dyn Lease> = holder.clone();
    let at = w.process.va(page);
    let pin: PinnedPages = match pin_user_pages_longterm(&w.process.space, at, 1, true, Some(lease))
    {
        Ok(pin) => pin,
        // The file was cut before.
        Err(_) => return,
    };
    let asked = || !holder.asked.lock().is_empty();
    holder
        .changed
        .wait_until(asked, &Wait::forever())
        .expect("no deadline");
    w.use_pinned(&pin, 5);
}

pub fn truncate_against_leases() {
    let world = Arc::new(World::new());
    let holder = Arc::new(Holder {
        asked: Mutex::new(Vec::new()),
        changed: WaitQueue::new(),
    });
    let theirs = holder.clone();
    let threads = [
        thread(&world, cut_and_reuse),
        thread(&world, move |w| hold_until_asked(w, &theirs, 0)),
        thread(&world, |w| w.pin_and_use(0, true, 2)),
    ];
    threads
        .into_iter()
        .for_each(|t| t.join().expect("no panic"));
    assert!(holder.asked.lock().len() <= 1, "asked twice");
    assert!(world.f.mapping().leases().is_empty());
    ended(world);
}

/// What was stored before msync began is not marked clean without being flushed: a store that comes in between marks the page again.
pub fn msync_against_stores() {
    let world = Arc::new(World::new());
    at_once(
        &world,
        [
            |w| {
                store(w, 0, 1);
                w.f.msync(0, 8192).expect("the device is there");
                store(w, 0, 2);
            },
            |w| w.pin_and_use(0, true, 3),
            |w| {
                w.f.msync(0, 8192).expect("the device is there");
            },
        ],
    );
    world.truncate().expect("truncate");
    world.reuse().expect("the blocks are free");
    ended(world);
}

/// Who reads a hole has the zero page, and must not keep it once write(2) has given the hole storage.
pub fn writes_into_holes_against_faults() {
    let world = Arc::new(World::new());
    model::quietly(|| world.become_a_hole());
    at_once(&world, [|w| w.fill(0), |w| w.looked(0), |w| w.looked(1)]);
    model::quietly(|| {
        assert_eq!(world.look(0).ok(), world.f.pfn(0), "the zero page stayed");
        cut_and_reuse(&world);
    });
    ended(world);
}
