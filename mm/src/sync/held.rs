//! What each thread holds: the lock-order checker.
//!
//! A [`HeldLocks`] is written by its own thread alone, so every access is `Relaxed`; the fields are atomics only so that the
//! list of another thread can be shown (a debugger's view, possibly a moment old).

#![expect(
    unsafe_code,
    reason = "a list of static references that other threads may read is kept in AtomicPtrs"
)]

use super::runtime::runtime;
use arrayvec::ArrayVec;
use core::fmt;
use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering::Relaxed};

/// A kind of sleeping lock and its place in the lock order.
#[derive(Debug, PartialEq, Eq)]
pub struct LockClass {
    /// What the lock is called in messages.
    pub name: &'static str,
    /// Its place: a thread takes locks by ascending rank.
    pub rank: u8,
}

impl LockClass {
    /// A class called `name` at `rank`.
    pub const fn new(name: &'static str, rank: u8) -> Self {
        Self { name, rank }
    }
}

impl fmt::Display for LockClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (rank {})", self.name, self.rank)
    }
}

/// The lock order of the project, outermost first.
pub mod class {
    use super::LockClass;

    /// Serialises renames between directories.
    pub static RENAME: LockClass = LockClass::new("rename", 10);
    /// One inode.
    pub static INODE: LockClass = LockClass::new("inode", 20);
    /// One address space's list of areas.
    pub static ASPACE: LockClass = LockClass::new("address space", 30);
    /// A mapping's invalidate lock: faults share it, break_layouts holds it exclusively.
    pub static INVALIDATE: LockClass = LockClass::new("invalidate", 40);
    /// One locked XArray entry.
    pub static ENTRY: LockClass = LockClass::new("entry", 50);
    /// The file system's commit.
    pub static COMMIT: LockClass = LockClass::new("commit", 60);
    /// Page tables of one address space.
    pub static PAGE_TABLE: LockClass = LockClass::new("page table", 70);
    /// Allocators.
    pub static ALLOC: LockClass = LockClass::new("allocator", 80);
}

/// How many sleeping locks one thread may hold at once.
pub const MAX_HELD: usize = 8;

/// The classes that a thread holds, in the order in which it took them.
pub type HeldList = ArrayVec<&'static LockClass, MAX_HELD>;

/// The locks that one thread holds. The [`super::Runtime`] keeps one for each thread.
#[derive(Default)]
pub struct HeldLocks {
    classes: [AtomicPtr<LockClass>; MAX_HELD],
    /// Sleeping locks held; beyond [`MAX_HELD`] only counted.
    len: AtomicU32,
    /// Spin locks held, counted in debug builds.
    spin: AtomicU32,
    /// Sections with interrupts off, counted where they are waited for (`super::section`).
    #[cfg(not(target_os = "none"))]
    sections: AtomicU32,
}

impl HeldLocks {
    /// A thread that holds nothing.
    pub const fn new() -> Self {
        Self {
            classes: [const { AtomicPtr::new(ptr::null_mut()) }; MAX_HELD],
            len: AtomicU32::new(0),
            spin: AtomicU32::new(0),
            #[cfg(not(target_os = "none"))]
            sections: AtomicU32::new(0),
        }
    }

    /// The classes held, oldest first.
    pub fn list(&self) -> HeldList {
        let len = (self.len.load(Relaxed) as usize).min(MAX_HELD);
        self.classes[..len]
            .iter()
            .filter_map(|c| class_of(c.load(Relaxed)))
            .collect()
    }

    /// Spin locks held; always 0 in release builds, which do not count them.
    pub fn spin_depth(&self) -> u32 {
        self.spin.load(Relaxed)
    }

    /// A section with interrupts off begins (1) or ends (-1).
    #[cfg(not(target_os = "none"))]
    pub(super) fn count_section(&self, change: i32) {
        let depth = self.sections.load(Relaxed);
        self.sections
            .store(depth.saturating_add_signed(change), Relaxed);
    }

    /// Whether the thread is inside a section with interrupts off. Told on the host and in the models only.
    #[cfg(not(target_os = "none"))]
    pub(super) fn in_section(&self) -> bool {
        self.sections.load(Relaxed) > 0
    }

    /// Panics in debug builds when taking `class` now would be against the order. `nested`: an equal rank is allowed.
    #[track_caller]
    pub(super) fn check(&self, class: &'static LockClass, nested: bool) {
        if cfg!(debug_assertions) {
            self.check_spin("take a sleeping lock");
            if let Some(held) = self
                .list()
                .iter()
                .find(|h| h.rank > class.rank || (h.rank == class.rank && !nested))
            {
                panic!("lock order: {class} taken while {held} is held");
            }
        }
    }

    /// Panics in debug builds when a spin lock is held: the thread is about to sleep.
    #[track_caller]
    pub(super) fn check_spin(&self, what: &str) {
        debug_assert!(
            self.spin_depth() == 0,
            "{} spin lock(s) held, about to {what}",
            self.spin_depth()
        );
    }

    /// Notes that the thread now holds `class`.
    pub(super) fn push(&self, class: &'static LockClass) {
        let len = self.len.load(Relaxed);
        debug_assert!(
            (len as usize) < MAX_HELD,
            "more than {MAX_HELD} sleeping locks held, taking {class}"
        );
        if let Some(slot) = self.classes.get(len as usize) {
            slot.store(ptr::from_ref(class).cast_mut(), Relaxed);
        }
        self.len.store(len + 1, Relaxed);
    }

    /// Notes that the thread let `class` go: the youngest entry of that class leaves the list.
    pub(super) fn pop(&self, class: &'static LockClass) {
        let len = self.len.load(Relaxed);
        debug_assert!(len > 0, "{class} released by a thread that holds nothing");
        let listed = (len as usize).min(MAX_HELD);
        let wanted = ptr::from_ref(class).cast_mut();
        if let Some(at) = (0..listed)
            .rev()
            .find(|&i| self.classes[i].load(Relaxed) == wanted)
        {
            for i in at + 1..listed {
                self.classes[i - 1].store(self.classes[i].load(Relaxed), Relaxed);
            }
        }
        self.len.store(len.saturating_sub(1), Relaxed);
    }

    /// Counts a spin lock taken; returns the depth before it. Debug builds only.
    #[cfg(debug_assertions)]
    pub(super) fn spin_enter(&self) -> u32 {
        let depth = self.spin.load(Relaxed);
        self.spin.store(depth + 1, Relaxed);
        depth
    }

    /// Counts a spin lock let go. Debug builds only.
    #[cfg(debug_assertions)]
    pub(super) fn spin_leave(&self) {
        self.spin
            .store(self.spin.load(Relaxed).saturating_sub(1), Relaxed);
    }
}

impl fmt::Debug for HeldLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.list().iter().map(|c| c.name))
            .finish()
    }
}

fn class_of(stored: *mut LockClass) -> Option<&'static LockClass> {
    // SAFETY: only `push` stores here, and only pointers made from `&'static LockClass`; else it is null.
    unsafe { stored.as_ref() }
}

/// The sleeping locks that the calling thread holds, oldest first.
pub fn held_by_current() -> HeldList {
    runtime().held().list()
}

/// A lock kept elsewhere (a lock bit in an entry) that the calling thread holds, or is about to wait for, noted until dropped.
#[must_use]
pub struct Noted {
    class: &'static LockClass,
    not_send: PhantomData<*const ()>,
}

/// Notes that the calling thread takes a lock of `class` that is none of this module's locks, so that the lock-order checker
/// and [`held_by_current`] know of it. Call it before waiting for that lock. Debug builds panic on a wrong order.
#[track_caller]
pub fn note_held(class: &'static LockClass) -> Noted {
    runtime().held().check(class, false);
    runtime().held().push(class);
    Noted {
        class,
        not_send: PhantomData,
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        runtime().held().pop(self.class);
    }
}
