//! From the labels of a region's devices to its namespaces.

use alloc::vec::Vec;
use core::ops::Range;

use arrayvec::ArrayVec;
use mm::mem::OutOfMemory;
use thiserror::Error;

use super::{Label, LabelArea, LabelFlags, raw, try_push};
use crate::guid::guid;
use crate::region::{Device, Region};

/// Devices of the largest interleave set that labels can describe here.
pub const MAX_WAYS: usize = 16;

/// How the bytes of a namespace are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As they are.
    Raw,
    /// By a block translation table; not as memory.
    Btt,
    /// As a file system's memory, with an info block at 4 KiB ("fsdax").
    Fsdax,
    /// As memory without a file system, with an info block at 4 KiB ("devdax").
    Devdax,
    /// By something not known, with the GUID as it lies in memory.
    Other([u8; 16]),
}

const BTT: [u8; 16] = guid(0x8aed63a2_29a2_4c66_8b12_f05d15d3922a);
const BTT2: [u8; 16] = guid(0x18633bfc_1735_4217_8ac9_17239282d3f8);
const FSDAX: [u8; 16] = guid(0x266400ba_fb9f_4677_bcb0_968f11d0d225);
const DEVDAX: [u8; 16] = guid(0x97a86d9c_3cdd_4eda_986f_5068b4f80088);

impl Mode {
    fn of(label: &Label) -> Self {
        match label.abstraction {
            BTT | BTT2 => Self::Btt,
            FSDAX => Self::Fsdax,
            DEVDAX => Self::Devdax,
            guid if guid != [0; 16] => Self::Other(guid),
            _ if label.flags.contains(LabelFlags::BTT) => Self::Btt,
            _ => Self::Raw,
        }
    }
}

/// A part of a region, as its labels divide it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its bytes, from the start of the region.
    pub range: Range<u64>,
    /// Its identity; zero for a region without labels.
    pub uuid: [u8; 16],
    /// Name in UTF-8, padded with zeros.
    pub name: [u8; 64],
    /// How its bytes are used.
    pub mode: Mode,
    /// Whether its labels forbid stores.
    pub read_only: bool,
    /// Bytes of a block; 0: not for block use.
    pub lba_size: u64,
}

/// Why the labels of a namespace make none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NamespaceFault {
    /// The number of its labels is not that of the region's devices.
    #[error("{labels} labels for {devices} devices (write the labels anew)")]
    Count {
        /// Labels of the namespace, as they say.
        labels: u16,
        /// Devices of the region.
        devices: usize,
    },
    /// Another device lacks the label, or has one that disagrees.
    #[error("device {0:#x} has no matching label (write the labels anew)")]
    Missing(u32),
    /// It does not start and end at multiples of 4 KiB.
    #[error("bytes {start:#x}..{end:#x} of the region are no whole pages (write the labels anew)")]
    Misaligned {
        /// First byte.
        start: u64,
        /// Byte after the last.
        end: u64,
    },
    /// It passes the end of the region.
    #[error(
        "{raw_size:#x} bytes of each device at {dpa:#x} pass the end of the region (write the labels anew)"
    )]
    Outside {
        /// First byte on each device.
        dpa: u64,
        /// Bytes on each device.
        raw_size: u64,
    },
}

/// The namespaces of one region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// The namespaces; they do not overlap.
    pub namespaces: Vec<Namespace>,
    /// Namespaces that were refused, by the slot of their label on the first device.
    pub rejected: Vec<(u32, NamespaceFault)>,
    /// Labels on the first device that belong to another interleave set.
    pub foreign: u32,
    /// Whether a device's labels are damaged; no namespace is offered then.
    pub damaged: bool,
}

/// The namespaces of `region`, by the label areas of its devices in the order of [`Region::devices`]. A device without
/// an area, also one past the end of `areas`, counts as fresh; where all are fresh the region is one raw namespace.
///
/// # Errors
/// Only for want of memory; what is wrong with the labels is in the answer.
pub fn namespaces(region: &Region, areas: &[LabelArea]) -> Result<Namespaces, OutOfMemory> {
    let mut found = Namespaces::default();
    if areas.iter().all(|area| *area == LabelArea::Fresh) {
        try_push(&mut found.namespaces, whole(region))?;
        return Ok(found);
    }
    found.damaged = areas
        .iter()
        .any(|area| matches!(area, LabelArea::Damaged(..)));
    if !found.damaged {
        found.divide(region, areas)?;
    }
    Ok(found)
}

fn whole(region: &Region) -> Namespace {
    Namespace {
        range: 0..region.length,
        uuid: [0; 16],
        name: [0; 64],
        mode: Mode::Raw,
        read_only: false,
        lba_size: 0,
    }
}

impl Namespaces {
    fn divide(&mut self, region: &Region, areas: &[LabelArea]) -> Result<(), OutOfMemory> {
        for label in labels_of(areas, 0) {
            if !belongs(label, region) {
                self.foreign = self.foreign.saturating_add(1);
                continue;
            }
            match assemble(label, region, areas) {
                Ok(namespace) => try_push(&mut self.namespaces, namespace)?,
                Err(fault) => try_push(&mut self.rejected, (label.slot, fault))?,
            }
        }
        Ok(())
    }
}

fn labels_of(areas: &[LabelArea], device: usize) -> &[Label] {
    match areas.get(device) {
        Some(LabelArea::Labelled(found)) => &found.labels,
        _ => &[],
    }
}

/// Makes a namespace of the first device's label and its like on the other devices.
fn assemble(
    label: &Label,
    region: &Region,
    areas: &[LabelArea],
) -> Result<Namespace, NamespaceFault> {
    let (labels, devices) = (label.labels, region.devices.len());
    if usize::from(labels) != devices {
        return Err(NamespaceFault::Count { labels, devices });
    }
    for (i, device) in region.devices.iter().enumerate().skip(1) {
        let like = |other: &Label| {
            other.uuid == label.uuid && (other.dpa, other.raw_size) == (label.dpa, label.raw_size)
        };
        let mut others = labels_of(areas, i).iter();
        if !others
            .any(|other| like(other) && other.position != label.position && belongs(other, region))
        {
            return Err(NamespaceFault::Missing(device.handle));
        }
    }
    let (dpa, raw_size) = (label.dpa, label.raw_size);
    let range = place(label, region).ok_or(NamespaceFault::Outside { dpa, raw_size })?;
    let Range { start, end } = range;
    if !(start | end).is_multiple_of(4096) {
        return Err(NamespaceFault::Misaligned { start, end });
    }
    Ok(Namespace {
        range,
        uuid: label.uuid,
        name: label.name,
        mode: Mode::of(label),
        read_only: label.flags.contains(LabelFlags::READ_ONLY),
        lba_size: label.lba_size,
    })
}

/// The bytes of the region that a label and its like cover: each device gives the same share of them.
fn place(label: &Label, region: &Region) -> Option<Range<u64>> {
    let ways = region.devices.len() as u64;
    let first = region.devices.first()?;
    // Old QEMU wrote the system address of the region where the device's own address belongs.
    let base = if first.dpa == region.base {
        0
    } else {
        first.dpa
    };
    let start = label.dpa.checked_sub(base)?.checked_mul(ways)?;
    let end = start.checked_add(label.raw_size.checked_mul(ways)?)?;
    (end <= region.length).then_some(start..end)
}

fn belongs(label: &Label, region: &Region) -> bool {
    [Cookie::V1_1, Cookie::V1_2]
        .into_iter()
        .any(|version| set_cookie(&region.devices, version) == Some(label.set_cookie))
}

/// Which of the two forms of an interleave set's cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cookie {
    /// Of offsets and serial numbers.
    V1_1,
    /// Of vendor and making, too.
    V1_2,
}

impl Cookie {
    /// Words of a device's record.
    const fn words(self) -> usize {
        match self {
            Self::V1_1 => 4,
            Self::V1_2 => 12,
        }
    }
}

/// The identity of an interleave set: a checksum over its devices, in the order in which they are interleaved. `None`
/// when a device's identity is not known, or the set has more than [`MAX_WAYS`] devices.
#[must_use]
pub fn set_cookie(devices: &[Device], version: Cookie) -> Option<u64> {
    let mut order = ArrayVec::<&Device, MAX_WAYS>::new();
    for device in devices {
        order.try_push(device).ok()?;
    }
    order.sort_unstable_by_key(|device| device.region_offset);
    let mut words = ArrayVec::<u32, { MAX_WAYS * 12 }>::new();
    for device in order {
        words.extend(record(device, version)?.into_iter().take(version.words()));
    }
    Some(raw::fletcher64(words.into_iter()))
}

/// What of a device goes into the cookie, in little-endian words.
fn record(device: &Device, version: Cookie) -> Option<[u32; 12]> {
    let who = device.identity?;
    let offset = device.region_offset;
    let mut words = [0; 12];
    words[..3].copy_from_slice(&[offset as u32, (offset >> 32) as u32, who.serial]);
    if version == Cookie::V1_2 {
        words[3] = u32::from(who.vendor) | u32::from(who.manufacturing_date) << 16;
        words[4] = who.manufacturing_location.into();
    }
    Some(words)
}
