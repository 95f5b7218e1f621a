//! What benchmarks stand on: files that go when they are done with, and mappings whose page size is chosen.

use alloc::sync::Arc;
use alloc::vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use dax::layout::{BreakReport, How};
use mm::addr::{PAGE_SIZE, PageSize, VirtAddr};
use mm::aspace::{AddressSpace, Prot, VaRange};
use mm::gup::{PinnedPages, pin_user_pages, pin_user_pages_fast};
use mm::sync::Wait;

use super::clock::Clock;
use super::error::BenchError;
use super::sample::{Counters, Sample};
use crate::machine::{Fs, Inode};
use crate::{fault, uaccess};

/// Pages of the file that most benchmarks use: 64 MiB.
pub const PAGES: u64 = 16_384;

/// Where the benchmarks' files lie.
const PATH: &str = "/bench-file";

/// What a benchmark has at hand.
pub struct Bed {
    /// The mounted file system.
    pub fs: Arc<Fs>,
    /// The clock.
    pub clock: Clock,
}

impl Bed {
    /// Measures `f`, which does `ops` operations.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn measure<E>(&self, ops: u64, f: impl FnOnce() -> Result<(), E>) -> Result<Sample, E> {
        let before = Counters::now();
        let (done, ticks) = self.clock.measure(f);
        done.map(|()| Sample {
            ops,
            ticks,
            counters: Counters::now().since(&before),
        })
    }

    /// A new file of `pages` pages, allocated and zeroed; at least one page.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn file(&self, pages: u64) -> Result<File<'_>, BenchError> {
        let inode = self.fs.create_sized(PATH, 0o644, pages * PAGE_SIZE)?;
        Ok(File {
            fs: &self.fs,
            inode: Some(inode),
        })
    }

    /// A new file with nothing in it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn empty_file(&self) -> Result<File<'_>, BenchError> {
        let inode = self.fs.create(PATH, 0o644)?;
        Ok(File {
            fs: &self.fs,
            inode: Some(inode),
        })
    }
}

/// A file that is removed when it is dropped.
pub struct File<'a> {
    fs: &'a Arc<Fs>,
    inode: Option<Arc<Inode>>,
}

impl File<'_> {
    /// The file itself.
    pub fn inode(&self) -> &Arc<Inode> {
        self.inode
            .as_ref()
            .expect("the file is there until the drop")
    }

    /// Truncates it to nothing. `at_event` is called when the range is unmapped and when it is proved idle.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn truncate(&self, at_event: &dyn Fn()) -> Result<(), BenchError> {
        let observer = |_| at_event();
        let mut report = BreakReport::observed(&observer);
        self.fs
            .truncate(self.inode(), 0, How::Wait(Wait::forever()), &mut report)?;
        Ok(())
    }
}

impl Drop for File<'_> {
    fn drop(&mut self) {
        self.inode = None;
        if let Err(e) = self.fs.unlink(PATH) {
            log::error!("{PATH} stays: {e}");
        }
        self.fs.settle();
    }
}

/// The kind of pages that a mapping is to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// 4 KiB, although the storage would allow more.
    Small,
    /// 2 MiB where the storage allows it.
    Large,
}

impl Grain {
    /// 4 KiB pages that one page-table entry maps.
    pub fn pages(self) -> u64 {
        match self {
            Grain::Small => 1,
            Grain::Large => 512,
        }
    }
}

/// The way by which pages are pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gup {
    /// Without a lock.
    Fast,
    /// Under the lock of the address space.
    Slow,
}

/// A mapping; unmapped when dropped.
pub struct View {
    space: Arc<AddressSpace>,
    range: VaRange,
    grain: Grain,
    mapped: AtomicBool,
}

impl View {
    /// Maps `pages` pages of a file that has one page more, for loads and stores.
    ///
    /// For small pages the mapping starts at the second page of the file and at an address that suits the first, so that no larger page fits.
    ///
    /// # Errors
    /// Those of the address space.
    pub fn new(inode: &Arc<Inode>, pages: u64, grain: Grain) -> Result<Self, BenchError> {
        let space = fault::space().clone();
        let (first, align) = match grain {
            Grain::Small => (1, PageSize::Size4K),
            Grain::Large => (0, PageSize::Size2M),
        };
        let range = space.map(inode.clone(), first, pages, Prot::WRITE, align)?;
        Ok(View {
            space,
            range,
            grain,
            mapped: AtomicBool::new(true),
        })
    }

    /// The address space.
    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }

    /// The addresses.
    pub fn range(&self) -> VaRange {
        self.range
    }

    /// Page-table entries that it needs.
    pub fn entries(&self) -> u64 {
        self.range.pages() / self.grain.pages()
    }

    /// The address of each entry's first byte, for a part of the entries.
    fn addresses(&self, entries: Range<u64>) -> impl Iterator<Item = VirtAddr> + use<> {
        let (start, step) = (self.range.start(), self.grain.pages() * PAGE_SIZE);
        entries.map(move |i| start + i * step)
    }

    /// Loads one byte through each entry.
    ///
    /// # Errors
    /// Those of the fault.
    pub fn load(&self, entries: Range<u64>) -> Result<(), BenchError> {
        self.addresses(entries)
            .try_for_each(|at| uaccess::load8(at).map(drop))?;
        Ok(())
    }

    /// Stores one byte through each entry.
    ///
    /// # Errors
    /// Those of the fault.
    pub fn store(&self, entries: Range<u64>) -> Result<(), BenchError> {
        self.addresses(entries)
            .try_for_each(|at| uaccess::store8(at, 1))?;
        Ok(())
    }

    /// Stores through every entry, so that all are there and may be written.
    ///
    /// # Errors
    /// Those of the fault; a mapping that did not come in pages of the size that was asked for.
    pub fn populate(&self) -> Result<(), BenchError> {
        self.store(0..self.entries())?;
        let found = self
            .space
            .translate(self.range.start())
            .map(|m| m.size.pages());
        match found == Some(self.grain.pages()) {
            true => Ok(()),
            false => Err(BenchError::OtherPageSize),
        }
    }

    /// Pins `pages` pages from page `first` of the mapping on, for stores.
    ///
    /// # Errors
    /// Those of gup.
    pub fn pin(&self, first: u64, pages: usize, how: Gup) -> Result<PinnedPages, BenchError> {
        let at = self.range.start() + first * PAGE_SIZE;
        Ok(match how {
            Gup::Fast => pin_user_pages_fast(&self.space, at, pages, true),
            Gup::Slow => pin_user_pages(&self.space, at, pages, true),
        }?)
    }

    /// Unmaps it.
    ///
    /// # Errors
    /// Those of the address space.
    pub fn unmap(&self) -> Result<(), BenchError> {
        // Relaxed: whoever drops the view has it alone.
        self.mapped.store(false, Ordering::Relaxed);
        Ok(self.space.unmap(self.range)?)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if *self.mapped.get_mut()
            && let Err(e) = self.space.unmap(self.range)
        {
            log::error!("{:?} stays mapped: {e}", self.range);
        }
    }
}

/// Small data to write.
pub fn data(bytes: usize) -> alloc::vec::Vec<u8> {
    vec![0x5a; bytes]
}
