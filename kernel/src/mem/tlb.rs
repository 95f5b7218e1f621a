//! The translation caches of all CPUs: which CPU runs on which root table, and the shootdown.
//!
//! Each CPU has one **word**: the physical address of the root table that it runs on (0 before it is online), and two flags in its low
//! bits. IDLE: the CPU sleeps in `hlt`, or is between setting the flag and `hlt`; it touches no address of the window. STALE: while
//! it slept, a flush concerned it. Only the CPU itself changes its word, except that others add STALE to a word with IDLE, by compare-and-swap.
//!
//! # Whom a flush must interrupt
//! The zapping side clears page-table entries, passes a SeqCst fence, and then reads the words. A CPU that comes to a root stores its
//! word, passes a SeqCst fence, and then loads CR3, after which it walks the tables anew. So either the flush sees the word and interrupts
//! that CPU, or the CPU's walks see the cleared entries. A CPU that *leaves* a root stores the other root first and loads CR3 next, all
//! with interrupts off and in the kernel's half: a flush that meets the new word skips it, and before the CPU can touch the
//! window again CR3 has been loaded, which drops everything (no entry here is global, and no PCID is in use).
//!
//! # Idle CPUs
//! An idle CPU runs on the kernel's own root. A flush of it adds STALE and goes on. The CPU leaves idle by an exchange of its word, at
//! the first instruction of any interrupt: the exchange comes either before the compare-and-swap, which then fails and the CPU is
//! interrupted like any other; or after it, and then it finds STALE and drops everything before it does anything else. So a CPU with
//! IDLE runs no section with interrupts off, and `quiesce` may pass it over, unless it is STALE: then its paging-structure caches may point
//! into tables that are about to be freed, and a speculative walk would write accessed bits there; it is woken. On other roots there is
//! nothing lazy: a CPU that goes idle there loads the kernel's root, so that an address space without threads is loaded nowhere and
//! can be dropped.
//!
//! # A request
//! Each CPU has one request slot (what to drop, and the set of CPUs that have not answered) and one inbox (the set of CPUs that ask it). The
//! sender fills its slot, adds itself to each target's inbox and interrupts it, unless the inbox was not empty: then an interrupt
//! is on its way. The target takes its whole inbox at once, serves each sender's slot, and takes itself out of the slot's set. The slot
//! is free again when the set is empty. Requests from different CPUs share nothing but the inboxes, and nothing is allocated.
//!
//! # No deadlock
//! A sender waits with interrupts on, so it answers the others while it waits: two senders that ask each other both get their answer. It
//! holds no spin lock (contract of [`Tlb`]), and a target keeps interrupts off only for the length of some critical section of a spin
//! lock, a switch or a walk, none of which waits for an answer. The thread stays on its CPU while the slot is in use ([`cpu::Steady`]).
//!
//! # What is never flushed
//! Mappings in the kernel's half are only added: stacks stay with their slots, the heap keeps its pages, `map_phys` maps for ever. CPUs do not cache the
//! absence of a translation, so a new mapping needs no shootdown. All top-level entries of that half exist from the start, so a
//! root made later has them all.
#![expect(unsafe_code, reason = "loads page tables")]

use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use mm::addr::{PAGE_SIZE, Pfn, VirtAddr};
use mm::tlb::Tlb;
use mm::trace::{self, Kind, What};
use x86_64::instructions::{interrupts, tlb as cpu_tlb};
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::PhysFrame;

use crate::cpu::{self, MAX_CPUS, stats};

/// From this many pages on a CPU reloads CR3 instead of naming each page.
const FLUSH_ALL_PAGES: u64 = 64;

const IDLE: u64 = 1;
const STALE: u64 = 2;
const ROOT: u64 = !(PAGE_SIZE - 1);

#[repr(align(128))]
struct Mine {
    word: AtomicU64,
    /// The CPUs whose slots ask something of this one.
    inbox: AtomicU64,
    slot: Slot,
}

/// What a CPU asks of others.
struct Slot {
    root: AtomicU64,
    start: AtomicU64,
    end: AtomicU64,
    /// The CPUs that have not answered.
    waiting: AtomicU64,
}

static CPUS: [Mine; MAX_CPUS] = [const {
    Mine {
        word: AtomicU64::new(0),
        inbox: AtomicU64::new(0),
        slot: Slot {
            root: AtomicU64::new(0),
            start: AtomicU64::new(0),
            end: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
        },
    }
}; MAX_CPUS];

/// Translations to drop: all of `start..end` made through `root`; with root 0, nothing: the answer alone is wanted.
#[derive(Clone, Copy)]
struct Request {
    root: u64,
    start: u64,
    end: u64,
}

const ANSWER_ONLY: Request = Request {
    root: 0,
    start: 0,
    end: 0,
};

/// Moves this CPU to `root`, if it is on another. Interrupts are off.
pub(crate) fn run_on(root: Pfn) {
    let phys = root.phys();
    let word = &CPUS[cpu::this().index()].word;
    // Relaxed: this CPU's own word, and no other CPU changes it while IDLE is not set.
    if word.load(Ordering::Relaxed) == phys.as_u64() {
        return;
    }
    // Release: pairs with the reads in `concerns` and `quiesce`: sections with interrupts off on the old root have ended.
    word.store(phys.as_u64(), Ordering::Release);
    // Pairs with the fence in `flush`: the word is out before the first walk through the new root.
    fence(Ordering::SeqCst);
    // SAFETY: every root has the kernel's half, where code, stack and data are; and whoever runs here may use its lower half.
    unsafe { Cr3::write(PhysFrame::containing_address(phys), Cr3Flags::empty()) };
}

/// Drops what this CPU, which has just come online, may have cached of the window while no flush counted it.
pub(crate) fn start_afresh() {
    // Pairs with the fence in `flush`: one that did not count this CPU has cleared its entries before what follows walks.
    fence(Ordering::SeqCst);
    cpu_tlb::flush_all();
}

/// Whether a CPU runs on `root` now.
pub(crate) fn is_loaded(root: Pfn) -> bool {
    // Acquire: pairs with the Release in `run_on`.
    let word = |cpu: usize| CPUS[cpu].word.load(Ordering::Acquire);
    (0..cpu::online()).any(|cpu| word(cpu) & ROOT == root.phys().as_u64())
}

/// This CPU is about to sleep, with nothing to run: flushes need not interrupt it. Interrupts are off, and come on with `hlt`. The CPU is
/// on the kernel's root.
pub(crate) fn enter_idle() {
    let word = &CPUS[cpu::this().index()].word;
    // Relaxed: as in `run_on`. Release: pairs with `quiesce`, which takes the flag for the end of all sections.
    word.store(word.load(Ordering::Relaxed) | IDLE, Ordering::Release);
}

/// This CPU may do anything again. Called first in every interrupt.
pub(crate) fn leave_idle() {
    let me = cpu::this().index();
    let word = &CPUS[me].word;
    // Relaxed: this CPU alone sets and clears IDLE.
    let idle = word.load(Ordering::Relaxed);
    if idle & IDLE == 0 {
        return;
    }
    // SeqCst, and the fence: pair with the fence in `flush` and `quiesce` and with the compare-and-swap in `concerns`.
    let old = word.swap(idle & ROOT, Ordering::SeqCst);
    fence(Ordering::SeqCst);
    if old & STALE != 0 {
        cpu_tlb::flush_all();
        stats::of(me).full();
    }
}

/// The TLBs of the machine.
#[derive(Clone, Copy, Debug)]
pub struct MachineTlb;

impl Tlb for MachineTlb {
    fn flush(&self, root: Pfn, start: VirtAddr, end: VirtAddr) {
        let request = Request {
            root: root.phys().as_u64(),
            start: start.as_u64(),
            end: end.as_u64(),
        };
        let steady = cpu::Steady::new();
        let me = steady.cpu();
        request.apply(me);
        // Pairs with the fences in `run_on` and `leave_idle`: the caller's cleared entries are out before the words are read.
        fence(Ordering::SeqCst);
        ask(
            me,
            others(me, |cpu| concerns(cpu, request.root, me)),
            request,
        );
    }

    fn quiesce(&self) {
        let steady = cpu::Steady::new();
        let me = steady.cpu();
        // Pairs with the fence in `leave_idle`: what the caller has unlinked is out before the words are read.
        fence(Ordering::SeqCst);
        // Acquire: pairs with the Release in `enter_idle`.
        let awake = |cpu: usize| CPUS[cpu].word.load(Ordering::Acquire) & (IDLE | STALE) != IDLE;
        ask(me, others(me, awake), ANSWER_ONLY);
    }

    // With interrupts off and a thread running, CR3 and the word agree: both change in `run_on` only.
    fn runs_on(&self, root: Pfn) -> bool {
        Cr3::read().0.start_address() == root.phys()
    }
}

/// The set of online CPUs but `me` for which `wanted` holds.
fn others(me: usize, wanted: impl Fn(usize) -> bool) -> u64 {
    let chosen = (0..cpu::online()).filter(|&cpu| cpu != me && wanted(cpu));
    chosen.fold(0, |set, cpu| set | 1 << cpu)
}

/// Whether the CPU must be interrupted for a flush of `root`; an idle one is marked instead.
fn concerns(cpu: usize, root: u64, me: usize) -> bool {
    let word = &CPUS[cpu].word;
    // SeqCst: after the fence in `flush`; Acquire of it pairs with the Release in `run_on`.
    let mut seen = word.load(Ordering::SeqCst);
    loop {
        if seen & ROOT != root {
            return false;
        }
        if seen & IDLE == 0 {
            return true;
        }
        // SeqCst: pairs with the swap in `leave_idle`.
        match word.compare_exchange(seen, seen | STALE, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => break,
            Err(now) => seen = now,
        }
    }
    stats::of(me).lazy();
    false
}

/// Asks `targets`, and returns when all have answered. The thread stays on the CPU `me`.
fn ask(me: usize, targets: u64, request: Request) {
    if targets == 0 {
        return;
    }
    debug_assert!(interrupts::are_enabled(), "a shootdown with interrupts off");
    stats::of(me).shootdown();
    let slot = &CPUS[me].slot;
    // Relaxed, all: published by the exchange of each inbox.
    slot.root.store(request.root, Ordering::Relaxed);
    slot.start.store(request.start, Ordering::Relaxed);
    slot.end.store(request.end, Ordering::Relaxed);
    slot.waiting.store(targets, Ordering::Relaxed);
    members(targets).for_each(|cpu| {
        // AcqRel: pairs with the swap in `answer`.
        if CPUS[cpu].inbox.fetch_or(1 << me, Ordering::AcqRel) == 0 {
            trace::note(Kind::IpiSent, || What::value(cpu as u64));
            cpu::interrupt(cpu, crate::irq::SHOOTDOWN_VECTOR);
        }
    });
    // Acquire: pairs with the Release in `serve`: what the others did before they answered has happened.
    while slot.waiting.load(Ordering::Acquire) != 0 {
        spin_loop();
    }
}

fn members(mut set: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let first = set.trailing_zeros() as usize;
        set &= set.wrapping_sub(1);
        (first < u64::BITS as usize).then_some(first)
    })
}

/// The interrupt of a shootdown: serves all who ask.
pub(crate) fn answer() {
    let me = cpu::this().index();
    // AcqRel: pairs with the exchange in `ask`: the slots of those found here are filled.
    let askers = CPUS[me].inbox.swap(0, Ordering::AcqRel);
    members(askers).for_each(|cpu| serve(me, &CPUS[cpu].slot));
}

fn serve(me: usize, slot: &Slot) {
    // Relaxed, all: see `answer`.
    let request = Request {
        root: slot.root.load(Ordering::Relaxed),
        start: slot.start.load(Ordering::Relaxed),
        end: slot.end.load(Ordering::Relaxed),
    };
    request.apply(me);
    trace::note(Kind::IpiAnswered, || {
        let bytes = request.end.wrapping_sub(request.start);
        What::value(bytes).at(VirtAddr::new_truncate(request.start))
    });
    // Release: pairs with the Acquire in `ask`; the slot may be filled anew from now on.
    slot.waiting.fetch_and(!(1 << me), Ordering::Release);
}

impl Request {
    /// Drops the translations on this CPU, if it is on the root. (If it has left the root since, it has dropped them with all the others.)
    fn apply(self, me: usize) {
        // Relaxed: this CPU's own word.
        if CPUS[me].word.load(Ordering::Relaxed) & ROOT != self.root || self.root == 0 {
            return;
        }
        let pages = self.end.wrapping_sub(self.start) / PAGE_SIZE;
        if pages >= FLUSH_ALL_PAGES {
            cpu_tlb::flush_all();
            stats::of(me).full();
        } else {
            (0..pages).for_each(|p| cpu_tlb::flush(VirtAddr::new(self.start + p * PAGE_SIZE)));
            stats::of(me).pages(pages);
        }
    }
}
