//! The sparse page map: the metadata of a pgmap, made as pages come into use.
//!
//! ```text
//! root: one link for each GiB that the range touches (512 GiB: 4 KiB)
//!   └ Gig: head of the 1 GiB folio, 512 links
//!       └ Block: head of the 2 MiB folio, 1 link
//!           └ Leaf: 512 pages
//! ```
//!
//! A missing node means that all its pages are idle, which needs no memory and no initialisation: all bytes zero is an idle
//! page, so a new node is zeroed memory and nothing more. Folios of 2 MiB and 1 GiB have their head at their own level;
//! their tails need no node.
//!
//! # Protocol
//! Readers take no lock. A node is zeroed before its link is published, and never freed while the map lives. Two threads that
//! make the same node race with one compare-and-exchange on the link; the loser frees its own. Publication and reading of
//! links are SeqCst: as Release and Acquire they make the zeroes visible, and being in the single order they let a removal,
//! which first marks the pgmap dying, see every node in which a page was granted a first mapping before that mark
//! (`life`: publication precedes the mapper's look at the state, which precedes the mark, which precedes the sweep).
//!
//! # Index arithmetic
//! Nodes are aligned to absolute frame numbers, not to the start of the range: a 2 MiB folio starts at a multiple of 512
//! wherever the range starts. The range may start and end at any frame. The first and last nodes may then have slots outside
//! of the range, which nobody can reach, because every lookup checks the range first.

#![expect(
    unsafe_code,
    reason = "zeroed nodes are published through raw pointers and read without locks"
)]

mod meta;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

pub use self::meta::{DeviceMeta, HeapMeta, MetaAlloc};

use crate::addr::{PageSize, Pfn, PfnRange};
use crate::mem::OutOfMemory;
use crate::page::Page;
use crate::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use alloc::sync::Arc;
use core::alloc::Layout;
use core::ops::ControlFlow;
use core::ptr::{self, NonNull};

/// Links or pages in a node. Under loom a few: each costs an object of the model when a map is dropped.
const FAN: usize = if cfg!(loom) { 8 } else { 512 };

#[repr(C)]
struct Gig {
    head: Page,
    blocks: [Link<Block>; FAN],
}

#[repr(C)]
struct Block {
    head: Page,
    leaf: Link<Leaf>,
}

#[repr(C)]
struct Leaf {
    pages: [Page; FAN],
}

/// A node type for which all bytes zero is a valid, empty node.
///
/// # Safety
/// As said: zeroed memory is a valid value of the type, and dropping one without running its destructor loses nothing.
unsafe trait Zeroed {}
// SAFETY: integers and atomics (Page) and null links.
unsafe impl Zeroed for Gig {}
// SAFETY: as Gig.
unsafe impl Zeroed for Block {}
// SAFETY: as Gig.
unsafe impl Zeroed for Leaf {}

/// A pointer to a node that may not exist yet.
#[repr(transparent)]
struct Link<T>(AtomicPtr<T>);

impl<T: Zeroed> Link<T> {
    /// The node, if it exists.
    fn get(&self) -> Option<&T> {
        // SeqCst: pairs with the publication in `get_or_make` (module head).
        // SAFETY: a link is null or points to a node that lives as long as the map, which outlives the borrow of the link.
        unsafe { self.0.load(Ordering::SeqCst).as_ref() }
    }

    /// The node, made if it does not exist.
    fn get_or_make(&self, map: &SparseMap) -> Result<&T, OutOfMemory> {
        if let Some(node) = self.get() {
            return Ok(node);
        }
        let layout = Layout::new::<T>();
        let fresh = map.mem.alloc_zeroed(layout)?;
        // SeqCst: the publication of the module head. On failure Acquire pairs with the winner's publication.
        match self.0.compare_exchange(
            ptr::null_mut(),
            fresh.cast().as_ptr(),
            Ordering::SeqCst,
            Ordering::Acquire,
        ) {
            Ok(_) => {
                map.account(layout);
                // SAFETY: zeroed memory is a valid T; it was just published and lives as long as the map.
                Ok(unsafe { fresh.cast().as_ref() })
            }
            Err(winner) => {
                // SAFETY: `fresh` was never published. `winner` is not null, and lives as long as the map.
                unsafe {
                    map.mem.free(fresh, layout);
                    Ok(&*winner)
                }
            }
        }
    }

    /// Takes the node out, for freeing.
    fn take(&mut self) -> Option<NonNull<T>> {
        NonNull::new(core::mem::replace(self.0.get_mut(), ptr::null_mut()))
    }
}

/// The counts of consecutive pages; see [`SparseMap::section`].
#[derive(Clone, Copy)]
pub enum Section<'a> {
    /// The pages belong to one folio, whose count is in its head.
    Folio {
        /// The head.
        head: &'a Page,
        /// Its frame.
        start: Pfn,
        /// Its size.
        size: PageSize,
    },
    /// Each page has its own, the first frame asked for first.
    Pages(&'a [Page]),
}

impl<'a> Section<'a> {
    fn folio(head: &'a Page, pfn: Pfn, size: PageSize) -> Self {
        let start = pfn.align_down(size);
        Self::Folio { head, start, size }
    }
}

/// The metadata of the pages of one range.
pub struct SparseMap {
    range: PfnRange,
    root: NonNull<Link<Gig>>,
    gigs: usize,
    mem: Arc<dyn MetaAlloc>,
    /// Bytes of the root and of all nodes.
    bytes: AtomicU64,
    nodes: AtomicU64,
}

// SAFETY: the pointers own nodes made of atomics, shared under the protocol of the module head.
unsafe impl Send for SparseMap {}
// SAFETY: as above.
unsafe impl Sync for SparseMap {}

impl SparseMap {
    /// A map of `range` in which every page is idle: it allocates the root, 8 bytes for each GiB, and nothing else.
    pub fn new(range: PfnRange, mem: Arc<dyn MetaAlloc>) -> Result<Self, OutOfMemory> {
        assert!(
            !cfg!(loom) || range.start().get() % 512 + range.pages() <= FAN as u64,
            "under loom a node has {FAN} pages"
        );
        let gigs = (gig_of(range.end() - 1) - gig_of(range.start().get()) + 1) as usize;
        let layout = root_layout(gigs).ok_or(OutOfMemory)?;
        let root = mem.alloc_zeroed(layout)?.cast();
        let bytes = AtomicU64::new(layout.size() as u64);
        Ok(Self {
            range,
            root,
            gigs,
            mem,
            bytes,
            nodes: AtomicU64::new(0),
        })
    }

    /// The pages.
    pub fn range(&self) -> PfnRange {
        self.range
    }

    /// Bytes of metadata that exist, the root included.
    pub fn metadata_bytes(&self) -> u64 {
        // Relaxed: a statistic.
        self.bytes.load(Ordering::Relaxed)
    }

    /// Nodes that exist: 1 GiB and 2 MiB heads and leaves.
    pub fn populated_sections(&self) -> u64 {
        // Relaxed: a statistic.
        self.nodes.load(Ordering::Relaxed)
    }

    /// The metadata that a folio of `size` at `pfn` has or would have, if its node exists. `None` also out of range.
    pub fn head(&self, pfn: Pfn, size: PageSize) -> Option<&Page> {
        let gig = self.gig(pfn)?.get()?;
        match size {
            PageSize::Size1G => Some(&gig.head),
            PageSize::Size2M => Some(&gig.blocks[block_index(pfn)].get()?.head),
            PageSize::Size4K => {
                Some(&gig.blocks[block_index(pfn)].get()?.leaf.get()?.pages[page_index(pfn)])
            }
        }
    }

    /// As [`SparseMap::head`], making the nodes that are missing. `Ok(None)`: out of range.
    pub fn populate(&self, pfn: Pfn, size: PageSize) -> Result<Option<&Page>, OutOfMemory> {
        let Some(link) = self.gig(pfn) else {
            return Ok(None);
        };
        let gig = link.get_or_make(self)?;
        if size == PageSize::Size1G {
            return Ok(Some(&gig.head));
        }
        let block = gig.blocks[block_index(pfn)].get_or_make(self)?;
        if size == PageSize::Size2M {
            return Ok(Some(&block.head));
        }
        Ok(Some(&block.leaf.get_or_make(self)?.pages[page_index(pfn)]))
    }

    /// The folio in use that contains `pfn`, told by the order recorded in its head; else the base page. `None`: there is
    /// no metadata, so the page is idle, or `pfn` is out of range.
    pub fn find(&self, pfn: Pfn) -> Option<(Pfn, PageSize, &Page)> {
        let folio = |size, head| Some((pfn.align_down(size), size, head));
        let gig = self.gig(pfn)?.get()?;
        if gig.head.order() == PageSize::Size1G.order() {
            return folio(PageSize::Size1G, &gig.head);
        }
        let block = gig.blocks[block_index(pfn)].get()?;
        if block.head.order() == PageSize::Size2M.order() {
            return folio(PageSize::Size2M, &block.head);
        }
        folio(PageSize::Size4K, &block.leaf.get()?.pages[page_index(pfn)])
    }

    /// The counts from `pfn` on, as far as one folio or one section of 2 MiB reaches: one lookup for a run of pages. `None`: no metadata,
    /// or out of range.
    ///
    /// Whether it is a folio stays true while a page of it has a count.
    pub fn section(&self, pfn: Pfn) -> Option<Section<'_>> {
        let gig = self.gig(pfn)?.get()?;
        if gig.head.order() == PageSize::Size1G.order() {
            return Some(Section::folio(&gig.head, pfn, PageSize::Size1G));
        }
        let block = gig.blocks[block_index(pfn)].get()?;
        if block.head.order() == PageSize::Size2M.order() {
            return Some(Section::folio(&block.head, pfn, PageSize::Size2M));
        }
        let first = page_index(pfn);
        let inside = (self.range.end() - pfn.get()).min((FAN - first) as u64) as usize;
        let pages = block.leaf.get()?.pages.get(first..first + inside)?;
        Some(Section::Pages(pages))
    }

    /// Visits every head and page that has metadata and whose block overlaps `range`: ascending, larger before smaller.
    ///
    /// Missing sections are skipped. So is what lies below a head that has a count after its visit: its tails have none.
    pub fn visit<'a, B>(
        &'a self,
        range: PfnRange,
        mut f: impl FnMut(Pfn, PageSize, &'a Page) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let Some(range) = range.intersect(self.range) else {
            return ControlFlow::Continue(());
        };
        for pfn in blocks_of(range, PageSize::Size1G) {
            if let Some(gig) = self.gig_at(pfn).and_then(Link::get) {
                f(pfn, PageSize::Size1G, &gig.head)?;
                if gig.head.refs().is_settled_idle() {
                    gig.visit(pfn, range, &mut f)?;
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn gig(&self, pfn: Pfn) -> Option<&Link<Gig>> {
        if self.range.contains(pfn) {
            self.gig_at(pfn)
        } else {
            None
        }
    }

    /// The link of the GiB that contains `pfn`, which may itself be just outside of the range.
    fn gig_at(&self, pfn: Pfn) -> Option<&Link<Gig>> {
        let index = gig_of(pfn.get()).checked_sub(gig_of(self.range.start().get()))?;
        self.root().get(index as usize)
    }

    fn root(&self) -> &[Link<Gig>] {
        // SAFETY: the root has `gigs` links, zeroed when it was made, and lives as long as the map.
        unsafe { core::slice::from_raw_parts(self.root.as_ptr(), self.gigs) }
    }

    fn account(&self, layout: Layout) {
        // Relaxed: statistics.
        self.bytes
            .fetch_add(layout.size() as u64, Ordering::Relaxed);
        self.nodes.fetch_add(1, Ordering::Relaxed);
    }

    /// Frees a node.
    ///
    /// # Safety
    /// The node is unlinked, and nobody refers to it.
    unsafe fn free<T>(&self, node: NonNull<T>) {
        // SAFETY: `get_or_make` allocated it with this layout; the caller vouches for the rest.
        unsafe { self.mem.free(node.cast(), Layout::new::<T>()) }
    }
}

impl Gig {
    fn visit<'a, B>(
        &'a self,
        start: Pfn,
        range: PfnRange,
        f: &mut impl FnMut(Pfn, PageSize, &'a Page) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let Some(range) = whole(start, PageSize::Size1G).and_then(|r| r.intersect(range)) else {
            return ControlFlow::Continue(());
        };
        for pfn in blocks_of(range, PageSize::Size2M) {
            if let Some(block) = self.blocks[block_index(pfn)].get() {
                f(pfn, PageSize::Size2M, &block.head)?;
                if block.head.refs().is_settled_idle() {
                    block.visit(pfn, range, f)?;
                }
            }
        }
        ControlFlow::Continue(())
    }
}

impl Block {
    fn visit<'a, B>(
        &'a self,
        start: Pfn,
        range: PfnRange,
        f: &mut impl FnMut(Pfn, PageSize, &'a Page) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let pages = whole(start, PageSize::Size2M).and_then(|r| r.intersect(range));
        if let (Some(leaf), Some(pages)) = (self.leaf.get(), pages) {
            for pfn in pages.iter() {
                f(pfn, PageSize::Size4K, &leaf.pages[page_index(pfn)])?;
            }
        }
        ControlFlow::Continue(())
    }
}

impl Drop for SparseMap {
    fn drop(&mut self) {
        // SAFETY: as in `root`; the map is borrowed exclusively, so nobody refers to a node, and each link is emptied
        // before its node is freed.
        unsafe {
            for link in core::slice::from_raw_parts_mut(self.root.as_ptr(), self.gigs) {
                let Some(mut gig) = link.take() else { continue };
                for link in &mut gig.as_mut().blocks {
                    let Some(mut block) = link.take() else {
                        continue;
                    };
                    if let Some(leaf) = block.as_mut().leaf.take() {
                        self.free(leaf);
                    }
                    self.free(block);
                }
                self.free(gig);
            }
            if let Some(layout) = root_layout(self.gigs) {
                self.mem.free(self.root.cast(), layout);
            }
        }
    }
}

fn root_layout(gigs: usize) -> Option<Layout> {
    Layout::array::<Link<Gig>>(gigs).ok()
}

const fn gig_of(pfn: u64) -> u64 {
    pfn >> PageSize::Size1G.order()
}

const fn block_index(pfn: Pfn) -> usize {
    (pfn.get() >> PageSize::Size2M.order()) as usize % FAN
}

const fn page_index(pfn: Pfn) -> usize {
    pfn.get() as usize % FAN
}

/// The block of `size` that starts at `start`.
fn whole(start: Pfn, size: PageSize) -> Option<PfnRange> {
    PfnRange::new(start, size.pages())
}

/// The first frames of all aligned blocks of `size` that overlap `range`.
fn blocks_of(range: PfnRange, size: PageSize) -> impl Iterator<Item = Pfn> {
    let first = range.start().align_down(size).get();
    (first..range.end())
        .step_by(size.pages() as usize)
        .filter_map(Pfn::new)
}
