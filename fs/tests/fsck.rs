//! The check against damage: every word of every structure that a checksum covers, changed in a dozen ways.

use std::collections::HashSet;
use std::sync::Arc;

use crate::common::model::{Snapshot, snapshot};
use crate::common::sample::Image;
use crate::common::undo::Undo;
use dax::pmem::Pmem;
use fs::{Fs, FsckReport, fsck};

/// What a mounted file system shows.
#[derive(PartialEq, Debug)]
struct Shown {
    tree: Snapshot,
    free: u64,
    inodes: u64,
}

fn shown<P: Pmem>(fs: &Fs<P>) -> Result<Shown, String> {
    let tree = snapshot(fs)?;
    let stat = fs.statfs();
    Ok(Shown {
        tree,
        free: stat.space.free,
        inodes: stat.inodes_used,
    })
}

/// What a word may become.
fn damaged(word: u64) -> Vec<u64> {
    let bits = [0, 7, 17, 31, 32, 48, 63];
    let mut all: Vec<u64> = bits.iter().map(|bit| word ^ 1 << bit).collect();
    all.extend([0, u64::MAX, word.wrapping_add(1), word.wrapping_sub(1)]);
    all.retain(|other| *other != word);
    all.sort_unstable();
    all.dedup();
    all
}

#[derive(Default, Debug)]
struct Count {
    found: u64,
    refused: u64,
    harmless: u64,
}

/// Whether the bytes of a name that its length does not cover are all that changed: no checksum covers them.
fn is_padding(what: &str, sound: u64, now: u64, image: &Image, at: usize) -> bool {
    if what != "entry" && what != "tail" {
        return false;
    }
    let slot = at / 8 * 8;
    let head = (0..5)
        .map(|back| slot - 8 * back)
        .find(|s| image.words[*s] != 0);
    let Some(head) = head else { return false };
    let len = (image.words[head + 2] >> 8) as u8 as usize;
    let end = match (slot - head) / 8 {
        0 => 20 + len.min(44),
        n => 8 + (len - 44 - 56 * (n - 1)).min(56),
    };
    let covered = end.saturating_sub((at - slot) * 8).min(8);
    let mask = if covered == 8 {
        u64::MAX
    } else {
        (1 << (8 * covered)) - 1
    };
    (sound ^ now) & mask == 0
}

/// The words that a mount stores, replaying the ring.
fn replayed(image: &Image) -> HashSet<usize> {
    let region = Arc::new(Undo::new(&image.words));
    drop(Fs::mount(region.clone(), image.backing.clone()).expect("sound"));
    region.touched().into_iter().collect()
}

fn every_word(image: &Image) -> Count {
    let arena = Arc::new(Undo::new(&image.words));
    let sound = fsck(&arena);
    assert!(sound.is_clean(), "{sound}");
    let mount = || Fs::mount(arena.clone(), image.backing.clone());
    let right = shown(&mount().expect("sound")).expect("sound");
    let torn = sound.torn;
    arena.undo();
    let replayed = replayed(image);
    let mut count = Count::default();
    for (at, what) in &image.places {
        let few = if *what == "node" { 3 } else { usize::MAX };
        for value in damaged(image.words[*at]).into_iter().take(few) {
            arena.put(*at, value);
            let report = fsck(&arena);
            // A torn record is told: an operation that a crash cut off, or damage.
            let told = !report.is_clean() || report.torn > torn;
            let why = || {
                format!(
                    "{what}, offset {:#x}: {:#x} made {value:#x}\n{report}",
                    at * 8,
                    image.words[*at]
                )
            };
            match mount() {
                Err(error) => {
                    assert!(
                        !report.is_clean(),
                        "mount refuses ({error}), fsck does not: {}",
                        why()
                    );
                    count.refused += 1;
                }
                Ok(fs) => {
                    let seen = shown(&fs);
                    let quiet = fs.mount_report().superblock.is_none()
                        && u64::from(fs.mount_report().torn) == torn;
                    let same = seen.as_ref() == Ok(&right);
                    // A first word of 0 is what a removed entry has: only the check, which counts links, can know.
                    let entry_gone = *what == "entry" && value == 0 && at % 8 == 0;
                    assert!(
                        seen.is_err() || same || !quiet || entry_gone,
                        "mounted, and silently different: {}\n{seen:#?}\n{right:#?}",
                        why()
                    );
                    count.found += u64::from(told);
                    if !told {
                        // Bytes that no name covers; or the replay puts the word right.
                        count.harmless += 1;
                        let padding = is_padding(what, image.words[*at], value, image, *at);
                        let same = padding || same && replayed.contains(at);
                        assert!(same, "not found: {}", why());
                    }
                }
            }
            arena.undo();
        }
    }
    count
}

#[test]
fn every_changed_word_is_found_when_cleanly_unmounted() {
    let count = every_word(&Image::new(true));
    println!("{count:?}");
    assert!(count.found > 1000 && count.refused > 1000, "{count:?}");
}

#[test]
fn every_changed_word_is_found_after_a_crash() {
    let count = every_word(&Image::new(false));
    println!("{count:?}");
    assert!(count.found > 1000 && count.refused > 1000, "{count:?}");
}

fn problems(report: &FsckReport) -> Vec<String> {
    report.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_sound_image_is_counted() {
    let image = Image::new(false);
    let report = fsck(&Undo::new(&image.words));
    assert!(report.is_clean(), "{report}");
    assert_eq!(
        (report.files, report.dirs),
        (5, 3),
        "{:?}",
        problems(&report)
    );
    assert_eq!(report.orphans, 2);
    assert_eq!(report.statistics.free + report.blocks_used, report.blocks);
    assert!(report.pending > 0 && report.torn == 0 && report.stale > 0);
    // 14 pieces, one extent of `/f`, of the long link, and of each directory.
    assert_eq!(report.statistics.extents, 19);
    assert_eq!(report.statistics.fragmented, 1);
}
