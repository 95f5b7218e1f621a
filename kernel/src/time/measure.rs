//! How fast the TSC and the APIC timer run, measured against a clock whose rate is a constant of the machine.
//!
//! That clock is the ACPI power management timer (3.579545 MHz, 24 bits) where the FADT names one, else the PIT. The host may take the
//! CPU away at any moment, so nothing here trusts that two instructions follow each other: a reading of the slow clock
//! lies between two readings of the TSC, and of [`TRIES`] such readings the one with the narrowest gap counts. A long pause between
//! the two samples only makes the interval longer. (The PIT's interval ends by polling, which a pause does falsify; it is the last
//! resort.) The APIC timer is compared with the TSC in the same way.
#![expect(unsafe_code, reason = "port I/O and rdtsc")]

use ::acpi::address::AddressSpace;
use ::acpi::sdt::fadt::Fadt;
use core::arch::x86_64::_rdtsc;
use x86_64::instructions::port::Port;

use crate::cpu::apic;
use crate::irq::TIMER_VECTOR;

const PM_HZ: u64 = 3_579_545;
const PM_MASK: u32 = 0x00ff_ffff;
const PIT_HZ: u64 = 1_193_182;
/// The length of the interval, in parts of a second.
const INTERVAL: u64 = 100;
const TRIES: usize = 16;

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// TSC ticks per second.
    pub tsc: u64,
    /// APIC timer ticks per second, at divide-by-1.
    pub apic: u64,
}

pub fn tsc() -> u64 {
    // SAFETY: every x86_64 CPU has the instruction, and ring 0 may use it.
    unsafe { _rdtsc() }
}

/// A moment: the TSC, and what another counter showed at it.
#[derive(Clone, Copy)]
struct Sample {
    tsc: u64,
    other: u32,
}

/// The reading of `counter` whose moment is known best.
fn sample(counter: impl Fn() -> u32) -> Sample {
    let mut best = (u64::MAX, Sample { tsc: 0, other: 0 });
    for _ in 0..TRIES {
        let before = tsc();
        let other = counter();
        let gap = tsc() - before;
        if gap < best.0 {
            best = (
                gap,
                Sample {
                    tsc: before + gap / 2,
                    other,
                },
            );
        }
    }
    best.1
}

/// Measures both rates in about 10 ms. The local APIC is on, interrupts are off.
pub fn rates() -> Rates {
    apic::arm_timer(TIMER_VECTOR, u32::MAX);
    let start = sample(apic::timer_left);
    let tsc = pm_timer().map_or_else(tsc_by_pit, tsc_by_pm);
    let end = sample(apic::timer_left);
    apic::arm_timer(TIMER_VECTOR, 0);
    let ticks = u128::from(start.other - end.other); // counts down, and not to 0 in the 2 s or more that it has
    let apic = ticks * u128::from(tsc) / u128::from((end.tsc - start.tsc).max(1));
    Rates {
        tsc,
        apic: apic as u64,
    }
}

/// The I/O port of the power management timer.
fn pm_timer() -> Option<u16> {
    let fadt = crate::acpi::tables()?.find_table::<Fadt>()?;
    let block = fadt.pm_timer_block().ok()??;
    (block.address_space == AddressSpace::SystemIo).then(|| u16::try_from(block.address).ok())?
}

fn tsc_by_pm(port: u16) -> u64 {
    // SAFETY: the FADT says that the timer is read there; reading has no effect.
    let read = || unsafe { Port::<u32>::new(port).read() } & PM_MASK;
    let start = sample(read);
    // The clock wraps after 4.7 s; a pause of that length in these 10 ms would go unnoticed.
    let passed = |now: u32| u64::from(now.wrapping_sub(start.other) & PM_MASK);
    while passed(read()) < PM_HZ / INTERVAL {}
    let end = sample(read);
    scale(end.tsc - start.tsc, passed(end.other), PM_HZ)
}

fn tsc_by_pit() -> u64 {
    const TICKS: u16 = (PIT_HZ / INTERVAL) as u16;
    let (mut gate, mut command, mut channel): (Port<u8>, Port<u8>, Port<u8>) =
        (Port::new(0x61), Port::new(0x43), Port::new(0x42));
    // SAFETY: the PIT's second channel and its gate belong to nobody else; the speaker stays off.
    unsafe {
        let quiet = gate.read() & !0b11;
        gate.write(quiet);
        command.write(0b1011_0000_u8); // channel 2, both bytes, mode 0: output rises at the end of the count
        channel.write(TICKS as u8);
        channel.write((TICKS >> 8) as u8);
        let start = tsc();
        gate.write(quiet | 1);
        while gate.read() & 0x20 == 0 {}
        scale(tsc() - start, u64::from(TICKS), PIT_HZ)
    }
}

/// Ticks per second, from `ticks` in `slow` ticks of a clock of `hz`.
fn scale(ticks: u64, slow: u64, hz: u64) -> u64 {
    (u128::from(ticks) * u128::from(hz) / u128::from(slow.max(1))) as u64
}
