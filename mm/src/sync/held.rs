//! What each thread holds: the checker of lock order and of sleeping, in debug builds.
//!
//! | what is wrong | message |
//! |---|---|
//! | a lock taken under one of its own rank or a later one | `lock order: A taken at F:L under B, taken at F:L` |
//! | a lock taken by the thread that holds it | `lock order: A taken at F:L by the thread that holds it, A, taken at F:L` |
//! | a sleeping lock or a wait under a spin lock, with interrupts off, in an interrupt handler | `sleeping in atomic context: about to W at F:L under B, taken at F:L` |
//! | break_layouts waiting with a lock | `waiting with a lock: about to W at F:L with B, taken at F:L` |
//!
//! Spin locks have an order of their own, after every sleeping lock: a sleeping lock under a spin lock is wrong by itself.
//! A lock that is only tried for cannot wait, so any order is allowed; it is listed all the same.
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
use core::panic::Location;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering::Relaxed};

/// A kind of lock and its place in the lock order.
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
    /// Page tables of one address space: a spin lock, as all below.
    pub static PAGE_TABLE: LockClass = LockClass::new("page table", 70);
    /// Allocators.
    pub static ALLOC: LockClass = LockClass::new("allocator", 80);
    /// The inodes in memory of a file system.
    pub static INODE_TABLE: LockClass = LockClass::new("inode table", 82);
    /// The times and sizes of one inode.
    pub static ATTR: LockClass = LockClass::new("inode attributes", 84);
    /// One XArray's tree.
    pub static XARRAY: LockClass = LockClass::new("xarray", 90);
    /// The pool of XArray nodes.
    pub static NODES: LockClass = LockClass::new("xarray nodes", 100);
    /// Every spin lock without a class of its own: they do not nest in each other.
    pub static SPIN: LockClass = LockClass::new("spin lock", 200);
    /// The list of pgmaps.
    pub static PGMAPS: LockClass = LockClass::new("pgmaps", 230);
    /// One queue of waiting threads: innermost, since any lock's holder may wake.
    pub static WAIT_QUEUE: LockClass = LockClass::new("wait queue", 250);
    /// Not a lock: interrupts turned off by `irq_off`.
    pub static IRQ_OFF: LockClass = LockClass::new("interrupts off", 0);
}

/// How many sleeping locks one thread may hold at once.
pub const MAX_HELD: usize = 8;

/// How many spin locks of one thread are listed; more are counted.
const MAX_SPINNING: usize = 8;

/// The classes that a thread holds, in the order in which it took them.
pub type HeldList = ArrayVec<&'static LockClass, MAX_HELD>;

/// The locks that a thread holds, each with its place, in the order in which it took them.
pub type TakenList = ArrayVec<Taken, MAX_HELD>;

/// A lock that a thread holds.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Its class.
    pub class: &'static LockClass,
    /// Where it was taken.
    pub place: &'static Location<'static>,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, taken at {}", self.class, self.place)
    }
}

/// One lock in a list. Empty: the class is null.
struct Slot {
    class: AtomicPtr<LockClass>,
    place: AtomicPtr<Location<'static>>,
    /// The lock's address; 0: a lock that is kept elsewhere.
    lock: AtomicUsize,
}

impl Slot {
    const fn new() -> Self {
        Self {
            class: AtomicPtr::new(ptr::null_mut()),
            place: AtomicPtr::new(ptr::null_mut()),
            lock: AtomicUsize::new(0),
        }
    }

    fn get(&self) -> Option<Taken> {
        // SAFETY: only `set` stores in these two, and only pointers made from `&'static` references; else they are null.
        let (class, place) = unsafe {
            (
                self.class.load(Relaxed).as_ref(),
                self.place.load(Relaxed).as_ref(),
            )
        };
        Some(Taken {
            class: class?,
            place: place?,
        })
    }

    fn set(&self, taken: Taken, lock: usize) {
        self.class
            .store(ptr::from_ref(taken.class).cast_mut(), Relaxed);
        self.place
            .store(ptr::from_ref(taken.place).cast_mut(), Relaxed);
        self.lock.store(lock, Relaxed);
    }

    fn copy_from(&self, other: &Self) {
        self.class.store(other.class.load(Relaxed), Relaxed);
        self.place.store(other.place.load(Relaxed), Relaxed);
        self.lock.store(other.lock.load(Relaxed), Relaxed);
    }

    fn is_of(&self, lock: usize) -> bool {
        lock != 0 && self.lock.load(Relaxed) == lock
    }
}

/// The locks that one thread holds. The [`super::Runtime`] keeps one for each thread.
///
/// Spin locks and interrupt handlers belong to the thread that they run on: a thread does not change its CPU while it holds
/// a spin lock, and a handler ends before the thread goes on.
pub struct HeldLocks {
    sleeping: [Slot; MAX_HELD],
    /// Sleeping locks held; beyond [`MAX_HELD`] only counted.
    len: AtomicU32,
    /// Spin locks and interrupts turned off, oldest first; kept in debug builds.
    spinning: [Slot; MAX_SPINNING],
    depth: AtomicU32,
    /// Interrupt handlers under way on this thread.
    #[cfg(debug_assertions)]
    handlers: AtomicU32,
    /// Where the first of them was entered; kept in debug builds.
    handler: Slot,
    /// Sections with interrupts off, counted where they are waited for (`super::section`).
    #[cfg(not(target_os = "none"))]
    sections: AtomicU32,
}

impl Default for HeldLocks {
    fn default() -> Self {
        Self::new()
    }
}

impl HeldLocks {
    /// A thread that holds nothing.
    pub const fn new() -> Self {
        Self {
            sleeping: [const { Slot::new() }; MAX_HELD],
            len: AtomicU32::new(0),
            spinning: [const { Slot::new() }; MAX_SPINNING],
            depth: AtomicU32::new(0),
            #[cfg(debug_assertions)]
            handlers: AtomicU32::new(0),
            handler: Slot::new(),
            #[cfg(not(target_os = "none"))]
            sections: AtomicU32::new(0),
        }
    }

    /// The classes of the sleeping locks held, oldest first.
    pub fn list(&self) -> HeldList {
        self.taken().map(|t| t.class).collect()
    }

    /// The sleeping locks held and where each was taken, oldest first.
    pub fn taken(&self) -> impl Iterator<Item = Taken> + '_ {
        listed(&self.sleeping, &self.len)
            .iter()
            .filter_map(Slot::get)
    }

    /// Spin locks held and interrupts turned off; always 0 in release builds, which do not count them.
    pub fn spin_depth(&self) -> u32 {
        self.depth.load(Relaxed)
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

    /// Panics in debug builds when taking the sleeping lock at `lock` now would be wrong: against the order, a second time, or where
    /// nothing sleeps. `nested`: an equal rank is allowed.
    #[track_caller]
    pub(super) fn check(&self, class: &'static LockClass, lock: usize, nested: bool) {
        if cfg!(debug_assertions) {
            self.check_may_sleep(format_args!("take {class}"));
            let new = Taken {
                class,
                place: Location::caller(),
            };
            check_order(listed(&self.sleeping, &self.len), new, lock, nested);
        }
    }

    /// Panics in debug builds where nothing sleeps: under a spin lock, with interrupts off, in an interrupt handler.
    #[track_caller]
    pub(super) fn check_may_sleep(&self, what: impl fmt::Display) {
        if cfg!(debug_assertions) {
            let place = Location::caller();
            if let Some(under) = listed(&self.spinning, &self.depth)
                .last()
                .and_then(Slot::get)
            {
                panic!("sleeping in atomic context: about to {what} at {place} under {under}");
            }
            assert!(
                self.spin_depth() == 0,
                "sleeping in atomic context: about to {what} at {place} under {} spin locks",
                self.spin_depth()
            );
            if let Some(Taken { place: entered, .. }) = self.handler.get() {
                panic!(
                    "sleeping in atomic context: about to {what} at {place} in an interrupt handler, entered at {entered}"
                );
            }
        }
    }

    /// Panics in debug builds when a sleeping lock is held.
    #[track_caller]
    fn check_nothing_held(&self, what: &str) {
        if cfg!(debug_assertions) {
            self.check_may_sleep(what);
            if let Some(held) = self.taken().next() {
                panic!(
                    "waiting with a lock: about to {what} at {} with {held}",
                    Location::caller()
                );
            }
        }
    }

    /// Notes that the thread now holds the lock at `lock`.
    #[track_caller]
    pub(super) fn push(&self, class: &'static LockClass, lock: usize) {
        let len = self.len.load(Relaxed);
        debug_assert!(
            (len as usize) < MAX_HELD,
            "more than {MAX_HELD} sleeping locks held, taking {class}"
        );
        if let Some(slot) = self.sleeping.get(len as usize) {
            slot.set(
                Taken {
                    class,
                    place: Location::caller(),
                },
                lock,
            );
        }
        self.len.store(len + 1, Relaxed);
    }

    /// Notes that the thread let the lock at `lock` go: the youngest entry of that lock and class leaves the list.
    pub(super) fn pop(&self, class: &'static LockClass, lock: usize) {
        let len = self.len.load(Relaxed);
        debug_assert!(len > 0, "{class} released by a thread that holds nothing");
        let slots = listed(&self.sleeping, &self.len);
        let wanted = ptr::from_ref(class).cast_mut();
        let is_it = |s: &Slot| s.class.load(Relaxed) == wanted && s.lock.load(Relaxed) == lock;
        if let Some(at) = slots.iter().rposition(is_it) {
            slots
                .windows(2)
                .skip(at)
                .for_each(|pair| pair[0].copy_from(&pair[1]));
        }
        self.len.store(len.saturating_sub(1), Relaxed);
    }

    /// Notes a spin lock, or interrupts turned off ([`class::IRQ_OFF`]); returns the depth before it. `in_order`: panics when taking
    /// it now would be wrong. Debug builds only.
    #[cfg(debug_assertions)]
    #[track_caller]
    pub(super) fn spin_enter(&self, class: &'static LockClass, lock: usize, in_order: bool) -> u32 {
        let depth = self.depth.load(Relaxed);
        let new = Taken {
            class,
            place: Location::caller(),
        };
        if in_order {
            check_order(listed(&self.spinning, &self.depth), new, lock, false);
        }
        if let Some(slot) = self.spinning.get(depth as usize) {
            slot.set(new, lock);
        }
        self.depth.store(depth + 1, Relaxed);
        depth
    }

    /// Forgets the youngest of the spin locks. Debug builds only.
    #[cfg(debug_assertions)]
    pub(super) fn spin_leave(&self) {
        self.depth
            .store(self.depth.load(Relaxed).saturating_sub(1), Relaxed);
    }

    /// An interrupt handler begins on this thread.
    #[cfg(debug_assertions)]
    #[track_caller]
    fn handler_enter(&self) {
        let depth = self.handlers.load(Relaxed);
        if depth == 0 {
            let place = Location::caller();
            self.handler.set(
                Taken {
                    class: &class::IRQ_OFF,
                    place,
                },
                0,
            );
        }
        self.handlers.store(depth + 1, Relaxed);
    }

    #[cfg(debug_assertions)]
    fn handler_leave(&self) {
        let depth = self.handlers.load(Relaxed).saturating_sub(1);
        if depth == 0 {
            self.handler.class.store(ptr::null_mut(), Relaxed);
        }
        self.handlers.store(depth, Relaxed);
    }
}

fn listed<'a>(slots: &'a [Slot], len: &AtomicU32) -> &'a [Slot] {
    &slots[..(len.load(Relaxed) as usize).min(slots.len())]
}

/// Panics when `new` is taken against the order of what is `held`, or is held already.
fn check_order(held: &[Slot], new: Taken, lock: usize, nested: bool) {
    let Taken { class, place } = new;
    for slot in held {
        let Some(old) = slot.get() else { continue };
        assert!(
            !slot.is_of(lock),
            "lock order: {class} taken at {place} by the thread that holds it, {old}"
        );
        let wrong = old.class.rank > class.rank || (old.class.rank == class.rank && !nested);
        assert!(!wrong, "lock order: {class} taken at {place} under {old}");
    }
}

impl fmt::Debug for HeldLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.taken()).finish()
    }
}

/// Says that the rest of a scope is an interrupt handler, in which debug builds let nothing sleep.
///
/// The scope ends before the thread below goes on or is switched away.
#[must_use]
pub struct InHandler {
    not_send: PhantomData<*const ()>,
}

impl InHandler {
    /// A handler begins.
    #[track_caller]
    pub fn enter() -> Self {
        #[cfg(debug_assertions)]
        runtime().held().handler_enter();
        Self {
            not_send: PhantomData,
        }
    }
}

impl Drop for InHandler {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        runtime().held().handler_leave();
    }
}

/// Panics in debug builds when the caller holds a lock of any kind, or may not sleep: it is about to do `what`, a wait of unknown length for
/// somebody who may need any lock. Names where the lock was taken.
#[track_caller]
pub fn check_nothing_held(what: &str) {
    runtime().held().check_nothing_held(what);
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
    runtime().held().check(class, 0, false);
    runtime().held().push(class, 0);
    Noted {
        class,
        not_send: PhantomData,
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        runtime().held().pop(self.class, 0);
    }
}
