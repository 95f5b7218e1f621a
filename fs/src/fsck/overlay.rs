//! The region as a mount would make it: the ring replayed, in memory only.

use alloc::vec::Vec;

use dax::pmem::{MediaError, Pmem};
use mm::mem::OutOfMemory;

use super::{FsckReport, Pass, Problem};
use crate::commit::{Media, RecoverError, Scan, scan};
use crate::layout::Geometry;

/// The region as it will be when the ring is replayed. Stores go nowhere.
pub(super) struct Overlay<'a, P> {
    region: &'a P,
    /// Byte offset and word, by offset.
    words: Vec<(u64, u64)>,
}

impl<'a, P: Pmem> Overlay<'a, P> {
    /// Reads the ring of `region`; what is wrong with it goes into the report, and then nothing is laid over.
    pub fn new(region: &'a P, g: &Geometry, uuid: &[u8; 16], report: &mut FsckReport) -> Self {
        let words = pending(region, g, uuid, report).unwrap_or_else(|error| {
            report.add(Pass::Ring, error);
            Vec::new()
        });
        Self { region, words }
    }
}

/// The words that a mount would store, replaying the ring.
fn pending<P: Pmem>(
    region: &P,
    g: &Geometry,
    uuid: &[u8; 16],
    report: &mut FsckReport,
) -> Result<Vec<(u64, u64)>, RecoverError> {
    let found = scan(&Media::new(region), g, uuid)?;
    report.torn = u64::from(found.torn());
    let pending = found.pending(g)?;
    let mut words = Vec::new();
    for record in pending {
        report.pending += u64::from(record.record.runs().next().is_some());
        for (off, run) in record.record.runs() {
            words.try_reserve(run.len()).map_err(|_| OutOfMemory)?;
            words.extend((off..).step_by(8).zip(run.iter().copied()));
        }
    }
    report.stale = (found.whole.len() - pending.len()) as u64;
    // The last store to a word counts: a stable sort keeps it last, and `dedup` keeps the first of the reversed.
    words.reverse();
    sort_stable(&mut words)?;
    words.dedup_by_key(|(off, _)| *off);
    damaged(&found, g, report);
    Ok(words)
}

/// Sorts by offset without the allocation of a stable sort: the place in the list decides between equals.
fn sort_stable(words: &mut [(u64, u64)]) -> Result<(), OutOfMemory> {
    let mut order = Vec::new();
    order
        .try_reserve_exact(words.len())
        .map_err(|_| OutOfMemory)?;
    order.extend(
        words
            .iter()
            .enumerate()
            .map(|(at, (off, word))| (*off, at, *word)),
    );
    order.sort_unstable();
    for (place, (off, _, word)) in words.iter_mut().zip(order) {
        *place = (off, word);
    }
    Ok(())
}

/// A crash leaves a torn record in one slot only, the one after the newest whole record: each other was damaged.
fn damaged(found: &Scan, g: &Geometry, report: &mut FsckReport) {
    let newest = found.whole.last().map_or(0, |record| record.seq);
    for slot in found.torn_slots() {
        let offset = g.slot_off(slot);
        if offset != g.slot_off(newest + 1) {
            report.add(Pass::Ring, Problem::Record { slot, offset });
        }
    }
}

impl<P: Pmem> Pmem for Overlay<'_, P> {
    fn len(&self) -> u64 {
        self.region.len()
    }
    fn writable(&self) -> bool {
        false
    }
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<(), MediaError> {
        self.region.read(off, buf)?;
        let end = off + buf.len() as u64;
        let from = self.words.partition_point(|(at, _)| at + 8 <= off);
        for (at, word) in self.words[from..].iter().take_while(|(at, _)| *at < end) {
            for (place, byte) in (*at..).zip(word.to_le_bytes()) {
                if (off..end).contains(&place) {
                    buf[(place - off) as usize] = byte;
                }
            }
        }
        Ok(())
    }
    fn check(&self, off: u64, len: u64) -> Result<(), MediaError> {
        self.region.check(off, len)
    }
    fn load64(&self, off: u64) -> Result<u64, MediaError> {
        match self.words.binary_search_by_key(&off, |(at, _)| *at) {
            Ok(found) => Ok(self.words[found].1),
            Err(_) => self.region.load64(off),
        }
    }
    // A check stores nothing.
    fn store64(&self, _off: u64, _v: u64) {}
    fn store(&self, _off: u64, _data: &[u8]) {}
    fn copy_nt(&self, _off: u64, _data: &[u8]) {}
    fn zero_nt(&self, _off: u64, _len: u64) {}
    fn flush(&self, _off: u64, _len: u64) {}
    fn fence(&self) {}
}
