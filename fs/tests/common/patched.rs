//! An image with arbitrary words in it: check, mount, walk, read and change it. Nothing may panic or go on for ever.
//!
//! Checksums would stop nearly every change at the door, so that those of inodes and of directory entries can be made right again
//! after patching: what is behind them must stand arbitrary values too.

use std::sync::{Arc, OnceLock};

use dax::layout::{BreakReport, How};
use dax::pmem::{Pmem, RamPmem};
use dax::xarray::NodePool;
use fs::layout::{Core, DENTRY_SIZE, Dentry, INODE_SIZE, InodeImage};
use fs::{BLOCK_SIZE, Backing, Fs, Ino, Inode, Kind, MkfsOptions, NewInode, fsck, mkfs, repair};
use mm::pgmap::{Pgmap, scratch_range};

const LEN: u64 = 256 << 10;
const INODES: u32 = 32;
/// First block of the inode table: two superblocks, the state block, one block of ring.
const TABLE: u64 = 4 * BLOCK_SIZE;
const UUID: [u8; 16] = *b"a fuzzed image 1";
/// Bound on what a walk visits: the tree may be a ring.
const VISITS: usize = 200;

struct Base {
    image: Vec<u8>,
    backing: Backing,
    /// Blocks of directories: block and inode.
    dirs: Vec<(u64, Ino)>,
}

static BASE: OnceLock<Base> = OnceLock::new();

fn base() -> Base {
    let ram = Arc::new(RamPmem::new(LEN).expect("memory"));
    let options = MkfsOptions {
        ring_slots: 16,
        inodes: Some(INODES),
        ..MkfsOptions::new(UUID)
    };
    mkfs(&ram, &options).expect("mkfs");
    let backing = Backing {
        pgmap: Pgmap::new("fuzz", scratch_range(LEN / BLOCK_SIZE), None).expect("pgmap"),
        nodes: NodePool::new(64).expect("memory"),
        zero_page: scratch_range(1).start(),
    };
    let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
    fs.mkdir("/d", 0o755).expect("mkdir");
    fs.mkdir("/d/e", 0o755).expect("mkdir");
    for path in [
        "/f",
        "/d/g",
        "/d/e/a name that needs more than one slot of the directory it is in",
    ] {
        let f = fs.create(path, 0o644).expect("create");
        // In pieces: more than fit into the inode.
        for i in 0..14 {
            fs.write(&f, i * 8192 % 57_344, b"content").expect("write");
        }
    }
    let mut dirs = Vec::new();
    for path in ["/", "/d", "/d/e"] {
        let dir = fs.open(path).expect("open");
        dirs.extend(fs.extents(&dir).map(|extent| (extent.phys, dir.ino())));
    }
    let mut image = vec![0; LEN as usize];
    ram.read(0, &mut image).expect("heap");
    Base {
        image,
        backing,
        dirs,
    }
}

fn words<const N: usize>(image: &[u8], off: usize) -> [u64; N] {
    std::array::from_fn(|i| {
        u64::from_le_bytes(image[off + 8 * i..][..8].try_into().expect("8 bytes"))
    })
}

/// Makes the checksum of every inode right.
fn seal_inodes(image: &mut [u8]) {
    for ino in 0..INODES {
        let off = (TABLE + u64::from(ino) * INODE_SIZE) as usize;
        let all = words::<32>(image, off);
        let (core, _) = Core::from_words(all[..8].try_into().expect("8 words"));
        let mut inode = InodeImage {
            core,
            body: Default::default(),
        };
        inode.body.as_flattened_mut().copy_from_slice(&all[8..]);
        let sum = inode.checksum(&UUID, ino);
        image[off + 24..off + 28].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Makes the checksum of every entry that looks like one right.
fn seal_entries(image: &mut [u8], dirs: &[(u64, Ino)]) {
    let slots = BLOCK_SIZE / DENTRY_SIZE;
    for (block, dir) in dirs {
        for slot in 0..slots {
            let off = (block * BLOCK_SIZE + slot * DENTRY_SIZE) as usize;
            let head = words::<8>(image, off);
            if let Some((dentry, _)) = Dentry::decode(&head) {
                let len = usize::from(dentry.len).min(44);
                let sum = dentry.checksum(&UUID, *dir, &Dentry::head_name(&head)[..len]);
                image[off + 12..off + 16].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }
}

/// Does all that with the image that `bytes` describe.
pub fn look(bytes: &[u8]) {
    let base = BASE.get_or_init(base);
    let Some((how, patches)) = bytes.split_first() else {
        return;
    };
    let mut image = base.image.clone();
    for patch in patches.chunks_exact(10) {
        let word = usize::from(u16::from_le_bytes([patch[0], patch[1]])) % (image.len() / 8);
        image[word * 8..][..8].copy_from_slice(&patch[2..]);
    }
    if how & 1 != 0 {
        seal_inodes(&mut image);
    }
    if how & 2 != 0 {
        seal_entries(&mut image, &base.dirs);
    }
    mend(&image, &base.backing);
    let ram = Arc::new(RamPmem::new(LEN).expect("memory"));
    ram.store(0, &image);
    let _ = fsck(&ram).to_string();
    match Fs::mount(ram.clone(), base.backing.clone()) {
        Ok(fs) => {
            walk(&fs);
            change(&fs);
        }
        Err(error) => drop(error.to_string()),
    }
    let _ = fsck(&ram).to_string();
}

/// A repair ends in a sound file system, unless there is no superblock, or no room for what it wants to make.
fn mend(image: &[u8], backing: &Backing) {
    let ram = Arc::new(RamPmem::new(LEN).expect("memory"));
    ram.store(0, image);
    let report = repair(&ram, backing, &mut |_| ());
    let stopped = format!("{:?}", report.stopped);
    if ["NoSpace", "NoInodes"]
        .iter()
        .any(|full| stopped.contains(full))
    {
        return;
    }
    let superblocks = |f: &fs::Finding| f.pass == fs::Pass::Superblocks;
    if report
        .after
        .problems
        .iter()
        .filter(|f| superblocks(f))
        .count()
        == 2
    {
        return;
    }
    assert!(
        report.after.is_clean(),
        "{stopped}\n{}\n{:#?}",
        report.after,
        report.fixes
    );
    let fs = Fs::mount(ram, backing.clone()).expect("what is clean can be mounted");
    walk(&fs);
}

fn walk(fs: &Fs<Arc<RamPmem>>) {
    let mut todo: Vec<Arc<Inode<Arc<RamPmem>>>> = fs.root().into_iter().collect();
    let mut visits = 0;
    while let Some(inode) = todo.pop() {
        let mut buf = [0; 100];
        for off in [0, 5000, inode.stat().size.saturating_sub(50)] {
            let _ = fs.read(&inode, off, &mut buf);
        }
        let _ = fs.extents(&inode).count();
        let mut cookie = 0;
        while let Ok(Some(entry)) = fs.readdir(&inode, cookie) {
            cookie = entry.cookie;
            visits += 1;
            if visits > VISITS {
                return;
            }
            todo.extend(fs.lookup(&inode, entry.name.as_bytes()));
        }
    }
    let _ = fs.statfs();
}

fn change(fs: &Fs<Arc<RamPmem>>) {
    let report = &mut BreakReport::default();
    for path in ["/f", "/d/g", "/new", "/d"] {
        let _ = fs.create(path, 0o600);
        if let Ok(inode) = fs.open(path) {
            let _ = fs.write(&inode, 3000, &[1; 3000]);
            let _ = fs.truncate(&inode, 1000, How::NoWait, report);
            let _ = fs.create_in(&inode, b"x", &NewInode::new(Kind::Dir, 0o755));
        }
    }
    let _ = fs.rename("/d", "/d/e/f", true);
    let _ = fs.rename("/d/e", "/f", true);
    let _ = fs.link("/f", "/d/h");
    for path in ["/f", "/d/g", "/new", "/d/e"] {
        let _ = fs.unlink(path);
        let _ = fs.rmdir(path);
    }
    let _ = fs.sync();
}
