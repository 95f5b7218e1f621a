//! Repairs: every kind of damage, what is lost and told, a second repair that finds nothing to do, and power cuts in between.

use std::collections::HashSet;
use std::sync::Arc;

use crate::common::model::snapshot;
use crate::common::sample::{Image, LEN, change_inode, word};
use crate::common::unarmed::Unarmed;
use crate::common::undo::Undo;
use crate::common::*;
use crate::explorer::flight::Flight;
use crate::explorer::region::{Region, What};
use dax::pmem::{Pmem, RamPmem};
use fs::layout::{Dentry, InodeImage, SuperBlock, name_hash};
use fs::{Fs, Ino, Kind, RepairError, RepairReport, fsck, repair};
use zerocopy::IntoBytes;

type Ram = Arc<RamPmem>;

/// A sound image in memory, and its file system's areas.
struct Bench {
    ram: Ram,
    backing: fs::Backing,
    geometry: fs::layout::Geometry,
}

impl Bench {
    fn new() -> Self {
        let image = Image::new(true);
        let ram = Arc::new(RamPmem::new(LEN).expect("memory"));
        for (at, word) in (0..).step_by(8).zip(&image.words) {
            ram.store64(at, *word);
        }
        let backing = image.backing;
        let fs = Fs::mount(ram.clone(), backing.clone()).expect("sound");
        let geometry = *fs.geometry();
        assert!(fs.unmount().is_ok());
        Self {
            ram,
            backing,
            geometry,
        }
    }

    fn mount(&self) -> Arc<Fs<Ram>> {
        Fs::mount(self.ram.clone(), self.backing.clone()).expect("mount")
    }

    fn ino(&self, path: &str) -> Ino {
        let fs = self.mount();
        let ino = fs.open(path).expect("open").ino();
        assert!(fs.unmount().is_ok());
        ino
    }

    /// Changes an inode, its checksum made right.
    fn inode(&self, ino: Ino, change: impl FnOnce(&mut InodeImage)) {
        change_inode(&self.ram, &self.geometry, ino, change);
    }

    /// Byte offset of the first free slot of a directory, and of the slot of `name` in it.
    fn slots(&self, dir: &str, name: &[u8]) -> (u64, u64) {
        let fs = self.mount();
        let inode = fs.open(dir).expect("open");
        let at = fs.extents(&inode).next().expect("a block").phys * 4096;
        assert!({
            drop(inode);
            fs.unmount().is_ok()
        });
        let head = |slot: u64| -> [u64; 8] {
            std::array::from_fn(|i| word(&self.ram, at + 64 * slot + 8 * i as u64))
        };
        let named = |slot: &u64| {
            Dentry::decode(&head(*slot))
                .is_some_and(|(d, _)| d.ino != 0 && d.hash == name_hash(name))
        };
        // The last slots of a block are free in this image.
        (at + 64 * 60, at + 64 * (0..60).find(named).unwrap_or(0))
    }

    /// Puts an entry where none is.
    fn entry(&self, dir: &str, name: &[u8], ino: Ino, kind: Kind) {
        let (free, _) = self.slots(dir, name);
        let dentry = Dentry {
            ino,
            hash: name_hash(name),
            kind,
            len: name.len() as u8,
        };
        let words = dentry.head_words(dentry.checksum(&UUID, self.ino(dir), name), name);
        for (at, word) in (free..).step_by(8).zip(words) {
            self.ram.store64(at, word);
        }
    }

    /// Repairs; clean after it, and nothing left to do.
    fn repair(&self, wrong: &str) -> RepairReport {
        let before = fsck(&self.ram).to_string();
        assert!(before.contains(wrong), "{wrong:?} is not in:\n{before}");
        let report = repair(&self.ram, &self.backing, &mut |_| ());
        assert!(
            report.after.is_clean(),
            "{before}\n---\n{:#?}\n{}",
            report.fixes,
            report.after
        );
        assert_eq!((report.exit_code(), &report.stopped), (1, &None));
        let again = repair(&self.ram, &self.backing, &mut |_| ());
        assert_eq!((again.repaired, again.exit_code()), (0, 0));
        report
    }

    fn told(&self, report: &RepairReport, what: &str) {
        let all: Vec<String> = report.fixes.iter().map(ToString::to_string).collect();
        assert!(
            all.iter().any(|fix| fix.contains(what)),
            "{what:?} is not in {all:#?}"
        );
    }
}

#[test]
fn a_superblock_is_copied_from_the_other() {
    for off in [0, 4096] {
        let bench = Bench::new();
        bench.ram.store64(off + 40, 99);
        bench.repair("superblock");
        bench.ram.poison(off..off + 4096).expect("room");
        bench.ram.heal(off + 256, 4096 - 256);
        bench.repair("media error");
    }
}

#[test]
fn links_and_parents_are_put_right() {
    let bench = Bench::new();
    let (f, e) = (bench.ino("/f"), bench.ino("/d/e"));
    bench.inode(f, |inode| inode.core.nlink = 7);
    bench.repair("7 links, should be 2");
    bench.inode(e, |inode| inode.core.parent = 1);
    bench.repair("names 1 as its parent");
    let right = bench.ino("/d");
    assert_eq!(bench.ino("/d/e/.."), right);
    bench.inode(1, |inode| inode.core.parent = e);
    bench.repair("inode 1");
}

#[test]
fn a_damaged_file_goes_with_its_names_and_they_are_told() {
    let bench = Bench::new();
    let ino = bench.ino("/d/pieces");
    bench.ram.store64(bench.geometry.inode_off(ino) + 32, 12);
    let report = bench.repair("checksum");
    bench.told(&report, "name \"pieces\"");
    let fs = bench.mount();
    assert_eq!(names(&fs, "/d"), ["e", "link", "second name"]);
}

#[test]
fn what_was_in_a_damaged_directory_is_found_again() {
    let bench = Bench::new();
    let (d, f, e) = (bench.ino("/d"), bench.ino("/f"), bench.ino("/d/e"));
    bench
        .ram
        .poison(bench.geometry.inode_off(d)..bench.geometry.inode_off(d) + 8)
        .expect("room");
    let report = bench.repair("media error");
    bench.told(&report, "name \"d\"");
    let fs = bench.mount();
    assert!(fs.open("/d").is_err());
    assert_eq!(
        fs.open(&format!("/lost+found/#{e}")).expect("found").ino(),
        e
    );
    assert_eq!(fs.stat("/f").expect("the other name stays").nlink, 1);
    assert_eq!(fs.stat("/f").expect("the other name stays").ino, f);
    assert_eq!(names(&fs, "/lost+found").len(), 3, "pieces, link and e");
}

#[test]
fn entries_that_name_nothing_or_twice_are_removed() {
    let bench = Bench::new();
    bench.entry("/d", b"nothing", 15, Kind::File);
    let report = bench.repair("names inode 15");
    bench.told(&report, "name \"nothing\"");
    let bench = Bench::new();
    let f = bench.ino("/f");
    bench.entry("/", b"f", f, Kind::File);
    bench.repair("the same name as in slot");
    let bench = Bench::new();
    let e = bench.ino("/d/e");
    bench.entry("/", b"again", e, Kind::Dir);
    bench.repair("has a name already");
    assert_eq!(
        bench.ino("/d/e"),
        e,
        "the name in the directory that it names as its parent stays"
    );
    let bench = Bench::new();
    bench.entry("/", b"a/b", bench.ino("/f"), Kind::File);
    bench.repair("not a name");
    let bench = Bench::new();
    let (_, at) = bench.slots("/", b"f");
    bench.ram.store64(at, 0);
    // As if the kind were another: the entry is made anew.
    bench.entry("/", b"f", bench.ino("/d/second name"), Kind::Fifo);
    bench.repair("another kind");
    assert_eq!(bench.ino("/f"), bench.ino("/d/second name"));
}

#[test]
fn blocks_with_two_owners_are_the_first_ones_or_a_leafs() {
    let bench = Bench::new();
    let (f, pieces) = (bench.ino("/f"), bench.ino("/d/pieces"));
    let off = bench.geometry.inode_off(pieces);
    let leaf = word(&bench.ram, off + 64 + 8);
    let own = word(&bench.ram, bench.geometry.inode_off(f) + 64 + 8);
    // `/f` says that the leaf of the other one is its content.
    bench.inode(f, |inode| inode.body[0][1] = leaf);
    bench.repair("belongs to inode");
    let fs = bench.mount();
    let file = fs.open("/f").expect("open");
    let mut buf = [1; 122];
    fs.read(&file, 0, &mut buf).expect("read");
    assert_eq!(buf, [0; 122], "a hole");
    let mut buf = [0; 10];
    fs.read(&fs.open("/d/pieces").expect("open"), 8192, &mut buf)
        .expect("read");
    assert_eq!(&buf, b"more exten");
    drop(file);
    drop(fs);
    // A new file claims the block of a directory: the directory, which is the lower number, keeps it.
    let bench = Bench::new();
    let root = word(&bench.ram, bench.geometry.inode_off(1) + 64 + 8);
    bench.inode(f, |inode| inode.body[0][1] = root);
    bench.repair("belongs to inode 1 and to inode");
    assert_ne!(own, root);
    // Twice in one file.
    let bench = Bench::new();
    bench.inode(f, |inode| {
        inode.core.entries = 2;
        inode.body[1] = [inode.body[0][0] + 9, inode.body[0][1]];
    });
    bench.repair("belongs to inode");
}

#[test]
fn a_directory_without_storage_gets_an_empty_block_or_ends() {
    let bench = Bench::new();
    let e = bench.ino("/d/e");
    bench.inode(e, |inode| inode.core.size += 4096);
    bench.repair("has no content");
    bench.inode(e, |inode| inode.core.size = 1 << 37);
    bench.repair("has no content");
    bench.inode(e, |inode| inode.core.size = 0);
    bench.repair("its size is 0");
    assert_eq!(names(&bench.mount(), "/d/e").len(), 1);
}

#[test]
fn the_root_the_state_and_the_ring_are_made_anew() {
    let bench = Bench::new();
    bench.ram.store64(bench.geometry.inode_off(1), 0);
    bench.repair("the root directory is missing");
    let fs = bench.mount();
    assert_eq!(names(&fs, "/"), ["lost+found"]);
    assert_eq!(
        names(&fs, "/lost+found").len(),
        2,
        "d, in which f has a name, and the long link"
    );
    drop(fs);
    let bench = Bench::new();
    bench.ram.store64(bench.geometry.state_off(), 0);
    bench.repair("state block");
    bench
        .ram
        .poison(bench.geometry.state_off()..bench.geometry.state_off() + 64)
        .expect("room");
    bench.repair("state block");
    assert_eq!(names(&bench.mount(), "/d").len(), 4);
    let ring = bench.geometry.ring_off();
    for slot in 0..16 {
        let bench = Bench::new();
        bench
            .ram
            .poison(ring + slot * 256..ring + slot * 256 + 64)
            .expect("room");
        bench.repair(&format!("record ring, slot {slot}"));
        assert_eq!(names(&bench.mount(), "/d").len(), 4, "slot {slot}");
    }
    let bench = Bench::new();
    bench.ram.zero_nt(ring, 16 * 256);
    bench.repair("no slot holds a whole record");
}

/// A crash tears the record that is being written, in the slot after the newest; in another slot it is damage, though no replay needs it.
#[test]
fn a_damaged_record_that_no_replay_needs_is_told() {
    let ring = Bench::new().geometry.ring_off();
    let mut tried = 0;
    for slot in 0..16 {
        let bench = Bench::new();
        let seq = |slot: u64| word(&bench.ram, ring + slot * 256 + 56);
        let newest = (0..16).map(seq).max().expect("slots");
        if (newest..=newest + 1).any(|seq| seq % 16 == slot) || seq(slot) == 0 {
            continue;
        }
        let at = ring + slot * 256 + 24;
        bench.ram.store64(at, word(&bench.ram, at) ^ 1);
        let report = bench.repair("damaged; nothing needs it");
        bench.told(&report, &format!("slot {slot} "));
        assert_eq!(names(&bench.mount(), "/d").len(), 4, "slot {slot}");
        tried += 1;
    }
    assert_eq!(tried, 14, "the ring has wrapped");
}

#[test]
fn a_ring_of_directories_is_cut() {
    let bench = Bench::new();
    let (d, e) = (bench.ino("/d"), bench.ino("/d/e"));
    bench.entry("/d/e", b"up", d, Kind::Dir);
    let (_, at) = bench.slots("/", b"d");
    bench.ram.store64(at, 0);
    bench.inode(d, |inode| inode.core.parent = e);
    bench.inode(e, |inode| inode.core.nlink = 3);
    bench.inode(1, |inode| inode.core.nlink = 2);
    bench.repair("no path leads to it");
    let fs = bench.mount();
    let lost = fs.open("/lost+found").expect("made");
    assert_eq!(names(&fs, "/lost+found").len(), 1);
    let mut cookie = 0;
    let entry = fs.readdir(&lost, cookie).expect("readdir").expect("one");
    cookie += entry.cookie;
    assert!(cookie > 0 && (entry.ino == d || entry.ino == e));
}

#[test]
fn a_region_that_may_only_be_read_is_left_alone() {
    for damage in [40, Bench::new().geometry.inode_off(1) + 8] {
        let bench = Bench::new();
        bench.ram.store64(damage, 99);
        let report = repair(&Unarmed(bench.ram), &bench.backing, &mut |_| ());
        assert_eq!(report.stopped, Some(RepairError::ReadOnly));
        assert_eq!((report.repaired, report.exit_code()), (0, 8));
    }
}

/// A superblock that is whole, and says something else than the other one.
#[test]
fn an_older_superblock_is_overwritten() {
    for (off, name) in [(0, "superblock A"), (4096, "superblock B")] {
        let bench = Bench::new();
        let older = SuperBlock::new(&bench.geometry, UUID, [0; 32], 0);
        bench.ram.store(off, older.as_bytes());
        let report = bench.repair(name);
        bench.told(&report, "copied from the other");
    }
}

/// No end of a file, whatever is stored to it later, lets them show.
#[test]
fn old_bytes_behind_an_end_are_zeroed() {
    let bench = Bench::new();
    let pieces = bench.ino("/d/pieces");
    bench.inode(pieces, |inode| inode.core.size = 4096);
    let report = bench.repair(&format!("inode {pieces}"));
    assert_eq!(report.repaired, 13, "one for each block");
    let fs = bench.mount();
    truncate(&fs, "/d/pieces", 14 * 8192);
    let bytes = content(&fs, "/d/pieces");
    assert!(bytes.starts_with(b"more extents"));
    assert!(bytes[4096..].iter().all(|byte| *byte == 0));
}

#[test]
fn without_a_superblock_nothing_is_done() {
    let bench = Bench::new();
    bench.ram.poison(0..8192).expect("room");
    let report = repair(&bench.ram, &bench.backing, &mut |_| ());
    assert_eq!((report.repaired, report.after.problems.len()), (0, 2));
    assert_eq!(report.exit_code(), 4);
}

/// Every changed word of every structure: one repair makes it sound, and a second one finds nothing.
#[test]
fn one_repair_is_enough_for_any_changed_word() {
    let image = Image::new(true);
    let region = Arc::new(Undo::new(&image.words));
    let mut repaired = 0;
    for (at, what) in &image.places {
        let sound = image.words[*at];
        for value in [sound ^ 1 << (at % 64), u64::MAX] {
            if value == sound {
                continue;
            }
            region.put(*at, value);
            let report = repair(&region, &image.backing, &mut |_| ());
            let why = || format!("{what}, offset {:#x}: {sound:#x} made {value:#x}", at * 8);
            assert!(
                report.after.is_clean(),
                "{}\n{:#?}\n{}",
                why(),
                report.fixes,
                report.after
            );
            repaired += report.repaired;
            let fs = Fs::mount(region.clone(), image.backing.clone());
            let fs = fs.unwrap_or_else(|error| panic!("{}: {error}", why()));
            snapshot(&fs).unwrap_or_else(|error| panic!("{}: {error}", why()));
            drop(fs);
            let again = repair(&region, &image.backing, &mut |_| ());
            assert_eq!(again.repaired, 0, "{}\n{:#?}", why(), again.fixes);
            region.undo();
        }
    }
    assert!(repaired > 500, "{repaired}");
}

/// Of the lines in flight none, each alone, all but each, or all: the masks.
fn masks(n: usize) -> Vec<u64> {
    let all = (1u64 << n) - 1;
    let mut masks: Vec<u64> = (0..n).flat_map(|i| [1 << i, all ^ 1 << i]).collect();
    masks.extend([0, all]);
    masks
}

/// What a power cut before any fence of a repair leaves is repaired by the next one.
fn cut_off_everywhere(bench: &Bench) -> u64 {
    let words: Vec<u64> = (0..LEN).step_by(8).map(|at| word(&bench.ram, at)).collect();
    let ring = bench.geometry.ring_off() as usize / 8..bench.geometry.inode_off(0) as usize / 8;
    let (live, media) = (Region::new(&words, ring.clone()), Region::new(&words, ring));
    live.record();
    let whole = repair(&&live, &bench.backing, &mut |_| ());
    assert!(whole.after.is_clean());
    let mut flight = Flight::default();
    let (mut seen, mut states) = (HashSet::new(), 0);
    for event in live.stop() {
        let fence = matches!(event.what, What::Fence);
        let units = if fence {
            flight.units(&media, 10)
        } else {
            Vec::new()
        };
        for mask in masks(units.len()) {
            let mark = media.mark();
            for (_, unit) in units.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1) {
                unit.words
                    .iter()
                    .for_each(|(at, value)| media.put(*at as usize, *value));
            }
            if fence && seen.insert(media.all_hash()) {
                states += 1;
                let report = repair(&&media, &bench.backing, &mut |_| ());
                assert!(
                    report.after.is_clean(),
                    "{:#?}\n{}",
                    report.fixes,
                    report.after
                );
            }
            media.undo_to(mark);
        }
        flight.apply(event, &media);
    }
    let left = flight.units(&media, usize::MAX).len();
    assert_eq!(left, 0, "all of it is durable when the repair returns");
    states
}

#[test]
fn a_repair_that_is_cut_off_is_finished_by_the_next() {
    let mut states = 0;
    let f = Bench::new().ino("/f");
    let d = Bench::new().ino("/d");
    let damages: [&dyn Fn(&Bench); 7] = [
        &|bench| bench.ram.store64(40, 99),
        &|bench| bench.inode(f, |inode| inode.core.nlink = 7),
        &|bench| bench.ram.store64(bench.geometry.inode_off(d) + 8, 99),
        &|bench| bench.ram.store64(bench.geometry.inode_off(1), 0),
        &|bench| {
            bench.inode(f, |inode| {
                inode.body[0][1] = word(&bench.ram, bench.geometry.inode_off(1) + 72)
            })
        },
        &|bench| bench.inode(d, |inode| inode.core.size += 8192),
        &|bench| bench.inode(f, |inode| inode.core.size = 0),
    ];
    for damage in damages {
        let bench = Bench::new();
        damage(&bench);
        assert!(!fsck(&bench.ram).is_clean());
        states += cut_off_everywhere(&bench);
    }
    println!("{states} states");
    assert!(states > 50, "{states}");
}
