//! Kernel threads: preemptive, round robin on each CPU, each on a stack with guard pages and in an address space.
//!
//! [`spawn`] gives a [`JoinHandle`]. Waiting is the business of `mm::sync`, whose runtime this module is: parking, waking and deadlines come
//! from here, wait queues and locks from there.

mod queue;
mod sched;
mod stack;
mod table;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use mm::aspace::AddressSpace;
use mm::mem::{OutOfMemory, check_headroom, try_box};
use mm::sync::{HeldLocks, Runtime, SpinLock, TakenList, ThreadId, Wait, WaitError, WaitQueue};
use x86_64::VirtAddr;
use x86_64::instructions::interrupts;

pub use sched::inject_switch_delay;
pub(crate) use stack::map_ist;
pub use stack::{STACK_BYTES, Stack};
pub use table::{MAX_THREADS, Name, State};

use sched::Placement;

use crate::mem::tlb;
use crate::{cpu, time};

/// Why a thread could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpawnError {
    /// No memory for its stack or its bookkeeping, or [`MAX_THREADS`] threads exist.
    #[error("no memory or no slot for another thread")]
    OutOfMemory,
    /// No CPU with this index is online.
    #[error("there is no CPU {0}")]
    NoSuchCpu(usize),
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

/// Makes a thread called `name` that runs `f`, in the kernel's own address space, on any CPU.
///
/// # Errors
/// [`SpawnError::OutOfMemory`], and then `f` is dropped.
pub fn spawn<T, F>(name: &str, f: F) -> Result<JoinHandle<T>, SpawnError>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    spawn_placed(name, Placement::default(), f)
}

/// Makes a thread that runs on the CPU with this index alone.
///
/// # Errors
/// As [`SpawnError`] says, and then `f` is dropped.
pub fn spawn_on<T, F>(cpu: usize, name: &str, f: F) -> Result<JoinHandle<T>, SpawnError>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    spawn_with(Some(cpu), None, name, f)
}

/// Makes a thread that runs in `space`: its loads and stores to the window go through the mappings there. The thread holds a reference to
/// the space, and drops it before its end is seen.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_in<T, F>(
    space: Arc<AddressSpace>,
    name: &str,
    f: F,
) -> Result<JoinHandle<T>, SpawnError>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    spawn_with(None, Some(space), name, f)
}

/// Makes a thread on a CPU of its own, if one is given, and in an address space, if one is given.
///
/// # Errors
/// As [`spawn_on`].
pub fn spawn_with<T, F>(
    cpu: Option<usize>,
    space: Option<Arc<AddressSpace>>,
    name: &str,
    f: F,
) -> Result<JoinHandle<T>, SpawnError>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    match cpu {
        Some(cpu) if cpu >= cpu::online() => Err(SpawnError::NoSuchCpu(cpu)),
        _ => spawn_placed(name, Placement { cpu, space }, f),
    }
}

fn spawn_placed<T, F>(name: &str, placement: Placement, f: F) -> Result<JoinHandle<T>, SpawnError>
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
        sched::leave_space();
        *theirs.result.lock() = Some(value);
        // Release: pairs with the Acquire in `is_finished`.
        theirs.done.store(true, Ordering::Release);
        theirs.queue.wake_all();
    })?;
    let slot = sched::reserve(name).ok_or(SpawnError::OutOfMemory)?;
    Ok(JoinHandle {
        packet,
        id: sched::launch(slot, start, placement),
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
    /// The CPU that runs it, ran it last, or is to run it.
    pub cpu: usize,
    /// Whether it is the thread that its CPU runs when it has no other.
    pub idle: bool,
    /// CPU time in microseconds.
    pub ran_us: u64,
    /// How often it left a CPU.
    pub switches: u64,
    /// The sleeping locks that it holds and where it took each, oldest first; possibly a moment old.
    pub held: TakenList,
}

/// All threads, each as it is when it is looked at.
///
/// # Errors
/// `OutOfMemory` if there is none for the list.
pub fn threads() -> Result<Vec<ThreadInfo>, OutOfMemory> {
    let mut list = Vec::new();
    list.try_reserve_exact(table::SLOTS)
        .map_err(|_| OutOfMemory)?;
    list.extend((0..table::SLOTS).filter_map(info));
    Ok(list)
}

fn info(slot: usize) -> Option<ThreadInfo> {
    let (id, name, state) = sched::look(slot, true)?;
    let t = &table::THREADS[slot];
    // Relaxed, all: a glance.
    Some(ThreadInfo {
        id,
        name,
        state,
        cpu: t.home.load(Ordering::Relaxed),
        idle: slot >= MAX_THREADS,
        ran_us: sched::ran_ns(slot) / 1000,
        switches: t.switches.load(Ordering::Relaxed),
        held: t.held.taken().collect(),
    })
}

/// How long each CPU has had nothing to run, in microseconds, by index.
pub fn idle_us() -> impl Iterator<Item = u64> {
    (0..cpu::online()).map(|i| sched::ran_ns(sched::idle_slot(i)) / 1000)
}

/// Runs `f` with the address space of the running thread.
pub(crate) fn with_space<T>(f: impl FnOnce(&Arc<AddressSpace>) -> T) -> T {
    sched::with_space(|space| f(space.unwrap_or_else(|| crate::fault::space())))
}

/// Lets the next ready thread run, if there is one.
pub fn yield_now() {
    sched::yield_now();
}

/// The name of the running thread; "?" where its lock is held, so that a fault under it can still be told.
pub fn current_name() -> Name {
    name_in(sched::current_slot())
}

fn name_in(slot: usize) -> Name {
    let looked = sched::look(slot, false).map(|(_, name, _)| name);
    looked.or(Name::from("?").ok()).unwrap_or_default()
}

/// The name of the thread whose stack's guard pages hold `va`.
pub(crate) fn guard_page_of(va: VirtAddr) -> Option<Name> {
    let slot = stack::guard_slot(va.as_u64())?;
    Some(if slot < table::SLOTS {
        name_in(slot)
    } else {
        Name::from("a trap").unwrap_or_default()
    })
}

/// Switches threads if somebody asked for it, unless the thread must stay ([`cpu::Steady`]). Interrupts are off: at the end of a trap that came
/// with interrupts on.
pub(crate) fn preempt() {
    // AcqRel: pairs with the swap in `cpu::poke`; what was queued before it is seen.
    if cpu::this().may_switch() && cpu::this().resched.swap(false, Ordering::AcqRel) {
        sched::yield_now();
    }
}

/// The CPU-local timer has fired.
pub(crate) fn timer_tick() {
    sched::tick();
}

/// Maps the stack on which the CPU with `index` goes on or starts, and later idles.
pub(crate) fn map_idle(index: usize) -> Result<Stack, OutOfMemory> {
    stack::map(sched::idle_slot(index))
}

/// Makes the running code the idle thread of the boot CPU, and this module the runtime of all locks.
pub(crate) fn init() {
    sched::adopt_idle(0);
    mm::sync::install_runtime(&Machine);
}

/// Makes the running code the idle thread of the CPU with `index`, which is the running one.
pub(crate) fn join(index: usize) {
    sched::adopt_idle(index);
}

/// What a CPU does when all is set up: runs threads, sleeps when there are none.
pub(crate) fn idle() -> ! {
    loop {
        interrupts::disable();
        tlb::leave_idle(); // whatever ended the sleep, if it was no interrupt
        sched::yield_now();
        tlb::enter_idle();
        interrupts::enable_and_hlt();
    }
}

/// The kernel as the machine under the locks.
struct Machine;

impl Runtime for Machine {
    fn current(&self) -> ThreadId {
        sched::current()
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
