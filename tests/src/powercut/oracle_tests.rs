//! The oracle accepts what a load leaves, and nothing else.

use super::*;
use std::path::Path;

use boot::host_fs::mounted::mount;
use boot::pmem_file::{Changes, PmemFile};
use kernel::selftest::powercut::load::{Load, Who};

const SEED: u64 = 7;

/// What is there after each thread has done so many operations, by the shipped load on the shipped file system.
fn left_after(counts: [u32; 4]) -> Tree {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("image");
    let file = std::fs::File::create(&image).expect("an image");
    file.set_len(32 << 20).expect("a length");
    let file = PmemFile::open(&image, Changes::Dropped).expect("memory");
    fs::mkfs(&file.pmem, &fs::MkfsOptions::new([1; 16])).expect("mkfs");
    let fs = mount(&file, Path::new("image")).expect("mount");
    fs.mkdir(&session_dir(0), 0o755).expect("a directory");
    for (thread, count) in (0..).zip(counts) {
        let who = Who {
            seed: SEED,
            session: 0,
            thread,
        };
        let mut load = Load::begin(fs.clone(), who).expect("directories");
        for (number, op) in (1..=count).zip(Plan::new(SEED, thread)) {
            load.step(number, op).expect("each operation succeeds");
        }
    }
    read(&fs, 0).expect("a tree")
}

fn verdict(found: &Tree, done: [u32; 4]) -> Result<u64> {
    let expected = Expected {
        seed: SEED,
        session: 0,
        done: done.map(Some),
    };
    expected.check(found)
}

const COUNTS: [u32; 4] = [0, 1, 300, 77];

#[test]
fn what_was_said_to_be_done_and_is_there_is_accepted() {
    let found = left_after(COUNTS);
    assert_eq!(
        verdict(&found, COUNTS).expect("all there"),
        u64::from(COUNTS.iter().sum::<u32>()) + 4
    );
    // One more was done than was said.
    assert!(verdict(&found, [0, 0, 299, 76]).is_ok());
}

#[test]
fn an_operation_that_was_said_to_be_done_and_is_missing_is_found() {
    let found = left_after(COUNTS);
    for (thread, ahead) in [(1, 8), (2, 8), (3, 8)] {
        let mut done = COUNTS;
        done[thread] += ahead;
        assert!(verdict(&found, done).is_err(), "thread {thread}");
    }
}

#[test]
fn a_changed_byte_a_lost_file_and_a_lost_directory_are_found() {
    let whole = left_after(COUNTS);
    let slots: Vec<Slot> = whole.0[2].files.keys().copied().collect();
    for slot in slots {
        let mut found = whole.clone();
        found.0[2].files.remove(&slot);
        assert!(verdict(&found, COUNTS).is_err(), "file {slot} is lost");
        assert!(found.same_as(&whole).is_err());
        let mut found = whole.clone();
        let file = found.0[2].files.entry(slot).or_default();
        if let Some(byte) = file.last_mut() {
            *byte ^= 1;
            assert!(verdict(&found, COUNTS).is_err(), "a byte of file {slot}");
        }
    }
    let mut found = whole.clone();
    found.0[0].dirs = 1;
    assert!(verdict(&found, COUNTS).is_err());
}

#[test]
fn of_the_operation_under_way_only_the_legal_parts_are_accepted() {
    let files = |bytes: &[u8]| Files::from([(0, bytes.to_vec())]);
    let append = Op::Append {
        slot: 0,
        at: 8,
        len: 8,
    };
    let (old, new) = (files(&[1; 8]), files(&[1; 16]));
    assert!(may_be(&old, &new, append, &files(&[1; 12])));
    assert!(!may_be(&old, &new, append, &files(&[1; 17])));
    assert!(!may_be(&old, &new, append, &files(&[1; 7])));
    assert!(!may_be(&old, &new, append, &Files::new()));
    let over = Op::Overwrite {
        slot: 0,
        at: 0,
        len: 16,
    };
    let (old, new) = (files(&[1; 16]), files(&[2; 16]));
    let half = |at| {
        let mut bytes = [1; 16];
        bytes[..at].fill(2);
        files(&bytes)
    };
    assert!(may_be(&old, &new, over, &half(8)));
    assert!(!may_be(&old, &new, over, &half(4)), "half a word");
    let cut = Op::Truncate(0, 4);
    assert!(!may_be(
        &files(&[1; 16]),
        &files(&[1; 4]),
        cut,
        &files(&[1; 8])
    ));
}
