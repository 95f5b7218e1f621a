//! Kernel threads: preemptive, round robin, each on a stack with guard pages.
//!
//! [`spawn`] gives a [`JoinHandle`]. Waiting is the business of `mm::sync`, whose runtime this module is: parking, waking and deadlines come
//! from here, wait queues and locks from there.

mod sched;
mod stack;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use mm::mem::{OutOfMemory, check_headroom, try_box};
use mm::sync::{HeldList, HeldLocks, Runtime, SpinLock, ThreadId, Wait, WaitError, WaitQueue};
use x86_64::VirtAddr;
use x86_64::instructions::interrupts;

pub use sched::{MAX_THREADS, Name, State};
pub(crate) use stack::map_ist;
pub use stack::{STACK_BYTES, Stack};

use crate::{cpu, time};

/// Why a thread could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpawnError {
    /// No memory for its stack or its bookkeeping, or [`MAX_THREADS`] threads exist.
    #[error("no memory or no slot for another thread")]
    OutOfMemory,
}

impl From<OutOfMemory> for SpawnError {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Where a thread leaves its result.
struct Packet<T> {
    result: SpinLock<Option<T>>,
    done: AtomicBool,
    queue: WaitQueue,
}

/// The right to a thread's result. Dropping it lets the thread go on alone.
pub struct JoinHandle<T> {
    packet: Arc<Packet<T>>,
    id: ThreadId,
}

impl<T> JoinHandle<T> {
    /// The thread's number.
    pub fn id(&self) -> ThreadId {
        self.id
    }

    /// Whether the thread has ended.
    pub fn is_finished(&self) -> bool {
        // Acquire: pairs with the Release in `spawn`; the result is there.
        self.packet.done.load(Ordering::Acquire)
    }

    /// Sleeps until the thread has ended; returns what it returned.
    pub fn join(self) -> T {
        match self.join_until(&Wait::forever()) {
            Ok(value) => value,
            Err(_) => unreachable!("a wait without deadline or cancel has no other end"),
        }
    }

    /// Sleeps until the thread has ended or the wait is over; in that case the handle comes back.
    pub fn join_until(self, wait: &Wait<'_>) -> Result<T, (Self, WaitError)> {
        match self.packet.queue.wait_until(|| self.is_finished(), wait) {
            Ok(()) => Ok(self
                .packet
                .result
                .lock()
                .take()
                .expect("a thread leaves one result, taken once")),
            Err(e) => Err((self, e)),
        }
    }
}

/// Makes a thread called `name` that runs `f`.
///
/// # Errors
/// [`SpawnError::OutOfMemory`], and then `f` is dropped.
pub fn spawn<T, F>(name: &str, f: F) -> Result<JoinHandle<T>, SpawnError>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    check_headroom()?;
    let packet = Arc::new(Packet {
        result: SpinLock::new(None),
        done: AtomicBool::new(false),
        queue: WaitQueue::new(),
    });
    let theirs = packet.clone();
    let start: Box<dyn FnOnce() + Send> = try_box(move || {
        let value = f();
        *theirs.result.lock() = Some(value);
        // Release: pairs with the Acquire in `is_finished`.
        theirs.done.store(true, Ordering::Release);
        theirs.queue.wake_all();
    })?;
    let slot = sched::reserve(name).ok_or(SpawnError::OutOfMemory)?;
    Ok(JoinHandle {
        packet,
        id: sched::launch(slot, start),
    })
}

/// What is known of a thread.
#[derive(Clone, Debug)]
pub struct ThreadInfo {
    /// Its number.
    pub id: ThreadId,
    /// Its name.
    pub name: Name,
    /// What it does.
    pub state: State,
    /// CPU time, in microseconds, up to its last switch.
    pub ran_us: u64,
    /// How often it left a CPU.
    pub switches: u64,
    /// The sleeping locks that it holds, oldest first; possibly a moment old.
    pub held: HeldList,
}

/// All threads.
///
/// # Errors
/// `OutOfMemory` if there is none for the list.
pub fn threads() -> Result<Vec<ThreadInfo>, OutOfMemory> {
    let mut list = Vec::new();
    list.try_reserve_exact(MAX_THREADS)
        .map_err(|_| OutOfMemory)?;
    sched::with(|s| {
        let live = (0..MAX_THREADS).filter(|&i| s.threads[i].state != State::Free);
        list.extend(live.map(|i| info(s, i)));
    });
    Ok(list)
}

fn info(s: &sched::Scheduler, slot: usize) -> ThreadInfo {
    let t = &s.threads[slot];
    ThreadInfo {
        id: s.id(slot),
        name: t.name,
        state: t.state,
        ran_us: t.ran_ns / 1000,
        switches: t.switches,
        held: sched::held_of(slot).list(),
    }
}

/// Lets the next ready thread run, if there is one.
pub fn yield_now() {
    sched::yield_now();
}

/// The name of the running thread; "?" where the scheduler's lock is held, so that a fault inside it can still be told.
pub fn current_name() -> Name {
    sched::try_with(|s| s.threads[sched::current_slot()].name).unwrap_or(unknown())
}

fn unknown() -> Name {
    Name::from("?").unwrap_or_default()
}

/// The name of the thread whose stack's guard pages hold `va`.
pub(crate) fn guard_page_of(va: VirtAddr) -> Option<Name> {
    let slot = stack::guard_slot(va.as_u64())?;
    Some(
        sched::try_with(|s| s.threads.get(slot).map(|t| t.name))
            .flatten()
            .unwrap_or(unknown()),
    )
}

/// Switches threads if somebody asked for it. At the end of a trap that came with interrupts on.
pub(crate) fn preempt() {
    // Relaxed: this CPU's own flag.
    if cpu::this().resched.swap(false, Ordering::Relaxed) {
        sched::yield_now();
    }
}

/// The CPU-local timer has fired.
pub(crate) fn timer_tick() {
    sched::tick();
}

/// Maps the stack on which the boot CPU goes on, and later idles: that of slot 0.
pub(crate) fn boot_stack() -> Result<Stack, OutOfMemory> {
    stack::map(0)
}

/// Makes the running code the idle thread and this module the runtime of all locks.
pub(crate) fn init() {
    sched::adopt_idle();
    mm::sync::install_runtime(&Machine);
}

/// What the boot CPU does when all is set up: runs threads, sleeps when there are none.
pub(crate) fn idle() -> ! {
    loop {
        interrupts::disable();
        sched::yield_now();
        interrupts::enable_and_hlt();
    }
}

/// The kernel as the machine under the locks.
struct Machine;

impl Runtime for Machine {
    fn current(&self) -> ThreadId {
        sched::with(|s| s.id(sched::current_slot()))
    }

    fn park(&self, deadline_us: Option<u64>) {
        sched::park(deadline_us);
    }

    fn unpark(&self, thread: ThreadId) {
        sched::unpark(thread);
    }

    fn now_us(&self) -> u64 {
        time::now_us()
    }

    fn held(&self) -> &HeldLocks {
        sched::held()
    }

    fn cpu(&self) -> usize {
        cpu::this().index()
    }
}
