//! Where page metadata lives: RAM (`map=mem`) or the device itself (`map=dev`, an altmap).

use crate::mem::{OutOfMemory, try_alloc_zeroed};
use crate::sync::{SpinLock, class};
use arrayvec::ArrayVec;
use core::alloc::Layout;
use core::ptr::{self, NonNull};

/// Memory for the nodes of a sparse page map.
///
/// # Safety
/// `alloc_zeroed` returns memory of at least the layout's size and alignment, all bytes zero, that nobody else uses until it
/// is freed and that stays mapped as long as the allocator lives.
pub unsafe trait MetaAlloc: Send + Sync {
    /// Zeroed memory for `layout`. Never sleeps.
    fn alloc_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory>;

    /// Takes memory back.
    ///
    /// # Safety
    /// `place` came from `alloc_zeroed` of the same allocator with the same layout, and nobody uses it any more.
    unsafe fn free(&self, place: NonNull<u8>, layout: Layout);
}

/// Metadata in RAM, from the global allocator.
#[derive(Debug)]
pub struct HeapMeta;

// SAFETY: the global allocator's contract is the trait's.
unsafe impl MetaAlloc for HeapMeta {
    fn alloc_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        try_alloc_zeroed(layout)
    }

    unsafe fn free(&self, place: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller vouches that `place` came from the global allocator with this layout.
        unsafe { alloc::alloc::dealloc(place.as_ptr(), layout) }
    }
}

/// Distinct layouts that one [`DeviceMeta`] can take back: the three kinds of node and the root.
const CLASSES: usize = 4;
/// Nodes start on cache lines, so that two nodes never share one.
const LINE: usize = 64;

/// Metadata in a reserved part of the device itself.
///
/// Memory is handed out in ascending order; what is freed is kept for the next request of the same size. What the part held
/// before does not matter: nodes are zeroed when handed out, and nothing in it is read after a restart.
pub struct DeviceMeta {
    state: SpinLock<Part>,
}

struct Part {
    next: NonNull<u8>,
    left: usize,
    /// For each size, a list of free places linked through their first word.
    free: ArrayVec<(usize, *mut u8), CLASSES>,
}

// SAFETY: the pointers lead into memory that `DeviceMeta::new` was given for its sole use.
unsafe impl Send for Part {}

impl DeviceMeta {
    /// An allocator over the `len` bytes at `base`.
    ///
    /// # Safety
    /// The bytes are mapped, readable and writable, and used by nobody else, for as long as the allocator lives.
    pub unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        let skip = base.align_offset(LINE).min(len);
        // SAFETY: `skip` is at most `len`, so this stays in or at the end of the part.
        let next = unsafe { base.add(skip) };
        Self {
            state: SpinLock::with_class(
                &class::ALLOC,
                Part {
                    next,
                    left: len - skip,
                    free: ArrayVec::new(),
                },
            ),
        }
    }

    /// Bytes that were never handed out.
    pub fn untouched_bytes(&self) -> usize {
        self.state.lock().left
    }
}

/// The size of a place for `layout`: whole lines. `None`: an alignment or size that no node has.
fn place_size(layout: Layout) -> Option<usize> {
    let fits = layout.align() <= LINE && layout.size() >= size_of::<*mut u8>();
    if fits {
        layout.size().checked_next_multiple_of(LINE)
    } else {
        None
    }
}

impl Part {
    fn take(&mut self, size: usize) -> Option<NonNull<u8>> {
        self.reuse(size).or_else(|| self.extend(size))
    }

    fn reuse(&mut self, size: usize) -> Option<NonNull<u8>> {
        let (_, head) = self.free.iter_mut().find(|(s, _)| *s == size)?;
        let place = NonNull::new(*head)?;
        // SAFETY: a place on the list is free, so it is ours, and `give` wrote a pointer to its first word.
        *head = unsafe { place.cast::<*mut u8>().read() };
        Some(place)
    }

    fn extend(&mut self, size: usize) -> Option<NonNull<u8>> {
        self.left = self.left.checked_sub(size)?;
        let place = self.next;
        // SAFETY: at least `size` bytes were left from `next`, so the sum stays in or at the end of the part.
        self.next = unsafe { place.add(size) };
        Some(place)
    }

    /// Keeps a place for the next request of its size; a fifth size is forgotten rather than mixed up.
    fn give(&mut self, place: NonNull<u8>, size: usize) {
        if !self.free.iter().any(|(s, _)| *s == size)
            && self.free.try_push((size, ptr::null_mut())).is_err()
        {
            return;
        }
        if let Some((_, head)) = self.free.iter_mut().find(|(s, _)| *s == size) {
            // SAFETY: the place is free, so it is ours; it is aligned to a line and at least one long.
            unsafe { place.cast::<*mut u8>().write(*head) };
            *head = place.as_ptr();
        }
    }
}

// SAFETY: places are disjoint, line-aligned parts of memory that `new` was given alone, zeroed before they are handed out.
unsafe impl MetaAlloc for DeviceMeta {
    fn alloc_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        let size = place_size(layout).ok_or(OutOfMemory)?;
        let place = self.state.lock().take(size).ok_or(OutOfMemory)?;
        // SAFETY: `size` bytes from `place` were just handed to us alone.
        unsafe { place.write_bytes(0, size) };
        Ok(place)
    }

    unsafe fn free(&self, place: NonNull<u8>, layout: Layout) {
        if let Some(size) = place_size(layout) {
            self.state.lock().give(place, size);
        }
    }
}
