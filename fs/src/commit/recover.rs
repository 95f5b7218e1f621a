//! Recovery: what every mount does first.
//!
//! The newest whole record says up to where the media had got (its floor); the records after that floor are replayed in order
//! (rule R7), made durable, and only then a new record is written. Replay is blind stores, so that doing it twice, or
//! being cut off in it, changes nothing.
//!
//! A record that did not become whole is void, but its lines may still lie in the slot. The next sequence number exceeds
//! every tag seen in any line (rule R8), else a leftover line and a line of its successor could look like one record. If the
//! torn slot is the newest, the next record goes to that same slot: however often a mount is cut off, it never
//! overwrites a whole record.

use alloc::vec::Vec;

use dax::pmem::{MediaError, Pmem};
use mm::mem::OutOfMemory;
use thiserror::Error;

use super::{Media, RecordKind, Ring};
use crate::layout::Geometry;
use crate::record::{Found, RECORD_WORDS, Record, RecordFault, Slot, decode, highest_tag};

/// Why the ring cannot be recovered from.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecoverError {
    /// The media could not be read.
    #[error("record ring, slot {slot} at offset {offset:#x}: {source}")]
    Media {
        /// Slot number.
        slot: u64,
        /// Byte offset of the slot.
        offset: u64,
        /// What the region said.
        source: MediaError,
    },
    /// A record that no version of this code writes.
    #[error("record ring, slot {slot} at offset {offset:#x}: {fault}")]
    Record {
        /// Slot number.
        slot: u64,
        /// Byte offset of the slot.
        offset: u64,
        /// What is wrong.
        fault: RecordFault,
    },
    /// Not one whole record, though mkfs writes the first.
    #[error("record ring at offset {offset:#x}: no slot holds a whole record")]
    Empty {
        /// Byte offset of the ring.
        offset: u64,
    },
    /// A record that must be replayed is missing between others.
    #[error("record ring, offset {offset:#x}: record {seq} is needed and is not whole")]
    Gap {
        /// The missing sequence number.
        seq: u64,
        /// Byte offset of its slot.
        offset: u64,
    },
    /// Something must be replayed and the region is read-only.
    #[error(
        "{records} records must be replayed, but the region is read-only (mount it writable once)"
    )]
    ReadOnly {
        /// Records after the floor.
        records: usize,
    },
    /// The list of records found no memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// A ring ready for use, and what was done.
pub struct Recovered {
    /// The ring.
    pub ring: Ring,
    /// Records replayed.
    pub replayed: u32,
    /// Slots with a torn record.
    pub torn: u32,
}

/// All that the slots hold.
pub(crate) struct Scan {
    /// The whole records, by number.
    pub whole: Vec<Found>,
    /// Slots with a record that is not whole.
    torn: Vec<u64>,
    /// The highest tag of any line.
    pub highest: u64,
}

/// Reads every slot; the first that cannot be trusted is an error.
pub(crate) fn scan<P: Pmem>(
    media: &Media<P>,
    g: &Geometry,
    uuid: &[u8; 16],
) -> Result<Scan, RecoverError> {
    scan_with(media, g, uuid, |_, error| Err(error))
}

/// Reads every slot; `wrong` decides about one that cannot be trusted, by its number.
fn scan_with<P: Pmem>(
    media: &Media<P>,
    g: &Geometry,
    uuid: &[u8; 16],
    mut wrong: impl FnMut(u64, RecoverError) -> Result<(), RecoverError>,
) -> Result<Scan, RecoverError> {
    let mut scan = Scan {
        whole: Vec::new(),
        torn: Vec::new(),
        highest: 0,
    };
    let slots = g.ring_slots() as usize;
    scan.whole
        .try_reserve_exact(slots)
        .map_err(|_| OutOfMemory)?;
    for slot in 0..u64::from(g.ring_slots()) {
        if let Err(error) = scan.slot(media, g, uuid, slot) {
            wrong(slot, error)?;
        }
    }
    scan.whole.sort_unstable_by_key(|found| found.seq);
    Ok(scan)
}

impl Scan {
    fn slot<P: Pmem>(
        &mut self,
        media: &Media<P>,
        g: &Geometry,
        uuid: &[u8; 16],
        slot: u64,
    ) -> Result<(), RecoverError> {
        let offset = g.slot_off(slot);
        let read = media.words::<RECORD_WORDS>(offset);
        let image = read.map_err(|source| RecoverError::Media {
            slot,
            offset,
            source,
        })?;
        let fault = |fault| RecoverError::Record {
            slot,
            offset,
            fault,
        };
        match decode(&image, slot, g, uuid).map_err(fault)? {
            Slot::Empty => {}
            Slot::Torn => {
                self.torn.try_reserve(1).map_err(|_| OutOfMemory)?;
                self.torn.push(slot);
            }
            Slot::Whole(found) => self.whole.push(found),
        }
        self.highest = self.highest.max(highest_tag(&image));
        Ok(())
    }

    /// How many slots hold a record that is not whole.
    pub fn torn(&self) -> u32 {
        self.torn.len() as u32
    }

    /// Their numbers.
    pub fn torn_slots(&self) -> impl Iterator<Item = u64> {
        self.torn.iter().copied()
    }

    /// The records to replay, in order: all after the floor of the newest, and none of them missing.
    pub fn pending(&self, g: &Geometry) -> Result<&[Found], RecoverError> {
        let offset = g.ring_off();
        let newest = self.whole.last().ok_or(RecoverError::Empty { offset })?;
        let from = self
            .whole
            .partition_point(|found| found.seq <= newest.floor);
        let pending = &self.whole[from..];
        for (seq, found) in (newest.floor + 1..).zip(pending) {
            if found.seq != seq {
                let offset = g.slot_off(seq);
                return Err(RecoverError::Gap { seq, offset });
            }
        }
        Ok(pending)
    }

    /// The next sequence number (rule R8), in the torn slot if the newest one is torn.
    fn next(&self, g: &Geometry) -> u64 {
        let newest = self.whole.last().map_or(0, |found| found.seq);
        let step = if self.highest > newest {
            u64::from(g.ring_slots())
        } else {
            1
        };
        self.highest + step
    }
}

/// Replays what the ring holds, and begins a new span of sequence numbers. A read-only region must have nothing to replay.
pub fn recover<P: Pmem>(
    media: &Media<P>,
    g: &Geometry,
    uuid: &[u8; 16],
) -> Result<Recovered, RecoverError> {
    let scan = scan(media, g, uuid)?;
    let pending = scan.pending(g)?;
    let stores = pending
        .iter()
        .filter(|found| found.record.runs().next().is_some());
    let records = stores.count();
    let mut ring = Ring::resume(*g, *uuid, scan.next(g));
    if media.pmem().writable() {
        replay(media, pending);
        let _ = ring.begin(RecordKind::Floor).commit(media);
    } else if records > 0 {
        return Err(RecoverError::ReadOnly { records });
    }
    Ok(Recovered {
        ring,
        replayed: records as u32,
        torn: scan.torn(),
    })
}

/// As [`recover`], for a ring that cannot be recovered from, or holds damaged records: replays what is whole after the floor, passing
/// over what is missing, and empties the slots that hold nothing whole. For repairs, on a region that can be written.
///
/// A slot is emptied after the ring's new record is durable, which makes all before it void. What was torn in the slot is gone then, so that
/// its tags cannot meet a later record (rule R8).
pub(crate) fn salvage<P: Pmem>(
    media: &Media<P>,
    g: &Geometry,
    uuid: &[u8; 16],
) -> Result<Recovered, RecoverError> {
    let mut bad = Vec::new();
    let scan = scan_with(media, g, uuid, |slot, error| {
        if let RecoverError::OutOfMemory(_) = error {
            return Err(error);
        }
        bad.try_reserve(1).map_err(|_| OutOfMemory)?;
        bad.push(slot);
        Ok(())
    })?;
    let newest = scan.whole.last();
    let floor = newest.map_or(0, |found| found.floor);
    let from = scan.whole.partition_point(|found| found.seq <= floor);
    let (pending, torn) = (&scan.whole[from..], scan.torn());
    replay(media, pending);
    let replayed = pending.len() as u32;
    // The numbers in slots that cannot be trusted are unknown: one turn of the ring is left out (rule R8).
    let unknown = if bad.is_empty() { 0 } else { g.ring_slots() };
    let next = scan.next(g) + u64::from(unknown);
    let mut ring = Ring::resume(*g, *uuid, next);
    let _ = ring.begin(RecordKind::Floor).commit(media);
    let kept = |slot: &u64| g.slot_off(*slot) == g.slot_off(next);
    for slot in bad.into_iter().chain(scan.torn).filter(|slot| !kept(slot)) {
        media.empty(g.slot_off(slot), 8 * RECORD_WORDS as u64);
    }
    media.fence();
    Ok(Recovered {
        ring,
        replayed,
        torn,
    })
}

/// Stores, flushes and fences. The records are in order.
fn replay<P: Pmem>(media: &Media<P>, pending: &[Found]) {
    let runs = || pending.iter().flat_map(|found| Record::runs(&found.record));
    for (off, words) in runs() {
        media.store_words(off, words);
    }
    for (off, words) in runs() {
        media.flush_words(off, words.len());
    }
    media.fence();
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::MkfsOptions;
    use crate::superblock::choose;
    use dax::pmem::RamPmem;

    const UUID: [u8; 16] = *b"recovery is sure";

    fn region() -> (RamPmem, Geometry) {
        let ram = RamPmem::new(256 << 10).expect("memory");
        let o = MkfsOptions {
            ring_slots: 16,
            inodes: Some(16),
            ..MkfsOptions::new(UUID)
        };
        crate::mkfs(&ram, &o).expect("mkfs");
        let g = choose(&Media::new(&ram)).expect("made").geometry;
        (ram, g)
    }

    /// Rule R8: a line of a torn record never meets a line of another record with its number, and however often a mount is cut off
    /// in its own record, the whole ones stay.
    #[test]
    fn numbers_seen_in_torn_lines_are_never_used_again() {
        let (ram, g) = region();
        let media = Media::new(&ram);
        let newest = scan(&media, &g, &UUID).expect("sound").highest;
        let whole = scan(&media, &g, &UUID).expect("sound").whole.len();
        let mut seen = newest;
        for round in 0..40 {
            let next = scan(&media, &g, &UUID).expect("sound").next(&g);
            assert!(next > seen, "round {round}: {next} was used before");
            // One line of the record of that mount arrives.
            ram.store64(g.slot_off(next) + 8 * 15, next);
            seen = next;
        }
        assert_eq!(scan(&media, &g, &UUID).expect("sound").whole.len(), whole);
        let mut recovered = recover(&media, &g, &UUID).expect("mounts");
        assert_eq!(recovered.torn, 1);
        assert!(recovered.ring.begin(RecordKind::Floor).seq() > seen + 16);
    }
}
