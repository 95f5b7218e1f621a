//! The device goes: everybody gets an error, the removal waits for who holds a page, and what was durable is there afterwards.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::process::Process;
use crate::common::*;
use dax::layout::{BreakEvent, BreakReport, How};
use dax::pmem::RamPmem;
use fs::error::{ChangeError, LookupError, ReadError, UnmountError, WriteError};
use fs::{Fs, Gone, Inode, RemovalError, fsck};
use mm::addr::PfnRange;
use mm::aspace::{Access, FaultError};
use mm::gup::GupError;
use mm::pgmap::{Pgmap, State, find_pgmap};
use mm::sync::{Cancel, Wait, WaitError};

const MIB: u64 = 1 << 20;
type Ram = Arc<RamPmem>;

/// A device with a file system and `/f`, four pages of 1, 2, 3 and 4.
struct Stage {
    ram: Ram,
    range: PfnRange,
    fs: Arc<Fs<Ram>>,
    f: Arc<Inode<Ram>>,
}

impl Stage {
    fn new() -> Self {
        let (ram, backing) = formatted(2 * MIB);
        let range = backing.pgmap.range();
        let fs = Fs::mount(ram.clone(), backing).expect("mount");
        let f = fs.create("/f", 0o644).expect("create");
        for i in 0..4u8 {
            fs.write(&f, u64::from(i) * 4096, &[i + 1; 4096])
                .expect("write");
        }
        Self { ram, range, fs, f }
    }

    /// The device comes back: a new pgmap for the same frames, and a new mount.
    fn again(&self) -> Arc<Fs<Ram>> {
        let report = fsck(&self.ram);
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert_eq!(report.pending, 0, "the ring is settled");
        Fs::mount(self.ram.clone(), backing_at(self.range)).expect("mount")
    }
}

fn soon() -> Wait<'static> {
    Wait::for_us(10_000_000)
}

#[test]
fn after_a_removal_everybody_gets_an_error_and_the_contents_are_kept() {
    let stage = Stage::new();
    let Stage { fs, f, .. } = &stage;
    let process = Process::new(f, 4);
    process.touch(2, Access::Write).expect("fault");
    fs.remove_device(&soon()).expect("nobody pins");
    assert_eq!(fs.pgmap().state(), State::Dead);
    assert_eq!(fs.pgmap().first_busy(), None);
    assert!(find_pgmap(stage.range.start()).is_none());
    let dying = Err(FaultError::Dying);
    assert_eq!(process.touch(2, Access::Read), dying);
    assert_eq!(process.touch(0, Access::Write), dying);
    assert!(matches!(
        process.pin(1),
        Err(GupError::Fault {
            why: FaultError::Dying,
            ..
        })
    ));
    errors(fs, f);
    assert_eq!(fs.remove_device(&soon()), Ok(()), "it is done");
    let again = stage.again();
    assert_eq!(content(&again, "/f")[4096..8192], [2; 4096]);
    drop(process);
    assert_eq!(content(&again, "/f").len(), 4 * 4096);
}

/// Every operation says so.
fn errors(fs: &Arc<Fs<Ram>>, f: &Arc<Inode<Ram>>) {
    let change = ChangeError::Gone(Gone);
    assert_eq!(fs.open("/f").err(), Some(LookupError::Gone(Gone)));
    assert_eq!(fs.inode(f.ino()).err(), Some(LookupError::Gone(Gone)));
    assert_eq!(fs.read(f, 0, &mut [0; 8]), Err(ReadError::Gone(Gone)));
    assert_eq!(fs.write(f, 0, &[1]), Err(WriteError::Change(change)));
    let cut = fs.truncate(f, 0, forever(), &mut BreakReport::default());
    assert!(matches!(cut, Err(fs::error::TruncateError::Change(e)) if e == change));
    let punched = fs.punch(f, 0, 4096, forever(), &mut BreakReport::default());
    assert!(matches!(punched, Err(fs::error::TruncateError::Change(e)) if e == change));
    assert!(fs.fallocate(f, 0, 9 * 4096, fs::Fill::Zeroed).is_err());
    assert!(fs.create("/g", 0o644).is_err() && fs.mkdir("/d", 0o755).is_err());
    assert!(fs.unlink("/f").is_err() && fs.rename("/f", "/h", true).is_err());
    assert!(fs.link("/f", "/l").is_err());
    assert_eq!((f.msync(0, 4096), fs.sync()), (Err(Gone), Err(change)));
    assert_eq!((fs.fsync(f), fs.reap_orphans()), (Err(change), 0));
    let Err((_, why)) = fs.clone().unmount() else {
        panic!("unmounted a device that is gone");
    };
    assert_eq!(why, UnmountError::Change(change));
}

#[test]
fn a_pin_is_waited_for_named_and_the_removal_goes_on_where_it_was() {
    let stage = Stage::new();
    let Stage { fs, f, .. } = &stage;
    let process = Process::new(f, 4);
    let pin = process.pin(3).expect("pin");
    let Err(RemovalError::Held { why, page }) = fs.remove_device(&Wait::until(0)) else {
        panic!("removed under a pin");
    };
    assert_eq!((why, page.counts.pinned), (WaitError::TimedOut, 1));
    let owner = page.owner.expect("it is a file's");
    assert_eq!((owner.inode, owner.index), (u64::from(f.ino()), 3));
    assert_eq!(page.counts.mapped, 0, "mappings are taken away");
    // Nobody gets anything new meanwhile; who has the pin keeps it, and its pgmap.
    assert_eq!(fs.pgmap().state(), State::Dying);
    assert_eq!(process.touch(0, Access::Read), Err(FaultError::Dying));
    assert!(find_pgmap(stage.range.start()).is_some());
    let cancel = Cancel::new();
    thread::scope(|scope| {
        let waits = scope.spawn(|| fs.remove_device(&soon().or_cancelled(&cancel)));
        // Until it has begun, a second removal is a first.
        while fs.remove_device(&Wait::until(0)) != Err(RemovalError::UnderWay) {
            assert!(!waits.is_finished(), "it did not wait for the pin");
            thread::yield_now();
        }
        cancel.cancel();
        let cancelled = waits.join().expect("no panic");
        assert!(matches!(
            cancelled,
            Err(RemovalError::Held {
                why: WaitError::Cancelled,
                ..
            })
        ));
        let waits = scope.spawn(|| fs.remove_device(&soon()));
        thread::sleep(Duration::from_millis(5));
        assert!(!waits.is_finished(), "it did not wait for the pin");
        drop(pin);
        assert_eq!(waits.join().expect("no panic"), Ok(()));
    });
    stage.again();
}

#[test]
fn a_truncate_that_waits_for_the_same_pin_ends() {
    let stage = Stage::new();
    let Stage { fs, f, .. } = &stage;
    let process = Process::new(f, 4);
    let pin = process.pin(1).expect("pin");
    let (tell, told) = channel();
    thread::scope(|scope| {
        let cut = scope.spawn(|| {
            let observer = |event| {
                if let BreakEvent::Waiting { .. } = event {
                    let _ = tell.send(());
                }
            };
            fs.truncate(
                f,
                0,
                How::Wait(soon()),
                &mut BreakReport::observed(&observer),
            )
        });
        told.recv_timeout(Duration::from_secs(5)).expect("waits");
        // Delayed, because the truncate waits for its range.
        let fault = scope.spawn(|| process.touch(0, Access::Read));
        let removes = scope.spawn(|| fs.remove_device(&soon()));
        thread::sleep(Duration::from_millis(5));
        assert!(!removes.is_finished() && !cut.is_finished());
        // It ends, before the removal began or with its error.
        let ended = fault.join().expect("no panic");
        assert!(matches!(ended, Ok(_) | Err(FaultError::Dying)), "{ended:?}");
        drop(pin);
        let report = cut.join().expect("no panic").expect("it had begun before");
        assert_eq!(report.freed_blocks, 4);
        assert_eq!(removes.join().expect("no panic"), Ok(()));
    });
    assert_eq!(stage.again().stat("/f").expect("stat").size, 0);
}

#[test]
fn an_operation_that_is_inside_is_waited_for() {
    let stage = Stage::new();
    let Stage { fs, f, .. } = &stage;
    let process = Process::new(f, 4);
    let pin = process.pin(1).expect("pin");
    // A truncate of a page whose pin ends, held up in its observer: it is inside, and no page is held.
    let (tell, told) = channel();
    let (go, gone) = channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    thread::scope(|scope| {
        let cut = scope.spawn(|| {
            let observer = |event| {
                if let BreakEvent::Waiting { .. } = event {
                    tell.send("waits").expect("listening");
                }
                if let BreakEvent::Retry = event {
                    tell.send("goes on").expect("listening");
                    let _ = gone
                        .lock()
                        .expect("one")
                        .recv_timeout(Duration::from_secs(5));
                }
            };
            fs.truncate(
                f,
                0,
                How::Wait(soon()),
                &mut BreakReport::observed(&observer),
            )
        });
        let hears = |what| {
            let soon = Duration::from_secs(5);
            while told.recv_timeout(soon).expect("it says so") != what {}
        };
        hears("waits");
        drop(pin);
        hears("goes on");
        let late = fs.remove_device(&Wait::for_us(3_000));
        assert!(
            matches!(late, Err(RemovalError::Inside { count: 1, .. })),
            "{late:?}"
        );
        go.send(()).expect("it listens");
        assert_eq!(fs.remove_device(&soon()), Ok(()));
        assert!(cut.join().expect("no panic").is_ok());
    });
    stage.again();
}

/// Page after page, again and again; ends by itself only when something hangs.
fn turns() -> impl Iterator<Item = u64> {
    let late = Instant::now() + Duration::from_secs(10);
    (0..64).cycle().take_while(move |_| Instant::now() < late)
}

#[test]
fn faults_writes_and_removals_race_and_all_end() {
    for round in 0..20 {
        let stage = Stage::new();
        let Stage { fs, f, .. } = &stage;
        truncate(fs, "/f", 64 * 4096);
        let process = Process::new(f, 64);
        let worker = fs.worker();
        thread::scope(|scope| {
            // It ends with the removal, wherever it is.
            scope.spawn(|| worker.run());
            scope.spawn(|| {
                let refused = turns()
                    .map(|p| process.touch(p, Access::Write))
                    .find_map(Result::err);
                assert_eq!(refused, Some(FaultError::Dying));
            });
            scope.spawn(|| {
                let pins = turns().map(|p| process.pin(p));
                let refused = pins.map(|pin| pin.map(drop)).find_map(Result::err);
                let Some(GupError::Fault { why, .. }) = refused else {
                    panic!("{refused:?}");
                };
                assert_eq!(why, FaultError::Dying);
            });
            scope.spawn(|| {
                let writes = turns().map(|p| fs.write(f, p * 4096, &[7; 5000]));
                let refused = writes
                    .map(|w| w.map_err(Some))
                    .find_map(Result::err)
                    .flatten();
                assert_eq!(refused, Some(WriteError::Change(ChangeError::Gone(Gone))));
            });
            let names = scope.spawn(|| {
                turns().find(|i| {
                    let name = format!("/{}", i % 8);
                    fs.create(&name, 0o644).is_err_and(|e| {
                        e == ChangeError::Gone(Gone).into() || e == LookupError::Gone(Gone).into()
                    }) || fs.unlink(&format!("/{}", (i + 4) % 8)).is_err() && fs.is_gone()
                })
            });
            thread::sleep(Duration::from_micros(200 * round));
            assert_eq!(fs.remove_device(&soon()), Ok(()));
            names.join().expect("no panic");
        });
        assert_eq!(fs.pgmap().first_busy(), None);
        let again = stage.again();
        drop(process);
        assert!(
            content(&again, "/f")
                .chunks(4096)
                .all(|page| { page.iter().all(|byte| *byte < 8) })
        );
    }
}

#[test]
fn what_was_stored_through_a_mapping_is_durable_after_the_removal() {
    use dax::pmem::{MediaError, Pmem};
    use std::sync::atomic::{AtomicU64, Ordering};
    /// Counts the pages that are flushed.
    struct Counting(RamPmem, AtomicU64);
    impl Pmem for Counting {
        fn len(&self) -> u64 {
            self.0.len()
        }
        fn writable(&self) -> bool {
            true
        }
        fn read(&self, off: u64, buf: &mut [u8]) -> Result<(), MediaError> {
            self.0.read(off, buf)
        }
        fn load64(&self, off: u64) -> Result<u64, MediaError> {
            self.0.load64(off)
        }
        fn store64(&self, off: u64, v: u64) {
            self.0.store64(off, v);
        }
        fn store(&self, off: u64, data: &[u8]) {
            self.0.store(off, data);
        }
        fn copy_nt(&self, off: u64, data: &[u8]) {
            self.0.copy_nt(off, data);
        }
        fn zero_nt(&self, off: u64, len: u64) {
            self.0.zero_nt(off, len);
        }
        fn flush(&self, _off: u64, len: u64) {
            // Relaxed: read by the same thread.
            let pages = if len.is_multiple_of(4096) {
                len / 4096
            } else {
                0
            };
            self.1.fetch_add(pages, Ordering::Relaxed);
        }
        fn fence(&self) {}
    }
    let ram = RamPmem::new(2 * MIB).expect("memory");
    fs::mkfs(&ram, &options()).expect("mkfs");
    let ram = Arc::new(Counting(ram, AtomicU64::new(0)));
    let fs = Fs::mount(ram.clone(), backing(2 * MIB)).expect("mount");
    let f = fs.create_sized("/f", 0o644, 4 * 4096).expect("create");
    let process = Process::new(&f, 4);
    process.touch(1, Access::Write).expect("fault");
    process.touch(2, Access::Write).expect("fault");
    process.touch(3, Access::Read).expect("fault");
    let before = ram.1.load(Ordering::Relaxed);
    fs.remove_device(&soon()).expect("nobody pins");
    assert_eq!(ram.1.load(Ordering::Relaxed) - before, 2);
}

#[test]
fn a_pgmap_without_a_file_system_is_removed_too() {
    let range = backing(2 * MIB).pgmap.range();
    let pgmap = find_pgmap(range.start()).expect("registered");
    assert_eq!(fs::remove_pgmap(&pgmap, &Wait::until(0)), Ok(()));
    assert_eq!(pgmap.state(), State::Dead);
    assert!(Pgmap::<mm::pgmap::Sweep>::new("again", range, None).is_ok());
}
