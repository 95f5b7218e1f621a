//! The scheduler: a table of threads, one run queue, sleepers with deadlines, and the one-shot timer behind both.
//!
//! One spin lock guards all of it. A switch happens with the lock held and interrupts off; the thread that comes back from
//! (or is born by) the switch frees the lock, so no other CPU can pick a thread whose registers are still being saved, and
//! none can reuse the stack of a thread that has just ended.
//!
//! Round robin: a thread runs until it parks, ends, or has used its slice of [`SLICE_NS`] while another is ready. The timer is armed for
//! the earlier of the slice's end (only if somebody else is ready) and the first deadline; an idle machine without deadlines takes no
//! interrupt at all. `earliest_us` is a lower bound of all deadlines: a sleeper woken early leaves it too low, which costs one
//! needless interrupt.
//!
//! A thread's number is `generation << 8 | slot`, generations from 1: never 0 and never reused. Stacks stay with their slots.
#![expect(unsafe_code, reason = "context switch and lock hand-over")]

use alloc::boxed::Box;
use core::arch::naked_asm;
use core::sync::atomic::Ordering;

use arrayvec::ArrayString;
use mm::sync::{HeldLocks, ThreadId};
use spin::mutex::{Mutex, MutexGuard};

use super::stack::{self, Stack};
use crate::cpu::{self, apic};
use crate::irq::TIMER_VECTOR;
use crate::lock::IrqOff;
use crate::time;

/// The most threads at a time, idle ones included.
pub const MAX_THREADS: usize = 128;
/// How long a thread runs while others are ready, in nanoseconds.
const SLICE_NS: u64 = 4_000_000;
/// A slice with less than this left counts as used, in nanoseconds.
const SLACK_NS: u64 = 50_000;
const NEVER: u64 = u64::MAX;

/// What a thread runs.
pub(super) type Start = Box<dyn FnOnce() + Send>;
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

pub(super) struct Thread {
    generation: u64,
    pub(super) state: State,
    token: bool,
    next: Option<u8>,
    rsp: u64,
    stack: Option<Stack>,
    start: Option<Start>,
    pub(super) name: Name,
    pub(super) ran_ns: u64,
    pub(super) switches: u64,
}

impl Thread {
    const fn new() -> Self {
        Self {
            generation: 1,
            state: State::Free,
            token: false,
            next: None,
            rsp: 0,
            stack: None,
            start: None,
            name: ArrayString::new_const(),
            ran_ns: 0,
            switches: 0,
        }
    }
}

pub(super) struct Scheduler {
    pub(super) threads: [Thread; MAX_THREADS],
    head: Option<u8>,
    tail: Option<u8>,
    slice_end_ns: u64,
    since_ns: u64,
    earliest_us: u64,
    armed_ns: u64,
}

static SCHEDULER: Mutex<Scheduler> = Mutex::new(Scheduler {
    threads: [const { Thread::new() }; MAX_THREADS],
    head: None,
    tail: None,
    slice_end_ns: 0,
    since_ns: 0,
    earliest_us: NEVER,
    armed_ns: NEVER,
});

/// What each slot's thread holds; used by that thread alone.
static HELD: [HeldLocks; MAX_THREADS] = [const { HeldLocks::new() }; MAX_THREADS];

impl Scheduler {
    pub(super) fn id(&self, slot: usize) -> ThreadId {
        let number = self.threads[slot].generation << 8 | slot as u64;
        ThreadId::new(number).expect("generations start at 1")
    }

    fn slot_of(&self, id: ThreadId) -> Option<usize> {
        let slot = (id.get() & 0xff) as usize;
        (self.threads.get(slot)?.generation == id.get() >> 8).then_some(slot)
    }

    fn push_ready(&mut self, slot: usize) {
        self.threads[slot].state = State::Ready;
        self.threads[slot].next = None;
        match self.tail.replace(slot as u8) {
            Some(tail) => self.threads[usize::from(tail)].next = Some(slot as u8),
            None => self.head = Some(slot as u8),
        }
    }

    fn pop_ready(&mut self) -> Option<usize> {
        let slot = usize::from(self.head?);
        self.head = self.threads[slot].next.take();
        if self.head.is_none() {
            self.tail = None;
        }
        Some(slot)
    }

    /// Makes every sleeper whose time has come ready, and looks for the next deadline.
    fn wake_sleepers(&mut self, now_us: u64) {
        if now_us < self.earliest_us {
            return;
        }
        self.earliest_us = NEVER;
        for slot in 0..MAX_THREADS {
            match self.threads[slot].state {
                State::Parked(Some(at)) if at <= now_us => self.push_ready(slot),
                State::Parked(Some(at)) => self.earliest_us = self.earliest_us.min(at),
                _ => {}
            }
        }
    }

    /// Sets the timer for what comes next, if that is not what it is set for.
    fn arm(&mut self, now_ns: u64) {
        let slice = if self.head.is_some() {
            self.slice_end_ns
        } else {
            NEVER
        };
        let want = slice.min(self.earliest_us.saturating_mul(1000));
        if want != self.armed_ns {
            self.armed_ns = want;
            let ticks = if want == NEVER {
                0
            } else {
                time::apic_ticks(want.saturating_sub(now_ns))
            };
            apic::arm_timer(TIMER_VECTOR, ticks);
        }
    }

    fn account(&mut self, slot: usize, now_ns: u64) {
        self.threads[slot].ran_ns += now_ns.saturating_sub(self.since_ns);
        self.threads[slot].switches += 1;
        self.since_ns = now_ns;
    }
}

/// Runs `f` on the scheduler, interrupts off.
pub(super) fn with<T>(f: impl FnOnce(&mut Scheduler) -> T) -> T {
    let _irq = IrqOff::new();
    f(&mut SCHEDULER.lock())
}

/// As [`with`], unless the lock is held.
pub(super) fn try_with<T>(f: impl FnOnce(&mut Scheduler) -> T) -> Option<T> {
    let _irq = IrqOff::new();
    Some(f(&mut *SCHEDULER.try_lock()?))
}

/// The slot of the running thread.
pub(super) fn current_slot() -> usize {
    // Relaxed: written by this CPU alone. A move to another CPU in between carries the thread's own number with it.
    cpu::this().current.load(Ordering::Relaxed)
}

/// The locks of the running thread.
pub(super) fn held() -> &'static HeldLocks {
    &HELD[current_slot()]
}

/// The locks of the thread in `slot`, possibly a moment old.
pub(super) fn held_of(slot: usize) -> &'static HeldLocks {
    &HELD[slot]
}

/// Takes a free slot for a thread called `name` with a stack; `None` if there is no slot or no memory for the stack.
pub(super) fn reserve(name: &str) -> Option<usize> {
    let (slot, has_stack) = with(|s| {
        let slot = s.threads.iter().position(|t| t.state == State::Free)?;
        let t = &mut s.threads[slot];
        (t.state, t.token, t.ran_ns, t.switches) = (State::Starting, false, 0, 0);
        t.name = cut(name);
        Some((slot, t.stack.is_some()))
    })?;
    if has_stack {
        return Some(slot);
    }
    let made = stack::map(slot);
    with(|s| {
        s.threads[slot].stack = made.ok();
        if s.threads[slot].stack.is_none() {
            s.threads[slot].state = State::Free;
        }
        s.threads[slot].stack.is_some().then_some(slot)
    })
}

fn cut(name: &str) -> Name {
    let mut end = name.len().min(Name::new().capacity());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    Name::from(&name[..end]).unwrap_or_default()
}

/// Makes the reserved thread in `slot` ready to run `start`.
pub(super) fn launch(slot: usize, start: Start) -> ThreadId {
    with(|s| {
        let top = s.threads[slot].stack.as_ref().map_or(0, Stack::top);
        // SAFETY: the stack belongs to the slot, whose thread does not run.
        s.threads[slot].rsp = unsafe { first_frame(top) };
        s.threads[slot].start = Some(start);
        s.push_ready(slot);
        s.arm(time::now_ns());
        s.id(slot)
    })
}

/// Lets the code that runs now, on the stack of slot 0, be this CPU's idle thread.
pub(super) fn adopt_idle() {
    with(|s| {
        let t = &mut s.threads[0];
        (t.state, t.name) = (State::Running, cut("idle"));
    });
    // Relaxed: this CPU's own fields.
    cpu::this().current.store(0, Ordering::Relaxed);
    cpu::this().idle.store(0, Ordering::Relaxed);
}

/// Sleeps; see [`mm::sync::Runtime::park`].
pub(super) fn park(deadline_us: Option<u64>) {
    let _irq = IrqOff::new();
    let mut s = SCHEDULER.lock();
    let me = current_slot();
    if core::mem::take(&mut s.threads[me].token)
        || deadline_us.is_some_and(|at| at <= time::now_us())
    {
        return;
    }
    s.threads[me].state = State::Parked(deadline_us);
    s.earliest_us = s.earliest_us.min(deadline_us.unwrap_or(NEVER));
    switch_away(s);
}

/// Wakes a thread or leaves it a token; see [`mm::sync::Runtime::unpark`].
pub(super) fn unpark(id: ThreadId) {
    with(|s| {
        let Some(slot) = s.slot_of(id) else { return };
        if !matches!(s.threads[slot].state, State::Parked(_)) {
            s.threads[slot].token = true;
            return;
        }
        s.push_ready(slot);
        s.arm(time::now_ns());
        // Relaxed: this CPU's own flag, read at its next trap.
        cpu::this().resched.store(true, Ordering::Relaxed);
    });
}

/// Lets the next ready thread run, if there is one.
pub(super) fn yield_now() {
    let _irq = IrqOff::new();
    let mut s = SCHEDULER.lock();
    if s.head.is_none() {
        return;
    }
    let me = current_slot();
    // Relaxed: this CPU's own field.
    if me == cpu::this().idle.load(Ordering::Relaxed) {
        s.threads[me].state = State::Ready; // never queued: it runs when nobody else does
    } else {
        s.push_ready(me);
    }
    switch_away(s);
}

/// The timer's interrupt: wakes sleepers, and asks for a switch when the slice is used up.
pub(super) fn tick() {
    with(|s| {
        let now = time::now_ns();
        s.armed_ns = NEVER;
        s.wake_sleepers(now / 1000);
        if s.head.is_some() && (now + SLACK_NS >= s.slice_end_ns || is_idle()) {
            // Relaxed: this CPU's own flag, read when this interrupt ends.
            cpu::this().resched.store(true, Ordering::Relaxed);
        } else {
            s.arm(now);
        }
    });
}

fn is_idle() -> bool {
    // Relaxed: this CPU's own fields.
    current_slot() == cpu::this().idle.load(Ordering::Relaxed)
}

/// Ends the running thread. Its slot and stack are free for another as soon as this CPU has left them.
pub(super) fn end() -> ! {
    core::mem::forget(IrqOff::new());
    let mut s = SCHEDULER.lock();
    let me = &mut s.threads[current_slot()];
    me.state = State::Free;
    me.generation += 1;
    switch_away(s);
    unreachable!("a thread that has ended runs again")
}

/// Runs the next thread in place of this one, whose state says already why. Interrupts are off; returns when this thread runs again.
fn switch_away(mut s: MutexGuard<'_, Scheduler>) {
    let cpu = cpu::this();
    let now = time::now_ns();
    // Relaxed, all three: this CPU's own fields.
    let prev = cpu.current.load(Ordering::Relaxed);
    let next = s
        .pop_ready()
        .unwrap_or_else(|| cpu.idle.load(Ordering::Relaxed));
    s.account(prev, now);
    s.slice_end_ns = now + SLICE_NS;
    s.threads[next].state = State::Running;
    cpu.current.store(next, Ordering::Relaxed);
    s.arm(now);
    let s = MutexGuard::leak(s);
    let (save, load) = (&raw mut s.threads[prev].rsp, s.threads[next].rsp);
    // SAFETY: `load` is what an earlier switch saved or `first_frame` made, on a stack that nobody uses; the lock, still
    // held, keeps other CPUs from both threads until the other side frees it.
    unsafe {
        switch(save, load);
        unlock_after_switch();
    }
}

/// Frees the lock that the thread which switched to this one has left held.
///
/// # Safety
/// Only right after a switch.
unsafe fn unlock_after_switch() {
    // SAFETY: the switching side leaked its guard for us to free.
    unsafe { SCHEDULER.force_unlock() };
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

/// A new thread's first steps: on its own stack, interrupts off, the scheduler's lock held by the side that switched here.
extern "sysv64" fn born() -> ! {
    // SAFETY: right after the switch that gave birth to this thread.
    unsafe { unlock_after_switch() };
    let start = with(|s| s.threads[current_slot()].start.take());
    x86_64::instructions::interrupts::enable();
    if let Some(start) = start {
        start();
    }
    end()
}
