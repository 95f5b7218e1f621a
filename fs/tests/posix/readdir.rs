//! Reading a directory while names come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dax::pmem::RamPmem;
use fs::{Fs, Inode, Kind, NewInode};

use crate::common::*;

type Ram = Arc<RamPmem>;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Names of one to five slots.
fn name(number: u64) -> Vec<u8> {
    let mut name = format!("name {number} ").into_bytes();
    name.resize(10 + (number % 5 * 60) as usize, b'.');
    name
}

struct Churn {
    dice: Dice,
    there: BTreeSet<u64>,
}

impl Churn {
    /// Removes, adds and renames some of the names above 1,000.
    fn some(&mut self, fs: &Fs<Ram>, dir: &Arc<Inode<Ram>>) {
        for _ in 0..self.dice.roll(4) {
            let number = 1000 + self.dice.roll(200);
            if self.there.remove(&number) {
                fs.remove_in(dir, &name(number), Kind::File)
                    .expect("unlink");
            } else {
                let file = NewInode::new(Kind::File, 0o644);
                fs.create_in(dir, &name(number), &file).expect("create");
                self.there.insert(number);
            }
        }
    }
}

/// An entry that stays is seen exactly once; what is seen is there; the cookie holds across a mount.
#[test]
fn what_stays_is_seen_exactly_once() {
    for seed in 0..20 {
        let (ram, backing) = {
            let ram = Arc::new(RamPmem::new(4 << 20).expect("memory"));
            let inodes = Some(512);
            fs::mkfs(
                &ram,
                &fs::MkfsOptions {
                    inodes,
                    ..options()
                },
            )
            .expect("mkfs");
            (ram, backing(4 << 20))
        };
        let mut fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
        let mut dir = fs.mkdir("/d", 0o755).expect("mkdir");
        let mut churn = Churn {
            dice: Dice(seed),
            there: BTreeSet::new(),
        };
        for number in 0..150 {
            let file = NewInode::new(Kind::File, 0o644);
            fs.create_in(&dir, &name(number), &file).expect("create");
            churn.some(&fs, &dir);
        }
        let mut seen = BTreeMap::<Vec<u8>, u32>::new();
        let (mut cookie, mut steps) = (0, 0);
        while let Some(entry) = fs.readdir(&dir, cookie).expect("readdir") {
            assert!(entry.cookie > cookie);
            cookie = entry.cookie;
            let found = fs.lookup(&dir, entry.name.as_bytes()).expect("there");
            assert_eq!(found.ino(), entry.ino);
            *seen.entry(entry.name.as_bytes().to_vec()).or_default() += 1;
            churn.some(&fs, &dir);
            steps += 1;
            if steps % 97 == 0 {
                drop((found, dir, fs));
                fs = Fs::mount(ram.clone(), backing.clone()).expect("mount again");
                dir = fs.open("/d").expect("open");
            }
        }
        for number in 0..150 {
            assert_eq!(seen.get(&name(number)), Some(&1), "seed {seed}, {number}");
        }
        let now = names(&fs, "/d").len();
        assert_eq!(now, 150 + churn.there.len());
    }
}

/// Removing everything while reading, as `rm -r` does.
#[test]
fn a_directory_is_emptied_while_it_is_read() {
    let fs = mounted(4 << 20);
    let dir = fs.mkdir("/d", 0o755).expect("mkdir");
    for number in 0..60 {
        let file = NewInode::new(Kind::File, 0o644);
        fs.create_in(&dir, &name(number), &file).expect("create");
    }
    let mut cookie = 0;
    while let Some(entry) = fs.readdir(&dir, cookie).expect("readdir") {
        fs.remove_in(&dir, entry.name.as_bytes(), entry.kind)
            .expect("unlink");
        cookie = entry.cookie;
    }
    drop(dir);
    fs.rmdir("/d").expect("it is empty");
    let far = fs.readdir(&fs.root().expect("root"), u64::MAX);
    assert!(far.expect("readdir").is_none());
}
