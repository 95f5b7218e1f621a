//! Files that are mapped, and the windows that pins go through.

use super::{Inode, Machine};
use crate::fault;
use alloc::string::String;
use alloc::sync::Arc;
use core::ops::Range;
use fs::Kind;
use mm::addr::{PAGE_SIZE, PageSize, VirtAddr};
use mm::aspace::{MapError, Prot, UnmapError, VaRange};
use mm::gup::{GupError, PinnedPages, pin_user_pages_fast, pin_user_pages_longterm};
use mm::lease::Lease;
use mm::mem::OutOfMemory;
use mm::sync::atomic::Ordering;
use thiserror::Error;

/// A range of a file in the kernel's address space; unmapped when dropped.
pub struct Window {
    range: VaRange,
    /// Where in the first page the range that was asked for begins.
    lead: u64,
    len: u64,
}

/// Why a file was not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MapFailure {
    /// No bytes were asked for, or more than addresses reach.
    #[error("it is not a range of a file")]
    BadRange,
    /// It is a directory, whose entries are the file system's alone.
    #[error("it is not a file")]
    NotFile,
    /// The address space says no.
    #[error(transparent)]
    Map(#[from] MapError),
    /// No memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// Why pages were not pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PinFailure {
    /// They could not be mapped for it.
    #[error(transparent)]
    Map(#[from] MapFailure),
    /// A page could not be pinned.
    #[error(transparent)]
    Gup(#[from] GupError),
    /// No memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

impl Window {
    /// Maps `len` bytes of a file from `off` on, for loads, and for stores unless the file system is read-only.
    ///
    /// # Errors
    /// See [`MapFailure`].
    pub fn open(inode: &Arc<Inode>, off: u64, len: u64) -> Result<Self, MapFailure> {
        if inode.kind() != Kind::File {
            return Err(MapFailure::NotFile);
        }
        let pages = page_range(off, len).ok_or(MapFailure::BadRange)?;
        let prot = match inode.takes_stores() {
            true => Prot::WRITE,
            false => Prot::empty(),
        };
        let space = fault::space();
        let object = inode.clone();
        let range = space.map(
            object,
            pages.start,
            pages.end - pages.start,
            prot,
            PageSize::Size4K,
        )?;
        Ok(Window {
            range,
            lead: off % PAGE_SIZE,
            len,
        })
    }

    /// The address of the first byte that was asked for.
    pub fn start(&self) -> VirtAddr {
        self.range.start() + self.lead
    }

    /// Bytes that were asked for.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never: a window has at least a byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whole pages.
    pub fn range(&self) -> VaRange {
        self.range
    }

    /// Pins all its pages, for stores of a device too if `write`.
    ///
    /// # Errors
    /// See [`GupError`].
    pub fn pin(&self, write: bool) -> Result<PinnedPages, GupError> {
        pin_user_pages_fast(
            fault::space(),
            self.range.start(),
            self.range.pages() as usize,
            write,
        )
    }

    /// Pins all its pages for as long as the holder likes, for stores too.
    ///
    /// # Errors
    /// [`GupError::NeedsLease`] without a lease, or see [`GupError`].
    pub fn pin_longterm(&self, lease: Option<Arc<dyn Lease>>) -> Result<PinnedPages, GupError> {
        let (start, pages) = (self.range.start(), self.range.pages() as usize);
        pin_user_pages_longterm(fault::space(), start, pages, true, lease)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        match fault::space().unmap(self.range) {
            // A whole mapping goes: nothing has to be recorded, so memory cannot be short.
            Ok(()) | Err(UnmapError::OutOfMemory) => {}
            Err(UnmapError::NotMapped) => {
                log::error!("{:?} was unmapped by somebody else", self.range)
            }
        }
    }
}

/// The pages that a range of bytes touches.
fn page_range(off: u64, len: u64) -> Option<Range<u64>> {
    let end = off.checked_add(len).filter(|_| len > 0)?;
    Some(off / PAGE_SIZE..end.div_ceil(PAGE_SIZE))
}

/// A mapping of the shell.
pub struct Map {
    /// Its number, from 1.
    pub id: u32,
    /// The file's name when it was mapped.
    pub path: String,
    /// The file.
    pub inode: Arc<Inode>,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// The addresses.
    pub window: Window,
}

impl Machine {
    /// Maps a range of a file until [`Machine::remove_map`].
    ///
    /// # Errors
    /// See [`MapFailure`].
    pub fn add_map(
        &self,
        path: String,
        inode: Arc<Inode>,
        offset: u64,
        len: u64,
    ) -> Result<Arc<Map>, MapFailure> {
        let window = Window::open(&inode, offset, len)?;
        // Relaxed: the number only has to be unique.
        let id = self.next_map.fetch_add(1, Ordering::Relaxed);
        let map = Arc::new(Map {
            id,
            path,
            inode,
            offset,
            window,
        });
        let room = {
            let mut maps = self.maps.lock();
            maps.try_reserve(1).map(|()| maps.push(map.clone()))
        };
        room.map_err(|_| OutOfMemory)?;
        Ok(map)
    }

    /// The mapping with this number.
    pub fn map(&self, id: u64) -> Option<Arc<Map>> {
        self.maps
            .lock()
            .iter()
            .find(|m| u64::from(m.id) == id)
            .cloned()
    }

    /// Calls `each` with every mapping, under the list's lock: it must not sleep.
    pub fn maps(&self, mut each: impl FnMut(&Map)) {
        self.maps.lock().iter().for_each(|m| each(m));
    }

    /// Takes a mapping off the list; it ends with its last user.
    pub fn remove_map(&self, id: u64) -> Option<Arc<Map>> {
        let mut maps = self.maps.lock();
        let at = maps.iter().position(|m| u64::from(m.id) == id)?;
        Some(maps.remove(at))
    }
}
