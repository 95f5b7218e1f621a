//! A file under test: its storage, its mappings, and what may legally be in it.

use super::ledger::Ledger;
use super::stamp::Stamp;
use super::trouble::Trouble;
use crate::machine::Inode;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;
use mm::addr::{PAGE_SIZE, PageSize, VirtAddr};
use mm::aspace::{AddressSpace, Prot, UnmapError, VaRange};
use mm::mem::OutOfMemory;
use mm::sync::SpinLock;

/// The words of a page that are stamped through mappings, and looked at: in different cache lines, the ends among them.
pub const WORDS: [u64; 4] = [0, 171, 340, 511];

/// A mapping of a whole file.
pub struct View {
    /// Where it is mapped.
    pub space: Arc<AddressSpace>,
    range: VaRange,
}

impl View {
    fn open(space: &Arc<AddressSpace>, file: &File) -> Result<Self, Trouble> {
        let align = match file.stride {
            1 => PageSize::Size4K,
            _ => PageSize::Size2M,
        };
        let pages = file.pages() * file.stride;
        let range = space.map(file.inode.clone(), 0, pages, Prot::WRITE, align)?;
        Ok(View {
            space: space.clone(),
            range,
        })
    }

    /// The address of a page of the file (counted in 4 KiB).
    pub fn at(&self, page: u64) -> VirtAddr {
        self.range.start() + page * PAGE_SIZE
    }
}

impl Drop for View {
    fn drop(&mut self) {
        match self.space.unmap(self.range) {
            // A whole mapping goes: nothing has to be recorded, so memory cannot be short.
            Ok(()) | Err(UnmapError::OutOfMemory) => {}
            Err(UnmapError::NotMapped) => {
                log::error!("{:?} was unmapped by somebody else", self.range);
            }
        }
    }
}

/// A file under test. Its pages are numbered by those that the test uses; `stride` pages of 4 KiB lie between two.
pub struct File {
    /// Its number in the run.
    pub id: u32,
    /// Its name.
    pub path: String,
    /// The file itself.
    pub inode: Arc<Inode>,
    /// 4 KiB pages from one page of the test to the next.
    pub stride: u64,
    /// Pins that workers hold.
    pub pins: AtomicU32,
    ledgers: Box<[Ledger]>,
    views: Vec<SpinLock<Option<Arc<View>>>>,
}

impl File {
    /// A file of `pages` pages at most, to be mapped in `spaces` address spaces.
    ///
    /// # Errors
    /// No memory.
    pub fn new(
        id: u32,
        path: String,
        inode: Arc<Inode>,
        shape: Shape,
        spaces: usize,
    ) -> Result<Self, OutOfMemory> {
        let Shape { pages, stride } = shape;
        let mut ledgers = Vec::new();
        ledgers
            .try_reserve_exact(pages as usize)
            .map_err(|_| OutOfMemory)?;
        ledgers.resize_with(pages as usize, Ledger::new);
        let mut views = Vec::new();
        views.try_reserve_exact(spaces).map_err(|_| OutOfMemory)?;
        views.resize_with(spaces, || SpinLock::new(None));
        Ok(File {
            id,
            path,
            inode,
            stride,
            pins: AtomicU32::new(0),
            ledgers: ledgers.into_boxed_slice(),
            views,
        })
    }

    /// Pages that the test uses.
    pub fn pages(&self) -> u64 {
        self.ledgers.len() as u64
    }

    /// What is legal in a page.
    pub fn ledger(&self, page: u64) -> &Ledger {
        &self.ledgers[page as usize]
    }

    /// Where a page begins, in bytes.
    pub fn offset(&self, page: u64) -> u64 {
        page * self.stride * PAGE_SIZE
    }

    /// The stamp of a version of a page.
    pub fn stamp(&self, page: u64, version: u16) -> Stamp {
        Stamp {
            file: self.id,
            page: page as u16,
            version,
        }
    }

    /// The frame of a page, as the file system has it now.
    pub fn pfn(&self, page: u64) -> Option<u64> {
        Some(self.inode.pfn(page * self.stride)?.get())
    }

    /// Its mapping in an address space, shared by all who use it there; made when it is first wanted.
    pub fn view(&self, index: usize, space: &Arc<AddressSpace>) -> Result<Arc<View>, Trouble> {
        if let Some(view) = &*self.views[index].lock() {
            return Ok(view.clone());
        }
        let made = Arc::new(View::open(space, self)?);
        // Somebody may have been faster; one of the two goes, outside of the lock.
        let mut place = self.views[index].lock();
        let view = place.get_or_insert_with(|| made.clone()).clone();
        drop(place);
        drop(made);
        Ok(view)
    }

    /// Lets go of all its mappings; each ends with its last user.
    pub fn close_views(&self) {
        for place in &self.views {
            let view = place.lock().take();
            drop(view);
        }
    }
}

/// How many pages a file has, and how far apart.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Pages that the test uses.
    pub pages: u64,
    /// 4 KiB pages from one to the next.
    pub stride: u64,
}

impl Shape {
    /// The largest size, in bytes.
    pub fn bytes(self) -> u64 {
        self.pages * self.stride * PAGE_SIZE
    }
}
