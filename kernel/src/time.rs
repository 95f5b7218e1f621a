//! The clock: the CPU's time stamp counter, its rate measured against the PIT at start; and the APIC timer's rate.
//!
//! The PIT's 1.193182 MHz is a constant of the machine. Channel 2 counts down 10 ms with its gate opened through port 0x61, and bit 5 of that
//! port says when it is done; meanwhile the counter and the APIC timer run. Works under `-icount` too, where all three follow
//! the instruction count.
#![expect(unsafe_code, reason = "port I/O and rdtsc")]

use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::instructions::port::Port;

use crate::cpu::apic;

const PIT_HZ: u64 = 1_193_182;
const MEASURE_TICKS: u16 = (PIT_HZ / 100) as u16;

// Written once by `init` before there are other threads or CPUs, so Relaxed everywhere.
static TSC_START: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds per tick of the counter, in units of 2^-32.
static TSC_SCALE: AtomicU64 = AtomicU64::new(0);
/// Ticks of the APIC timer per nanosecond, in units of 2^-32.
static APIC_SCALE: AtomicU64 = AtomicU64::new(0);

/// Measures both rates. The local APIC is on, interrupts are off. Takes 10 ms.
pub fn init() {
    let (tsc, apic) = measure();
    let ns = u128::from(MEASURE_TICKS) * 1_000_000_000 / u128::from(PIT_HZ);
    TSC_SCALE.store(
        ((ns << 32) / u128::from(tsc.max(1))) as u64,
        Ordering::Relaxed,
    );
    APIC_SCALE.store(((u128::from(apic) << 32) / ns) as u64, Ordering::Relaxed);
    TSC_START.store(counter(), Ordering::Relaxed);
    log::info!("clock: TSC {} kHz, APIC timer {} kHz", tsc / 10, apic / 10);
}

/// Ticks of the TSC and of the APIC timer during `MEASURE_TICKS` of the PIT.
fn measure() -> (u64, u64) {
    let (mut gate, mut command, mut channel): (Port<u8>, Port<u8>, Port<u8>) =
        (Port::new(0x61), Port::new(0x43), Port::new(0x42));
    // SAFETY: the PIT's second channel and its gate belong to nobody else; the speaker stays off.
    unsafe {
        let quiet = gate.read() & !0b11;
        gate.write(quiet);
        command.write(0b1011_0000_u8); // channel 2, both bytes, mode 0: output rises at the end of the count
        channel.write(MEASURE_TICKS as u8);
        channel.write((MEASURE_TICKS >> 8) as u8);
        apic::arm_timer(crate::irq::TIMER_VECTOR, u32::MAX);
        let start = counter();
        gate.write(quiet | 1);
        while gate.read() & 0x20 == 0 {}
        let (tsc, apic) = (counter() - start, u64::from(u32::MAX - apic::timer_left()));
        apic::arm_timer(crate::irq::TIMER_VECTOR, 0);
        (tsc, apic)
    }
}

fn counter() -> u64 {
    // SAFETY: every x86_64 CPU has the instruction, and ring 0 may use it.
    unsafe { _rdtsc() }
}

/// Nanoseconds since [`init`]; 0 before. Monotonic.
pub fn now_ns() -> u64 {
    let ticks = counter().saturating_sub(TSC_START.load(Ordering::Relaxed));
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
