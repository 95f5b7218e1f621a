//! The whole run.

use super::error::StressError;
use super::report::{self, Before, End};
use super::rounds;
use super::tally::Has;
use super::world::Run;
use crate::cpu;
use crate::machine::Machine;
use crate::pmem::{Device, DeviceState};
use crate::shell::Out;
use crate::trace;
use crate::virtio::blk::Disk;
use alloc::sync::Arc;
use dax::pmem::Pmem;
use fs::BLOCK_SIZE;
use mm::sync::now_us;

/// The longest round, in seconds.
const ROUND_S: u64 = 5;
/// A run in which something has not happened yet goes on to so many times its length,
const MORE: u64 = 4;
/// and at least to so many seconds: a short run on a slow machine must not fail by chance.
const LEAST_S: u64 = 120;

/// How it is to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long the workers work, in all; checks and file systems come on top.
    pub seconds: u64,
    /// What plans and stamps follow from.
    pub seed: u64,
    /// Over a file system that is there.
    pub force: bool,
}

/// Runs the stress test on the first device that can be written, and reports.
///
/// # Errors
/// See [`StressError`].
pub fn run(machine: &Arc<Machine>, options: Options, out: &Out) -> Result<(), StressError> {
    if machine.mounted().is_some() {
        return Err(StressError::Mounted);
    }
    let device = device(machine)?;
    let run = Run::new(machine.clone(), device, disk(machine), options.seed)?;
    let (run, begun, before) = (Arc::new(run), now_us(), Before::now());
    trace::start()?;
    let has = Has {
        cpus: cpu::online(),
        spaces: 3,
        disk: run.disk.is_some(),
    };
    let nothing_missing = || {
        before.tell(&run.tally);
        run.tally.missing(has).next().is_none()
    };
    let rounds = all(&run, options, nothing_missing)?;
    mm::trace::stop();
    before.tell(&run.tally);
    let end = End {
        has,
        took_us: now_us().saturating_sub(begun),
        rounds,
    };
    if !run.court.has_stopped() {
        wipe(device);
    }
    report::print(&run, &end, out)
}

/// Rounds of equal length, at least two: one of each kind. More, up to [`MORE`] times as many or [`LEAST_S`] seconds, as long as something has
/// not happened yet.
fn all(
    run: &Arc<Run>,
    options: Options,
    nothing_missing: impl Fn() -> bool,
) -> Result<u64, StressError> {
    let planned = options.seconds.div_ceil(ROUND_S).max(2);
    let us = options.seconds * 1_000_000 / planned;
    let most = (planned * MORE).max(LEAST_S * 1_000_000 / us.max(1_000_000));
    for number in 0..most {
        if run.court.has_stopped() || number >= planned && nothing_missing() {
            return Ok(number);
        }
        rounds::run(run, number, us, options.force || number > 0)?;
    }
    Ok(most)
}

fn device(machine: &Machine) -> Result<&'static Device, StressError> {
    let mut devices = machine.pmem.devices.iter();
    let fit = |d: &&Device| d.memory.writable() && d.state() == DeviceState::Live;
    devices.find(fit).ok_or(StressError::NoPmem)
}

/// The first disk that may be written and has room at its end.
fn disk(machine: &Machine) -> Option<Arc<Disk>> {
    let mut disks = machine.disks.iter();
    let fit = |d: &&Arc<Disk>| !d.is_read_only() && d.sectors() >= 4096;
    disks.find(fit).cloned()
}

/// Leaves no file system: the next run may have the device.
fn wipe(device: &Device) {
    device.memory.zero_nt(0, 2 * BLOCK_SIZE);
    device.memory.fence();
}
