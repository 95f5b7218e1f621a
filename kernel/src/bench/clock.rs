//! The clock of the benchmarks: the time stamp counter, and what reading it costs.
//!
//! Under `-icount shift=0` QEMU lets the counter advance by one for each instruction that the guest executes, whatever the host does.
//! Nothing tells a guest so; [`Clock::new`] finds out by running loops whose number of instructions is known. Two loops that differ by
//! [`STEP`] turns of two instructions must differ by exactly that many ticks, [`TRIES`] times in a row. On a CPU that measures time, a
//! turn takes about one cycle, and no two runs agree to the tick.

#![expect(unsafe_code, reason = "a loop of known length")]

use core::arch::asm;

use crate::time;
use mm::sync::irq_off;

const STEP: u64 = 1000;
const TRIES: u64 = 4;
/// Readings of which the cheapest is what a reading costs.
const READINGS: usize = 64;

/// What the counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Executed instructions, exactly.
    Instructions,
    /// Time, in ticks of the counter.
    Time,
}

/// The calibrated clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// What it counts.
    pub unit: Unit,
    /// Ticks between two readings with nothing between them.
    pub overhead: u64,
}

impl Clock {
    /// Calibrates; takes some thousand instructions.
    pub fn new() -> Self {
        let overhead = (0..READINGS)
            .map(|_| irq_off(|| ticks_of(|| ())))
            .min()
            .unwrap_or(0);
        let counts = (1..=TRIES).all(|i| irq_off(|| longer_by_a_step(i * STEP)) == 2 * STEP);
        let unit = if counts {
            Unit::Instructions
        } else {
            Unit::Time
        };
        Clock { unit, overhead }
    }

    /// Runs `f`; says what it returned and how many ticks it took, the readings themselves left out.
    pub fn measure<T>(&self, f: impl FnOnce() -> T) -> (T, u64) {
        let mut value = None;
        let ticks = ticks_of(|| value = Some(f()));
        let value = value.expect("the closure ran");
        (value, ticks.saturating_sub(self.overhead))
    }
}

#[inline(always)]
fn ticks_of(f: impl FnOnce()) -> u64 {
    let start = time::ticks();
    f();
    time::ticks().saturating_sub(start)
}

/// How many ticks more a loop takes that has [`STEP`] turns more than `n`.
fn longer_by_a_step(n: u64) -> u64 {
    let short = turns(n);
    turns(n + STEP).wrapping_sub(short)
}

/// Ticks that `n` turns of a loop of two instructions take, and a constant.
#[inline(never)]
fn turns(n: u64) -> u64 {
    let start = time::ticks();
    // SAFETY: touches one register and the flags.
    unsafe { asm!("2:", "dec {n}", "jnz 2b", n = inout(reg) n => _, options(nomem, nostack)) };
    time::ticks().wrapping_sub(start)
}
