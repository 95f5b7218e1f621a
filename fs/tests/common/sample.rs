//! A small image with everything in it, and the places of the words that a checksum, a tag or the structure itself covers.

use std::sync::Arc;

use dax::pmem::{Pmem, RamPmem};
use fs::layout::{
    Core, DENTRY_SIZE, Dentry, Geometry, INLINE_EXTENTS, INODE_SIZE, InodeImage, slots_for,
};
use fs::{BLOCK_SIZE, Backing, Fs, Ino, MkfsOptions, mkfs};

use super::{UUID, backing};

pub const LEN: u64 = 320 << 10;
pub const INODES: u32 = 32;

/// A small image with everything in it.
pub struct Image {
    pub words: Vec<u64>,
    pub backing: Backing,
    /// Places of words that a checksum, a tag or the structure itself covers; and what they are.
    pub places: Vec<(usize, &'static str)>,
}

fn fill(fs: &Fs<Arc<RamPmem>>) {
    fs.mkdir("/d", 0o755).expect("mkdir");
    fs.mkdir("/d/e", 0o700).expect("mkdir");
    fs.mkdir("/gone", 0o700).expect("mkdir");
    let f = fs.create("/f", 0o644).expect("create");
    fs.write(&f, 100, b"a file with one extent").expect("write");
    fs.link("/f", "/d/second name").expect("link");
    let pieces = fs.create("/d/pieces", 0o600).expect("create");
    for i in 0..14 {
        fs.write(&pieces, i * 8192, b"more extents than fit into the inode")
            .expect("write");
    }
    let long = "a name that needs more than one slot of the directory it is in, and more than two";
    fs.create(&format!("/d/e/{long}, really"), 0o444)
        .expect("create");
    fs.symlink("/d/link", b"../f").expect("symlink");
    fs.symlink("/long link", "far/".repeat(100).as_bytes())
        .expect("symlink");
    let tail = fs.create("/unlinked", 0o644).expect("create");
    fs.write(&tail, 0, &[7; 5000]).expect("write");
    drop((f, pieces, tail));
    fs.unlink("/unlinked").expect("unlink");
    fs.rmdir("/gone").expect("rmdir");
}

impl Image {
    /// `cleanly`: unmounted; otherwise cut off after the last operation, which is not durable in place.
    pub fn new(cleanly: bool) -> Self {
        let ram = Arc::new(RamPmem::new(LEN).expect("memory"));
        let options = MkfsOptions {
            ring_slots: 16,
            inodes: Some(INODES),
            ..MkfsOptions::new(UUID)
        };
        mkfs(&ram, &options).expect("mkfs");
        let backing = backing(LEN);
        let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
        fill(&fs);
        let places = places(&fs, &ram);
        if cleanly {
            assert!(fs.unmount().is_ok());
        } else {
            drop(fs);
        }
        let words = (0..LEN).step_by(8).map(|at| word(&ram, at)).collect();
        Self {
            words,
            backing,
            places,
        }
    }
}

/// Changes an inode, its checksum made right.
pub fn change_inode(p: &impl Pmem, g: &Geometry, ino: Ino, change: impl FnOnce(&mut InodeImage)) {
    let off = g.inode_off(ino);
    let words: [u64; 32] = std::array::from_fn(|i| word(p, off + 8 * i as u64));
    let (core, _) = Core::from_words(words[..8].try_into().expect("8"));
    let mut inode = InodeImage {
        core,
        body: Default::default(),
    };
    inode.body.as_flattened_mut().copy_from_slice(&words[8..]);
    change(&mut inode);
    let core = inode.core.to_words(inode.checksum(&UUID, ino));
    let words = core.iter().chain(inode.body.as_flattened());
    for (at, word) in (off..).step_by(8).zip(words) {
        p.store64(at, *word);
    }
}

pub fn word(p: &impl Pmem, off: u64) -> u64 {
    p.load64(off).expect("heap")
}

fn places(fs: &Fs<Arc<RamPmem>>, ram: &RamPmem) -> Vec<(usize, &'static str)> {
    let g = fs.geometry();
    let mut out = Vec::new();
    let mut add = |off: u64, len: u64, what| {
        out.extend(
            (off..off + len)
                .step_by(8)
                .map(|at| (at as usize / 8, what)),
        );
    };
    add(0, 256, "superblock A");
    add(BLOCK_SIZE, 256, "superblock B");
    add(g.state_off(), 8, "state");
    add(g.ring_off(), u64::from(g.ring_slots()) * 256, "ring");
    for ino in 1..word(ram, g.state_off()) as u32 {
        let off = g.inode_off(ino);
        let first = word(ram, off);
        let (entries, nodes) = ((first >> 16) as u8, (first >> 24) as u8 == 1);
        assert!(usize::from(entries) <= INLINE_EXTENTS);
        if first as u16 >> 12 == 0o12 {
            if entries == 0 {
                // The text stands in the inode.
                add(off + 64, word(ram, off + 32).next_multiple_of(8), "text");
            } else {
                let block = word(ram, off + 64 + 8);
                add(
                    block * BLOCK_SIZE,
                    word(ram, off + 32).next_multiple_of(8),
                    "text",
                );
            }
        }
        if first == 0 {
            // Never used: no checksum yet, but it must not come into use by itself.
            add(off, 8, "unused");
            add(off + 24, 8, "unused");
            continue;
        }
        add(off, 64 + 16 * u64::from(entries), "inode");
        for entry in (0..entries).filter(|_| nodes && first >> 32 != 0) {
            let block = word(ram, off + 64 + 16 * u64::from(entry) + 8);
            // What is behind a node's entries means nothing, as behind an inode's.
            let entries = word(ram, block * BLOCK_SIZE + 8) >> 32 & 0xffff;
            add(block * BLOCK_SIZE, 32 + 16 * entries, "node");
        }
        assert!(off + INODE_SIZE <= g.data_block() * BLOCK_SIZE);
    }
    for path in ["/", "/d", "/d/e"] {
        let dir = fs.open(path).expect("open");
        for extent in fs.extents(&dir) {
            for slot in 0..BLOCK_SIZE / DENTRY_SIZE {
                let off = extent.phys * BLOCK_SIZE + slot * DENTRY_SIZE;
                let head = std::array::from_fn(|i| word(ram, off + 8 * i as u64));
                let Some((dentry, _)) = Dentry::decode(&head).filter(|(d, _)| d.ino != 0) else {
                    continue;
                };
                let len = usize::from(dentry.len);
                let used = (20 + len.min(44)).div_ceil(8) as u64;
                add(off, 8 * used, "entry");
                let (mut rest, mut at) = (len.saturating_sub(44), off);
                for _ in 1..slots_for(len) {
                    at += DENTRY_SIZE;
                    add(at, 8 + rest.min(56).next_multiple_of(8) as u64, "tail");
                    rest = rest.saturating_sub(56);
                }
            }
        }
    }
    out
}
