//! The proof that a range of a file is idle.

use crate::mapping::Mapping;
use core::ops::Range;
use mm::sync::{Mutex, MutexGuard, WriteGuard};

/// The two locks of a breaker, and the range it is about.
pub(super) struct Locked<'i, T> {
    // Fields drop in this order: the inner lock first.
    _no_faults: WriteGuard<'i, ()>,
    inode: MutexGuard<'i, T>,
    mapping: &'i Mapping,
    pages: Range<u64>,
}

impl<'i, T> Locked<'i, T> {
    /// Takes the inode lock, then the invalidate lock exclusively, and widens `pages` to whole entries.
    pub(super) fn take(inode: &'i Mutex<T>, mapping: &'i Mapping, pages: Range<u64>) -> Self {
        let inode = inode.lock();
        let no_faults = mapping.invalidate.write();
        let pages = mapping.whole_entries(pages);
        Self {
            _no_faults: no_faults,
            inode,
            mapping,
            pages,
        }
    }

    /// The pages, widened to whole entries.
    pub(super) fn pages(&self) -> Range<u64> {
        self.pages.clone()
    }
}

/// No page of the range is mapped or pinned, and none can become so while this lives: it holds the inode lock and, exclusively,
/// the invalidate lock.
///
/// Only [`break_layouts`](super::break_layouts) makes one. Dropping it lets both locks go.
///
/// It cannot be made by hand:
///
/// ```compile_fail,E0423
/// fn forge<'i>(locked: u64) -> dax::layout::Idle<'i, u64> {
///     dax::layout::Idle(locked)
/// }
/// ```
///
/// And it cannot outlive the inode whose locks it holds:
///
/// ```compile_fail,E0515
/// use dax::layout::{BreakReport, How, Idle, break_layouts};
/// use dax::mapping::Mapping;
/// use mm::sync::{Mutex, class};
/// fn keep<'i>(mapping: &'i Mapping) -> Idle<'i, u64> {
///     let inode = Mutex::new(&class::INODE, 0_u64);
///     break_layouts(&inode, mapping, 0..1, How::NoWait, &mut BreakReport::default()).unwrap()
/// }
/// ```
///
/// Used in the right order it compiles:
///
/// ```
/// use dax::layout::{BreakReport, How, break_layouts};
/// use dax::mapping::Mapping;
/// use mm::sync::Mutex;
/// fn cut(inode: &Mutex<u64>, mapping: &Mapping) {
///     let mut idle = break_layouts(inode, mapping, 0..1, How::NoWait, &mut BreakReport::default()).unwrap();
///     *idle.inode() = 0;
///     mapping.delete_entries(&idle, 0..1, &|_pfn, _pages| ()).unwrap();
/// }
/// ```
#[must_use = "dropping the proof lets the locks go"]
pub struct Idle<'i, T>(Locked<'i, T>);

impl<'i, T> Idle<'i, T> {
    /// The caller has unmapped the range under these locks and found every count 0.
    pub(super) fn proved(locked: Locked<'i, T>) -> Self {
        Self(locked)
    }

    /// The inode.
    pub fn inode(&mut self) -> &mut T {
        &mut self.0.inode
    }

    /// The inode, to look at.
    pub fn inode_ref(&self) -> &T {
        &self.0.inode
    }

    /// The pages that are idle: the range asked for, widened to whole entries.
    pub fn range(&self) -> Range<u64> {
        self.0.pages()
    }

    /// The mapping that the proof is about.
    pub fn mapping(&self) -> &'i Mapping {
        self.0.mapping
    }

    /// Whether this is about `mapping` and covers `pages`.
    pub(crate) fn proves(&self, mapping: &Mapping, pages: &Range<u64>) -> bool {
        core::ptr::eq(self.0.mapping, mapping)
            && self.0.pages.start <= pages.start
            && pages.end <= self.0.pages.end
    }
}
