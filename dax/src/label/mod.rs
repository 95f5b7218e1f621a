//! Namespace labels: how a device's memory is divided.
//!
//! A device keeps a small label area, outside its memory: two index blocks, and slots for labels after them. Nothing is
//! ever updated in place: a new label goes to a free slot, and then the older index block is rewritten with the next
//! sequence number and a bitmap of the slots in use. So after a crash one index block is sound, and which one tells
//! which labels count.
//!
//! [`LabelArea::parse`] reads such an area and believes none of it. What it guarantees of [`LabelArea::Labelled`]:
//!
//! - The index block was whole (signature, version, checksum, own place and size), and the newer of the two if both were.
//! - Each label was marked as used, was whole, sat in its own slot, and covers bytes that no other kept label covers.
//! - Memory used is bounded by [`MAX_LABELS`], whatever the area says.
//!
//! An area of zeros is [`LabelArea::Fresh`]: nobody has divided the device, so that it is all one namespace. An area that
//! is neither is [`LabelArea::Damaged`]: it is not for us to decide that nothing of value is there.

mod index;
mod namespace;
mod raw;

use alloc::vec::Vec;
use core::ops::Range;

use bitflags::bitflags;
use mm::mem::OutOfMemory;
use thiserror::Error;
use zerocopy::FromBytes;

pub use index::{Index, IndexFault};
pub use namespace::{
    Cookie, MAX_WAYS, Mode, Namespace, NamespaceFault, Namespaces, namespaces, set_cookie,
};

/// Labels that are kept of one area.
pub const MAX_LABELS: usize = 256;
/// Refusals that are listed one by one; the rest is counted.
pub const MAX_REJECTED: usize = 64;

bitflags! {
    /// What a label says of its namespace.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct LabelFlags: u32 {
        /// The namespace is for reading only.
        const READ_ONLY = 1;
        /// The namespace lies on this device alone.
        const LOCAL = 1 << 1;
        /// The namespace holds a block translation table.
        const BTT = 1 << 2;
        /// A change to the namespace's labels had begun; older Linux never clears this.
        const UPDATING = 1 << 3;
        const _ = !0;
    }
}

/// One label: a range of a device's memory that belongs to a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The slot it sits in.
    pub slot: u32,
    /// The namespace; all its labels share this.
    pub uuid: [u8; 16],
    /// Name in UTF-8, padded with zeros.
    pub name: [u8; 64],
    /// What it says of the namespace.
    pub flags: LabelFlags,
    /// Number of labels of the namespace.
    pub labels: u16,
    /// Place of this one among them, from 0.
    pub position: u16,
    /// Identity of the interleave set, see [`set_cookie`].
    pub set_cookie: u64,
    /// Bytes of a block; 0: not for block use.
    pub lba_size: u64,
    /// First byte, in the device's own addresses.
    pub dpa: u64,
    /// Bytes; never 0.
    pub raw_size: u64,
    /// How the bytes are used, by GUID; zero for none. Version 1.1 has none.
    pub abstraction: [u8; 16],
}

impl Label {
    /// The bytes of the device that it covers.
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        self.dpa..self.dpa + self.raw_size
    }
}

/// What is wrong with a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LabelFault {
    /// It does not add up.
    #[error("checksum is {stored:#x}, the bytes give {computed:#x} (write the label anew)")]
    Checksum {
        /// The checksum it carries.
        stored: u64,
        /// The checksum of its bytes.
        computed: u64,
    },
    /// It names another slot.
    #[error("it says slot {0} (write the label anew)")]
    Slot(u32),
    /// It covers no bytes, or passes the last address.
    #[error("{raw_size:#x} bytes at {dpa:#x} are no range (write the label anew)")]
    Range {
        /// First byte.
        dpa: u64,
        /// Bytes.
        raw_size: u64,
    },
    /// Its place among the namespace's labels is outside their number.
    #[error("it is label {position} of {labels} (write the label anew)")]
    Position {
        /// Its place, from 0.
        position: u16,
        /// Their number.
        labels: u16,
    },
    /// It overlaps a label in an earlier slot, which is kept.
    #[error("it overlaps the label in slot {0}, which is kept (delete one)")]
    Overlap(u32),
    /// There are more labels than are kept.
    #[error("more than {MAX_LABELS} labels (the rest is left out)")]
    TooMany,
}

/// A label that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("label in slot {slot}: {fault}")]
pub struct RejectedLabel {
    /// Its slot.
    pub slot: u32,
    /// What is wrong.
    pub fault: LabelFault,
}

/// The labels of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// The index block that counts.
    pub index: Index,
    /// What is wrong with the other one; `None`: nothing, it is only older.
    pub other: Option<IndexFault>,
    /// The labels in use, by slot.
    pub labels: Vec<Label>,
    /// Labels that were refused; at most [`MAX_REJECTED`].
    pub rejected: Vec<RejectedLabel>,
    /// How many more were refused than are listed.
    pub unlisted: u32,
}

/// What a label area holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelArea {
    /// Nothing but zeros, or no bytes at all: never used.
    Fresh,
    /// Labels, possibly none.
    Labelled(Labels),
    /// Something else: what is wrong with each index block.
    Damaged(IndexFault, IndexFault),
}

impl LabelArea {
    /// Reads a whole label area.
    ///
    /// # Errors
    /// Only for want of memory.
    pub fn parse(area: &[u8]) -> Result<Self, OutOfMemory> {
        if area.iter().all(|byte| *byte == 0) {
            return Ok(Self::Fresh);
        }
        match index::choose(area) {
            Ok((index, other)) => Labels::read(area, index, other).map(Self::Labelled),
            Err((first, second)) => Ok(Self::Damaged(first, second)),
        }
    }
}

impl Labels {
    fn read(area: &[u8], index: Index, other: Option<IndexFault>) -> Result<Self, OutOfMemory> {
        let (labels, rejected) = (Vec::new(), Vec::new());
        let mut found = Self {
            index,
            other,
            labels,
            rejected,
            unlisted: 0,
        };
        for slot in found.index.used_slots(area) {
            match found.judge(slot, found.index.slot(area, slot)) {
                Ok(label) => try_push(&mut found.labels, label)?,
                Err(fault) => found.reject(RejectedLabel { slot, fault })?,
            }
        }
        Ok(found)
    }

    fn reject(&mut self, rejected: RejectedLabel) -> Result<(), OutOfMemory> {
        if self.rejected.len() == MAX_REJECTED {
            self.unlisted = self.unlisted.saturating_add(1);
            return Ok(());
        }
        try_push(&mut self.rejected, rejected)
    }

    /// Reads the label in `slot`, whose bytes these are.
    fn judge(&self, slot: u32, bytes: &[u8]) -> Result<Label, LabelFault> {
        let label = read_label(bytes)?;
        if label.slot != slot {
            return Err(LabelFault::Slot(label.slot));
        }
        let (dpa, raw_size) = (label.dpa, label.raw_size);
        if raw_size == 0 || dpa.checked_add(raw_size).is_none() {
            return Err(LabelFault::Range { dpa, raw_size });
        }
        let (position, labels) = (label.position, label.labels);
        if position >= labels {
            return Err(LabelFault::Position { position, labels });
        }
        let overlaps = |other: &&Label| other.dpa < dpa + raw_size && dpa < other.range().end;
        if let Some(other) = self.labels.iter().find(overlaps) {
            return Err(LabelFault::Overlap(other.slot));
        }
        if self.labels.len() == MAX_LABELS {
            return Err(LabelFault::TooMany);
        }
        Ok(label)
    }
}

/// Reads the fields of a label; one of version 1.2 must add up.
fn read_label(bytes: &[u8]) -> Result<Label, LabelFault> {
    // `Index::slot` gives at least the bytes of version 1.1, so that this never fails.
    let (raw, rest) = raw::Label::ref_from_prefix(bytes).map_err(|_| LabelFault::Slot(u32::MAX))?;
    let mut abstraction = [0; 16];
    if let Ok((more, _)) = raw::Label2::ref_from_prefix(rest) {
        let (stored, computed) = (
            more.checksum.get(),
            raw::checksum(bytes, raw::LABEL_CHECKSUM),
        );
        if stored != computed {
            return Err(LabelFault::Checksum { stored, computed });
        }
        abstraction = more.abstraction;
    }
    Ok(Label {
        slot: raw.slot.get(),
        uuid: raw.uuid,
        name: raw.name,
        flags: LabelFlags::from_bits_retain(raw.flags.get()),
        labels: raw.labels.get(),
        position: raw.position.get(),
        set_cookie: raw.set_cookie.get(),
        lba_size: raw.lba_size.get(),
        dpa: raw.dpa.get(),
        raw_size: raw.raw_size.get(),
        abstraction,
    })
}

fn try_push<T>(list: &mut Vec<T>, entry: T) -> Result<(), OutOfMemory> {
    list.try_reserve(1).map_err(|_| OutOfMemory)?;
    list.push(entry);
    Ok(())
}
