//! The redo record: one operation's changes to metadata, in four lines.
//!
//! ```text
//! word 0        checksum u32 | payload words u8 | kind u8 | sequence number − floor u16
//! words 7, 15, 23, 31   the sequence number, last word of each line
//! the other 27 words    payload: runs of  (byte offset / 8) << 6 | count, then that many words
//! ```
//!
//! Stores to one line persist in program order, and the tag is the last word of each line: four equal tags mean that all four
//! lines arrived (rule R2). The checksum, which is bound to the file system and the slot, finds what the tags cannot, were
//! words to persist in any order.
//!
//! *Floor*: every record carries the sequence number up to which all in-place stores were durable before it was written.
//! So the newest whole record says where replay starts, and no separate word has to be kept, flushed and checked.

use arrayvec::ArrayVec;
use thiserror::Error;

use crate::layout::{Geometry, Seed};

/// Words of a record.
pub const RECORD_WORDS: usize = 32;
/// Words of payload.
pub const PAYLOAD_WORDS: usize = 27;
/// The largest sequence number: at a million operations a second it lasts 2,000 years.
pub const SEQ_MAX: u64 = 1 << 56;
const TAGS: [usize; 4] = [7, 15, 23, 31];

/// What a record is for; carried for people who read the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// The first record after a mount, or one that only carries a floor.
    Floor = 1,
    /// An inode and its name come to be.
    Create = 2,
    /// A second name.
    Link = 3,
    /// A name goes, and with the last one the inode.
    Unlink = 4,
    /// Names move.
    Rename = 5,
    /// Extents or size change.
    Extents = 6,
    /// Attributes change.
    Attributes = 7,
    /// A directory grows.
    Directory = 8,
    /// Words of slots that are still free: the tails of a long name, the text of a symbolic link.
    Prepare = 9,
    /// More of the inode table is initialised.
    Table = 10,
}

impl RecordKind {
    const ALL: [Self; 10] = [
        Self::Floor,
        Self::Create,
        Self::Link,
        Self::Unlink,
        Self::Rename,
        Self::Extents,
        Self::Attributes,
        Self::Directory,
        Self::Prepare,
        Self::Table,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// The record has no room for more words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the operation changes more words than a record holds")]
pub struct RecordFull;

/// A store in place that a record asks for: byte offset and words.
pub(crate) type StoreRun<'a> = (u64, &'a [u64]);

/// The payload of a record: runs of words with their byte offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it is for.
    pub kind: RecordKind,
    words: ArrayVec<u64, PAYLOAD_WORDS>,
    last: usize,
}

impl Record {
    /// A record that changes nothing yet.
    #[must_use]
    pub const fn new(kind: RecordKind) -> Self {
        Self {
            kind,
            words: ArrayVec::new_const(),
            last: 0,
        }
    }

    /// Makes it one of `kind` that changes nothing yet.
    pub fn reset(&mut self, kind: RecordKind) {
        self.kind = kind;
        self.words.clear();
        self.last = 0;
    }

    /// Words still free, descriptors included.
    #[must_use]
    pub fn room(&self) -> usize {
        self.words.remaining_capacity()
    }

    /// Adds a store of `words` at byte offset `off` (a multiple of 8). A run that continues the last one joins it.
    pub fn push(&mut self, off: u64, words: &[u64]) -> Result<(), RecordFull> {
        if words.is_empty() {
            return Ok(());
        }
        if self.continues(off, words.len()) {
            self.words
                .try_extend_from_slice(words)
                .map_err(|_| RecordFull)?;
            self.words[self.last] += words.len() as u64;
            return Ok(());
        }
        if words.len() >= self.room() {
            return Err(RecordFull);
        }
        self.last = self.words.len();
        self.words.push(((off / 8) << 6) | words.len() as u64);
        self.words
            .try_extend_from_slice(words)
            .map_err(|_| RecordFull)
    }

    fn continues(&self, off: u64, more: usize) -> bool {
        self.words.get(self.last).is_some_and(|head| {
            let count = head & 63;
            (head >> 6) * 8 + count * 8 == off && count as usize + more < PAYLOAD_WORDS
        })
    }

    /// The stores: byte offset and words of each run.
    pub fn runs(&self) -> impl Iterator<Item = (u64, &[u64])> {
        let mut rest = self.words.as_slice();
        core::iter::from_fn(move || {
            let (head, tail) = rest.split_first()?;
            let (run, after) = tail.split_at_checked((head & 63) as usize)?;
            rest = after;
            Some(((head >> 6) * 8, run))
        })
    }

    /// Its runs, but for those that `newer` stores to the same words, in the same place among its own: as records of the same kind do.
    pub(crate) fn runs_not_in<'a>(&'a self, newer: &'a Self) -> impl Iterator<Item = StoreRun<'a>> {
        let mut new = newer.runs();
        self.runs().filter(move |(off, words)| {
            let anew = |(at, with): StoreRun<'_>| at == *off && with.len() == words.len();
            !new.next().is_some_and(anew)
        })
    }

    /// The 32 words as they go to the slot of `seq`. `floor` must lie within 65,535 below `seq`.
    pub(crate) fn encode_into(
        &self,
        image: &mut [u64; RECORD_WORDS],
        (seq, floor): (u64, u64),
        seed: &Seed,
    ) {
        *image = [0; RECORD_WORDS];
        let mut rest = self.words.as_slice();
        for (index, line) in image.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let place = &mut line[usize::from(index == 0)..7];
            let (part, after) = rest.split_at(place.len().min(rest.len()));
            place[..part.len()].copy_from_slice(part);
            (line[7], rest) = (seq, after);
        }
        let count = self.words.len() as u64;
        image[0] = count << 32 | (self.kind as u64) << 40 | (seq - floor) << 48;
        image[0] |= u64::from(checksum(image, seed));
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
impl Record {
    /// As [`Record::encode_into`], into words of its own.
    fn encode(&self, seq: u64, floor: u64, seed: &Seed) -> [u64; RECORD_WORDS] {
        let mut image = [0; RECORD_WORDS];
        self.encode_into(&mut image, (seq, floor), seed);
        image
    }
}

/// The checksum of a record: it covers all words, its own half word as zero; bound to its place through the sequence number.
fn checksum(image: &[u64; RECORD_WORDS], seed: &Seed) -> u32 {
    seed.at(image[7])
        .words(&[image[0] >> 32])
        .words(&image[1..])
        .finish()
}

/// A whole record, as found in its slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its sequence number.
    pub seq: u64,
    /// All records up to this one were durable in place before it was written.
    pub floor: u64,
    /// The stores.
    pub record: Record,
}

/// What a slot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every slot of a ring in use is whole; a box would only allocate"
)]
pub enum Slot {
    /// Never used.
    Empty,
    /// Begun and not finished, or damaged: it counts for nothing but its highest tag (rule R8).
    Torn,
    /// A whole record.
    Whole(Found),
}

/// A record whose checksum is right and whose content is impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordFault {
    /// A kind from the future.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// Runs do not add up.
    #[error("payload of {0} words does not divide into runs")]
    Runs(u64),
    /// A store to a place that no record may change.
    #[error("it would store {words} words at offset {off:#x}")]
    Target {
        /// Byte offset.
        off: u64,
        /// Words.
        words: usize,
    },
    /// A floor that is not below the record.
    #[error("floor lies {0} below it")]
    Floor(u64),
    /// A sequence number that no clock of ours reaches.
    #[error("sequence number {0:#x} is beyond the largest")]
    Seq(u64),
}

/// The highest tag of any line, torn ones included (rule R8).
#[must_use]
pub fn highest_tag(image: &[u64; RECORD_WORDS]) -> u64 {
    TAGS.iter().map(|tag| image[*tag]).max().unwrap_or(0)
}

/// Reads slot number `slot`.
pub fn decode(
    image: &[u64; RECORD_WORDS],
    slot: u64,
    g: &Geometry,
    uuid: &[u8; 16],
) -> Result<Slot, RecordFault> {
    let seq = image[TAGS[0]];
    if highest_tag(image) > SEQ_MAX {
        return Err(RecordFault::Seq(highest_tag(image)));
    }
    if image.iter().all(|word| *word == 0) {
        return Ok(Slot::Empty);
    }
    let whole = TAGS.iter().all(|tag| image[*tag] == seq);
    let placed = seq % u64::from(g.ring_slots()) == slot;
    if !whole || !placed || image[0] as u32 != checksum(image, &Seed::new(uuid)) {
        return Ok(Slot::Torn);
    }
    let floor = floor_of(image, seq)?;
    let record = payload(image, g)?;
    Ok(Slot::Whole(Found { seq, floor, record }))
}

fn floor_of(image: &[u64; RECORD_WORDS], seq: u64) -> Result<u64, RecordFault> {
    let delta = image[0] >> 48;
    match seq.checked_sub(delta) {
        Some(floor) if delta > 0 => Ok(floor),
        _ => Err(RecordFault::Floor(delta)),
    }
}

fn payload(image: &[u64; RECORD_WORDS], g: &Geometry) -> Result<Record, RecordFault> {
    let kind = (image[0] >> 40) as u8;
    let kind = RecordKind::from_byte(kind).ok_or(RecordFault::Kind(kind))?;
    let count = image[0] >> 32 & 0xff;
    if count > PAYLOAD_WORDS as u64 {
        return Err(RecordFault::Runs(count));
    }
    let places = (0..RECORD_WORDS).filter(|i| *i != 0 && !TAGS.contains(i));
    let mut record = Record::new(kind);
    record.words = places.take(count as usize).map(|i| image[i]).collect();
    let mut covered = 0;
    for (off, words) in record.runs() {
        if words.is_empty() || !g.is_target(off, 8 * words.len() as u64) {
            let words = words.len();
            return Err(RecordFault::Target { off, words });
        }
        covered += 1 + words.len() as u64;
    }
    if covered == count {
        Ok(record)
    } else {
        Err(RecordFault::Runs(count))
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod exhaustive;

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UUID: [u8; 16] = *b"sixteen bytes id";

    fn seed() -> Seed {
        Seed::new(&UUID)
    }

    fn geometry() -> Geometry {
        Geometry::new(256, 16, 32).expect("small")
    }

    fn runs() -> impl Strategy<Value = Vec<(u64, Vec<u64>)>> {
        let word = 0u64..500;
        let run = (word, prop::collection::vec(any::<u64>(), 1..6));
        prop::collection::vec(run, 0..8)
    }

    #[test]
    fn only_what_a_newer_record_stores_anew_is_left_out() {
        let record = |runs: &[(u64, usize)]| {
            let mut record = Record::new(RecordKind::Rename);
            for (off, words) in runs {
                record.push(*off, &[1; 8][..*words]).expect("room");
            }
            record
        };
        let old = record(&[(0, 2), (64, 3), (128, 1)]);
        let left = |new: &[(u64, usize)]| -> Vec<u64> {
            let new = record(new);
            old.runs_not_in(&new).map(|(off, _)| off).collect()
        };
        assert_eq!(left(&[(0, 2), (64, 3), (128, 1)]), []);
        assert_eq!(left(&[(0, 2)]), [64, 128]);
        // Fewer words, others, another place in the record, nothing.
        assert_eq!(left(&[(0, 1), (64, 2), (128, 1)]), [0, 64]);
        assert_eq!(left(&[(8, 2), (64, 3), (256, 1)]), [0, 128]);
        assert_eq!(left(&[(64, 3), (128, 1)]), [0, 64, 128]);
        assert_eq!(left(&[]), [0, 64, 128]);
    }

    proptest! {
        #[test]
        fn what_was_pushed_is_found(runs in runs(), seq in 2u64..SEQ_MAX, delta in 1u64..3) {
            let g = geometry();
            let mut record = Record::new(RecordKind::Rename);
            let mut model = std::collections::BTreeMap::new();
            for (word, words) in &runs {
                let off = g.inode_off(0) + word * 8;
                if record.push(off, words).is_ok() {
                    model.extend(words.iter().enumerate().map(|(i, w)| (off + 8 * i as u64, *w)));
                }
            }
            let floor = seq.saturating_sub(delta);
            let image = record.encode(seq, floor, &seed());
            let Ok(Slot::Whole(found)) = decode(&image, seq % 16, &g, &UUID) else {
                panic!("not found whole");
            };
            prop_assert_eq!((found.seq, found.floor), (seq, floor));
            let mut back = std::collections::BTreeMap::new();
            for (off, words) in found.record.runs() {
                back.extend(words.iter().enumerate().map(|(i, w)| (off + 8 * i as u64, *w)));
            }
            prop_assert_eq!(back, model);
        }

        /// Any subset of an old record's and a new record's lines is the old one, the new one or torn; never a mixture.
        #[test]
        fn a_mixture_of_lines_is_torn(lines in 0u8..16, a in any::<u64>(), b in any::<u64>(), seq in 20u64..SEQ_MAX) {
            let g = geometry();
            let make = |seq: u64, word: u64| {
                let mut record = Record::new(RecordKind::Extents);
                record.push(g.inode_off(1), &[word; 20]).expect("room");
                record.encode(seq, seq - 1, &seed())
            };
            let (old, new) = (make(seq - 16, a), make(seq, b));
            let mut image = old;
            for line in (0..4).filter(|line| lines >> line & 1 == 1) {
                image[line * 8..][..8].copy_from_slice(&new[line * 8..][..8]);
            }
            let slot = decode(&image, seq % 16, &g, &UUID);
            match lines {
                0 => prop_assert!(matches!(slot, Ok(Slot::Whole(f)) if f.seq == seq - 16)),
                15 => prop_assert!(matches!(slot, Ok(Slot::Whole(f)) if f.seq == seq)),
                _ => prop_assert_eq!(slot, Ok(Slot::Torn)),
            }
        }

        /// One changed word anywhere makes a record torn, or is refused.
        #[test]
        fn one_changed_word_is_noticed(at in 0usize..32, flip in 1u64.., seq in 2u64..SEQ_MAX) {
            let g = geometry();
            let mut record = Record::new(RecordKind::Create);
            record.push(g.inode_off(1), &[1, 2, 3]).expect("room");
            let mut image = record.encode(seq, seq - 1, &seed());
            image[at] ^= flip;
            let slot = decode(&image, seq % 16, &g, &UUID);
            prop_assert!(!matches!(slot, Ok(Slot::Whole(_) | Slot::Empty)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(words in prop::array::uniform32(any::<u64>()), slot in 0u64..16) {
            let _ = decode(&words, slot, &geometry(), &UUID);
        }
    }

    #[test]
    fn a_full_record_refuses_and_stays_as_it_was() {
        let g = geometry();
        let mut record = Record::new(RecordKind::Create);
        record.push(g.inode_off(1), &[7; 24]).expect("25 words");
        let before = record.clone();
        assert_eq!(record.push(g.inode_off(9), &[1, 2]), Err(RecordFull));
        assert_eq!(record, before);
        record
            .push(g.inode_off(9), &[1])
            .expect("the last two words");
        assert_eq!(record.room(), 0);
    }

    #[test]
    fn a_whole_record_for_a_forbidden_place_is_refused() {
        let g = geometry();
        for off in [0, g.ring_off(), 256 * 4096] {
            let mut record = Record::new(RecordKind::Create);
            record.push(off, &[1]).expect("room");
            let image = record.encode(5, 4, &seed());
            let fault = decode(&image, 5, &g, &UUID);
            assert_eq!(fault, Err(RecordFault::Target { off, words: 1 }));
        }
    }
}
