//! The record codec, every count of words, every word; and replay, every short list.

use std::collections::BTreeMap;
use std::vec::Vec;

use super::*;

const UUID: [u8; 16] = *b"every single one";

fn seed() -> Seed {
    Seed::new(&UUID)
}
const SLOTS: u64 = 16;

fn geometry() -> Geometry {
    Geometry::new(256, SLOTS as u32, 32).expect("small")
}

/// A record with `count` words of payload, in runs of at most `run` words after each head.
fn record(count: usize, run: usize, salt: u64) -> Option<Record> {
    let g = geometry();
    let mut record = Record::new(RecordKind::Extents);
    let (mut left, mut at) = (count, g.inode_off(1));
    while left > 0 {
        let words = (left - 1).min(run);
        if words == 0 {
            return None;
        }
        let content: Vec<u64> = (0..words as u64).map(|i| salt ^ (i * 0x0101)).collect();
        record.push(at, &content).expect("counted");
        at += 8 * (words as u64 + 1);
        left -= words + 1;
    }
    Some(record)
}

/// Every record shape: counts 0 to 27 in runs of every length.
fn shapes(salt: u64) -> Vec<Record> {
    let all = (0..=PAYLOAD_WORDS).flat_map(|count| (1..PAYLOAD_WORDS).map(move |run| (count, run)));
    let mut shapes: Vec<Record> = all
        .filter_map(|(count, run)| record(count, run, salt))
        .collect();
    shapes.dedup();
    shapes
}

fn read(image: &[u64; RECORD_WORDS], seq: u64) -> Result<Slot, RecordFault> {
    decode(image, seq % SLOTS, &geometry(), &UUID)
}

#[test]
fn every_count_and_shape_comes_back() {
    let shapes = shapes(7);
    let counts: std::collections::BTreeSet<usize> = shapes.iter().map(|r| r.words.len()).collect();
    assert_eq!(
        counts.len(),
        PAYLOAD_WORDS,
        "all counts but 1, which is no run"
    );
    for record in shapes {
        for (seq, floor) in [(1, 0), (65_535, 0), (SEQ_MAX, SEQ_MAX - 65_535), (40, 39)] {
            let Ok(Slot::Whole(found)) = read(&record.encode(seq, floor, &seed()), seq) else {
                panic!("{record:?} is not found whole");
            };
            assert_eq!((found.seq, found.floor), (seq, floor));
            assert!(found.record.runs().eq(record.runs()));
        }
    }
}

/// What may be in the slot when some of the new words arrived: the old record, the new one, or a torn one. Never a mixture.
fn arrived(old: &[u64; RECORD_WORDS], new: &[u64; RECORD_WORDS], image: &[u64; RECORD_WORDS]) {
    match read(image, new[7]) {
        Ok(Slot::Whole(found)) => {
            let whole = if found.seq == new[7] { new } else { old };
            assert_eq!(image, whole, "a mixture is taken for a record");
        }
        Ok(Slot::Torn) => assert!(image != new),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_prefix_word_pair_and_set_of_lines_is_old_new_or_torn() {
    for (old, new) in shapes(1).iter().zip(shapes(2).iter().rev()) {
        let (old, new) = (old.encode(20, 19, &seed()), new.encode(36, 35, &seed()));
        for lines in 0..16 {
            let line = |i: usize| {
                if lines >> (i / 8) & 1 == 1 {
                    new[i]
                } else {
                    old[i]
                }
            };
            arrived(&old, &new, &std::array::from_fn(line));
        }
        for words in 0..=RECORD_WORDS {
            arrived(
                &old,
                &new,
                &std::array::from_fn(|i| if i < words { new[i] } else { old[i] }),
            );
        }
        for a in 0..RECORD_WORDS {
            for b in a..RECORD_WORDS {
                let missing = |i: usize| i == a || i == b;
                arrived(
                    &old,
                    &new,
                    &std::array::from_fn(|i| if missing(i) { old[i] } else { new[i] }),
                );
                arrived(
                    &old,
                    &new,
                    &std::array::from_fn(|i| if missing(i) { new[i] } else { old[i] }),
                );
            }
        }
    }
}

#[test]
fn every_flipped_bit_of_every_word_is_noticed() {
    for record in shapes(3) {
        let image = record.encode(36, 35, &seed());
        for word in 0..RECORD_WORDS {
            let bits = (0..64).map(|bit| image[word] ^ 1 << bit);
            let others = [
                0,
                u64::MAX,
                image[word].wrapping_add(1),
                image[word].wrapping_sub(1),
            ];
            for value in bits.chain(others).filter(|value| *value != image[word]) {
                let mut torn = image;
                torn[word] = value;
                let slot = read(&torn, 36);
                assert!(
                    !matches!(slot, Ok(Slot::Whole(_) | Slot::Empty)),
                    "word {word}: {value:#x}"
                );
            }
        }
    }
}

/// An image whose checksum and tags are right, whatever else it says.
fn sealed(kind: u8, delta: u16, count: u8, payload: &[u64], seq: u64) -> [u64; RECORD_WORDS] {
    let mut image = [0; RECORD_WORDS];
    let places = (0..RECORD_WORDS).filter(|i| *i != 0 && !TAGS.contains(i));
    places.zip(payload).for_each(|(at, word)| image[at] = *word);
    TAGS.into_iter().for_each(|tag| image[tag] = seq);
    image[0] = u64::from(count) << 32 | u64::from(kind) << 40 | u64::from(delta) << 48;
    image[0] |= u64::from(checksum(&image, &seed()));
    image
}

#[test]
fn every_kind_count_and_floor_is_taken_or_refused_as_the_format_says() {
    let head = (geometry().inode_off(1) / 8) << 6;
    for kind in 0..=u8::MAX {
        for count in 0..=u8::MAX {
            // The run fills the payload that the record claims.
            let run = head | u64::from(count.saturating_sub(1));
            let found = read(&sealed(kind, 1, count, &[run], 36), 36);
            let sound = (1..=10).contains(&kind) && (count == 0 || (2..=27).contains(&count));
            assert_eq!(matches!(found, Ok(Slot::Whole(_))), sound, "{found:?}");
            assert_eq!(found.is_err(), !sound, "{found:?}");
        }
    }
    for (seq, most) in [
        (36, 36),
        (65_536, 65_535),
        (SEQ_MAX, 65_535),
        (SEQ_MAX + 1, 0),
    ] {
        for delta in 0..=u16::MAX {
            let found = read(&sealed(1, delta, 0, &[], seq), seq);
            let sound = delta >= 1 && u64::from(delta) <= most;
            assert_eq!(matches!(found, Ok(Slot::Whole(_))), sound, "{seq}: {delta}");
        }
    }
}

/// A run of every length at every word of the region, and behind it: inside the inode table or the data, or the state word alone.
#[test]
fn every_target_is_taken_or_refused_as_the_format_says() {
    let g = geometry();
    let (state, first, end) = (g.state_off() / 8, g.inode_off(0) / 8, g.blocks() * 512);
    let far = [u64::MAX >> 6, u64::MAX >> 7, 1 << 57, end + 512];
    for place in (0..end + 30).chain(far) {
        for words in 1..PAYLOAD_WORDS as u64 {
            let count = words as u8 + 1;
            let found = read(&sealed(6, 1, count, &[place << 6 | words], 36), 36);
            let sound = place >= first && place < end && words <= end - place
                || place == state && words == 1;
            assert_eq!(
                matches!(found, Ok(Slot::Whole(_))),
                sound,
                "{place}, {words}"
            );
        }
    }
}

/// Three heads of every length: taken only if they fill the payload exactly.
#[test]
fn runs_that_do_not_add_up_are_refused() {
    let head = (geometry().inode_off(1) / 8) << 6;
    for number in 0..64u64.pow(3) {
        let lengths = [number % 64, number / 64 % 64, number / 4096];
        let mut payload = [head | 63; PAYLOAD_WORDS];
        let mut at = 0;
        for len in lengths {
            if let Some(place) = payload.get_mut(at) {
                *place = head | len;
                at += 1 + len as usize;
            }
        }
        let found = read(&sealed(6, 1, PAYLOAD_WORDS as u8, &payload, 36), 36);
        let sound = at == PAYLOAD_WORDS && !lengths.contains(&0)
            || lengths[0] == 26
            || lengths[0] > 0 && lengths[1] > 0 && lengths[0] + lengths[1] == 25;
        assert_eq!(matches!(found, Ok(Slot::Whole(_))), sound, "{lengths:?}");
    }
}

type Words = BTreeMap<u64, u64>;

fn apply(words: &Words, records: &[Record]) -> Words {
    let mut words = words.clone();
    for (off, run) in records.iter().flat_map(Record::runs) {
        words.extend((off..).step_by(8).zip(run.iter().copied()));
    }
    words
}

/// Whatever part of the in-place stores arrived, and from wherever after the floor the replay begins: the same words at the end.
#[test]
fn replay_of_any_suffix_over_any_later_state_ends_alike() {
    let g = geometry();
    let one = |at: u64, words: &[u64]| {
        let mut record = Record::new(RecordKind::Attributes);
        record.push(g.inode_off(1) + 8 * at, words).expect("room");
        let image = record.encode(9, 8, &seed());
        let Ok(Slot::Whole(found)) = read(&image, 9) else {
            panic!("whole")
        };
        found.record
    };
    let kinds = [
        one(0, &[1]),
        one(0, &[2]),
        one(1, &[1]),
        one(0, &[3, 3]),
        one(1, &[4, 4]),
        one(2, &[5]),
    ];
    let mut lists = 0;
    for number in 0..6usize.pow(4) {
        let list: Vec<Record> = (0..4)
            .map(|i| kinds[number / 6usize.pow(i) % 6].clone())
            .collect();
        let end = apply(&Words::new(), &list);
        for done in 0..=4 {
            let media = apply(&Words::new(), &list[..done]);
            for from in 0..=done {
                let once = apply(&media, &list[from..]);
                assert_eq!(once, end);
                assert_eq!(apply(&once, &list[from..]), end, "twice is once");
                // Cut off after any record, and begun again.
                for cut in from..=4 {
                    let half = apply(&media, &list[from..cut]);
                    assert_eq!(apply(&half, &list[from..]), end);
                }
            }
        }
        lists += 1;
    }
    assert_eq!(lists, 1296);
}
