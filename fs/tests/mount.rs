//! What a mount finds in the inode table: which inodes are in use, what is free, and blocks that two claim.

use std::sync::Arc;

use crate::common::sample::change_inode;
use crate::common::*;
use dax::pmem::{Pmem, RamPmem};
use fs::error::MountError;
use fs::layout::{Extent, Geometry};
use fs::{Backing, Fs, Ino, MkfsOptions, ROOT, fsck, mkfs};
use proptest::prelude::*;

/// 128 blocks, the first eight of them no data.
const LEN: u64 = 512 << 10;
/// Files of a bench. Their numbers begin with 2.
const FILES: u32 = 6;

/// An image with files whose storage is where a test says.
struct Bench {
    ram: Arc<RamPmem>,
    backing: Backing,
    geometry: Geometry,
    /// The block of the root directory.
    root: u64,
}

impl Bench {
    fn new() -> Self {
        let (ram, backing) = formatted(LEN);
        let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
        for i in 0..FILES {
            fs.create(&format!("/{i}"), 0o644).expect("create");
        }
        let root = fs.extents(&fs.root().expect("root")).next();
        let (root, geometry) = (root.expect("a block").phys, *fs.geometry());
        assert!(fs.unmount().is_ok());
        Self {
            ram,
            backing,
            geometry,
            root,
        }
    }

    /// Lets file `i` claim these runs of blocks, in the order of the file.
    fn claim(&self, i: u32, runs: &[(u64, u64)]) {
        change_inode(&self.ram, &self.geometry, 2 + i, |inode| {
            inode.core.entries = runs.len() as u8;
            let mut file = 0;
            for (entry, (phys, len)) in inode.body.iter_mut().zip(runs.iter().copied()) {
                let unwritten = true;
                *entry = Extent {
                    file,
                    phys,
                    len,
                    unwritten,
                }
                .to_words();
                file += len;
            }
        });
    }

    fn mount(&self) -> Result<Arc<Fs<Arc<RamPmem>>>, MountError> {
        Fs::mount(self.ram.clone(), self.backing.clone())
    }

    /// The block that two inodes claim, and these two.
    fn overlap(&self) -> Option<(u64, Ino, Ino)> {
        match self.mount() {
            Ok(fs) => {
                assert!(fs.unmount().is_ok());
                None
            }
            Err(MountError::Overlap {
                block,
                offset,
                first,
                second,
            }) => {
                assert_eq!(offset, 4096 * block);
                Some((block, first, second))
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// Whose each block is, by these claims and the root's; its owners in the order in which their claims begin.
    fn owners(&self, claims: &[Vec<(u64, u64)>]) -> Vec<Vec<(u64, Ino)>> {
        let mut owners = vec![Vec::new(); (LEN / 4096) as usize];
        owners[self.root as usize].push((self.root, ROOT));
        for (ino, runs) in (2..).zip(claims) {
            for (start, len) in runs {
                (*start..start + len).for_each(|block| owners[block as usize].push((*start, ino)));
            }
        }
        owners.iter_mut().for_each(|of| of.sort_unstable());
        owners
    }

    /// Lets the files claim these runs, and compares what a mount says with a list of all blocks.
    fn check(&self, claims: &[Vec<(u64, u64)>]) {
        for i in 0..FILES {
            self.claim(i, claims.get(i as usize).map_or(&[], Vec::as_slice));
        }
        let owners = self.owners(claims);
        let twice = (0..).zip(&owners).find(|(_, of)| of.len() > 1);
        let twice = twice.map(|(block, of)| (block, of[0].1, of[1].1));
        assert_eq!(self.overlap(), twice, "{claims:?}");
        if let Some((block, first, second)) = twice {
            let told = fsck(&self.ram).to_string();
            let offset = block * 4096;
            let expected = format!(
                "block {block} at offset {offset:#x} belongs to inode {first} and to inode {second}"
            );
            assert!(told.contains(&expected), "{expected:?} is not in {told}");
        } else {
            self.nothing_claimed_is_given_away(&owners);
        }
    }

    /// A file that takes all that is free has none of what others have, and all of the rest.
    fn nothing_claimed_is_given_away(&self, owners: &[Vec<(u64, Ino)>]) {
        let fs = self.mount().expect("sound");
        let free = owners[self.geometry.data_block() as usize..].iter();
        let free = free.filter(|of| of.is_empty()).count() as u64;
        assert_eq!(fs.statfs().space.free + fs.statfs().reserved, free);
        let all = fs.create("/all", 0o644).expect("create");
        while fs.write(&all, all.stat().size, &[1; 4096]).is_ok() {}
        for extent in fs.extents(&all) {
            let blocks = extent.phys..extent.phys + extent.len;
            assert!(
                blocks
                    .into_iter()
                    .all(|block| owners[block as usize].is_empty())
            );
        }
        drop(all);
        fs.unlink("/all").expect("unlink");
        assert!(fs.unmount().is_ok());
        assert!(fsck(&self.ram).is_clean(), "{}", fsck(&self.ram));
    }
}

/// Claims of one run each.
fn each(runs: &[(u64, u64)]) -> Vec<Vec<(u64, u64)>> {
    runs.iter().map(|run| vec![*run]).collect()
}

#[test]
fn of_files_one_behind_the_other_each_keeps_its_blocks() {
    let bench = Bench::new();
    let behind = [(20, 2), (22, 3), (25, 5)];
    bench.check(&each(&behind));
    // Within the first, the second, the last; at their seams; over all; from before; behind, which is none.
    for more in [
        (20, 1),
        (23, 1),
        (29, 1),
        (21, 2),
        (24, 9),
        (20, 10),
        (15, 40),
        (15, 6),
        (15, 5),
        (30, 4),
        (22, 3),
    ] {
        bench.check(&each(&[behind[0], behind[1], behind[2], more]));
        bench.check(&each(&[more, behind[0], behind[1], behind[2]]));
    }
}

#[test]
fn the_two_that_begin_first_are_named() {
    let bench = Bench::new();
    let root = bench.root;
    // Three and four at one block, in no order.
    bench.check(&each(&[(40, 4), (30, 20), (43, 1)]));
    bench.check(&each(&[(43, 1), (42, 2), (41, 3), (40, 4)]));
    bench.check(&each(&[(60, 1), (50, 1), (60, 1), (60, 1)]));
    // The root's.
    bench.check(&each(&[(60, 1), (root, 1)]));
    // Twice in one file, and one that lies in the middle of many.
    bench.check(&[vec![(40, 2), (42, 2), (41, 1)]]);
    bench.check(&[
        vec![(30, 1), (32, 1), (34, 1)],
        vec![(31, 1), (33, 1), (32, 1)],
    ]);
    assert_eq!(bench.overlap(), Some((32, 2, 3)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Most of them lie where another ends; some overlap.
    #[test]
    fn every_block_has_one_owner_or_the_mount_is_refused(
        runs in prop::collection::vec(prop::collection::vec((12u64..120, 1u64..8, 0u8..4), 0..4), FILES as usize),
    ) {
        let bench = Bench::new();
        let mut end = 20;
        let mut place = |(at, len, how): (u64, u64, u8)| {
            let at = if how > 0 { end } else { at }.min(120);
            end = at + len;
            (at, len)
        };
        let claims: Vec<_> = runs.into_iter().map(|runs| runs.into_iter().map(&mut place).collect()).collect();
        bench.check(&claims);
    }
}

/// A file system with 300 files, numbers 2 to 301.
fn crowd() -> (Arc<RamPmem>, Backing, Arc<Fs<Arc<RamPmem>>>) {
    let ram = Arc::new(RamPmem::new(2 << 20).expect("memory"));
    let options = MkfsOptions {
        inodes: Some(1024),
        ..options()
    };
    mkfs(&ram, &options).expect("mkfs");
    let backing = backing(2 << 20);
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    for i in 2..302 {
        assert_eq!(fs.create(&format!("/{i}"), 0o644).expect("create").ino(), i);
    }
    (ram, backing, fs)
}

#[test]
fn numbers_in_use_stay_in_use_and_the_others_are_given_again() {
    let (ram, backing, fs) = crowd();
    // Whole words of the map, their edges, and some between.
    let gone =
        |i: u32| (64..128).contains(&i) || i % 64 == 63 || i.is_multiple_of(64) || i % 7 == 3;
    let (mut free, used): (Vec<u32>, Vec<u32>) = (2..302).partition(|i| gone(*i));
    for i in &free {
        fs.unlink(&format!("/{i}")).expect("unlink");
    }
    assert!(fs.unmount().is_ok());
    let fs = Fs::mount(ram.clone(), backing).expect("mount");
    assert_eq!(fs.mount_report().inodes, used.len() as u32 + 1);
    for i in 0..1024 {
        let known = i == ROOT || used.contains(&i);
        assert_eq!(fs.inode(i).is_ok(), known, "{i}");
    }
    free.push(302);
    for i in free {
        assert_eq!(
            fs.create(&format!("/n{i}"), 0o644).expect("create").ino(),
            i
        );
    }
    assert!(fs.unmount().is_ok());
    assert!(fsck(&ram).is_clean());
}

#[test]
fn a_damaged_inode_is_found_wherever_it_stands() {
    let (ram, backing, fs) = crowd();
    let g = *fs.geometry();
    fs.unlink("/200").expect("unlink");
    assert!(fs.unmount().is_ok());
    for ino in [2, 63, 64, 65, 127, 128, 200, 255, 256, 301] {
        let at = g.inode_off(ino) + 8;
        let sound = ram.load64(at).expect("heap");
        ram.store64(at, sound ^ 1);
        let refused = Fs::mount(ram.clone(), backing.clone()).map(drop);
        let told = refused.expect_err("a changed word").to_string();
        let expected = format!("inode {ino} at offset {:#x}: checksum", at - 8);
        assert!(told.starts_with(&expected), "{told}");
        ram.store64(at, sound);
        // The medium cannot give it: mounted for reading, and the number is not given away.
        ram.poison(at - 8..at + 56).expect("room");
        let fs = Fs::mount(ram.clone(), backing.clone()).expect("the rest");
        let lost = fs.mount_report().unreadable.expect("told").to_string();
        assert!(lost.starts_with(&format!("inode {ino} at")), "{lost}");
        assert!(fs.mount_report().read_only);
        assert_eq!(fs.mount_report().inodes, 300 + u32::from(ino == 200));
        drop(fs);
        ram.heal(at - 8, 64);
    }
    assert!(Fs::mount(ram, backing).is_ok());
}
