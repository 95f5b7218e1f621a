//! The run queues, one for each CPU, and the mask of CPUs that have nothing to run.
//!
//! A queue is a ring of slots behind a spin lock. Its owner takes from the front; another CPU with nothing to do takes the first
//! thread that may move. A thread is in at most one queue, so a ring with a place for every slot never overflows.
//!
//! The idle mask and the queues make one promise together: *a CPU that sleeps has an empty queue, or an interrupt on its way.* The
//! owner sets its bit under the lock of its queue, having found it empty; whoever adds to the queue of another CPU interrupts it afterwards.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use spin::mutex::{Mutex, MutexGuard};

use super::table::{ANYWHERE, SLOTS, THREADS};
use crate::cpu::{self, MAX_CPUS};

const _: () = assert!(MAX_CPUS <= 64);

/// The threads that wait for one CPU, in the order in which they came.
pub(super) struct Ready {
    slots: [u8; SLOTS],
    first: usize,
    len: usize,
}

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
            ready: Mutex::new(Ready {
                slots: [0; SLOTS],
                first: 0,
                len: 0,
            }),
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
        ready.push(slot);
        self.note(&ready);
    }

    /// Adds `again` at the end, if given, and takes the first; if there is none, the owner counts as idle from now on.
    pub fn take(&self, owner: usize, again: Option<usize>) -> Option<usize> {
        let mut ready = self.lock();
        if let Some(slot) = again {
            ready.push(slot);
        }
        let next = ready.remove(0);
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
        let at = (0..ready.len).find(|&i| may_move(ready.at(i)))?;
        let slot = ready.remove(at);
        self.note(&ready);
        slot
    }

    fn note(&self, ready: &Ready) {
        // Relaxed: see `is_empty`.
        self.len.store(ready.len, Ordering::Relaxed);
    }
}

impl Ready {
    fn at(&self, i: usize) -> usize {
        usize::from(self.slots[(self.first + i) % SLOTS])
    }

    fn push(&mut self, slot: usize) {
        debug_assert!(self.len < SLOTS, "a thread is queued twice");
        self.slots[(self.first + self.len) % SLOTS] = slot as u8;
        self.len += 1;
    }

    /// Takes the thread at place `i`; those before it move up.
    fn remove(&mut self, i: usize) -> Option<usize> {
        if i >= self.len {
            return None;
        }
        let slot = self.at(i);
        for j in (1..=i).rev() {
            self.slots[(self.first + j) % SLOTS] = self.at(j - 1) as u8;
        }
        self.first = (self.first + 1) % SLOTS;
        self.len -= 1;
        Some(slot)
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
