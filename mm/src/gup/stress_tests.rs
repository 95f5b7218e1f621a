//! gup-fast with real threads against everything that takes something away: zap, unmap, map at the same address, removal of the device.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use super::*;
use crate::addr::{PAGE_SIZE, PageSize, Pfn};
use crate::aspace::testing::*;
use crate::aspace::{Access, Attachment, FaultAt, FaultSink, Prot, SpaceId};
use crate::fake::{HeapTables, ModelTlb};
use crate::page::Owner;
use crate::pgmap::{Pgmap, State, scratch_range};
use crate::sync::Wait;

const RW: Prot = Prot::WRITE;

/// Numbers up to `full`, but not for longer than two seconds after the first few: a flush waits for walkers, which a busy machine may have
/// put aside.
fn rounds(full: u64) -> impl Iterator<Item = u64> {
    let end = Instant::now() + Duration::from_secs(2);
    let few = if cfg!(miri) { 3 } else { 20 };
    (0..full).take_while(move |&n| n < few || !cfg!(miri) && Instant::now() < end)
}

/// A file of one page that says, when it ends, whether its page was idle: a pin keeps it.
struct Mortal {
    pgmap: Arc<Pgmap>,
    pfn: Pfn,
    ended_busy: Arc<AtomicBool>,
    /// Shared by faults; who unmaps for good holds it alone (the invalidate lock).
    faults: RwLock<()>,
}

impl Mortal {
    fn new(pgmap: &Arc<Pgmap>, pfn: Pfn, inode: u64, ended_busy: &Arc<AtomicBool>) -> Arc<Self> {
        let owner = Owner { inode, index: 0 };
        pgmap.associate(pfn, PageSize::Size4K, owner).unwrap();
        let (pgmap, ended_busy) = (pgmap.clone(), ended_busy.clone());
        Arc::new(Self {
            pgmap,
            pfn,
            ended_busy,
            faults: RwLock::new(()),
        })
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        let folio = self.pgmap.folio(self.pfn).unwrap();
        if self.pgmap.dissociate(folio).is_err() {
            self.ended_busy.store(true, Ordering::SeqCst);
        }
    }
}

impl VmObject for Mortal {
    fn fault(&self, at: &FaultAt, sink: &FaultSink<'_>) -> Result<(), FaultError> {
        let _shared = self.faults.read().unwrap();
        let folio = self.pgmap.folio(self.pfn).unwrap();
        sink.install(at.va, &folio, &self.pgmap, true).map(drop)
    }

    fn attach(&self, _: Attachment) -> Result<(), OutOfMemory> {
        Ok(())
    }

    fn detach(&self, _: SpaceId, _: VaRange) {}
}

/// Files come and go at one address, each with its page; a pin always keeps the file whose page it holds.
#[test]
fn a_pin_keeps_the_file_that_was_mapped_when_it_was_taken() {
    let w = World::new();
    let (busy, done) = (Arc::new(AtomicBool::new(false)), AtomicBool::new(false));
    let at = w.space.window().start();
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    drop(pin_user_pages_fast(&w.space, at, 1, true));
                }
            });
        }
        for n in rounds(20_000) {
            // The frames take turns; a frame is free again when its last file has ended.
            let pfn = w.pfn(n % 64);
            while w.pgmap.owner_of(pfn).is_some() {
                std::thread::yield_now();
            }
            let file = Mortal::new(&w.pgmap, pfn, n, &busy);
            let range = w.space.map(file, 0, 1, RW, PageSize::Size4K).unwrap();
            assert_eq!(range.start(), at);
            w.space.handle_fault(at, Access::Write).unwrap();
            if n % 4 == 0 {
                std::thread::yield_now();
            }
            w.space.unmap(range).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(!busy.load(Ordering::SeqCst), "a file ended under a pin");
    assert!((0..64).all(|n| w.counts(n).is_idle()));
}

/// Pages that are pinned, zapped, write-protected and faulted in by several threads: the counts come out even, and no page was idle
/// while a TLB reached it.
#[test]
fn everything_at_once_keeps_the_counts() {
    let w = World::new();
    let file = w.file(0, 600);
    let range = w.map(&file, 600, RW);
    let before = stats();
    std::thread::scope(|s| {
        for t in 0..2_u64 {
            let w = &w;
            s.spawn(move || {
                for i in rounds(1500) {
                    let first = (i * 37 + t * 300) % 500;
                    let at = range.start() + first * PAGE_SIZE;
                    let pins = pin_user_pages_fast(&w.space, at, 100, i % 2 == 0).unwrap();
                    assert!(pins.pfns().eq((first..first + 100).map(|n| w.pfn(n))));
                    assert!((first..first + 100).all(|n| w.counts(n).pinned > 0));
                }
            });
        }
        s.spawn(|| {
            for i in rounds(1500) {
                let part = range.part(i * 61 % 400, 150).unwrap();
                if i % 3 == 0 {
                    w.space.write_protect(part);
                } else {
                    w.space.zap(part);
                }
            }
        });
    });
    assert!((0..600).all(|n| w.counts(n).pinned == 0));
    w.space.zap(range);
    assert!((0..600).all(|n| w.counts(n).is_idle()));
    w.assert_order_kept();
    let after = stats();
    assert!(after.fast_pages > before.fast_pages);
}

/// The list of mappings grows, shrinks and is cut while it is searched without the lock.
#[test]
fn pins_find_their_mapping_while_others_come_and_go() {
    let w = World::new();
    let file = w.file(0, 4);
    let mine = w.map(&file, 4, RW);
    w.touch(mine, Access::Write);
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            let other = w.file(10, 3);
            for n in rounds(300) {
                let maps: Vec<_> = (0..1 + n % 40).map(|_| w.map(&other, 3, RW)).collect();
                for range in maps {
                    w.space.unmap(range.part(1, 1).unwrap()).unwrap();
                    w.space.unmap(range).unwrap();
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            let pins = pin_user_pages_fast(&w.space, mine.start(), 4, true).unwrap();
            assert!(pins.pfns().eq((0..4).map(|n| w.pfn(n))));
        }
    });
}

/// A device is removed while its pages are mapped and pinned; then it and its metadata are gone, and the next one comes.
#[test]
fn a_device_goes_away_under_pinners() {
    let window = VaRange::new(VirtAddr::new(WINDOW_START), 64).unwrap();
    let space = AddressSpace::new(HeapTables::new(), ModelTlb::new(), window).unwrap();
    let (busy, done) = (Arc::new(AtomicBool::new(false)), AtomicBool::new(false));
    let at = window.start();
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    drop(pin_user_pages_fast(&space, at, 1, true));
                }
            });
        }
        let range = scratch_range(8);
        for n in rounds(2000) {
            let pgmap = Pgmap::new("goes", range, None).unwrap();
            let file = Mortal::new(&pgmap, range.start(), n, &busy);
            let map = space.map(file.clone(), 0, 1, RW, PageSize::Size4K).unwrap();
            // Perhaps a pinner faults first; perhaps the removal comes first.
            let _ = space.handle_fault(at, Access::Write);
            let unmap = || {
                let _no_faults = file.faults.write().unwrap();
                space.zap(map);
            };
            pgmap.remove(unmap, &Wait::forever()).unwrap();
            assert_eq!((pgmap.state(), pgmap.first_busy()), (State::Dead, None));
            space.unmap(map).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(!busy.load(Ordering::SeqCst));
}
