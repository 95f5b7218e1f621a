//! What a scenario runs in: a full file system with one file, a process that maps it, and another file that wants its blocks.
//!
//! The region has eight blocks. `/f` has two, `/g` none, and nothing is free: what `/g` gets was `/f`'s a moment ago. So these hold in every
//! schedule, or the scenario panics:
//!
//! - *No block is handed out while its page has a count, or while a CPU has a translation of it*: [`World::reuse`] looks at the pages that `/g` got.
//! - *No access reaches a block after it was handed out*: whoever holds a page or stores through a translation leaves a stamp, and a
//!   holder finds a stamp there as long as he holds; `/g` keeps its content.
//! - *Nobody waits for ever*: no wait has a deadline of its own, so a lost wake-up or a cycle of locks is a deadlock, which shuttle reports;
//!   every thread is joined.
//! - Debug assertions are on: lock order, nothing slept under a spin lock, nothing held while break_layouts waits, no count below 0.
//! - *The device can go at the end*: no page has a count.

use dax::layout::{BreakReport, How};
use dax::pmem::{Pmem, RamPmem};
use dax::xarray::NodePool;
use fs::error::{TruncateError, WriteError};
use fs::{Backing, Fs, MkfsOptions, mkfs};
use mm::addr::{PAGE_SIZE, PageSize, Pfn, VirtAddr};
use mm::aspace::{Access, AddressSpace, FaultError, Prot, VaRange};
use mm::fake::{HeapTables, ModelTlb};
use mm::gup::{GupError, PinnedPages, pin_user_pages, pin_user_pages_fast};
use mm::pgmap::{Pgmap, scratch_range};
use mm::sync::model::{self, JoinHandle};
use mm::sync::{Wait, irq_off};
use std::sync::{Arc, LazyLock};

pub type Ram = Arc<RamPmem>;
pub type Volume = Fs<Ram>;
pub type File = fs::Inode<Ram>;

const BLOCKS: u64 = 8;
/// Pages of `/f`.
pub const PAGES: u64 = 2;
const MINE: u8 = 0x11;
/// What users of `/f` store is less.
const STAMPS: u64 = 100;

/// The region as each schedule finds it.
static IMAGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let ram = Arc::new(RamPmem::new(BLOCKS * PAGE_SIZE).expect("memory"));
    let options = MkfsOptions {
        ring_slots: 16,
        inodes: Some(16),
        ..MkfsOptions::new(*b"a shuttle model!")
    };
    mkfs(&ram, &options).expect("mkfs");
    let fs = Fs::mount(ram.clone(), backing()).expect("mount");
    let f = fs.create("/f", 0o644).expect("create");
    fs.create("/g", 0o644).expect("create");
    fs.write(&f, 0, &[MINE; (PAGES * PAGE_SIZE) as usize])
        .expect("write");
    assert_eq!(fs.statfs().space.free, 0, "something is free");
    drop(f);
    assert!(fs.unmount().is_ok());
    let mut image = vec![0; (BLOCKS * PAGE_SIZE) as usize];
    ram.read(0, &mut image).expect("heap");
    image
});

/// Makes what all schedules share, before the first.
pub fn prepare() {
    LazyLock::force(&IMAGE);
}

fn backing() -> Backing {
    Backing {
        pgmap: Pgmap::new("model", scratch_range(BLOCKS), None).expect("room in the registry"),
        nodes: NodePool::new(4).expect("memory"),
        zero_page: scratch_range(1).start(),
    }
}

fn remove(pgmap: &Pgmap) {
    assert_eq!(pgmap.first_busy(), None, "in use at the end");
    pgmap
        .remove(|| (), &Wait::until(0))
        .expect("nothing is in use");
}

pub fn forever() -> How<'static> {
    How::Wait(Wait::forever())
}

/// A process that maps `/f`.
pub struct Process {
    pub space: Arc<AddressSpace>,
    pub tlb: Arc<ModelTlb>,
    pub at: VaRange,
}

impl Process {
    pub fn new(file: &Arc<File>) -> Self {
        let tlb = ModelTlb::new();
        let window = VaRange::new(VirtAddr::new(0x1000_0000_0000), 16).expect("range");
        let space = AddressSpace::new(HeapTables::new(), tlb.clone(), window).expect("memory");
        let prot = Prot::WRITE | Prot::USER;
        let at = space
            .map(file.clone(), 0, PAGES, prot, PageSize::Size4K)
            .expect("map");
        Self { space, tlb, at }
    }

    pub fn va(&self, page: u64) -> VirtAddr {
        self.at.start() + page * PAGE_SIZE
    }

    pub fn unmap(&self) {
        self.space.unmap(self.at).expect("a whole mapping");
    }
}

pub struct World {
    pub fs: Arc<Volume>,
    pub f: Arc<File>,
    pub g: Arc<File>,
    pub process: Arc<Process>,
    pub pgmap: Arc<Pgmap>,
    ram: Ram,
}

impl World {
    pub fn new() -> Self {
        model::quietly(Self::build)
    }

    fn build() -> Self {
        let ram = Arc::new(RamPmem::new(BLOCKS * PAGE_SIZE).expect("memory"));
        ram.store(0, &IMAGE);
        let fs = Fs::mount(ram.clone(), backing()).expect("mount");
        let (f, g) = (fs.open("/f").expect("open"), fs.open("/g").expect("open"));
        let process = Arc::new(Process::new(&f));
        let pgmap = fs.pgmap().clone();
        Self {
            fs,
            f,
            g,
            process,
            pgmap,
            ram,
        }
    }

    fn word(&self, pfn: Pfn) -> u64 {
        let block = pfn.get() - self.pgmap.range().start().get();
        self.ram.load64(block * PAGE_SIZE).expect("heap")
    }

    fn stamp(&self, pfn: Pfn, stamp: u64) {
        let block = pfn.get() - self.pgmap.range().start().get();
        self.ram.store64(block * PAGE_SIZE, stamp);
    }

    /// Stores through the process's mapping, if its page can be reached. A CPU stores and answers shootdowns one after the other.
    pub fn touch(&self, page: u64, stamp: u64) -> Result<(), FaultError> {
        let process = &self.process;
        let pfn = process
            .tlb
            .access(&process.space, process.va(page), Access::Write)?;
        irq_off(|| {
            if process.tlb.may_write(pfn) {
                self.stamp(pfn, stamp);
            }
        });
        Ok(())
    }

    /// Reads through the process's mapping: the page that it reaches.
    pub fn look(&self, page: u64) -> Result<Pfn, FaultError> {
        let Process { space, tlb, .. } = &*self.process;
        tlb.access(space, self.process.va(page), Access::Read)
    }

    /// Reads a page of the file, which is long enough.
    pub fn looked(&self, page: u64) {
        self.look(page).expect("within the file");
    }

    /// Takes the storage of `/f` away; its size stays.
    pub fn become_a_hole(&self) {
        self.truncate().expect("truncate");
        let report = &mut BreakReport::default();
        let size = PAGES * PAGE_SIZE;
        let longer = self.fs.truncate(&self.f, size, forever(), report);
        longer.expect("truncate");
    }

    /// Writes page `page` of `/f` whole, by write(2).
    pub fn fill(&self, page: u64) {
        let data = [0x33; PAGE_SIZE as usize];
        let written = self.fs.write(&self.f, page * PAGE_SIZE, &data);
        written.expect("room");
    }

    pub fn pin(&self, page: u64, fast: bool) -> Result<PinnedPages, GupError> {
        let process = &self.process;
        let pin = if fast {
            pin_user_pages_fast
        } else {
            pin_user_pages
        };
        pin(&process.space, process.va(page), 1, true)
    }

    /// What a device does with a page that it holds: stores, and finds what it, or another user of the same page, stored.
    pub fn use_pinned(&self, pin: &PinnedPages, stamp: u64) {
        for pfn in pin.pfns() {
            self.stamp(pfn, stamp);
            model::yield_now();
            let found = self.word(pfn);
            assert!(
                found < STAMPS,
                "a held page has the content of another file: {found:#x}"
            );
        }
    }

    /// Pins a page if the file still has it, uses and unpins it.
    pub fn pin_and_use(&self, page: u64, fast: bool, stamp: u64) {
        match self.pin(page, fast) {
            Ok(pin) => self.use_pinned(&pin, stamp),
            Err(GupError::Fault { .. }) => {}
            Err(why) => panic!("{why}"),
        }
    }

    /// Cuts the file to nothing, waiting for as long as it takes.
    pub fn truncate(&self) -> Result<(), TruncateError> {
        let report = &mut BreakReport::default();
        self.fs
            .truncate(&self.f, 0, forever(), report)
            .map(|_report| ())
    }

    /// Writes `/g`, which can only get what was `/f`'s, and looks who else has it.
    pub fn reuse(&self) -> Result<(), WriteError> {
        let size = (PAGES * PAGE_SIZE) as usize;
        self.fs.write(&self.g, 0, &vec![0x77; size])?;
        self.check_reused();
        Ok(())
    }

    /// `/g` has its blocks alone.
    pub fn check_reused(&self) {
        for page in 0..PAGES {
            let pfn = self.g.pfn(page).expect("storage");
            let counts = self
                .pgmap
                .folio(pfn)
                .map(|f| f.counts())
                .unwrap_or_default();
            assert!(counts.is_idle(), "handed out with {counts}");
            assert!(
                !self.process.tlb.reaches(pfn, 1),
                "handed out with a stale translation"
            );
            assert_eq!(
                self.word(pfn),
                u64::from_ne_bytes([0x77; 8]),
                "a store reached a block of another file"
            );
        }
    }

    /// Everybody is done: `/g` has its blocks, nothing is held, and the file system can go.
    pub fn end(self) {
        model::quietly(|| self.check_and_remove());
    }

    fn check_and_remove(self) {
        self.check_reused();
        let Self {
            fs,
            f,
            g,
            process,
            pgmap,
            ..
        } = self;
        drop((f, g, process));
        if let Err((_fs, why)) = fs.unmount() {
            panic!("{why}");
        }
        remove(&pgmap);
    }
}

/// Runs the threads at once and waits for all.
pub fn at_once<const N: usize>(world: &Arc<World>, threads: [fn(&World); N]) {
    let started = threads.map(|f| thread(world, f));
    for thread in started {
        thread.join().expect("a thread panicked");
    }
}

pub fn thread(world: &Arc<World>, f: impl FnOnce(&World) + Send + 'static) -> JoinHandle<()> {
    let world = world.clone();
    model::spawn(move || f(&world))
}

/// The world, which nobody else has any more.
pub fn alone(world: Arc<World>) -> World {
    Arc::into_inner(world).expect("every thread has ended")
}
