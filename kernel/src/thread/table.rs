//! The table of threads: what is known of each, and who may touch it.
//!
//! | part | written by | read by |
//! |---|---|---|
//! | [`Life`] | whoever holds its lock | the same |
//! | `rsp` | the CPU that switches away from the thread | the CPU that switches to it, later (see `sched`) |
//! | `on_cpu` | the CPU that runs the thread | everybody |
//! | `home`, `id`, `root` | whoever owns the thread: makes it, has it off a queue, or runs it; `home` also under the life lock while it is parked | everybody, as a hint |
//! | `deadline_us` | under the life lock | everybody, as a hint |
//! | `space` | the thread itself; its maker before | the thread itself |
//!
//! The slots behind [`MAX_THREADS`] belong to the idle threads, one for each CPU: they are never queued and never park.

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use arrayvec::ArrayString;
use mm::aspace::AddressSpace;
use mm::sync::{HeldLocks, ThreadId};
use spin::mutex::{Mutex, MutexGuard};

use super::stack::Stack;
use crate::cpu::MAX_CPUS;

/// The most threads at a time, idle ones not counted.
pub const MAX_THREADS: usize = 128;
/// All slots, those of the idle threads included. A slot fits a byte.
pub const SLOTS: usize = MAX_THREADS + MAX_CPUS;
const _: () = assert!(SLOTS <= 256);

/// No time, no CPU.
pub(super) const NEVER: u64 = u64::MAX;
pub(super) const ANYWHERE: usize = usize::MAX;

/// What a thread runs.
pub(super) type Start = alloc::boxed::Box<dyn FnOnce() + Send>;
/// A thread's name; longer ones are cut.
pub type Name = ArrayString<24>;

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No thread: the slot is free.
    Free,
    /// Being made.
    Starting,
    /// On a CPU.
    Running,
    /// Waits for a CPU.
    Ready,
    /// Parked, until the deadline (µs of the clock) if there is one.
    Parked(Option<u64>),
}

/// What the life lock covers.
pub(super) struct Life {
    /// Where the thread is in its life; `Ready` stands for running, too.
    pub state: State,
    /// An unpark came before the park.
    pub token: bool,
    pub generation: u64,
    pub stack: Option<Stack>,
    pub start: Option<Start>,
    pub name: Name,
}

pub(super) struct Thread {
    life: Mutex<Life>,
    /// The stack pointer while the thread runs nowhere.
    pub rsp: AtomicU64,
    /// A CPU runs the thread, or is still saving its registers.
    pub on_cpu: AtomicBool,
    /// The thread has ended; its slot is freed when its CPU has left the stack.
    pub ended: AtomicBool,
    /// The CPU that ran it last, or in whose queue it is.
    pub home: AtomicUsize,
    /// The only CPU that may run it, or `ANYWHERE`.
    pub pinned: AtomicUsize,
    /// When a parked thread wants to be woken, in µs of the clock, or `NEVER`.
    pub deadline_us: AtomicU64,
    /// Its address space (an `Arc` turned into a pointer), or null for the kernel's own.
    pub space: AtomicPtr<AddressSpace>,
    /// The root table of its address space, or 0 for the kernel's own.
    pub root: AtomicU64,
    /// Its number.
    pub id: AtomicU64,
    pub ran_ns: AtomicU64,
    pub switches: AtomicU64,
    /// What it holds; used by the thread alone.
    pub held: HeldLocks,
}

impl Thread {
    const fn new() -> Self {
        Self {
            life: Mutex::new(Life {
                state: State::Free,
                token: false,
                generation: 1,
                stack: None,
                start: None,
                name: ArrayString::new_const(),
            }),
            rsp: AtomicU64::new(0),
            on_cpu: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            home: AtomicUsize::new(0),
            pinned: AtomicUsize::new(ANYWHERE),
            deadline_us: AtomicU64::new(NEVER),
            space: AtomicPtr::new(core::ptr::null_mut()),
            root: AtomicU64::new(0),
            id: AtomicU64::new(0),
            ran_ns: AtomicU64::new(0),
            switches: AtomicU64::new(0),
            held: HeldLocks::new(),
        }
    }

    /// Takes the life lock; interrupts are off.
    pub fn life(&self) -> MutexGuard<'_, Life> {
        debug_assert!(!x86_64::instructions::interrupts::are_enabled());
        self.life.lock()
    }

    /// As [`Thread::life`], unless somebody holds it.
    pub fn try_life(&self) -> Option<MutexGuard<'_, Life>> {
        self.life.try_lock()
    }

    /// Frees the slot of a thread that has ended and whose stack nobody uses.
    pub fn retire(&self) {
        let mut life = self.life();
        life.state = State::Free;
        life.generation += 1;
        life.token = false;
        // Relaxed: a hint; a stale number is found out by the generation.
        self.id.store(0, Ordering::Relaxed);
    }
}

pub(super) static THREADS: [Thread; SLOTS] = [const { Thread::new() }; SLOTS];

/// The number of the thread in `slot`.
pub(super) fn number(slot: usize, generation: u64) -> ThreadId {
    ThreadId::new(generation << 8 | slot as u64).expect("generations start at 1")
}

/// The slot in a number.
pub(super) fn slot_of(number: u64) -> usize {
    (number & 0xff) as usize
}

/// `name`, cut to what a [`Name`] holds.
pub(super) fn cut(name: &str) -> Name {
    let mut end = name.len().min(Name::new().capacity());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    Name::from(&name[..end]).unwrap_or_default()
}
