//! Many threads on one small file system. Every word of every block says whose it is, so that a block with two owners, a block that is
//! given away while somebody holds its page, and a lost write show.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::process::Process;
use crate::common::*;
use dax::layout::{BreakReport, How};
use dax::pmem::{Pmem, RamPmem};
use fs::error::{
    ChangeError, CreateError, LookupError, RemoveError, RenameError, TruncateError, UnmountError,
    WriteError,
};
use fs::{Fs, Inode, fsck};
use mm::addr::Pfn;
use mm::aspace::{Access, FaultError};
use mm::gup::GupError;
use mm::sync::Wait;

const MIB: u64 = 1 << 20;
/// Pages of a file.
const PAGES: u64 = 8;
/// Names that the threads share.
const NAMES: u64 = 12;
type Ram = Arc<RamPmem>;
type File = Arc<Inode<Ram>>;

/// Numbers that look random; the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // xorshift64.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn name(&mut self) -> String {
        format!("/{}", self.roll(NAMES))
    }
}

/// What each word of a file's storage says: which use of which inode.
fn stamp(file: &Inode<Ram>) -> u64 {
    let stat = file.stat();
    u64::from(stat.ino) << 32 | u64::from(stat.generation)
}

/// All words are the owner's or zero.
fn check(what: &str, words: &[u8], stamp: u64) {
    for word in words.as_chunks::<8>().0 {
        let found = u64::from_le_bytes(*word);
        assert!(
            found == 0 || found == stamp,
            "{what}: {found:#x} in storage of {stamp:#x}"
        );
    }
}

/// How often each kind of thing happened.
#[derive(Default)]
struct Tally {
    writes: AtomicU64,
    reads: AtomicU64,
    cuts: AtomicU64,
    blocked: AtomicU64,
    removed: AtomicU64,
    renamed: AtomicU64,
    pins: AtomicU64,
    held_without_name: AtomicU64,
    faults: AtomicU64,
    full: AtomicU64,
}

impl Tally {
    /// Whether each kind that must happen has happened.
    fn is_full(&self) -> bool {
        let all = [
            &self.writes,
            &self.reads,
            &self.cuts,
            &self.blocked,
            &self.removed,
            &self.renamed,
            &self.pins,
            &self.held_without_name,
            &self.faults,
        ];
        all.iter().all(|n| n.load(Ordering::Relaxed) > 0)
    }
}

fn count(of: &AtomicU64) {
    // Relaxed: read after the threads have ended.
    of.fetch_add(1, Ordering::Relaxed);
}

struct Stage {
    ram: Ram,
    fs: Arc<Fs<Ram>>,
    tally: Tally,
}

impl Stage {
    fn open(&self, dice: &mut Dice) -> Option<File> {
        let name = dice.name();
        match self.fs.open(&name) {
            Ok(file) => return Some(file),
            Err(LookupError::NotFound) => {}
            Err(why) => panic!("open: {why}"),
        }
        match self.fs.create(&name, 0o644) {
            Ok(file) => Some(file),
            Err(CreateError::Exists) => None,
            Err(CreateError::Change(ChangeError::NoInodes | ChangeError::NoSpace { .. })) => {
                count(&self.tally.full);
                None
            }
            Err(why) => panic!("create: {why}"),
        }
    }

    fn write(&self, dice: &mut Dice) {
        let Some(file) = self.open(dice) else { return };
        let data: Vec<u8> = stamp(&file)
            .to_le_bytes()
            .repeat(1 + dice.roll(1024) as usize);
        let at = dice.roll(PAGES * 4096 - data.len() as u64) & !7;
        match self.fs.write(&file, at, &data) {
            Ok(()) => count(&self.tally.writes),
            Err(WriteError::Change(ChangeError::NoSpace { .. })) => count(&self.tally.full),
            Err(why) => panic!("write: {why}"),
        }
    }

    fn read(&self, dice: &mut Dice) {
        let Some(file) = self.open(dice) else { return };
        let mut bytes = vec![0; (PAGES * 4096) as usize];
        self.fs.read(&file, 0, &mut bytes).expect("read");
        check("read", &bytes, stamp(&file));
        count(&self.tally.reads);
    }

    fn cut(&self, dice: &mut Dice) {
        let Some(file) = self.open(dice) else { return };
        let how = match dice.roll(2) {
            0 => How::NoWait,
            _ => How::Wait(Wait::for_us(500)),
        };
        let (at, report) = (dice.roll(PAGES * 4096) & !7, &mut BreakReport::default());
        let done = match dice.roll(2) {
            0 => self.fs.truncate(&file, at, how, report),
            _ => self
                .fs
                .punch(&file, at, dice.roll(3 * 4096) & !7, how, report),
        };
        match done {
            Ok(_) => count(&self.tally.cuts),
            Err(TruncateError::Break(_)) => count(&self.tally.blocked),
            Err(TruncateError::Change(ChangeError::NoSpace { .. })) => count(&self.tally.full),
            Err(why) => panic!("cut: {why}"),
        }
    }

    fn remove(&self, dice: &mut Dice) {
        match self.fs.unlink(&dice.name()) {
            Ok(()) => count(&self.tally.removed),
            Err(RemoveError::Lookup(LookupError::NotFound)) => {}
            Err(why) => panic!("unlink: {why}"),
        }
    }

    fn rename(&self, dice: &mut Dice) {
        match self
            .fs
            .rename(&dice.name(), &dice.name(), dice.roll(2) == 0)
        {
            Ok(()) => count(&self.tally.renamed),
            Err(RenameError::Lookup(LookupError::NotFound) | RenameError::Exists) => {}
            Err(RenameError::Change(ChangeError::NoSpace { .. })) => count(&self.tally.full),
            Err(why) => panic!("rename: {why}"),
        }
    }

    /// Pins a page, lets go of the file, stores to the page as a device would, and looks whether it stayed the file's.
    fn pin(&self, dice: &mut Dice) {
        let Some(file) = self.open(dice) else { return };
        let (process, mine, page) = (Process::new(&file, PAGES), stamp(&file), dice.roll(PAGES));
        let pinned = process.pin(page);
        drop(process);
        let pinned = match pinned {
            Ok(pinned) => pinned,
            Err(GupError::Fault {
                why: FaultError::PastEof | FaultError::NoSpace,
                ..
            }) => return,
            Err(why) => panic!("pin: {why}"),
        };
        count(&self.tally.pins);
        if dice.roll(3) == 0 {
            // Whoever it belongs to now may be another file: only the pin keeps this one.
            let _ = self.fs.unlink(&dice.name());
        }
        if file.stat().nlink == 0 {
            count(&self.tally.held_without_name);
        }
        drop(file);
        let pfn = pinned.pfns().next().expect("one page");
        for _ in 0..4 {
            self.device_stores(pfn, mine, dice);
            thread::yield_now();
            self.device_checks(pfn, mine);
        }
        drop(pinned);
    }

    fn place(&self, pfn: Pfn) -> u64 {
        (pfn.get() - self.fs.pgmap().range().start().get()) * 4096
    }

    fn device_stores(&self, pfn: Pfn, mine: u64, dice: &mut Dice) {
        let at = self.place(pfn) + (dice.roll(4096) & !7);
        self.ram.store64(at, mine);
    }

    fn device_checks(&self, pfn: Pfn, mine: u64) {
        let mut bytes = [0; 4096];
        self.ram.read(self.place(pfn), &mut bytes).expect("heap");
        check("a pinned page", &bytes, mine);
    }

    fn fault(&self, dice: &mut Dice) {
        let Some(file) = self.open(dice) else { return };
        let process = Process::new(&file, PAGES);
        for _ in 0..4 {
            let access = [Access::Read, Access::Write][dice.roll(2) as usize];
            match process.touch(dice.roll(PAGES), access) {
                Ok(_) => count(&self.tally.faults),
                Err(FaultError::PastEof | FaultError::NoSpace) => {}
                Err(why) => panic!("fault: {why}"),
            }
        }
    }

    fn step(&self, dice: &mut Dice) {
        match dice.roll(16) {
            0..4 => self.write(dice),
            4..6 => self.read(dice),
            6..9 => self.cut(dice),
            9 => self.remove(dice),
            10 => self.rename(dice),
            11..14 => self.pin(dice),
            14 => self.fault(dice),
            _ => self.fs.sync().expect("sync"),
        }
    }

    /// Nothing is lost: what files do not have is free.
    fn account(&self) {
        self.fs.settle();
        let space = self.fs.statfs();
        let names = names(&self.fs, "/");
        let of_files: u64 = names
            .iter()
            .map(|name| self.fs.stat(name).expect("listed").blocks)
            .sum();
        let root = self.fs.stat("/").expect("root").blocks;
        assert_eq!(space.orphans, 0);
        assert_eq!(
            space.space.free + space.reserved + space.quarantined + of_files + root,
            space.blocks
        );
        assert_eq!(space.inodes_used, names.len() as u64 + 1);
    }
}

#[test]
fn every_block_stays_its_owners() {
    // 256 blocks, of which the files would take 96 if nobody let go, and orphans more.
    let ram = Arc::new(RamPmem::new(MIB / 2).expect("memory"));
    let options = fs::MkfsOptions {
        ring_slots: 16,
        inodes: Some(24),
        ..options()
    };
    fs::mkfs(&ram, &options).expect("mkfs");
    let fs = Fs::mount(ram.clone(), backing(MIB / 2)).expect("mount");
    let stage = Stage {
        ram,
        fs,
        tally: Tally::default(),
    };
    // On a busy machine as long as it takes, but not for ever.
    let begun = Instant::now();
    let (least, most) = (Duration::from_millis(2500), Duration::from_secs(60));
    let worker = stage.fs.worker();
    let works = thread::spawn(move || worker.run());
    thread::scope(|scope| {
        for seed in 1..=6u64 {
            let stage = &stage;
            scope.spawn(move || {
                let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
                while begun.elapsed() < least || begun.elapsed() < most && !stage.tally.is_full() {
                    stage.step(&mut dice);
                }
            });
        }
    });
    assert!(stage.tally.is_full(), "something never happened");
    let late = Instant::now() + Duration::from_secs(10);
    while stage.fs.statfs().orphans > 0 {
        assert!(Instant::now() < late, "an orphan was forgotten");
        thread::yield_now();
    }
    stage.account();
    let Stage { ram, fs, .. } = stage;
    assert!(fs.unmount().is_ok());
    works.join().expect("it ends with the mount");
    let report = fsck(&ram);
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let fs = Fs::mount(ram, backing(MIB / 2)).expect("mount");
    for name in names(&fs, "/") {
        let file = fs.open(&name).expect("listed");
        check(&name, &content(&fs, &name), stamp(&file));
    }
}

/// `ls` while others come and go: who stays is listed exactly once, and who is listed has been there.
#[test]
fn a_listing_against_removals_shows_who_stays_exactly_once() {
    let fs = mounted(2 * MIB);
    let stays: Vec<String> = (0..8).map(|i| format!("stays{i}")).collect();
    for name in &stays {
        fs.create(name, 0o644).expect("create");
        fs.create(&format!("comes-{name}"), 0o644).expect("create");
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..300 {
                let name = format!("comes-stays{}", round % 8);
                fs.unlink(&name).expect("unlink");
                fs.mkdir(&format!("d{round}"), 0o755).expect("mkdir");
                fs.create(&name, 0o644).expect("create");
                fs.rmdir(&format!("d{round}")).expect("rmdir");
            }
            done.store(true, Ordering::Release);
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let listed = names(&fs, "/");
                    for name in &stays {
                        let times = listed.iter().filter(|n| *n == name).count();
                        assert_eq!(times, 1, "{name} in {listed:?}");
                    }
                    for name in &listed {
                        match fs.stat(name) {
                            Ok(stat) => assert!(stat.nlink > 0 || !name.starts_with("stays")),
                            Err(why) => assert_eq!(why, LookupError::NotFound),
                        }
                    }
                }
            });
        }
    });
    assert_eq!(names(&fs, "/").len(), 16);
}

/// Mount and unmount under users who come and go: a mount that is in use stays, and nobody ever sees half of one.
#[test]
fn mounts_and_unmounts_race_with_users() {
    let (ram, backing) = formatted(2 * MIB);
    let mount = || Fs::mount(ram.clone(), backing.clone()).expect("mount");
    let mounted = Mutex::new(Some(mount()));
    let (done, busy, unmounted) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let mut workers = Vec::new();
    thread::scope(|scope| {
        let users: Vec<_> = (0..3u8)
            .map(|user| {
                let (mounted, done) = (&mounted, &done);
                scope.spawn(move || {
                    let path = format!("/{user}");
                    let mut writes = 0u64;
                    while !done.load(Ordering::Acquire) {
                        let Some(fs) = mounted.lock().expect("no panic").clone() else {
                            continue;
                        };
                        let file = fs.open(&path).or_else(|_| fs.create(&path, 0o644));
                        let file = file.expect("mounted");
                        let mut last = [0; 8];
                        fs.read(&file, 0, &mut last).expect("read");
                        assert_eq!(u64::from_le_bytes(last), writes, "a write was lost");
                        writes += 1;
                        fs.write(&file, 0, &writes.to_le_bytes()).expect("write");
                        drop((file, fs));
                        thread::sleep(Duration::from_micros(50 * u64::from(user + 1)));
                    }
                })
            })
            .collect();
        let late = Instant::now() + Duration::from_secs(10);
        while Instant::now() < late && unmounted.load(Ordering::Relaxed) < 30 {
            // As the kernel does it, under its volume lock: nobody else takes it meanwhile.
            let fs = mounted
                .lock()
                .expect("no panic")
                .take()
                .expect("one remounts");
            let worker = fs.worker();
            workers.push(thread::spawn(move || worker.run()));
            let next = match fs.unmount() {
                Ok(()) => {
                    count(&unmounted);
                    mount()
                }
                Err((fs, UnmountError::Busy(_) | UnmountError::InUse)) => {
                    count(&busy);
                    fs
                }
                Err((_, why)) => panic!("{why}"),
            };
            *mounted.lock().expect("no panic") = Some(next);
            thread::sleep(Duration::from_micros(300));
        }
        done.store(true, Ordering::Release);
        users
            .into_iter()
            .for_each(|user| user.join().expect("no panic"));
    });
    assert_eq!(unmounted.load(Ordering::Relaxed), 30);
    assert!(
        mounted
            .into_inner()
            .expect("no panic")
            .expect("mounted")
            .unmount()
            .is_ok()
    );
    workers
        .into_iter()
        .for_each(|worker| worker.join().expect("no panic"));
    assert!(fsck(&ram).problems.is_empty());
}
