//! The run queues, one for each CPU, and the mask of CPUs that have nothing to run.
//!
//! A queue is a list of slots behind a spin lock. Its owner takes from the front; another CPU with nothing to do takes the first
//! thread that may move. A thread is in at most one queue, so a list with a place for every slot never overflows; taking from the front
//! moves the rest, a byte each.
//!
//! The idle mask and the queues make one promise together: *a CPU that sleeps has an empty queue, or an interrupt on its way.* The
//! owner sets its bit under the lock of its queue, having found it empty; whoever adds to the queue of another CPU interrupts it afterwards.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use arrayvec::ArrayVec;
use spin::mutex::{Mutex, MutexGuard};

use super::table::{ANYWHERE, SLOTS, THREADS};
use crate::cpu::{self, MAX_CPUS};

const _: () = assert!(MAX_CPUS <= 64);

/// The threads that wait for one CPU, in the order in which they came.
type Ready = ArrayVec<u8, SLOTS>;

pub(super) struct Queue {
    ready: Mutex<Ready>,
    /// How many wait; written under the lock, read without as a hint.
    len: AtomicUsize,
}

static QUEUES: [Queue; MAX_CPUS] = [const { Queue::new() }; MAX_CPUS];
/// Bit `i`: CPU `i` has nothing to run.
static IDLE: AtomicU64 = AtomicU64::new(0);

/// The queue of the CPU with `index`.
pub(super) fn of(index: usize) -> &'static Queue {
    &QUEUES[index]
}

impl Queue {
    const fn new() -> Self {
        Self {
            ready: Mutex::new(Ready::new_const()),
            len: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ready> {
        debug_assert!(!x86_64::instructions::interrupts::are_enabled());
        self.ready.lock()
    }

    /// Whether nobody waits, as a hint.
    pub fn is_empty(&self) -> bool {
        // Relaxed: a hint; who acts on it takes the lock.
        self.len.load(Ordering::Relaxed) == 0
    }

    /// Adds the thread in `slot` at the end.
    pub fn push(&self, slot: usize) {
        let mut ready = self.lock();
        ready.push(slot as u8);
        self.note(&ready);
    }

    /// Adds `again` at the end, if given, and takes the first; if there is none, the owner counts as idle from now on.
    pub fn take(&self, owner: usize, again: Option<usize>) -> Option<usize> {
        let mut ready = self.lock();
        if let Some(slot) = again {
            ready.push(slot as u8);
        }
        let next = ready.pop_at(0).map(usize::from);
        self.note(&ready);
        if next.is_none() {
            set_idle(owner);
        }
        next
    }

    /// Takes, for another CPU, the first thread that may move: one that is not pinned and whose registers are saved.
    fn give(&self) -> Option<usize> {
        if self.is_empty() {
            return None;
        }
        let mut ready = self.lock();
        let at = ready.iter().position(|&slot| may_move(slot.into()))?;
        let slot = ready.remove(at);
        self.note(&ready);
        Some(slot.into())
    }

    fn note(&self, ready: &Ready) {
        // Relaxed: see `is_empty`.
        self.len.store(ready.len(), Ordering::Relaxed);
    }
}

fn may_move(slot: usize) -> bool {
    let thread = &THREADS[slot];
    // Relaxed: never changes while the thread lives.
    thread.pinned.load(Ordering::Relaxed) == ANYWHERE
        // Acquire: pairs with the Release in `sched::arrived`: the registers are saved and the stack is left.
        && !thread.on_cpu.load(Ordering::Acquire)
}

/// A thread from the queue of another CPU, for the CPU `me`, which has nothing to do.
pub(super) fn steal(me: usize) -> Option<usize> {
    // SeqCst: pairs with the fence in `sched::offer`. The idle bit was set before.
    fence(Ordering::SeqCst);
    let count = cpu::online();
    let slot = (1..count).find_map(|i| QUEUES[(me + i) % count].give())?;
    cpu::stats::of(me).steal();
    Some(slot)
}

fn set_idle(cpu: usize) {
    // SeqCst: nothing rests on it but where threads are put first; the module head's promise is kept by lock and interrupt.
    IDLE.fetch_or(1 << cpu, Ordering::SeqCst);
}

/// The CPU has something to run.
pub(super) fn clear_idle(cpu: usize) {
    if is_idle(cpu) {
        // SeqCst: as in `set_idle`.
        IDLE.fetch_and(!(1 << cpu), Ordering::SeqCst);
    }
}

/// Whether the CPU has nothing to run, as a hint.
fn is_idle(cpu: usize) -> bool {
    // Relaxed: a hint.
    IDLE.load(Ordering::Relaxed) >> cpu & 1 == 1
}

/// Whether the CPU had nothing to run; from now on it counts as having something, for the caller is about to give it that and poke it. It counts
/// as idle again when it has looked at its queue and found nothing.
pub(super) fn claim(cpu: usize) -> bool {
    // SeqCst: as in `set_idle`; of two who claim a CPU one has it.
    is_idle(cpu) && IDLE.fetch_and(!(1 << cpu), Ordering::SeqCst) >> cpu & 1 == 1
}

/// Claims a CPU that has nothing to run, the first behind `from`.
pub(super) fn claim_one(from: usize) -> Option<usize> {
    loop {
        // Relaxed: a hint.
        let mask = IDLE.load(Ordering::Relaxed);
        if mask == 0 {
            return None;
        }
        let next = mask.rotate_right(from as u32).trailing_zeros() as usize;
        let cpu = (from + next) % u64::BITS as usize;
        if claim(cpu) {
            return Some(cpu);
        }
    }
}
