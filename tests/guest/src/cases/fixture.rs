//! What the cases of the file system share: a fresh one on the machine's first NVDIMM, mapped files, and a thread that truncates.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Deref;

use dax::layout::{BreakEvent, BreakReport, Held, How};
use dax::pmem::MappedPmem;
use dax::xarray::NodePool;
use fs::error::TruncateError;
use fs::{Backing, Fs, Inode, MkfsOptions, TruncateReport, mkfs};
use kernel::mem::frames;
use kernel::pmem::{self, Device};
use kernel::thread::{self, JoinHandle};
use kernel::{fault, uaccess};
use mm::addr::{PAGE_SIZE, PageSize, VirtAddr};
use mm::aspace::{FaultError, Prot, VaRange};
use mm::gup::{GupError, PinnedPages, pin_user_pages};
use mm::sync::{HeldList, SpinLock, Wait, WaitQueue};

/// The file system's memory.
pub type Memory = Arc<MappedPmem>;
/// A file of it.
pub type File = Arc<Inode<Memory>>;

/// A mounted file system; unmounted when dropped, and then no page may be held.
pub struct Mounted {
    fs: Option<Arc<Fs<Memory>>>,
    device: &'static Device,
}

/// The first NVDIMM with an empty file system.
pub fn fresh() -> Mounted {
    let device = &pmem::get().devices[0];
    let options = MkfsOptions {
        force: true,
        ring_slots: 64,
        inodes: Some(256),
        ..MkfsOptions::new(*b"a case's own one")
    };
    mkfs(&device.memory, &options).expect("mkfs");
    let fs = mount(device);
    // The directory gets its first block now, so that files come and go without a trace.
    fs.create("/first", 0o644).expect("create");
    fs.unlink("/first").expect("unlink");
    fs
}

fn mount(device: &'static Device) -> Mounted {
    static ZERO: spin::Once<mm::addr::Pfn> = spin::Once::new();
    let zero_page = *ZERO.call_once(|| frames::alloc_zeroed().expect("a frame"));
    let nodes = NodePool::new(256).expect("memory");
    let backing = Backing {
        pgmap: device.pgmap().expect("it is live"),
        nodes,
        zero_page,
    };
    let fs = Fs::mount(device.memory.clone(), backing).expect("mount");
    Mounted {
        fs: Some(fs),
        device,
    }
}

impl Deref for Mounted {
    type Target = Arc<Fs<Memory>>;

    fn deref(&self) -> &Self::Target {
        self.fs.as_ref().expect("mounted until dropped")
    }
}

impl Mounted {
    /// Unmounts and mounts again.
    pub fn remount(self) -> Self {
        let device = self.device;
        drop(self);
        mount(device)
    }

    /// A file of `pages` pages, all allocated, each byte of it `byte`.
    pub fn file(&self, path: &str, pages: u64, byte: u8) -> File {
        let file = self
            .create_sized(path, 0o644, pages * PAGE_SIZE)
            .expect("create");
        self.write(&file, 0, &alloc::vec![byte; (pages * PAGE_SIZE) as usize])
            .expect("write");
        file
    }

    /// All bytes of a file.
    pub fn content(&self, path: &str) -> Vec<u8> {
        let file = self.open(path).expect("open");
        let mut bytes = alloc::vec![0; file.stat().size as usize];
        assert_eq!(self.read(&file, 0, &mut bytes), Ok(bytes.len()));
        bytes
    }

    /// Blocks that no file has: free, or in quarantine until somebody needs them.
    pub fn unused(&self) -> u64 {
        let space = self.statfs();
        space.space.free + space.quarantined
    }

    /// Truncates in a thread of its own.
    pub fn truncating(&self, file: &File, size: u64) -> Truncating {
        let (fs, file, steps) = (Arc::clone(self), file.clone(), Arc::new(Steps::default()));
        let theirs = steps.clone();
        let thread = thread::spawn("truncate", move || {
            let watch = |event| theirs.note(event);
            let mut report = BreakReport::observed(&watch);
            fs.truncate(&file, size, How::Wait(Wait::for_us(5_000_000)), &mut report)
        });
        Truncating {
            thread: thread.expect("a thread"),
            steps,
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let Some(fs) = self.fs.take() else { return };
        if let Err((_, why)) = fs.unmount() {
            panic!("the file system cannot be unmounted: {why}");
        }
        let stats = self.device.pgmap().expect("it is live").stats();
        assert_eq!((stats.mapped, stats.pinned), (0, 0), "pages are held still");
    }
}

/// What a truncate was seen to do.
#[derive(Default)]
pub struct Steps {
    waits: SpinLock<Vec<(Held, HeldList)>>,
    changed: WaitQueue,
}

impl Steps {
    fn note(&self, event: BreakEvent) {
        if let BreakEvent::Waiting { held, locks_held } = event {
            self.waits.lock().push((held, locks_held));
            self.changed.wake_all();
        }
    }
}

/// A truncate in a thread of its own.
pub struct Truncating {
    thread: JoinHandle<Result<TruncateReport, TruncateError>>,
    steps: Arc<Steps>,
}

impl Truncating {
    /// Waits until it waits; returns the page that it waits for, and the locks that it holds meanwhile.
    pub fn until_it_waits(&self) -> (Held, HeldList) {
        let waits = || !self.steps.waits.lock().is_empty();
        self.steps
            .changed
            .wait_until(waits, &Wait::for_us(5_000_000))
            .expect("the truncate waits");
        self.steps.waits.lock()[0].clone()
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end.
    pub fn end(self) -> Result<TruncateReport, TruncateError> {
        self.thread.join()
    }
}

/// A file in the kernel's address space; unmapped when dropped.
pub struct Map(VaRange);

impl Map {
    /// Maps the first `pages` pages, for loads and stores.
    pub fn new(file: &File, pages: u64) -> Self {
        let range = fault::space().map(file.clone(), 0, pages, Prot::WRITE, PageSize::Size4K);
        Self(range.expect("room in the window"))
    }

    /// The address of a byte.
    pub fn at(&self, offset: u64) -> VirtAddr {
        self.0.start() + offset
    }

    /// Loads a byte, by a real instruction.
    pub fn load(&self, offset: u64) -> Result<u8, FaultError> {
        uaccess::load8(self.at(offset))
    }

    /// Stores a byte, by a real instruction.
    pub fn store(&self, offset: u64, byte: u8) -> Result<(), FaultError> {
        uaccess::store8(self.at(offset), byte)
    }

    /// Takes all translations away; the mapping stays.
    pub fn zap(&self) {
        fault::space().zap(self.0);
    }

    /// Pins a page for stores.
    pub fn pin(&self, page: u64) -> Result<PinnedPages, GupError> {
        pin_user_pages(fault::space(), self.at(page * PAGE_SIZE), 1, true)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        fault::space().unmap(self.0).expect("it is mapped");
    }
}

/// The name of the `n`th of many files.
pub fn numbered(n: usize) -> String {
    alloc::format!("/f{n}")
}
