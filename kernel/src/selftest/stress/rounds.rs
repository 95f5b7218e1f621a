//! A round: a file system of its own, workers on it, and what must hold when they are gone.

use super::dice::Dice;
use super::error::StressError;
use super::file::{File, WORDS};
use super::tally::Count;
use super::violation::Violation;
use super::watch::{self, PATIENCE_US, Progress};
use super::workers;
use super::world::{Round, Run, inode_of};
use crate::machine::{Fs, Removed, new_uuid};
use crate::thread::{self, JoinHandle};
use crate::{cpu, fault};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use fs::error::LookupError;
use fs::{BLOCK_SIZE, Fill, MkfsOptions, fsck, mkfs};
use mm::aspace::AddressSpace;
use mm::mem::OutOfMemory;
use mm::sync::{SpinLock, Wait, now_us, sleep_us};

/// Blocks that are left to the files; all others are taken by one that nobody uses.
const POOL: u64 = 1536;
/// The fewest blocks that the test runs on.
const LEAST: u64 = 1024;
/// Places for small files, and for large ones.
const SLOTS: (usize, usize) = (7, 1);
/// Inodes that stay in memory although nobody uses them.
const KEPT: usize = 16;
/// How often the coordinator looks.
const LOOK_US: u64 = 50_000;
const BALLAST: &str = "/ballast";

/// Runs one round of `us` microseconds. `force`: also over a file system that is there.
///
/// # Errors
/// The round could not be set up. What it finds goes to the court.
pub fn run(run: &Arc<Run>, number: u64, us: u64, force: bool) -> Result<(), StressError> {
    let fs = make(run, force)?;
    let free = free_blocks(&fs)?;
    let round = fill(run, fs)?;
    let remove = number.is_multiple_of(2);
    let ended = coordinate(&round, number, now_us() + us, remove)?;
    if run.court.has_stopped() {
        return Ok(());
    }
    if ended && let Err(error) = check(round, free, remove) {
        run.court.accuse(Violation {
            rule: "after_the_round",
            place: String::from("the files of the round"),
            expected: String::from("that they can be read and removed, and the device unmounted"),
            found: format!("{error}"),
            pfns: [None, None],
        });
    }
    Ok(())
}

/// A file system with little room.
fn make(run: &Run, force: bool) -> Result<Arc<Fs>, StressError> {
    let device = run.device;
    {
        let _steady = run.machine.steady();
        let options = MkfsOptions {
            force,
            ..MkfsOptions::new(new_uuid())
        };
        mkfs(&*device.memory, &options)?;
    }
    let fs = run.machine.mount(device)?;
    fs.keep_inodes(KEPT);
    let free = fs.statfs().space.free;
    if free < LEAST {
        return Err(StressError::TooSmall {
            name: device.name,
            free,
            least: LEAST,
        });
    }
    if free > POOL {
        let ballast = fs.create(BALLAST, 0o644)?;
        let bytes = (free - POOL) * BLOCK_SIZE;
        fs.fallocate(&ballast, 0, bytes, Fill::Unwritten)?;
    }
    Ok(fs)
}

/// Blocks that are not in use, and those of the root directory, which only grows.
fn free_blocks(fs: &Fs) -> Result<u64, LookupError> {
    let stat = fs.statfs();
    Ok(stat.space.free + stat.quarantined + fs.root()?.stat().blocks)
}

/// The files and the address spaces.
fn fill(run: &Arc<Run>, fs: Arc<Fs>) -> Result<Arc<Round>, StressError> {
    let (small, large) = SLOTS;
    let progress = workers::plan(cpu::online(), run.disk.is_some());
    let round = Round {
        run: run.clone(),
        fs,
        slots: (0..small + large).map(|_| SpinLock::new(None)).collect(),
        large,
        spaces: spaces()?,
        progress: progress
            .map(|(job, n)| Progress::new(format!("{} {n}", job.name())))
            .collect(),
        duels: (0..workers::duels(cpu::online()))
            .map(|_| Arc::default())
            .collect(),
        stop: AtomicBool::new(false),
    };
    // The large one first, while there are large pages.
    for slot in (0..small + large).rev() {
        round.refill(slot)?;
    }
    Ok(Arc::new(round))
}

/// The kernel's own address space and two more.
fn spaces() -> Result<Vec<Arc<AddressSpace>>, OutOfMemory> {
    let mut spaces = alloc::vec![fault::space().clone()];
    for _ in 0..2 {
        spaces.push(fault::new_space()?);
    }
    Ok(spaces)
}

/// Runs the workers until `end_us`, or until somebody accuses. False when they could not be ended.
fn coordinate(
    round: &Arc<Round>,
    number: u64,
    end_us: u64,
    remove: bool,
) -> Result<bool, StressError> {
    let mut threads = Vec::new();
    for (index, who) in workers::plan(cpu::online(), round.run.disk.is_some()).enumerate() {
        let dice = Dice::new(round.run.seed, number << 16 | index as u64);
        threads.push(workers::start(round, index, who, dice)?);
    }
    while now_us() < end_us && !round.is_over() && watch::look(round) {
        sleep_us(LOOK_US);
    }
    let removed = remove && !round.is_over();
    if removed {
        remove_device(round)?;
    }
    // Relaxed: soon is soon enough.
    round.stop.store(true, Ordering::Relaxed);
    Ok(join(round, threads))
}

/// Waits for the workers; who does not end is accused by the watchdog.
fn join(round: &Round, threads: Vec<JoinHandle<()>>) -> bool {
    let end = now_us() + PATIENCE_US + 5_000_000;
    let mut all = true;
    for thread in threads {
        let mut thread = Some(thread);
        while let Some(left) = thread.take() {
            match left.join_until(&Wait::until(now_us() + LOOK_US)) {
                Ok(()) => {}
                Err((left, _)) if watch::look(round) && now_us() < end => thread = Some(left),
                Err(_) => all = false,
            }
        }
    }
    all
}

/// Removes the device under the workers' hands.
fn remove_device(round: &Arc<Round>) -> Result<(), StressError> {
    let theirs = round.clone();
    let remover = thread::spawn("remover", move || {
        let run = &theirs.run;
        let wait = Wait::until(now_us() + PATIENCE_US);
        run.machine.remove_device(run.device, &wait)
    })?;
    let mut left = Some(remover);
    while let Some(remover) = left.take() {
        match remover.join_until(&Wait::until(now_us() + LOOK_US)) {
            Ok(Ok(Removed { .. })) => round.run.tally.one(Count::Removals),
            Ok(Err(error)) => round.accuse(
                "removal",
                String::from(round.run.device.name),
                String::from("an end within 30 s"),
                format!("{error}"),
                None,
            ),
            Err((remover, _)) => {
                watch::look(round);
                left = Some(remover);
            }
        }
    }
    Ok(())
}

/// What must hold when all workers have ended: every file holds what it is to hold, every block comes back, and fsck finds nothing.
fn check(round: Arc<Round>, free: u64, removed: bool) -> Result<(), StressError> {
    let run = round.run.clone();
    let files: Vec<_> = round.slots.iter().filter_map(|s| s.lock().take()).collect();
    files.iter().for_each(|f| f.close_views());
    let fs = if removed {
        run.machine.add_device(run.device)?;
        run.machine.mount(run.device)?
    } else {
        round.fs.clone()
    };
    files
        .iter()
        .try_for_each(|file| contents(&round, &fs, file))?;
    drop(files);
    empty(&fs)?;
    let now = free_blocks(&fs)?;
    if now != free {
        let told = format!("{now} blocks; {:?}", fs.statfs());
        let place = String::from("after all files are gone");
        round.accuse(
            "lost_blocks",
            place,
            format!("{free} blocks free"),
            told,
            None,
        );
    }
    drop((round, fs));
    unmount(&run)
}

/// Reads a file as the file system has it now.
fn contents(round: &Round, fs: &Fs, file: &File) -> Result<(), StressError> {
    let inode = fs.open(&file.path)?;
    if inode.ino() != file.inode.ino() {
        let told = format!("inode {}", inode.ino());
        round.accuse("names", file.path.clone(), inode_of(file), told, None);
    }
    for page in 0..file.pages() {
        let glance = file.ledger(page).glance();
        for word in WORDS {
            let mut bytes = [0; 8];
            let n = fs.read(&inode, file.offset(page) + word * 8, &mut bytes);
            if n == Ok(8) {
                let found = u64::from_le_bytes(bytes);
                round.judge(file, page, glance, found, "last read");
            }
        }
    }
    Ok(())
}

/// Removes all files but the ballast.
fn empty(fs: &Fs) -> Result<(), StressError> {
    let root = fs.root()?;
    let mut cookie = 0;
    while let Some(entry) = fs.readdir(&root, cookie)? {
        cookie = entry.cookie;
        let path = format!("/{}", String::from_utf8_lossy(entry.name.as_bytes()));
        if path != BALLAST {
            fs.unlink(&path)?;
        }
    }
    drop(root);
    fs.settle();
    Ok(())
}

fn unmount(run: &Run) -> Result<(), StressError> {
    run.machine.umount()?;
    let report = fsck(&*run.device.memory);
    if let Some(problem) = report.problems.first() {
        run.court.accuse(Violation {
            rule: "fsck",
            place: String::from(run.device.name),
            expected: String::from("no problem"),
            found: format!("{} problems, the first: {problem}", report.problems.len()),
            pfns: [None, None],
        });
    }
    Ok(())
}
