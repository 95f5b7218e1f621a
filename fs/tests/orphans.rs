//! Files without a name: the last user's end finishes them, from a worker, with no memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::process::Process;
use crate::common::*;
use crate::heap::{Counting, counted};
use dax::pmem::{Pmem, RamPmem};
use fs::error::{LookupError, UnmountError};
use fs::{Finished, Fs, Inode, fsck};
use mm::sync::Wait;

#[global_allocator]
static HEAP: Counting = Counting;

const MIB: u64 = 1 << 20;
type Ram = Arc<RamPmem>;

/// Blocks that are free or will be, and those that are free.
fn space(fs: &Fs<Ram>) -> (u64, u64) {
    let s = fs.statfs();
    (s.space.free + s.quarantined, s.space.free)
}

/// A file of `pieces` blocks, no two of them neighbours in storage: those between belong to `/other`.
fn scattered(fs: &Fs<Ram>, path: &str, pieces: u64) -> Arc<Inode<Ram>> {
    let f = fs.create(path, 0o644).expect("create");
    let other = fs.create("/other", 0o644).expect("create");
    for i in 0..pieces {
        fs.write(&f, i * 8192, &[1; 4096]).expect("write");
        fs.write(&other, i * 8192, &[2; 4096]).expect("write");
    }
    f
}

#[test]
fn the_watch_sees_allocations() {
    let (_, seen) = counted(|| std::hint::black_box(vec![1, 2, 3]));
    assert_eq!(seen, 1);
}

#[test]
fn the_last_unpin_ends_a_file_without_memory() {
    let fs = mounted(4 * MIB);
    let f = scattered(&fs, "/f", 60);
    fs.settle();
    let (all, free) = space(&fs);
    let held = f.stat().blocks;
    let process = Process::new(&f, 120);
    let pin = process.pin(40).expect("pin");
    fs.unlink("/f").expect("unlink");
    drop((f, process));
    let worker = fs.worker();
    assert_eq!(worker.work(), Finished::default(), "the pin uses it");
    assert_eq!((fs.statfs().orphans, space(&fs)), (1, (all, free)));
    let ((), unpin) = counted(|| drop(pin));
    assert_eq!(worker.wait(&Wait::until(0)), Ok(()), "the bell rang");
    let (done, finish) = counted(|| worker.work());
    assert_eq!((done.orphans, done.blocks, done.held), (1, held, 0));
    assert_eq!((unpin, finish), (0, 0), "allocations");
    assert_eq!(
        (fs.statfs().orphans, space(&fs)),
        (0, (all + held, free + held))
    );
    assert!(
        worker.wait(&Wait::until(0)).is_err(),
        "nothing is left to do"
    );
}

/// What has nothing that anybody could hold ends in the operation that takes its last name.
#[test]
fn an_empty_file_that_nobody_uses_ends_with_its_name() {
    let fs = mounted(4 * MIB);
    let used = fs.statfs().inodes_used;
    let ino = fs.create("/f", 0o644).expect("create").ino();
    fs.unlink("/f").expect("unlink");
    let s = fs.statfs();
    assert_eq!((s.orphans, s.inodes_used), (0, used));
    assert!(fs.worker().wait(&Wait::until(0)).is_err(), "nothing to do");
    assert_eq!(fs.inode(ino).err(), Some(LookupError::NotFound));
    assert_eq!(fs.create("/g", 0o644).map(|g| g.ino()), Ok(ino));
    // The same for what a rename replaces.
    fs.create("/h", 0o644).expect("create");
    fs.rename("/h", "/g", true).expect("rename");
    let s = fs.statfs();
    assert_eq!((s.orphans, s.inodes_used), (0, used + 1));
    assert!(fs.worker().wait(&Wait::until(0)).is_err(), "nothing to do");
}

#[test]
fn an_empty_file_in_use_does_not_end_with_its_name() {
    let fs = mounted(4 * MIB);
    let used = fs.statfs().inodes_used;
    let f = fs.create("/f", 0o644).expect("create");
    fs.unlink("/f").expect("unlink");
    let s = fs.statfs();
    assert_eq!((s.orphans, s.inodes_used), (1, used + 1));
    let other = fs.create("/f", 0o644).expect("create");
    assert_ne!(f.ino(), other.ino());
    fs.write(&f, 0, b"still here").expect("write");
    assert_eq!(other.stat().size, 0);
    drop(f);
    fs.worker().work();
    let s = fs.statfs();
    assert_eq!((s.orphans, s.inodes_used), (0, used + 1));
}

#[test]
fn a_file_that_nobody_uses_gives_its_blocks_back() {
    let fs = mounted(4 * MIB);
    drop(fs.create("/other", 0o644).expect("create"));
    let before = space(&fs).0;
    let f = fs.create("/f", 0o644).expect("create");
    fs.write(&f, 0, &[1; 8192]).expect("write");
    drop(f);
    assert_eq!(space(&fs).0, before - 2);
    fs.unlink("/f").expect("unlink");
    assert_eq!((fs.statfs().orphans, space(&fs).0), (0, before));
}

#[test]
fn a_directory_without_a_name_ends_without_memory_and_its_blocks_become_free() {
    let fs = mounted(4 * MIB);
    let dir = fs.mkdir("/d", 0o755).expect("mkdir");
    let name = |i: u32| format!("/d/{i:0100}");
    fs.create("/x", 0o644).expect("create");
    for i in 0..200 {
        fs.link("/x", &name(i)).expect("link");
    }
    for i in 0..200 {
        fs.unlink(&name(i)).expect("unlink");
    }
    fs.settle();
    let (_, free) = space(&fs);
    let blocks = dir.stat().blocks;
    assert!(blocks > 3);
    fs.rmdir("/d").expect("rmdir");
    let ((), closed) = counted(|| drop(dir));
    let (done, finish) = counted(|| fs.worker().work());
    assert_eq!((done.orphans, closed, finish), (1, 0, 0));
    assert_eq!(space(&fs).1, free + blocks, "the floor was made to pass");
}

#[test]
fn a_worker_in_its_own_thread_ends_what_others_let_go() {
    let fs = mounted(4 * MIB);
    let (all, _) = space(&fs);
    let (worker, ended) = (fs.worker(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            worker.run();
            ended.store(true, Ordering::Release);
        });
        for round in 0..50 {
            let f = fs.create_sized("/f", 0o644, 4 * 4096).expect("create");
            let process = Process::new(&f, 4);
            let pin = process.pin(round % 4).expect("pin");
            fs.unlink("/f").expect("unlink");
            drop((f, process));
            scope.spawn(move || drop(pin));
        }
        let late = Instant::now() + Duration::from_secs(10);
        while fs.statfs().orphans > 0 || space(&fs).0 + 1 < all {
            assert!(Instant::now() < late, "an orphan was forgotten");
            thread::sleep(Duration::from_micros(100));
        }
        assert!(!ended.load(Ordering::Acquire));
        assert!(fs.unmount().is_ok(), "the worker does not keep it mounted");
    });
    assert!(ended.load(Ordering::Acquire), "it ends with the mount");
}

#[test]
fn an_orphan_that_is_pinned_keeps_the_file_system_mounted_and_is_named() {
    let fs = mounted(2 * MIB);
    let f = fs.create_sized("/f", 0o644, 4 * 4096).expect("create");
    let process = Process::new(&f, 4);
    let pin = process.pin(2).expect("pin");
    let ino = f.ino();
    fs.unlink("/f").expect("unlink");
    drop((f, process));
    let Err((fs, UnmountError::Busy(busy))) = fs.unmount() else {
        panic!("unmounted under a pin");
    };
    assert_eq!((busy.ino, busy.orphan), (ino, true));
    let page = busy.page.expect("the pinned one");
    assert_eq!(
        (page.index, page.counts.pinned, page.counts.mapped),
        (2, 1, 0)
    );
    drop(pin);
    assert!(fs.unmount().is_ok());
}

/// A count without a user cannot be had by gup; whoever makes one all the same keeps the blocks, and its end is heard of.
#[test]
fn a_page_held_by_nobody_known_keeps_the_orphan_until_it_comes_to_rest() {
    let fs = mounted(2 * MIB);
    let (all, _) = space(&fs);
    let f = fs.create_sized("/f", 0o644, 4 * 4096).expect("create");
    let process = Process::new(&f, 4);
    drop(process.pin(1).expect("fault"));
    let pfn = f.pfn(1).expect("storage");
    let pgmap = fs.pgmap().clone();
    let folio = pgmap.folio(pfn).expect("metadata");
    pgmap.try_pin(&folio, 1).expect("it is mapped");
    fs.unlink("/f").expect("unlink");
    drop((f, process));
    let worker = fs.worker();
    let done = worker.work();
    assert_eq!((done.orphans, done.held), (0, 1));
    assert!(worker.wait(&Wait::until(0)).is_err(), "nothing to do yet");
    let Err((fs, UnmountError::Busy(busy))) = fs.unmount() else {
        panic!("unmounted under a pin");
    };
    assert_eq!(busy.page.map(|page| page.pfn), Some(pfn));
    let ((), unpin) = counted(|| pgmap.unpin(&folio, 1));
    assert_eq!(worker.wait(&Wait::until(0)), Ok(()), "the page said so");
    let (done, finish) = counted(|| worker.work());
    assert_eq!((done.orphans, done.held, unpin, finish), (1, 0, 0, 0));
    assert_eq!(space(&fs).1 + 1, all, "the root directory has a block");
    // Nobody listens any more.
    assert!(fs.unmount().is_ok());
}

#[test]
fn a_crash_while_an_orphan_is_pinned_frees_it_at_the_next_mount() {
    let (ram, backing) = formatted(2 * MIB);
    let fs = Fs::mount(ram.clone(), backing).expect("mount");
    let f = fs.create_sized("/f", 0o644, 16 * 4096).expect("create");
    let ino = f.ino();
    let process = Process::new(&f, 16);
    let pin = process.pin(9).expect("pin");
    fs.unlink("/f").expect("unlink");
    let image = RamPmem::new(2 * MIB).expect("memory");
    let mut bytes = vec![0; 2 << 20];
    ram.read(0, &mut bytes).expect("heap");
    image.store(0, &bytes);
    let image = Arc::new(image);
    assert!(fsck(&image).problems.is_empty());
    let again = Fs::mount(image, crate::common::backing(2 * MIB)).expect("mount");
    assert_eq!(again.inode(ino).err(), Some(LookupError::NotFound));
    assert_eq!(space(&again).0, space(&fs).0 + 16);
    drop(pin);
}

/// An empty file ends in its unlink, or becomes an orphan, as those see it who look it up by number meanwhile: never both, never neither.
#[test]
fn look_ups_by_number_race_with_an_end_in_the_unlink() {
    let fs = mounted(4 * MIB);
    let used = fs.statfs().inodes_used;
    let ino = fs.create("/f", 0o644).expect("create").ino();
    fs.unlink("/f").expect("unlink");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    if let Ok(found) = fs.inode(ino) {
                        let generation = found.stat().generation;
                        thread::yield_now();
                        assert_eq!(found.stat().generation, generation);
                    }
                }
            });
        }
        for _ in 0..3000 {
            drop(fs.create("/f", 0o644).expect("create"));
            fs.unlink("/f").expect("unlink");
        }
        done.store(true, Ordering::Relaxed);
    });
    fs.worker().work();
    let s = fs.statfs();
    assert_eq!((s.orphans, s.inodes_used), (0, used));
}

/// Users that look the orphan up by number race with the end of its use: each has it whole, or it is over.
#[test]
fn look_ups_by_number_race_with_the_end() {
    let fs = mounted(4 * MIB);
    let worker = fs.worker();
    let (all, _) = space(&fs);
    let works = thread::spawn(move || worker.run());
    thread::scope(|scope| {
        for round in 0..200u32 {
            let f = fs.create("/f", 0o644).expect("create");
            fs.write(&f, 0, &round.to_le_bytes()).expect("write");
            let (ino, generation) = (f.ino(), f.stat().generation);
            fs.unlink("/f").expect("unlink");
            let fs = &fs;
            let looks = [(); 3].map(|()| {
                scope.spawn(move || {
                    // Bounded: three that look it up by turns keep it alive.
                    for again in (0..20).map_while(|_| fs.inode(ino).ok()) {
                        if again.stat().generation != generation {
                            return;
                        }
                        let mut bytes = [0; 4];
                        assert_eq!(fs.read(&again, 0, &mut bytes), Ok(4));
                        assert_eq!(bytes, round.to_le_bytes());
                        thread::yield_now();
                    }
                })
            });
            drop(f);
            looks
                .into_iter()
                .for_each(|look| look.join().expect("no panic"));
        }
        let late = Instant::now() + Duration::from_secs(10);
        while fs.statfs().orphans > 0 {
            assert!(Instant::now() < late, "an orphan was forgotten");
            thread::yield_now();
        }
        fs.settle();
        assert_eq!(space(&fs).0 + 1, all);
    });
    drop(fs);
    works.join().expect("it ends with the file system");
}
