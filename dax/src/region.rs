//! Which SPA ranges become regions of persistent memory.
//!
//! [`discover`] turns parsed tables into [`Region`]s. What it guarantees of them, and what the rest of Holdfast builds on:
//!
//! - A region is not empty, starts and ends at multiples of 4 KiB, and ends below the CPU's last physical address.
//! - No two regions overlap, not even when they come from different tables, and none overlaps RAM.
//! - A region that may not be written says why ([`Region::read_only`]); when in doubt, it may not.
//!
//! Of two ranges that overlap the earlier is kept, tables being taken in the order given: a firmware's own table comes
//! first, so that a table added later cannot take a good region away.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::nfit::{
    DeviceFlags, Nfit, Piece, PlatformFlags, Reason, Rejected, Spa, SpaKind, try_push,
};
use crate::pmem::{FlushOp, Persistence};

/// Regions that are used; each takes one of the 32 places in the registry of pgmaps.
pub const MAX_REGIONS: usize = 32;

/// Alignment of a region's base and length, in bytes.
const PAGE: u64 = 4096;
/// Alignment of the base that 2 MiB mappings need.
const HUGE: u64 = 2 << 20;

/// What of the machine limits where pmem can be.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// Physical address ranges that are taken: RAM, and device windows where known.
    pub taken: &'a [Range<u64>],
    /// Physical address bits of the CPU (CPUID leaf 0x8000_0008, AL); above 52 counts as 52.
    pub address_bits: u8,
}

/// How far a store must go to survive a power failure, as far as the platform tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// Into the cache (eADR).
    CpuCache,
    /// Into the memory controller (ADR).
    MemoryController,
    /// Into the memory controller, and then each device's flush hint must be written.
    FlushHints,
    /// The platform declares nothing and offers no flush hints; the memory controller is assumed, as others do.
    Assumed,
}

impl Domain {
    /// What a store must do on a CPU whose best write-back instruction is `op`.
    #[must_use]
    pub const fn persistence(self, op: FlushOp) -> Persistence {
        match self {
            Self::CpuCache => Persistence::CpuCache,
            Self::MemoryController | Self::FlushHints | Self::Assumed => {
                Persistence::MemoryController(op)
            }
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CpuCache => "CPU cache",
            Self::MemoryController => "memory controller",
            Self::FlushHints => "flush hints",
            Self::Assumed => "memory controller (assumed)",
        })
    }
}

/// Why a region may only be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadOnly {
    /// A device of it is not armed.
    #[error(
        "device {0:#x} is not armed: a power failure would lose stores (arm it, or use it for reading)"
    )]
    NotArmed(u32),
    /// The table has no usable memory device for it.
    #[error("no memory device vouches for it (add one for this SPA range to the NFIT)")]
    NoDevice,
    /// The platform drains nothing by itself, and a device's flush hint cannot be written.
    #[error(
        "device {0:#x} has no usable flush hint, and the platform does not flush by itself (correct the hints)"
    )]
    NoHint(u32),
}

/// A device's part in a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// NFIT handle.
    pub handle: u32,
    /// State and health.
    pub flags: DeviceFlags,
    /// Where in the region the device starts, in bytes.
    pub region_offset: u64,
    /// The device's own address of its first byte in the region.
    pub dpa: u64,
    /// Who made it, where the table tells.
    pub identity: Option<Identity>,
    /// Physical address to write, where [`Domain::FlushHints`] asks for it; a multiple of 8 outside RAM and all regions.
    pub hint: Option<u64>,
}

/// Who made a device; part of the cookie that its labels carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Serial number.
    pub serial: u32,
    /// JEDEC vendor.
    pub vendor: u16,
    /// Where it was made.
    pub manufacturing_location: u8,
    /// When it was made.
    pub manufacturing_date: u16,
}

/// A range of physical addresses that is persistent memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Number of the region, from 0.
    pub id: u32,
    /// Which of the tables it comes from, from 0.
    pub table: usize,
    /// Index of the SPA range in that table.
    pub spa_index: u16,
    /// First physical address, a multiple of 4 KiB.
    pub base: u64,
    /// Bytes, a multiple of 4 KiB; never 0.
    pub length: u64,
    /// Proximity domain, where the table tells.
    pub proximity: Option<u32>,
    /// The devices it is made of, in the order of the table.
    pub devices: Vec<Device>,
    /// How far a store must go.
    pub domain: Domain,
    /// Why it may not be written; `None`: it may.
    pub read_only: Option<ReadOnly>,
}

impl Region {
    /// The region's physical addresses.
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        self.base..self.base + self.length
    }

    /// Whether stores may be relied on to survive.
    #[must_use]
    pub const fn armed(&self) -> bool {
        self.read_only.is_none()
    }

    /// State and health flags of all its devices together.
    #[must_use]
    pub fn health(&self) -> DeviceFlags {
        let flags = self.devices.iter().map(|device| device.flags);
        flags.fold(DeviceFlags::empty(), DeviceFlags::union)
    }

    /// NFIT handle of the first device.
    #[must_use]
    pub fn handle(&self) -> Option<u32> {
        self.devices.first().map(|device| device.handle)
    }

    /// Serial number of the first device.
    #[must_use]
    pub fn serial(&self) -> Option<u32> {
        self.devices
            .first()?
            .identity
            .map(|identity| identity.serial)
    }

    /// Bytes from the base to the first multiple of `size`; 0 where the base is one. `size` is a power of two.
    #[must_use]
    pub const fn lead_to(&self, size: u64) -> u64 {
        self.base.wrapping_neg() & (size - 1)
    }
}

/// What [`discover`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovery {
    /// The regions, numbered in this order; at most [`MAX_REGIONS`].
    pub regions: Vec<Region>,
    /// Ranges that were refused, each with the number of its table.
    pub rejected: Vec<(usize, Rejected)>,
}

/// Finds the regions of persistent memory that `tables` describe on `machine`.
///
/// # Errors
/// Only for want of memory; bad ranges are listed in [`Discovery::rejected`].
pub fn discover(tables: &[Nfit], machine: &Machine<'_>) -> Result<Discovery, Rejected> {
    let mut found = Discovery::default();
    for (table, nfit) in tables.iter().enumerate() {
        for spa in nfit
            .spas
            .iter()
            .filter(|spa| spa.kind == SpaKind::Persistent)
        {
            found.consider(table, nfit, spa, machine)?;
        }
    }
    found.settle_hints(machine);
    Ok(found)
}

impl Discovery {
    /// Makes a region of one range, or refuses it.
    fn consider(
        &mut self,
        table: usize,
        nfit: &Nfit,
        spa: &Spa,
        machine: &Machine<'_>,
    ) -> Result<(), Rejected> {
        match self.judge(nfit, spa, machine) {
            Err(reason) => {
                let (offset, piece) = (spa.offset, Piece::Spa);
                try_push(
                    &mut self.rejected,
                    (
                        table,
                        Rejected {
                            offset,
                            piece,
                            reason,
                        },
                    ),
                )
            }
            Ok(()) => {
                let region = self.region(table, nfit, spa)?;
                try_push(&mut self.regions, region)
            }
        }
    }

    /// Whether a range can be a region.
    fn judge(&self, nfit: &Nfit, spa: &Spa, machine: &Machine<'_>) -> Result<(), Reason> {
        let range = addresses(spa, machine)?;
        if let Some(taken) = machine.taken.iter().find(|taken| overlap(taken, &range)) {
            return Err(Reason::Taken(taken.clone()));
        }
        if let Some(other) = self
            .regions
            .iter()
            .find(|other| overlap(&other.range(), &range))
        {
            let (region, range) = (other.id, other.range());
            return Err(Reason::Overlap { region, range });
        }
        let unmapped = |flags: DeviceFlags| flags.contains(DeviceFlags::MAP_FAILED);
        if let Some(device) = nfit.devices_of(spa).find(|device| unmapped(device.flags)) {
            let handle = device.handle;
            return Err(Reason::NotMapped { handle });
        }
        if self.regions.len() == MAX_REGIONS {
            return Err(Reason::TooMany(MAX_REGIONS));
        }
        Ok(())
    }

    fn region(&self, table: usize, nfit: &Nfit, spa: &Spa) -> Result<Region, Rejected> {
        let mut devices = Vec::new();
        for device in nfit.devices_of(spa) {
            let identity = nfit.control(device.control_index).map(Identity::of);
            let entry = Device {
                handle: device.handle,
                flags: device.flags,
                region_offset: device.region_offset,
                dpa: device.dpa,
                identity,
                hint: nfit
                    .hints_of(device.handle)
                    .and_then(|hints| hints.addresses.first().copied()),
            };
            try_push(&mut devices, entry)?;
        }
        let domain = domain(nfit, &devices);
        Ok(Region {
            id: self.regions.len() as u32,
            table,
            spa_index: spa.index,
            base: spa.base,
            length: spa.length,
            proximity: (spa.flags & 2 != 0).then_some(spa.proximity),
            read_only: read_only(&devices),
            devices,
            domain,
        })
    }

    /// Drops the hints that are not needed or not usable, and with them the right to write.
    fn settle_hints(&mut self, machine: &Machine<'_>) {
        let usable = |hint: u64, regions: &[Region]| {
            let word = hint..hint.saturating_add(8);
            let apart = |range: &Range<u64>| !overlap(range, &word);
            let regions_apart = regions.iter().all(|region| apart(&region.range()));
            hint.is_multiple_of(8)
                && word.end <= end_of(machine)
                && machine.taken.iter().all(apart)
                && regions_apart
        };
        for i in 0..self.regions.len() {
            let needed = self.regions[i].domain == Domain::FlushHints;
            for j in 0..self.regions[i].devices.len() {
                let device = self.regions[i].devices[j];
                let kept = device
                    .hint
                    .filter(|hint| needed && usable(*hint, &self.regions));
                let region = &mut self.regions[i];
                region.devices[j].hint = kept;
                if needed && kept.is_none() {
                    region.read_only = region.read_only.or(Some(ReadOnly::NoHint(device.handle)));
                }
            }
        }
    }
}

impl Identity {
    fn of(control: &crate::nfit::ControlRegion) -> Self {
        let valid = control.valid_fields & 1 != 0;
        Self {
            serial: control.serial,
            vendor: control.vendor,
            manufacturing_location: if valid {
                control.manufacturing_location
            } else {
                0
            },
            manufacturing_date: if valid { control.manufacturing_date } else { 0 },
        }
    }
}

/// The addresses of a range, once they are sound by themselves.
fn addresses(spa: &Spa, machine: &Machine<'_>) -> Result<Range<u64>, Reason> {
    let (base, length) = (spa.base, spa.length);
    if length == 0 {
        return Err(Reason::Empty);
    }
    let end = base
        .checked_add(length)
        .filter(|end| *end <= end_of(machine));
    let last = end_of(machine) - 1;
    let end = end.ok_or(Reason::Unreachable { base, length, last })?;
    if !base.is_multiple_of(PAGE) || !length.is_multiple_of(PAGE) {
        let next_2m = base.next_multiple_of(HUGE);
        return Err(Reason::Misaligned {
            base,
            length,
            next_2m,
        });
    }
    Ok(base..end)
}

/// The first address that the CPU cannot name.
fn end_of(machine: &Machine<'_>) -> u64 {
    1 << machine.address_bits.min(52)
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start.max(b.start) < a.end.min(b.end)
}

/// The domain that the platform declares. Unless it declares one, flush hints are to be written where any device has some.
fn domain(nfit: &Nfit, devices: &[Device]) -> Domain {
    let declared = nfit
        .capabilities
        .as_ref()
        .map_or(PlatformFlags::empty(), |c| c.valid());
    if declared.contains(PlatformFlags::CPU_CACHE) {
        Domain::CpuCache
    } else if declared.contains(PlatformFlags::MEMORY_CONTROLLER) {
        Domain::MemoryController
    } else if devices.iter().any(|device| device.hint.is_some()) {
        Domain::FlushHints
    } else {
        Domain::Assumed
    }
}

fn read_only(devices: &[Device]) -> Option<ReadOnly> {
    let not_armed = |device: &&Device| device.flags.contains(DeviceFlags::NOT_ARMED);
    match devices.iter().find(not_armed) {
        Some(device) => Some(ReadOnly::NotArmed(device.handle)),
        None => devices.is_empty().then_some(ReadOnly::NoDevice),
    }
}
