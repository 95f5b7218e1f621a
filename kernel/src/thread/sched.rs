//! The scheduler: which thread runs where, sleepers with deadlines, and the one-shot timer of each CPU.
//!
//! # Who owns a thread
//! A thread is in one of four hands: a CPU runs it; a queue holds it; it is parked; or its slot is free. It moves by these steps alone:
//! the owner of a queue takes from its front, another CPU steals from it (both under the queue's lock); the running thread parks or
//! ends, or goes back to the end of its CPU's queue; and a waker puts a parked one into a queue. Parked ⇄ queued happens under the
//! thread's life lock, so that of two wakers one finds it parked and the other leaves a token.
//!
//! # Locks
//! Life lock, then queue lock; never two of a kind; interrupts are off under both. No lock is held across a switch, and none is global.
//!
//! # The switch
//! While a CPU leaves a thread, `on_cpu` stays true until the *next* thread, on its own stack, has cleared it ([`arrived`]). Meanwhile the
//! thread may already be queued again (it parked, and was woken at once; or it was preempted). Then it is in the queue of the very CPU
//! that is leaving it, for a waker keeps to `home` as long as `on_cpu` is true, and thieves pass over it. That CPU comes back to its
//! queue only after the switch is complete, so nobody ever runs a thread whose registers are still being saved, and nobody waits for it.
//! The store that clears `on_cpu` is a Release; thief and waker read it with Acquire: all that the thread did on the old CPU comes before
//! what it does on the new one. That covers the loads and stores of the program; cache-line write-backs (clwb) and non-temporal stores
//! are ordered by a fence only, and only by one on the *same* CPU. A thread may write back on one CPU, move, and fence on another: hence
//! the `sfence` in [`arrived`], after which the thread's own fence has nothing left behind. (A move needs a switch, so none slips through.)
//!
//! # Wake-ups
//! A waker adds to a queue and then interrupts its CPU, unless `resched` says that somebody has asked already. A CPU clears `resched` and
//! then looks at its queue, with interrupts off until it sleeps: an interrupt that came after the look ends the sleep at once. `resched`
//! set by the CPU for itself holds until its next trap, at the latest the end of the slice, for the timer is armed when somebody waits.
//! A woken thread goes home if that CPU is idle, else to an idle CPU, else home; the idle CPU is claimed by that, so that the next goes elsewhere. A thread that was preempted, or that was queued just as another CPU went
//! idle, is offered: the switch, or the tick at the end of the slice, wakes an idle CPU to steal.
//!
//! Round robin in each queue: a thread runs until it parks, ends, or has used its slice of [`SLICE_NS`] while another is ready. The timer
//! is armed for the earlier of the slice's end (only if somebody else is ready) and the first deadline of a thread that parked on this CPU; an
//! idle CPU without deadlines takes no interrupt at all. `earliest_us` is a lower bound of those deadlines: a sleeper woken early leaves
//! it too low, which costs one needless interrupt.
//!
//! A thread's number is `generation << 8 | slot`, generations from 1: never 0 and never reused. Stacks stay with their slots.
#![expect(
    unsafe_code,
    reason = "context switch, stacks, and the space's pointer"
)]

use alloc::sync::Arc;
use core::arch::naked_asm;
use core::mem::ManuallyDrop;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

use mm::addr::Pfn;
use mm::addr::PhysAddr;
use mm::aspace::AddressSpace;
use mm::sync::{HeldLocks, ThreadId};

use super::queue;
use super::stack::{self, Stack};
use super::table::{
    ANYWHERE, MAX_THREADS, NEVER, Name, Start, State, THREADS, cut, number, slot_of,
};
use crate::cpu::{self, MAX_CPUS, apic};
use crate::irq::TIMER_VECTOR;
use crate::lock::IrqOff;
use crate::mem::{paging, tlb};
use crate::time;

/// How long a thread runs while others are ready, in nanoseconds.
const SLICE_NS: u64 = 4_000_000;
/// A slice with less than this left counts as used, in nanoseconds.
const SLACK_NS: u64 = 50_000;

/// What a CPU's scheduler keeps for itself: used by that CPU alone, interrupts off, hence Relaxed.
struct Local {
    slice_end_ns: AtomicU64,
    since_ns: AtomicU64,
    earliest_us: AtomicU64,
    armed_ns: AtomicU64,
    /// The thread whose stack was just left.
    leaving: AtomicUsize,
    /// It is in this CPU's queue, and may go elsewhere.
    left_ready: AtomicBool,
}

/// How much longer each switch takes, in microseconds; for tests.
static DELAY_US: AtomicU64 = AtomicU64::new(0);

/// Lets each switch away from a thread that is not an idle one take `us` microseconds longer, between the moment when the thread that is left can be woken or is queued, and the one
/// when its registers are saved. For tests, which would hardly ever meet a switch under way without it. 0 ends it.
pub fn inject_switch_delay(us: u64) {
    // Relaxed: a test's own order of events suffices.
    DELAY_US.store(us, Ordering::Relaxed);
}

static LOCALS: [Local; MAX_CPUS] = [const {
    Local {
        slice_end_ns: AtomicU64::new(0),
        since_ns: AtomicU64::new(0),
        earliest_us: AtomicU64::new(NEVER),
        armed_ns: AtomicU64::new(NEVER),
        leaving: AtomicUsize::new(0),
        left_ready: AtomicBool::new(false),
    }
}; MAX_CPUS];

/// Where and in what a new thread runs.
#[derive(Default)]
pub(super) struct Placement {
    /// The only CPU that may run it.
    pub cpu: Option<usize>,
    /// Its address space, if not the kernel's own.
    pub space: Option<Arc<AddressSpace>>,
}

fn me() -> usize {
    cpu::this().index()
}

/// The slot of CPU `index`'s idle thread.
pub(super) const fn idle_slot(index: usize) -> usize {
    MAX_THREADS + index
}

/// The slot of the running thread.
pub(super) fn current_slot() -> usize {
    slot_of(cpu::current_thread())
}

/// The number of the running thread.
pub(super) fn current() -> ThreadId {
    ThreadId::new(cpu::current_thread()).expect("a CPU runs a thread")
}

/// The locks of the running thread.
pub(super) fn held() -> &'static HeldLocks {
    &THREADS[current_slot()].held
}

/// Takes a free slot for a thread called `name` with a stack; `None` if there is no slot or no memory for the stack.
pub(super) fn reserve(name: &str) -> Option<usize> {
    let slot = (0..MAX_THREADS).find(|&slot| claim(slot, name))?;
    let _irq = IrqOff::new();
    // The stack is mapped without the lock: the slot is ours.
    let mut stack = THREADS[slot].life().stack.take();
    if stack.is_none() {
        stack = stack::map(slot).ok();
    }
    let mut life = THREADS[slot].life();
    if stack.is_none() {
        life.state = State::Free;
    }
    life.stack = stack;
    life.stack.is_some().then_some(slot)
}

fn claim(slot: usize, name: &str) -> bool {
    let _irq = IrqOff::new();
    let t = &THREADS[slot];
    let mut life = t.life();
    if life.state != State::Free {
        return false;
    }
    (life.state, life.token, life.name) = (State::Starting, false, cut(name));
    // Relaxed, all: the slot is ours; the queue's lock publishes it.
    t.ran_ns.store(0, Ordering::Relaxed);
    t.switches.store(0, Ordering::Relaxed);
    t.id.store(number(slot, life.generation).get(), Ordering::Relaxed);
    true
}

/// Makes the reserved thread in `slot` ready to run `start`.
pub(super) fn launch(slot: usize, start: Start, placement: Placement) -> ThreadId {
    let _irq = IrqOff::new();
    let t = &THREADS[slot];
    let mut life = t.life();
    let top = life.stack.as_ref().map_or(0, Stack::top);
    // Relaxed, all: the queue's lock publishes them.
    // SAFETY: the stack belongs to the slot, whose thread does not run.
    t.rsp.store(unsafe { first_frame(top) }, Ordering::Relaxed);
    t.home
        .store(placement.cpu.unwrap_or(me()), Ordering::Relaxed);
    t.pinned
        .store(placement.cpu.unwrap_or(ANYWHERE), Ordering::Relaxed);
    let root = placement
        .space
        .as_ref()
        .map_or(0, |s| s.root().phys().as_u64());
    t.root.store(root, Ordering::Relaxed);
    let space = placement.space.map_or(ptr::null(), Arc::into_raw);
    t.space.store(space.cast_mut(), Ordering::Relaxed);
    life.start = Some(start);
    life.state = State::Ready;
    let target = enqueue(slot);
    if target == me() {
        arm(time::now_ns());
    } else {
        cpu::poke(target);
    }
    number(slot, life.generation)
}

/// Lets the code that runs now be the idle thread of the CPU with `index`, which is the running one.
pub(super) fn adopt_idle(index: usize) {
    let _irq = IrqOff::new();
    let slot = idle_slot(index);
    let t = &THREADS[slot];
    let mut life = t.life();
    (life.state, life.name) = (State::Ready, cut("idle"));
    let id = number(slot, life.generation).get();
    // Relaxed, all: this CPU's own, and hints to the others.
    t.id.store(id, Ordering::Relaxed);
    t.home.store(index, Ordering::Relaxed);
    t.on_cpu.store(true, Ordering::Relaxed);
    cpu::set_current_thread(id);
    LOCALS[index]
        .since_ns
        .store(time::now_ns(), Ordering::Relaxed);
}

/// Sleeps; see [`mm::sync::Runtime::park`].
pub(super) fn park(deadline_us: Option<u64>) {
    let _irq = IrqOff::new();
    let slot = current_slot();
    if slot >= MAX_THREADS || !begin_park(slot, deadline_us) {
        return;
    }
    reschedule(None);
}

/// Marks the running thread parked; false if it is woken already.
fn begin_park(slot: usize, deadline_us: Option<u64>) -> bool {
    let t = &THREADS[slot];
    let mut life = t.life();
    if core::mem::take(&mut life.token) || deadline_us.is_some_and(|at| at <= time::now_us()) {
        return false;
    }
    life.state = State::Parked(deadline_us);
    let at = deadline_us.unwrap_or(NEVER);
    // Relaxed, both: read by this CPU's tick; the lock orders the rest.
    t.deadline_us.store(at, Ordering::Relaxed);
    LOCALS[me()].earliest_us.fetch_min(at, Ordering::Relaxed);
    true
}

/// Wakes a thread or leaves it a token; see [`mm::sync::Runtime::unpark`].
pub(super) fn unpark(id: ThreadId) {
    let _irq = IrqOff::new();
    let slot = slot_of(id.get());
    let Some(t) = THREADS.get(slot) else { return };
    let mut life = t.life();
    if number(slot, life.generation) != id {
        return;
    }
    match life.state {
        State::Parked(_) => wake(slot, &mut life.state),
        _ => life.token = true,
    }
}

/// Queues a parked thread, whose life lock is held, and tells the CPU that is to run it.
fn wake(slot: usize, state: &mut State) {
    *state = State::Ready;
    // Relaxed: under the life lock.
    THREADS[slot].deadline_us.store(NEVER, Ordering::Relaxed);
    let target = enqueue(slot);
    if target == me() {
        arm(time::now_ns());
        // Relaxed: this CPU's own flag, read at its next trap.
        cpu::this().resched.store(true, Ordering::Relaxed);
    } else {
        cpu::poke(target);
    }
}

/// Puts a thread that is ready, and in no queue, into one; says whose. Its life lock is held.
fn enqueue(slot: usize) -> usize {
    let target = place(slot);
    // Relaxed: nobody else owns the thread; the queue's lock publishes it.
    THREADS[slot].home.store(target, Ordering::Relaxed);
    queue::of(target).push(slot);
    target
}

/// The CPU for a thread that is ready.
fn place(slot: usize) -> usize {
    let t = &THREADS[slot];
    // Relaxed: written before the thread parked, under the life lock that is held.
    let home = t.home.load(Ordering::Relaxed);
    // Acquire: pairs with the Release in `arrived`; its registers are saved, so another CPU may have it.
    let stays = t.on_cpu.load(Ordering::Acquire) || t.pinned.load(Ordering::Relaxed) != ANYWHERE;
    if stays {
        queue::clear_idle(home);
        return home;
    }
    if queue::claim(home) {
        return home;
    }
    queue::claim_one(home).unwrap_or(home)
}

/// Lets the next ready thread run, if there is one.
pub(super) fn yield_now() {
    let _irq = IrqOff::new();
    let slot = current_slot();
    if slot >= MAX_THREADS {
        reschedule(None);
    } else if !queue::of(me()).is_empty() {
        reschedule(Some(slot));
    }
}

/// The timer's interrupt: wakes sleepers, and asks for a switch when the slice is used up.
pub(super) fn tick() {
    let (me, now) = (me(), time::now_ns());
    let local = &LOCALS[me];
    local.armed_ns.store(NEVER, Ordering::Relaxed);
    wake_sleepers(me, now / 1000);
    if queue::of(me).is_empty() {
        return arm(now);
    }
    if current_slot() >= MAX_THREADS || now + SLACK_NS >= local.slice_end_ns.load(Ordering::Relaxed)
    {
        // Relaxed: this CPU's own flag, read when this interrupt ends.
        cpu::this().resched.store(true, Ordering::Relaxed);
        if let Some(other) = queue::claim_one(me) {
            cpu::poke(other);
        }
    } else {
        arm(now);
    }
}

/// Makes every sleeper of this CPU whose time has come ready, and looks for the next deadline.
fn wake_sleepers(me: usize, now_us: u64) {
    let local = &LOCALS[me];
    if now_us < local.earliest_us.load(Ordering::Relaxed) {
        return;
    }
    local.earliest_us.store(NEVER, Ordering::Relaxed);
    for (slot, t) in THREADS[..MAX_THREADS].iter().enumerate() {
        // Relaxed, both: a thread that parked here was written by this CPU; for others the hint does not matter.
        let at = t.deadline_us.load(Ordering::Relaxed);
        if at == NEVER || t.home.load(Ordering::Relaxed) != me {
            continue;
        }
        if at <= now_us {
            wake_if_late(slot, now_us);
        } else {
            local.earliest_us.fetch_min(at, Ordering::Relaxed);
        }
    }
}

fn wake_if_late(slot: usize, now_us: u64) {
    let mut life = THREADS[slot].life();
    if matches!(life.state, State::Parked(Some(at)) if at <= now_us) {
        wake(slot, &mut life.state);
    }
}

/// Sets this CPU's timer for what comes next, if that is not what it is set for.
fn arm(now_ns: u64) {
    let me = me();
    let local = &LOCALS[me];
    let slice = if queue::of(me).is_empty() {
        NEVER
    } else {
        local.slice_end_ns.load(Ordering::Relaxed)
    };
    let want = slice.min(
        local
            .earliest_us
            .load(Ordering::Relaxed)
            .saturating_mul(1000),
    );
    if want != local.armed_ns.swap(want, Ordering::Relaxed) {
        let ticks = if want == NEVER {
            0
        } else {
            time::apic_ticks(want.saturating_sub(now_ns))
        };
        apic::arm_timer(TIMER_VECTOR, ticks);
    }
}

/// Ends the running thread. Its slot and stack are free for another as soon as this CPU has left them.
pub(super) fn end() -> ! {
    core::mem::forget(IrqOff::new());
    // Relaxed: read by this CPU in `arrived`.
    THREADS[current_slot()].ended.store(true, Ordering::Relaxed);
    reschedule(None);
    unreachable!("a thread that has ended runs again")
}

/// Runs the next thread in place of this one, which is parked, ended or idle, or else given as `again`. Interrupts are off; returns when this
/// thread runs again.
fn reschedule(again: Option<usize>) {
    let (me, prev) = (me(), current_slot());
    // AcqRel: pairs with the swap in `poke`: what was queued before it is found below.
    cpu::this().resched.swap(false, Ordering::AcqRel);
    let next = queue::of(me)
        .take(me, again)
        .or_else(|| queue::steal(me))
        .unwrap_or(idle_slot(me));
    if next < MAX_THREADS {
        queue::clear_idle(me);
    }
    let now = time::now_ns();
    LOCALS[me]
        .slice_end_ns
        .store(now + SLICE_NS, Ordering::Relaxed);
    arm(now);
    if next != prev {
        // Relaxed, both: this CPU's own, and a field that never changes.
        let may_go = again.is_some() && THREADS[prev].pinned.load(Ordering::Relaxed) == ANYWHERE;
        LOCALS[me].left_ready.store(may_go, Ordering::Relaxed);
        switch_to(me, prev, next, now);
    }
}

/// Wakes an idle CPU for the thread that was just left here: it need not wait while another CPU sleeps.
fn offer() {
    // SeqCst: pairs with the fence in `queue::steal`: a CPU that goes idle finds that the thread may move, or is seen idle here.
    fence(Ordering::SeqCst);
    if let Some(idle) = queue::claim_one(me()) {
        cpu::poke(idle);
    }
}

/// Switches from `prev`, the running thread, to `next`, which this CPU has taken from a queue (or which is its idle thread).
fn switch_to(me: usize, prev: usize, next: usize, now_ns: u64) {
    let (p, n, local) = (&THREADS[prev], &THREADS[next], &LOCALS[me]);
    let since = local.since_ns.swap(now_ns, Ordering::Relaxed);
    // Relaxed, all: this CPU owns both threads.
    p.ran_ns
        .fetch_add(now_ns.saturating_sub(since), Ordering::Relaxed);
    p.switches.fetch_add(1, Ordering::Relaxed);
    n.on_cpu.store(true, Ordering::Relaxed);
    n.home.store(me, Ordering::Relaxed);
    cpu::set_current_thread(n.id.load(Ordering::Relaxed));
    cpu::stats::of(me).switch();
    tlb::run_on(root_of(next));
    local.leaving.store(prev, Ordering::Relaxed);
    // Relaxed: see `inject_switch_delay`.
    match DELAY_US.load(Ordering::Relaxed) {
        0 => {}
        us if prev < MAX_THREADS => time::spin_us(us),
        _ => {}
    }
    // SAFETY: the pointer of `next` is what an earlier switch saved or `first_frame` made, on a stack that nobody uses, for its
    // `on_cpu` was false when it was taken, or this very CPU left it (module head).
    unsafe { switch(p.rsp.as_ptr(), n.rsp.load(Ordering::Relaxed)) };
    arrived();
}

fn root_of(slot: usize) -> Pfn {
    // Relaxed: written by the thread itself or its maker.
    match THREADS[slot].root.load(Ordering::Relaxed) {
        0 => paging::kernel().root(),
        root => Pfn::from_phys(PhysAddr::new(root)),
    }
}

/// The first act after a switch, on the new stack: the thread that was left is free for others.
fn arrived() {
    let local = &LOCALS[me()];
    let prev = &THREADS[local.leaving.load(Ordering::Relaxed)];
    // SAFETY: every x86_64 CPU has the instruction. What it is for: see the module head.
    unsafe { core::arch::x86_64::_mm_sfence() };
    // Relaxed: set by this CPU.
    let ended = prev.ended.swap(false, Ordering::Relaxed);
    // Release: pairs with the Acquire of thieves and wakers.
    prev.on_cpu.store(false, Ordering::Release);
    if ended {
        prev.retire();
    }
    if local.left_ready.load(Ordering::Relaxed) {
        offer();
    }
}

/// Saves the callee-saved registers on this stack, its pointer in `*save`, and goes on with the stack `load`.
#[unsafe(naked)]
unsafe extern "sysv64" fn switch(save: *mut u64, load: u64) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}

/// Lays out a new stack so that [`switch`] returns into [`born`]; says where the stack pointer is.
///
/// # Safety
/// `top` is the end of a stack that nobody uses.
unsafe fn first_frame(top: u64) -> u64 {
    // Six zero registers, the return address, and a zero where `born` would return to: the end of every backtrace.
    let frame: [u64; 8] = [0, 0, 0, 0, 0, 0, born as *const () as u64, 0];
    let at = top - 64; // after the return the stack is aligned as after a call
    // SAFETY: the caller says that the stack is free.
    unsafe { (at as *mut [u64; 8]).write(frame) };
    at
}

/// A new thread's first steps: on its own stack, interrupts off.
extern "sysv64" fn born() -> ! {
    arrived();
    let start = THREADS[current_slot()].life().start.take();
    x86_64::instructions::interrupts::enable();
    if let Some(start) = start {
        start();
    }
    end()
}

/// Runs `f` with the address space of the running thread; `None` is the kernel's own.
pub(super) fn with_space<T>(f: impl FnOnce(Option<&Arc<AddressSpace>>) -> T) -> T {
    // Relaxed: the thread's own.
    let space = THREADS[current_slot()].space.load(Ordering::Relaxed);
    if space.is_null() {
        return f(None);
    }
    // SAFETY: the pointer came from `Arc::into_raw`, and its reference stays until this thread itself leaves the space.
    let space = ManuallyDrop::new(unsafe { Arc::from_raw(space.cast_const()) });
    f(Some(&space))
}

/// Moves the running thread to the kernel's own space, and drops its reference to the one that it was in. May sleep.
pub(super) fn leave_space() {
    let left = {
        let _irq = IrqOff::new();
        let t = &THREADS[current_slot()];
        // Relaxed, both: the thread's own.
        t.root.store(0, Ordering::Relaxed);
        let left = t.space.swap(ptr::null_mut(), Ordering::Relaxed);
        tlb::run_on(paging::kernel().root());
        left
    };
    if !left.is_null() {
        // SAFETY: the pointer came from `Arc::into_raw`, and the swap has taken it from the only place that knew it.
        drop(unsafe { Arc::from_raw(left.cast_const()) });
    }
}

/// What is known of the thread in `slot`: its number, name and state; `None` if it is free or, for `patient` false, if its lock is held.
pub(super) fn look(slot: usize, patient: bool) -> Option<(ThreadId, Name, State)> {
    let _irq = IrqOff::new();
    let t = &THREADS[slot];
    let life = if patient { t.life() } else { t.try_life()? };
    // Relaxed: a glance.
    let state = match life.state {
        State::Free => return None,
        State::Ready if t.on_cpu.load(Ordering::Relaxed) => State::Running,
        state => state,
    };
    Some((number(slot, life.generation), life.name, state))
}

/// How long the thread in `slot` ran, in nanoseconds, including its present turn.
pub(super) fn ran_ns(slot: usize) -> u64 {
    let t = &THREADS[slot];
    // Relaxed, all: a glance, possibly a moment old.
    let turn = if t.on_cpu.load(Ordering::Relaxed) {
        let since = LOCALS[t.home.load(Ordering::Relaxed)]
            .since_ns
            .load(Ordering::Relaxed);
        time::now_ns().saturating_sub(since)
    } else {
        0
    };
    t.ran_ns.load(Ordering::Relaxed) + turn
}
