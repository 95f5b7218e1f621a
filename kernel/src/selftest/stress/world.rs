//! What all workers share: the run, and the round that is under way.

use super::dice::Dice;
use super::file::{File, Shape};
use super::ledger::Glance;
use super::stamp::Word;
use super::tally::{Count, Tally};
use super::trouble::Trouble;
use super::violation::{Court, Violation};
use super::watch::Progress;
use super::workers::duel::Duel;
use crate::machine::{Fs, Machine};
use crate::pmem::Device;
use crate::virtio::blk::Disk;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use mm::aspace::AddressSpace;
use mm::sync::SpinLock;

/// Small files: pages of 4 KiB.
pub const SMALL: Shape = Shape {
    pages: 24,
    stride: 1,
};
/// Large files, which can be mapped by a page of 2 MiB.
pub const LARGE: Shape = Shape {
    pages: 8,
    stride: 64,
};

/// The whole run.
pub struct Run {
    /// The machine.
    pub machine: Arc<Machine>,
    /// The device that the test has to itself.
    pub device: &'static Device,
    /// The disk for transfers, if there is one that may be written.
    pub disk: Option<Arc<Disk>>,
    /// What plans and stamps follow from.
    pub seed: u64,
    /// What happened.
    pub tally: Tally,
    /// What must not have.
    pub court: Court,
    /// Numbers of files, never used twice.
    next_file: AtomicU32,
    /// Who had a frame last, by frame: see [`Run::saw`].
    users: Box<[AtomicU64]>,
}

/// Entries of [`Run::users`]: frames that share one hide each other's reuse, which only makes counts smaller.
const USERS: usize = 1 << 14;

impl Run {
    /// A run that has not begun.
    ///
    /// # Errors
    /// No memory.
    pub fn new(
        machine: Arc<Machine>,
        device: &'static Device,
        disk: Option<Arc<Disk>>,
        seed: u64,
    ) -> Result<Self, mm::mem::OutOfMemory> {
        let mut users = Vec::new();
        users
            .try_reserve_exact(USERS)
            .map_err(|_| mm::mem::OutOfMemory)?;
        users.resize_with(USERS, || AtomicU64::new(0));
        Ok(Run {
            machine,
            device,
            disk,
            seed,
            tally: Tally::new(),
            court: Court::new(),
            next_file: AtomicU32::new(1),
            users: users.into_boxed_slice(),
        })
    }

    /// A number for a file.
    pub fn file_number(&self) -> u32 {
        // Relaxed: it only has to be unique.
        self.next_file.fetch_add(1, Ordering::Relaxed)
    }

    /// A file uses a frame: counts blocks that had another owner before.
    pub fn saw(&self, pfn: u64, file: u32) {
        // Relaxed: a statistic.
        let before = self
            .user(pfn)
            .swap(User::pack(pfn, file), Ordering::Relaxed);
        if User::is_other(before, pfn, file) {
            self.tally.one(Count::Reused);
            if before & User::WAITED != 0 {
                self.tally.one(Count::ReusedWaited);
            }
        }
    }

    /// A truncate waited before it took this frame from its file.
    pub fn waited_for(&self, pfn: u64) {
        let mark = |user: u64| (User::pfn(user) == pfn).then_some(user | User::WAITED);
        // Relaxed: a statistic; a frame with another user by now stays as it is.
        let _ = self
            .user(pfn)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, mark);
    }

    fn user(&self, pfn: u64) -> &AtomicU64 {
        &self.users[pfn as usize % USERS]
    }
}

/// How an entry of `users` is packed: frame, a mark, file.
struct User;

impl User {
    const WAITED: u64 = 1 << 22;

    fn pack(pfn: u64, file: u32) -> u64 {
        pfn << 24 | u64::from(file)
    }

    fn pfn(user: u64) -> u64 {
        user >> 24
    }

    fn is_other(user: u64, pfn: u64, file: u32) -> bool {
        user != 0 && User::pfn(user) == pfn && user & (User::WAITED - 1) != u64::from(file)
    }
}

/// A place that holds one file after the other.
pub type Slot = SpinLock<Option<Arc<File>>>;

/// One round: a file system of its own, and workers on it.
pub struct Round {
    /// The run.
    pub run: Arc<Run>,
    /// The file system.
    pub fs: Arc<Fs>,
    /// The files.
    pub slots: Vec<Slot>,
    /// How many of them, from the end, are large.
    pub large: usize,
    /// The address spaces.
    pub spaces: Vec<Arc<AddressSpace>>,
    /// What each pair of a holder and a watcher shares.
    pub duels: Vec<Arc<Duel>>,
    /// How far the workers are.
    pub progress: Vec<Progress>,
    /// The workers are to end.
    pub stop: AtomicBool,
}

impl Round {
    /// The workers are to end.
    pub fn is_over(&self) -> bool {
        // Relaxed: soon is soon enough.
        self.stop.load(Ordering::Relaxed) || self.run.court.has_stopped()
    }

    /// One of the files; `None` where there is none at the moment.
    pub fn file(&self, dice: &mut Dice) -> Option<Arc<File>> {
        dice.pick(&self.slots).lock().clone()
    }

    /// The shape of the files of a slot.
    pub fn shape(&self, slot: usize) -> Shape {
        match slot + self.large >= self.slots.len() {
            true => LARGE,
            false => SMALL,
        }
    }

    /// Makes a new file and puts it into a slot; returns the one that was there.
    ///
    /// # Errors
    /// No space for it, for one; then the old one stays.
    pub fn refill(&self, slot: usize) -> Result<Option<Arc<File>>, Trouble> {
        let id = self.run.file_number();
        let path = format!("/f{id}");
        let shape = self.shape(slot);
        let inode = match shape.stride {
            1 => self.fs.create(&path, 0o644)?,
            _ => self.fs.create_sized(&path, 0o644, shape.bytes())?,
        };
        let file = Arc::new(File::new(id, path, inode, shape, self.spaces.len())?);
        Ok(self.slots[slot].lock().replace(file))
    }

    /// Judges a word that was found in a page of a file.
    pub fn judge(&self, file: &File, page: u64, glance: Glance, word: u64, how: &str) {
        let found = Word::decode(word, self.run.seed);
        let Err(wrong) = file.ledger(page).judge(glance, file.id, page as u16, found) else {
            return;
        };
        let (floor, last, zeroes) = file.ledger(page).legal();
        let zeroes = if zeroes { ", or zeroes" } else { "" };
        self.run.court.accuse(Violation {
            rule: wrong.name(),
            place: format!("{how} of {} ({}) page {page}", file.path, inode_of(file)),
            expected: format!(
                "the stamp of file {} page {page}, version {floor} to {last}{zeroes}",
                file.id
            ),
            found: format!("{found}"),
            pfns: [file.pfn(page), self.pfn_of(found)],
        });
    }

    /// The frame of the page whose stamp was found, if its file is still there.
    fn pfn_of(&self, found: Word) -> Option<u64> {
        let Word::Stamp(stamp) = found else {
            return None;
        };
        let files = self.slots.iter().filter_map(|slot| slot.lock().clone());
        let owner = files.into_iter().find(|f| f.id == stamp.file)?;
        owner.pfn(stamp.page.into())
    }

    /// A rule is broken that is not about a word.
    pub fn accuse(
        &self,
        rule: &'static str,
        place: String,
        expected: String,
        found: String,
        pfn: Option<u64>,
    ) {
        self.run.court.accuse(Violation {
            rule,
            place,
            expected,
            found,
            pfns: [pfn, None],
        });
    }
}

/// A file's inode, in words.
pub fn inode_of(file: &File) -> String {
    format!("inode {}", file.inode.ino())
}
