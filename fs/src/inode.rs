//! An inode in memory: what opens, mappings and pins share.
//!
//! Three layers of state, by who may change them:
//!
//! - `content`, the inode lock (class INODE): who reads, writes or cuts the content. `break_layouts` takes it.
//! - `attr`, under a spin lock: attributes, extents, and for a directory its index, as they are on the media. Read by anyone;
//!   changed only by who holds the commit lock, after the record is durable.
//! - `mapping`: pages and page tables; the DAX layer's own.
//!
//! So a fault, which must not take the inode lock, reads the extents and allocates under the commit lock alone, and a change of
//! extents is seen whole.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ops::{Deref, Range};

use dax::layout::Held;
use dax::mapping::{Block as DaxBlock, BlockMap, Mapping};
use dax::pmem::Pmem;
use mm::addr::Pfn;
use mm::aspace::{Access, Attachment, FaultAt, FaultError, FaultSink, SpaceId, VaRange, VmObject};
use mm::lease::Leases;
use mm::mem::{ArcSlot, OutOfMemory};
use mm::sync::{Mutex, SpinLock, class};

use crate::cut::PAGES_END;
use crate::dir::{Dir, DirIndex};
use crate::extents::{ExtentMap, Spot};
use crate::layout::{BLOCK_SIZE, Core, Extent, Ino, InodeImage, Kind};
use crate::media_inode::Loaded;
use crate::shared::Shared;

/// The right to use the content of an inode, inside its lock; carries nothing.
#[derive(Debug)]
pub struct Content(());

/// What the media says about an inode, in memory. In this order: see [`Vnode`].
#[repr(C)]
pub(crate) struct Attr {
    /// The content changed in place since the last record: its time, not yet on the media.
    pub lazy_mtime: Option<u64>,
    /// Of a directory, once it has been looked into.
    pub index: Option<Box<DirIndex>>,
    pub image: InodeImage,
    pub map: ExtentMap,
}

impl Attr {
    /// The times of content and attributes, the lazy one counted in.
    pub fn times(&self) -> (u64, u64) {
        let core = &self.image.core;
        let lazy = self.lazy_mtime;
        (
            lazy.unwrap_or(core.mtime),
            lazy.map_or(core.ctime, |lazy| lazy.max(core.ctime)),
        )
    }

    /// Takes over that what was written in place up to `end` is durable at `now`, and needs no record. False if the file must grow for it.
    pub fn written_in_place(&mut self, end: u64, now: u64) -> bool {
        let within = end <= self.image.core.size;
        if within {
            self.lazy_mtime = Some(now);
        }
        within
    }

    /// A record carries the lazy time `lazy`; one that came since stays.
    pub fn settled(&mut self, lazy: Option<u64>) {
        if self.lazy_mtime == lazy {
            self.lazy_mtime = None;
        }
    }
}

/// Attributes, as `stat` gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Number.
    pub ino: Ino,
    /// Counts the uses of the number.
    pub generation: u32,
    /// Type.
    pub kind: Kind,
    /// Type and permission bits, as POSIX has them: what `setattr` set, sticky and set-id bits included.
    pub mode: u16,
    /// Names; of a directory 2, and 1 for each directory in it.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Blocks of storage, nodes of extents included.
    pub blocks: u64,
    /// Of a device: its number, as `makedev` of the host packs it into 32 bits; else 0.
    pub rdev: u32,
    /// When the content changed last, or what somebody set it to. Nanoseconds since 1970, as all three.
    pub mtime: u64,
    /// When anything changed last: content, attributes or number of names.
    pub ctime: u64,
    /// When it was made, or what somebody set it to: reading does not change it.
    pub atime: u64,
}

/// A file or directory in use. Everyone who uses one shares it: who opened it, mappings, and pins, which keep it alive also after its
/// last name is gone.
///
/// What it is, is the [`Vnode`] behind it; this is the using of it. When the last one of a file without a name is dropped, in whatever
/// context, the file system's worker hears of it ([`Worker`](crate::Worker)) and ends the file.
pub struct Inode<P: Pmem> {
    vnode: Arc<Vnode<P>>,
    /// Whoever drops it sees to its end.
    quiet: bool,
}

/// An inode in memory; [`Inode`] is the use of one.
///
/// In this order: what an operation on names asks for lies together at the beginning.
#[repr(C)]
pub struct Vnode<P: Pmem> {
    ino: Ino,
    kind: Kind,
    pub(crate) attr: SpinLock<Attr>,
    pub(crate) shared: Arc<Shared<P>>,
    pub(crate) content: Mutex<Content>,
    pub(crate) mapping: Mapping,
}

impl<P: Pmem> Inode<P> {
    pub(crate) fn new(
        memory: ArcSlot<Vnode<P>>,
        shared: Arc<Shared<P>>,
        ino: Ino,
        loaded: Loaded,
    ) -> Arc<Self> {
        Arc::new(Self {
            vnode: memory.fill(Vnode::new(shared, ino, loaded)),
            quiet: false,
        })
    }

    /// What it uses.
    pub(crate) const fn vnode(&self) -> &Arc<Vnode<P>> {
        &self.vnode
    }

    /// The last user goes and tells nobody, because it ends the orphan itself.
    pub(crate) fn leave_quietly(mut self) {
        self.quiet = true;
    }
}

impl<P: Pmem> Deref for Inode<P> {
    type Target = Vnode<P>;

    fn deref(&self) -> &Vnode<P> {
        &self.vnode
    }
}

impl<P: Pmem> Drop for Inode<P> {
    /// Any context: takes a spin lock, never sleeps, allocates nothing.
    fn drop(&mut self) {
        if !self.quiet && self.vnode.is_orphan() {
            self.vnode.shared.bell.ring();
        }
    }
}

impl<P: Pmem> Vnode<P> {
    fn new(shared: Arc<Shared<P>>, ino: Ino, loaded: Loaded) -> Self {
        let backing = &shared.backing;
        let mapping = Mapping::new(
            u64::from(ino),
            backing.pgmap.clone(),
            backing.nodes.clone(),
            backing.zero_page,
        );
        let Loaded { inode, map } = loaded;
        Self {
            ino,
            // Checked when it was decoded.
            kind: inode.core.kind().unwrap_or(Kind::File),
            content: Mutex::new(&class::INODE, Content(())),
            attr: SpinLock::with_class(
                &class::ATTR,
                Attr {
                    image: inode,
                    map,
                    index: None,
                    lazy_mtime: None,
                },
            ),
            mapping,
            shared,
        }
    }

    /// Whether its last name is gone.
    pub(crate) fn is_orphan(&self) -> bool {
        self.attr.lock().image.core.nlink == 0
    }

    /// A page of it that is mapped or pinned.
    pub(crate) fn held(&self) -> Option<Held> {
        self.mapping.first_held(0..PAGES_END)
    }

    /// Whether it has no storage and no page in memory: then there is nothing of it that anybody could hold.
    pub(crate) fn is_bare(&self) -> bool {
        self.runs() == 0 && self.mapping.is_empty()
    }

    /// Runs of blocks that come back when it ends: extents and nodes.
    pub(crate) fn runs(&self) -> usize {
        let attr = self.attr.lock();
        attr.map.len() + attr.map.nodes()
    }

    /// Its number.
    #[must_use]
    pub const fn ino(&self) -> Ino {
        self.ino
    }

    /// Its type.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether its content may be stored to: it is a file, of a file system that is not read-only.
    #[must_use]
    pub fn takes_stores(&self) -> bool {
        self.kind == Kind::File && !self.shared.read_only
    }

    /// Its pages and mappings.
    #[must_use]
    pub const fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Whether somebody reads, writes or cuts its content right now; for listings.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.content.is_locked()
    }

    /// Its attributes.
    #[must_use]
    pub fn stat(&self) -> Stat {
        let attr = self.attr.lock();
        let core = attr.image.core;
        let (mtime, ctime) = attr.times();
        Stat {
            ino: self.ino,
            generation: core.generation,
            kind: self.kind,
            mode: core.mode,
            nlink: core.nlink,
            uid: core.uid,
            gid: core.gid,
            size: core.size,
            blocks: attr.map.blocks() + attr.map.nodes() as u64,
            rdev: if self.kind.is_device() { core.extra } else { 0 },
            mtime,
            ctime,
            atime: core.atime,
        }
    }

    /// The storage at a block of the file, or where the hole there ends.
    #[must_use]
    pub fn spot(&self, block: u64) -> Spot {
        self.attr.lock().map.at(block)
    }

    /// The first extent that ends after `block`; `None` at the end. For listings.
    #[must_use]
    pub fn extent_after(&self, block: u64) -> Option<Extent> {
        match self.spot(block) {
            Spot::Extent(extent) => Some(extent),
            Spot::HoleUntil(u64::MAX) => None,
            Spot::HoleUntil(next) => self.extent_after(next),
        }
    }

    /// Runs `f` on the directory and its index, which must be loaded.
    pub(crate) fn with_index<R>(
        &self,
        f: impl FnOnce(&Dir<'_, P>, &mut DirIndex) -> R,
    ) -> Option<R> {
        self.with_dir(|_, dir, index| f(dir, index))
    }

    /// As [`Vnode::with_index`], with the attributes of the same moment.
    pub(crate) fn with_dir<R>(
        &self,
        f: impl FnOnce(&Core, &Dir<'_, P>, &mut DirIndex) -> R,
    ) -> Option<R> {
        let mut attr = self.attr.lock();
        let attr = &mut *attr;
        let dir = Dir {
            ground: self.shared.ground(),
            ino: self.ino,
            map: &attr.map,
        };
        let index = attr.index.as_deref_mut();
        index.map(|index| f(&attr.image.core, &dir, index))
    }

    fn block(&self, extent: Extent) -> Result<DaxBlock, FaultError> {
        let pfn = self.shared.pfn(extent.phys).ok_or(FaultError::Io)?;
        Ok(DaxBlock::Extent {
            pfn,
            pages: extent.len,
            unwritten: extent.unwritten,
        })
    }

    /// The frame of page `page`, if the file has storage there. For listings.
    #[must_use]
    pub fn pfn(&self, page: u64) -> Option<Pfn> {
        match self.spot(page) {
            Spot::Extent(extent) => self.shared.pfn(extent.phys),
            Spot::HoleUntil(_) => None,
        }
    }
}

impl<P: Pmem> BlockMap for Vnode<P> {
    fn lookup(&self, page: u64) -> Result<DaxBlock, FaultError> {
        match self.spot(page) {
            Spot::Extent(extent) => self.block(extent),
            Spot::HoleUntil(_) => Ok(DaxBlock::Hole),
        }
    }

    fn allocate(&self, page: u64) -> Result<DaxBlock, FaultError> {
        let extent = self.allocate_page(page)?;
        self.block(extent)
    }

    fn size(&self) -> u64 {
        self.attr.lock().image.core.size
    }

    fn is_sound(&self, pages: Range<u64>) -> bool {
        let pmem = self.shared.media.pmem();
        // Nearly always: the region knows of no error at all.
        pmem.check(0, pmem.len()).is_ok() || self.first_lost(pages).is_none()
    }
}

impl<P: Pmem + 'static> VmObject for Inode<P> {
    fn fault(&self, at: &FaultAt, sink: &FaultSink<'_>) -> Result<(), FaultError> {
        // Here and not where storage is allocated: a page that is there already must not become writable either. And nobody
        // reaches the entries of a directory past the file system.
        if self.kind != Kind::File || at.access == Access::Write && !self.takes_stores() {
            return Err(FaultError::Permission);
        }
        let _inside = self.shared.gate.enter().map_err(|_| FaultError::Dying)?;
        self.mapping.fault(&**self, at, sink)
    }

    fn attach(&self, attachment: Attachment) -> Result<(), OutOfMemory> {
        self.mapping.attach(attachment)
    }

    fn detach(&self, space: SpaceId, range: VaRange) {
        self.mapping.detach(space, range);
    }

    fn leases(&self) -> Option<&Leases> {
        Some(self.mapping.leases())
    }
}

/// Bytes to whole blocks, rounded up.
pub(crate) const fn blocks_for(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_SIZE)
}
