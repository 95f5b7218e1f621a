//! Media errors in a mounted file system.
//!
//! What could not be read is an error of the one read, fault or lookup that wanted it, and writing the bytes whole mends it: every store
//! tells the region which lines are new. Nothing is remembered here; the region's list of bad ranges is the only one.
//!
//! An error in an inode or node of extents leaves its blocks unknown, so that free space is unknown: such a file system is mounted read-only.

use core::ops::Range;

use dax::pmem::Pmem;

use crate::extents::Spot;
use crate::fs::Fs;
use crate::inode::Vnode;
use crate::layout::{BLOCK_SIZE, Ino};

/// What a media error hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Pages that had an owner, and are mapped nowhere any more.
    pub unmapped: u64,
    /// Of them, those that somebody still has pinned.
    pub pinned: u64,
    /// A file to which one of them belongs.
    pub ino: Option<Ino>,
}

impl<P: Pmem> Fs<P> {
    /// Tells the file system that `bytes` of the region cannot be read any more, after the region has recorded it: what is mapped there is
    /// taken from everybody, and accessors get an error until the block is written whole.
    ///
    /// May sleep. Lock classes: INVALIDATE and what follows it. Never allocates.
    pub fn lost(&self, bytes: Range<u64>) -> Lost {
        let mut lost = Lost::default();
        for block in bytes.start / BLOCK_SIZE..bytes.end.div_ceil(BLOCK_SIZE) {
            self.lost_block(block, &mut lost);
        }
        lost
    }

    fn lost_block(&self, block: u64, lost: &mut Lost) {
        let pgmap = self.pgmap();
        let Some(pfn) = pgmap.range().start().checked_add(block) else {
            return;
        };
        let owner = pgmap
            .range()
            .contains(pfn)
            .then(|| pgmap.owner_of(pfn))
            .flatten();
        let file = owner.and_then(|owner| {
            let vnode = self.table.from(owner.inode as Ino)?;
            (u64::from(vnode.ino()) == owner.inode).then_some((vnode, owner.index))
        });
        let Some((vnode, index)) = file else {
            return;
        };
        vnode.mapping().fail(index..index + 1);
        lost.unmapped += 1;
        lost.pinned += u64::from(vnode.mapping().first_held(index..index + 1).is_some());
        lost.ino = Some(vnode.ino());
    }
}

impl<P: Pmem> Vnode<P> {
    /// The first of `pages` whose storage holds a byte that cannot be read.
    #[must_use]
    pub fn first_lost(&self, pages: Range<u64>) -> Option<u64> {
        let mut at = pages.start;
        while at < pages.end {
            at = match self.spot(at) {
                Spot::HoleUntil(end) => end,
                Spot::Extent(extent) => {
                    let len = extent.len.min(pages.end - at);
                    let off = extent.phys * BLOCK_SIZE;
                    let check = self.shared.media.pmem().check(off, len * BLOCK_SIZE);
                    if let Err(bad) = check
                        && !extent.unwritten
                    {
                        return Some(at + (bad.offset - off) / BLOCK_SIZE);
                    }
                    at + len
                }
            };
        }
        None
    }
}
