//! The clock: the CPU's time stamp counter, its rate measured once at start; and the APIC timer's rate, measured with it.
//!
//! Works under `-icount` too, where counter, timer and the clock that they are measured by all follow the instruction count.

mod measure;

use core::sync::atomic::{AtomicU64, Ordering};

use measure::tsc;

const NS: u128 = 1_000_000_000;

// Written once by `init` before there are other threads or CPUs, so Relaxed everywhere.
static TSC_START: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds per tick of the counter, in units of 2^-32.
static TSC_SCALE: AtomicU64 = AtomicU64::new(0);
/// Ticks of the APIC timer per nanosecond, in units of 2^-32.
static APIC_SCALE: AtomicU64 = AtomicU64::new(0);

/// Measures both rates and starts the clock. The local APIC is on, interrupts are off. Takes 10 ms.
pub fn init() {
    let rates = measure::rates();
    TSC_SCALE.store(
        ((NS << 32) / u128::from(rates.tsc.max(1))) as u64,
        Ordering::Relaxed,
    );
    APIC_SCALE.store(
        ((u128::from(rates.apic) << 32) / NS) as u64,
        Ordering::Relaxed,
    );
    TSC_START.store(tsc(), Ordering::Relaxed);
    log::info!(
        "clock: TSC {} kHz, APIC timer {} kHz",
        rates.tsc / 1000,
        rates.apic / 1000
    );
}

/// Nanoseconds since [`init`]; 0 before. Monotonic.
pub fn now_ns() -> u64 {
    ns_of(tsc().saturating_sub(TSC_START.load(Ordering::Relaxed)))
}

/// The counter itself, for measurements.
#[inline(always)]
pub fn ticks() -> u64 {
    tsc()
}

/// The nanoseconds in `ticks` of the counter.
pub fn ns_of(ticks: u64) -> u64 {
    ((u128::from(ticks) * u128::from(TSC_SCALE.load(Ordering::Relaxed))) >> 32) as u64
}

/// Microseconds since [`init`]: the uptime.
pub fn now_us() -> u64 {
    now_ns() / 1000
}

/// Keeps the CPU busy for `us` microseconds.
pub fn spin_us(us: u64) {
    let end = now_us() + us;
    while now_us() < end {
        core::hint::spin_loop();
    }
}

/// The APIC timer's ticks in `ns` nanoseconds, at least 1 and at most what the timer can count.
pub(crate) fn apic_ticks(ns: u64) -> u32 {
    let ticks = (u128::from(ns) * u128::from(APIC_SCALE.load(Ordering::Relaxed))) >> 32;
    ticks.clamp(1, u128::from(u32::MAX)) as u32
}
