//! One operation at a time on a mounted file system, the same for every bench.

use std::sync::Arc;

use dax::pmem::Pmem;
use dax::xarray::NodePool;
use fs::layout::Kind;
use fs::{Backing, Fs, Inode, MkfsOptions, NewInode, RenameMode, mkfs};
use mm::pgmap::{Pgmap, scratch_range};
use nix::time::{ClockId, clock_gettime};

/// Bytes of a page, the unit of the operations on content.
pub const PAGE: usize = 4096;

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// An empty file comes to be.
    Create,
    /// A file's name changes, in its directory.
    Rename,
    /// An empty file goes.
    Unlink,
    /// A page is added to the end of a file.
    Append,
    /// A page is written where one was.
    Overwrite,
    /// A page is read.
    Read,
    /// One name is listed.
    Readdir,
}

impl Op {
    /// All, in an order in which each finds what it needs.
    pub const ALL: [Self; 7] = [
        Self::Create,
        Self::Readdir,
        Self::Rename,
        Self::Unlink,
        Self::Append,
        Self::Overwrite,
        Self::Read,
    ];

    /// Its name in the tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Rename => "rename",
            Self::Unlink => "unlink",
            Self::Append => "append 4K",
            Self::Overwrite => "overwrite 4K",
            Self::Read => "read 4K",
            Self::Readdir => "readdir, per name",
        }
    }
}

/// Writes `prefix` and a number into a buffer: a name, without a heap.
pub struct NameOf([u8; 16]);

impl NameOf {
    /// The name of file `i`.
    #[must_use]
    pub fn new(prefix: u8, i: usize) -> Self {
        let mut bytes = *b"/f00000000000000";
        bytes[1] = prefix;
        let mut rest = i;
        for byte in bytes[2..].iter_mut().rev() {
            // The zeroes in front are there.
            if rest == 0 {
                break;
            }
            *byte = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        Self(bytes)
    }

    /// From the root, with the slash.
    #[must_use]
    pub fn path(&self) -> &str {
        std::str::from_utf8(&self.0).expect("ASCII")
    }

    /// In its directory.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.0[1..]
    }
}

/// A mounted file system, and a file for the operations on content.
pub struct World<P: Pmem> {
    /// The file system.
    pub fs: Arc<Fs<P>>,
    root: Arc<Inode<P>>,
    file: Arc<Inode<P>>,
    data: Vec<u8>,
    cookie: u64,
}

/// What a mount needs besides bytes.
///
/// # Panics
/// When memory is out.
#[must_use]
pub fn backing(len: u64) -> Backing {
    Backing {
        pgmap: Pgmap::new("bench", scratch_range(len / 4096), None).expect("room"),
        nodes: NodePool::new(256).expect("memory"),
        zero_page: scratch_range(1).start(),
    }
}

/// The time as Linux's file systems take it for their inodes: as of the last tick of the machine's clock.
fn time() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).expect("every Linux has this clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Makes a file system with room for `inodes`.
///
/// # Panics
/// When the region cannot take it.
pub fn format<P: Pmem>(pmem: &P, inodes: u32) {
    let options = MkfsOptions {
        inodes: Some(inodes),
        force: true,
        ..MkfsOptions::new(*b"file system, own")
    };
    mkfs(pmem, &options).expect("mkfs");
}

impl<P: Pmem> World<P> {
    /// Mounts a new file system for `files` files and as many pages.
    ///
    /// # Panics
    /// When the region cannot take it.
    #[must_use]
    pub fn new(pmem: P, files: usize) -> Self {
        // All stay in memory, as the other file systems' do.
        Self::with_room(pmem, files, 4 * files)
    }

    /// As [`World::new`], with about `keep` inodes in memory.
    ///
    /// # Panics
    /// When the region cannot take it.
    #[must_use]
    pub fn with_room(pmem: P, files: usize, keep: usize) -> Self {
        let len = pmem.len();
        format(&pmem, files as u32 + 1024);
        let fs = Fs::mount(pmem, backing(len)).expect("mount");
        fs.keep_inodes(keep);
        fs.set_clock(time);
        let file = fs.create("/content", 0o644).expect("create");
        Self {
            root: fs.root().expect("root"),
            file,
            fs,
            data: vec![0x5a; PAGE],
            cookie: 0,
        }
    }

    /// The `i`-th file that was created.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn find(&self, i: usize) -> Arc<Inode<P>> {
        let name = NameOf::new(b'f', i);
        self.fs.lookup(&self.root, name.name()).expect("created")
    }

    /// Does `op` for the `i`-th time.
    ///
    /// # Panics
    /// If it fails.
    #[inline(never)]
    pub fn run(&mut self, op: Op, i: usize) {
        let (old, new) = (|| NameOf::new(b'f', i), || NameOf::new(b'g', i));
        let at = (i * PAGE) as u64;
        match op {
            Op::Create => {
                let new = NewInode::new(Kind::File, 0o644);
                let made = self.fs.create_in(&self.root, old().name(), &new);
                drop(made.expect("create"));
            }
            Op::Rename => {
                let (root, mode) = (&self.root, RenameMode::NoReplace);
                let moved = self
                    .fs
                    .rename_in(root, old().name(), root, new().name(), mode);
                moved.expect("rename");
            }
            Op::Unlink => {
                let gone = self.fs.remove_in(&self.root, new().name(), Kind::File);
                gone.expect("unlink");
            }
            Op::Append | Op::Overwrite => {
                self.fs.write(&self.file, at, &self.data).expect("write");
            }
            Op::Read => {
                let read = self.fs.read(&self.file, at, &mut self.data);
                assert_eq!(read, Ok(PAGE));
            }
            Op::Readdir => {
                let entry = self.fs.readdir(&self.root, self.cookie).expect("readdir");
                self.cookie = entry.map_or(0, |entry| entry.cookie);
            }
        }
    }
}
