//! The other CPUs: found in the MADT, started by INIT and two start-up interrupts, and left out when they do not answer.
//!
//! All are started at once. Each takes a ticket in the [`trampoline`](super::trampoline), which makes it the CPU with that index, and goes on
//! in [`arrive`] on a stack that was mapped for it. The boot CPU waits until all have reported, at most [`DEADLINE_US`]; then it closes the
//! gate: one exchange of the ticket counter tells it how many have come in, and whoever comes later gets a ticket that is refused. A CPU that
//! has its ticket runs our code and will report, so it is waited for without a deadline; one without is named in the log, and nothing of it
//! is used. No CPU is ever half there.
//!
//! The INIT-to-start-up delay of 10 ms and the second start-up interrupt after 200 µs are those of the MultiProcessor Specification 1.4, B.4. An
//! entry of the MADT that is not enabled is not started, even if it is "online capable": that is a CPU to be plugged in later.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ::acpi::sdt::madt::{Madt, MadtEntry};
use arrayvec::ArrayVec;
use mm::mem::OutOfMemory;
use spin::Once;

use super::trampoline::{PAGES, Trampoline, Welcome};
use super::{CPUS, MAX_CPUS, apic};
use crate::mem::{frames, paging, tlb};
use crate::{acpi, thread, time};

/// How long the boot CPU waits for the others, in microseconds. Long, because under an emulator a CPU is a thread of a busy host.
const DEADLINE_US: u64 = 5_000_000;
const INIT_DELAY_US: u64 = 10_000;
const SECOND_STARTUP_US: u64 = 200;
/// A ticket counter from which no valid ticket comes.
const CLOSED: u32 = 1 << 30;

/// The next index to give to a CPU that comes in.
static TICKETS: AtomicU32 = AtomicU32::new(CLOSED);
/// The index that is not prepared for any more.
static LIMIT: AtomicU32 = AtomicU32::new(0);
/// The end of each CPU's stack, by index.
static STACKS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static TRAMPOLINE: Once<Trampoline> = Once::new();

static WELCOME: Welcome = Welcome {
    tickets: &TICKETS,
    limit: &LIMIT,
    stacks: &STACKS,
    entry: arrive,
};

/// Why CPUs cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The firmware left no free pages below 1 MiB for the start code.
    #[error("no free memory below 1 MiB for the start code")]
    NoLowMemory,
    /// No memory for stacks and tables.
    #[error("no memory for another CPU's stacks")]
    OutOfMemory,
    /// All places in the table of CPUs are taken.
    #[error("the kernel has data for {MAX_CPUS} CPUs only")]
    TooMany,
    /// It did not come in before the deadline; should it ever, it is turned away.
    #[error("it does not answer")]
    NoAnswer,
}

impl From<OutOfMemory> for StartError {
    fn from(OutOfMemory: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

type Ids = ArrayVec<u32, MAX_CPUS>;

/// Starts all CPUs that the MADT calls enabled, and waits for them. What does not come up is told in the log.
///
/// On the boot CPU, once, before there are other threads.
pub(crate) fn start_others() {
    let ids = others();
    if ids.is_empty() {
        return;
    }
    match start(&ids, DEADLINE_US) {
        Ok(()) => log::info!("{} CPUs", super::online()),
        Err(e) => log::warn!("not all CPUs run: {e}"),
    }
    ids.iter()
        .filter(|&&id| !is_online(id))
        .for_each(|id| log::warn!("the CPU with APIC id {id} did not come up: it is left out"));
}

/// Starts the CPU with this APIC id, and waits for it at most `deadline_us` microseconds. Not at the same time as another start.
///
/// # Errors
/// As [`StartError`] says.
pub fn start_one(apic_id: u32, deadline_us: u64) -> Result<(), StartError> {
    start(&[apic_id], deadline_us)
}

/// The enabled CPUs but this one, as far as there is room.
fn others() -> Ids {
    let mut ids = Ids::new();
    let Some(madt) = acpi::tables().and_then(|t| t.find_table::<Madt>()) else {
        return ids;
    };
    let me = apic::id();
    let mut left_out = 0;
    let enabled = madt.get().entries().filter_map(|e| enabled_id(&e));
    for id in enabled.filter(|&id| id != me) {
        // The boot CPU has a place, too.
        if ids.contains(&id) {
            continue;
        }
        if ids.len() + 1 < MAX_CPUS && apic::reaches(id) {
            ids.push(id);
        } else {
            left_out += 1;
        }
    }
    if left_out != 0 {
        log::warn!(
            "{left_out} CPUs are left out: there is room for {MAX_CPUS}, and an xAPIC reaches ids up to 254"
        );
    }
    ids
}

fn enabled_id(entry: &MadtEntry<'_>) -> Option<u32> {
    const ENABLED: u32 = 1;
    let (id, flags) = match entry {
        MadtEntry::LocalApic(e) => (u32::from(e.apic_id), e.flags),
        MadtEntry::LocalX2Apic(e) => (e.x2apic_id, e.flags),
        _ => return None,
    };
    (flags & ENABLED != 0).then_some(id)
}

fn start(ids: &[u32], deadline_us: u64) -> Result<(), StartError> {
    let trampoline = TRAMPOLINE.try_call_once(install)?;
    let first = super::online();
    let prepared = prepare(first, ids.len());
    if prepared == 0 {
        return Err(short_of(first));
    }
    open_gate(first, prepared);
    send_startups(ids, trampoline.page);
    wait_for(first + prepared, time::now_us() + deadline_us);
    // AcqRel: with the locked add of the trampoline, this decides who is in.
    let came = (TICKETS.swap(CLOSED, Ordering::AcqRel) as usize).min(first + prepared);
    wait_for(came, u64::MAX);
    match came == first + ids.len() {
        true => Ok(()),
        false if came == first + prepared => Err(short_of(came)),
        false => Err(StartError::NoAnswer),
    }
}

fn install() -> Result<Trampoline, StartError> {
    let at = frames::low_pages(PAGES).ok_or(StartError::NoLowMemory)?;
    Trampoline::install(at, &WELCOME).map_err(|_| StartError::OutOfMemory)
}

fn short_of(next: usize) -> StartError {
    if next == MAX_CPUS {
        StartError::TooMany
    } else {
        StartError::OutOfMemory
    }
}

/// Makes stacks and tables for up to `count` CPUs from the index `first` on; says for how many.
fn prepare(first: usize, count: usize) -> usize {
    let end = (first + count).min(MAX_CPUS);
    (first..end).take_while(|&i| prepare_one(i).is_ok()).count()
}

fn prepare_one(index: usize) -> Result<(), OutOfMemory> {
    super::prepare(index)?;
    let stack = thread::map_idle(index)?;
    // Relaxed: published by the Release of `open_gate`.
    STACKS[index].store(stack.top(), Ordering::Relaxed);
    Ok(())
}

fn open_gate(first: usize, count: usize) {
    // Relaxed, then Release: a CPU that takes a ticket with its locked add sees the limit, the stacks and the tables.
    LIMIT.store((first + count) as u32, Ordering::Relaxed);
    TICKETS.store(first as u32, Ordering::Release);
}

fn send_startups(ids: &[u32], page: u8) {
    ids.iter().for_each(|&id| apic::send_init(id));
    time::spin_us(INIT_DELAY_US);
    ids.iter().for_each(|&id| apic::send_startup(id, page));
    time::spin_us(SECOND_STARTUP_US);
    // A CPU that has started ignores it.
    ids.iter().for_each(|&id| apic::send_startup(id, page));
}

/// Waits until `count` CPUs are online, or until `deadline_us`.
fn wait_for(count: usize, deadline_us: u64) {
    while super::online() < count && time::now_us() < deadline_us {
        core::hint::spin_loop();
    }
}

fn is_online(apic_id: u32) -> bool {
    // Relaxed: written before the CPU came online, which `online` has acquired.
    let has = |i: usize| CPUS[i].apic_id.load(Ordering::Relaxed) == apic_id;
    (0..super::online()).any(has)
}

/// Where another CPU enters the kernel: on its idle stack, on the trampoline's page table, interrupts off.
extern "sysv64" fn arrive(index: u32) -> ! {
    let index = index as usize;
    super::harden();
    super::init(index);
    tlb::run_on(paging::kernel().root());
    apic::init().expect("the boot CPU has mapped the registers");
    thread::join(index);
    super::go_online();
    tlb::start_afresh();
    thread::idle()
}
