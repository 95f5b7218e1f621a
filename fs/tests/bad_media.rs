//! Images that are damaged: a clear refusal or a sound file system, never a panic.

use std::sync::Arc;

use crate::common::patched::look;
use crate::common::*;
use dax::pmem::{Pmem, RamPmem};
use fs::error::MountError;
use fs::{Fs, MkfsError, MkfsOptions, fsck, mkfs};
use proptest::prelude::*;

const LEN: u64 = 1 << 20;

/// Words that change much where they fall.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        Just(0),
        Just(u64::MAX),
        (0u64..64, 0u64..64).prop_map(|(a, b)| a << 32 | b),
        (0u32..64).prop_map(|bit| 1 << bit),
        (0u64..16).prop_map(|n| 0x41ed | n << 16 | 1 << 24 | 2 << 32),
        (0u64..16).prop_map(|n| 0x81a4 | n << 16 | 1 << 32),
    ]
}

/// Places where metadata is: the first blocks, and the inode table more often.
fn place() -> impl Strategy<Value = u16> {
    prop_oneof![0u16..32_768, 2048u16..3072, 2048u16..2200, 3072u16..8192]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn no_image_makes_it_panic(how in 0u8..4, patches in prop::collection::vec((place(), word()), 1..6)) {
        let mut bytes = vec![how];
        for (place, word) in patches {
            bytes.extend(place.to_le_bytes());
            bytes.extend(word.to_le_bytes());
        }
        look(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn bytes_that_were_never_an_image_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        let ram = Arc::new(RamPmem::new(bytes.len() as u64).expect("memory"));
        ram.store(0, &bytes);
        prop_assert!(!fsck(&ram).is_clean());
        let refused = Fs::mount(ram, shared_backing());
        let refused = matches!(refused, Err(MountError::Superblocks { .. }));
        prop_assert!(refused);
    }
}

fn shared_backing() -> fs::Backing {
    static BACKING: std::sync::OnceLock<fs::Backing> = std::sync::OnceLock::new();
    BACKING.get_or_init(|| backing(LEN)).clone()
}

#[test]
fn either_superblock_is_enough_and_the_damage_is_named() {
    for (block, name) in [(0, 'A'), (1, 'B')] {
        let (ram, backing) = formatted(LEN);
        ram.store64(block * 4096 + 40, 0xbad);
        let fs = Fs::mount(ram.clone(), backing).expect("the other one");
        let fault = fs.mount_report().superblock.expect("noticed");
        assert_eq!((fault.name, fault.offset), (name, block * 4096));
        assert!(fault.to_string().contains("checksum"), "{fault}");
        assert!(!fsck(&ram).is_clean());
    }
}

#[test]
fn every_word_of_an_inode_in_use_counts() {
    let (ram, backing) = formatted(LEN);
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    let f = fs.create("/f", 0o644).expect("create");
    fs.write(&f, 0, &[1; 5000]).expect("write");
    let offset = fs.geometry().inode_off(f.ino());
    drop(f);
    assert!(fs.unmount().is_ok());
    assert!(fsck(&ram).is_clean());
    // Attributes, and the one extent. A link count or type of 0 would make it free: fsck sees the name without an inode.
    for word in 0..10 {
        let at = offset + 8 * word;
        let sound = ram.load64(at).expect("heap");
        for bit in [0, 17, 31, 33, 63] {
            ram.store64(at, sound ^ 1 << bit);
            let refused = Fs::mount(ram.clone(), backing.clone())
                .map(drop)
                .expect_err("a changed word");
            let told = refused.to_string();
            assert!(
                told.contains(&format!("inode 2 at offset {offset:#x}")),
                "word {word}: {told}"
            );
            assert!(!fsck(&ram).is_clean());
        }
        ram.store64(at, sound);
    }
    assert!(fsck(&ram).is_clean());
}

#[test]
fn every_word_of_a_directory_entry_counts() {
    let (ram, backing) = formatted(LEN);
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    let name = "a name of more than forty-four bytes, which takes two slots";
    fs.create(&format!("/{name}"), 0o644).expect("create");
    let root = fs.root().expect("root");
    let at = fs.extents(&root).next().expect("a block").phys * 4096;
    drop(root);
    assert!(fs.unmount().is_ok());
    for word in (0..8).chain(9..10) {
        let sound = ram.load64(at + 8 * word).expect("heap");
        ram.store64(at + 8 * word, sound ^ 4);
        let fs = Fs::mount(ram.clone(), backing.clone()).expect("only the directory is bad");
        let error = fs
            .open("/f")
            .map(drop)
            .expect_err("a changed word")
            .to_string();
        assert!(
            error.contains(&format!("directory 1, slot 0 at offset {at:#x}")),
            "word {word}: {error}"
        );
        assert!(!fsck(&ram).is_clean(), "word {word}");
        ram.store64(at + 8 * word, sound);
    }
}

#[test]
fn mkfs_refuses_what_it_must_not_overwrite_or_cannot_fit() {
    let (ram, _) = formatted(LEN);
    assert_eq!(mkfs(&ram, &options()), Err(MkfsError::Exists));
    assert!(
        mkfs(
            &ram,
            &MkfsOptions {
                force: true,
                ..options()
            }
        )
        .is_ok()
    );
    for len in [0, 4096, 8192, 4 * 4096] {
        let small = RamPmem::new(len).expect("memory");
        assert!(
            matches!(mkfs(&small, &options()), Err(MkfsError::Geometry(_))),
            "{len}"
        );
    }
    assert_eq!(mkfs(&ram, &MkfsOptions::new([0; 16])), Err(MkfsError::Uuid));
}

#[test]
fn a_damaged_record_that_is_needed_is_missed() {
    let (ram, backing) = formatted(LEN);
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    fs.create("/a", 0o644).expect("create");
    fs.create("/b", 0o644).expect("create");
    let g = *fs.geometry();
    drop(fs);
    // The last two records are needed; the older one of them is damaged.
    let tags = (0..16).map(|slot| (ram.load64(g.slot_off(slot) + 56).expect("heap"), slot));
    let mut tags: Vec<_> = tags.collect();
    tags.sort_unstable();
    let (seq, slot) = tags[14];
    ram.store64(g.slot_off(slot) + 16, 0xbad);
    let error = Fs::mount(ram, backing)
        .map(drop)
        .expect_err("a gap")
        .to_string();
    assert!(
        error.contains(&format!("record {seq} is needed")),
        "{error}"
    );
}
