//! The registered pgmaps, by range.
//!
//! The registry owns them: a registered pgmap lives until its removal takes it out. One spin lock guards a short sorted array.
//!
//! Beside it stands an index that is read without the lock ([`peek_pgmap`]): the same ranges, in the same order, as plain numbers and
//! pointers, under a sequence lock. A reader follows only the pointer of the range that holds its page, after it made sure that range and
//! pointer belong together; and that pgmap lives, because the reader knows of a reference on the page. It never looks at another.

#![expect(
    unsafe_code,
    reason = "hands out a pgmap that a reference on its page keeps"
)]

use super::{LifePolicy, Pgmap, PgmapError, Sweep};
use crate::addr::{Pfn, PfnRange};
use crate::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
use crate::sync::{SpinLock, class};
use alloc::sync::Arc;
use arrayvec::ArrayVec;
use core::any::Any;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};

/// How many pgmaps there may be: one for each device. Host test processes make one for each test.
pub const MAX_PGMAPS: usize = if cfg!(target_os = "none") { 32 } else { 4096 };

struct Entry {
    range: PfnRange,
    /// A [`Pgmap`] of some policy.
    pgmap: Arc<dyn Any + Send + Sync>,
    /// Where it is, if it follows Sweep; else null.
    sweep: *const Pgmap<Sweep>,
}

// SAFETY: the pointer leads to what the `Arc` owns, which is Send and Sync.
unsafe impl Send for Entry {}

/// Ascending, disjoint.
static REGISTRY: SpinLock<ArrayVec<Entry, MAX_PGMAPS>> =
    SpinLock::with_class(&class::PGMAPS, ArrayVec::new_const());

/// A line of the index. `pgmap` is null for policies other than Sweep.
struct Line {
    start: AtomicU64,
    end: AtomicU64,
    pgmap: AtomicPtr<Pgmap<Sweep>>,
}

/// The index; written under the lock of [`REGISTRY`]. `version` is odd while it is being written.
struct Index {
    version: AtomicU64,
    len: AtomicUsize,
    lines: [Line; MAX_PGMAPS],
}

static INDEX: Index = Index {
    version: AtomicU64::new(0),
    len: AtomicUsize::new(0),
    lines: [const {
        Line {
            start: AtomicU64::new(0),
            end: AtomicU64::new(0),
            pgmap: AtomicPtr::new(ptr::null_mut()),
        }
    }; MAX_PGMAPS],
};

impl Index {
    /// Writes the index anew; the caller holds the registry's lock.
    fn rewrite(&self, all: &[Entry]) {
        // Relaxed: only the holder of the lock writes.
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        // Pairs with the fence in `find`.
        fence(Ordering::Release);
        for (line, entry) in self.lines.iter().zip(all) {
            line.start
                .store(entry.range.start().get(), Ordering::Relaxed);
            line.end.store(entry.range.end(), Ordering::Relaxed);
            line.pgmap.store(entry.sweep.cast_mut(), Ordering::Relaxed);
        }
        self.len.store(all.len(), Ordering::Relaxed);
        // Release: pairs with the Acquire in `find`.
        self.version.store(version + 2, Ordering::Release);
    }

    /// The pointer of the line that holds `pfn`; null if there is none, or while the index changes.
    fn find(&self, pfn: u64) -> *mut Pgmap<Sweep> {
        // Acquire: pairs with the Release that ends `rewrite`.
        let version = self.version.load(Ordering::Acquire);
        // Relaxed: what is read is trusted only if the version is the same afterwards.
        let lines = &self.lines[..self.len.load(Ordering::Relaxed).min(MAX_PGMAPS)];
        let at = lines.partition_point(|l| l.end.load(Ordering::Relaxed) <= pfn);
        let found = lines
            .get(at)
            .filter(|l| l.start.load(Ordering::Relaxed) <= pfn)
            .map_or(ptr::null_mut(), |l| l.pgmap.load(Ordering::Relaxed));
        // Pairs with the fence in `rewrite`: who read a word of a later writing sees its version.
        fence(Ordering::Acquire);
        let same = version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
        if same { found } else { ptr::null_mut() }
    }
}

/// A pgmap that a reference on one of its pages keeps for `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Peeked<'a> {
    pgmap: NonNull<Pgmap<Sweep>>,
    kept: PhantomData<&'a Pgmap<Sweep>>,
}

impl<'a> Peeked<'a> {
    /// The pgmap.
    pub(crate) fn get(self) -> &'a Pgmap<Sweep> {
        // SAFETY: it lives during 'a, says the caller of `peek_pgmap`.
        unsafe { self.pgmap.as_ref() }
    }

    /// Another owner of it: one atomic operation.
    pub(crate) fn own(self) -> Arc<Pgmap<Sweep>> {
        // SAFETY: the pointer is that of the registry's `Arc`, and the registry keeps it as long as a page has a reference.
        unsafe {
            Arc::increment_strong_count(self.pgmap.as_ptr());
            Arc::from_raw(self.pgmap.as_ptr())
        }
    }
}

/// The pgmap that contains `pfn`, if it follows Sweep, without a lock; `None` also while the registry changes.
///
/// # Safety
/// Somebody holds a reference on the page during all of `'a`: a pgmap outlives the references on its pages.
pub(crate) unsafe fn peek_pgmap<'a>(pfn: Pfn) -> Option<Peeked<'a>> {
    let pgmap = NonNull::new(INDEX.find(pfn.get()))?;
    let kept = PhantomData;
    Some(Peeked { pgmap, kept })
}

/// Registers a pgmap, unless its range overlaps one that is there.
pub(super) fn add<L: LifePolicy>(wanted: PfnRange, pgmap: Arc<Pgmap<L>>) -> Result<(), PgmapError> {
    let mut all = REGISTRY.lock();
    let at = all.partition_point(|e| e.range.end() <= wanted.start().get());
    if let Some(other) = all.get(at).map(|e| e.range).filter(|r| r.overlaps(wanted)) {
        return Err(PgmapError::Overlap { wanted, other });
    }
    if all.is_full() {
        return Err(PgmapError::Full);
    }
    let pgmap: Arc<dyn Any + Send + Sync> = pgmap;
    let sweep = pgmap.clone().downcast::<Pgmap<Sweep>>();
    let sweep = sweep.map_or(ptr::null(), |p| Arc::as_ptr(&p));
    all.insert(
        at,
        Entry {
            range: wanted,
            pgmap,
            sweep,
        },
    );
    INDEX.rewrite(&all);
    Ok(())
}

/// Takes `pgmap` out and returns the registry's reference, to be dropped without the lock. `None`: it was not registered.
pub(super) fn take<L: LifePolicy>(pgmap: &Pgmap<L>) -> Option<Arc<dyn Any + Send + Sync>> {
    let mut all = REGISTRY.lock();
    // By identity: the range may already belong to the next device.
    let at = all
        .iter()
        .position(|e| core::ptr::addr_eq(Arc::as_ptr(&e.pgmap), pgmap))?;
    let gone = all.remove(at).pgmap;
    INDEX.rewrite(&all);
    Some(gone)
}

/// The pgmap that contains `pfn`, if it follows policy `L`. Any context.
pub fn find<L: LifePolicy>(pfn: Pfn) -> Option<Arc<Pgmap<L>>> {
    let all = REGISTRY.lock();
    let at = all.partition_point(|e| e.range.end() <= pfn.get());
    let entry = all.get(at).filter(|e| e.range.contains(pfn))?;
    entry.pgmap.clone().downcast().ok()
}

/// The pgmap that contains `pfn`. Any context.
pub fn find_pgmap(pfn: Pfn) -> Option<Arc<Pgmap>> {
    find::<Sweep>(pfn)
}

/// A range of frame numbers that no other call in this process returns, 1 GiB-aligned and far above real memory: for host
/// tests, which share one registry. Panics when frame numbers run out.
#[cfg(not(target_os = "none"))]
pub fn scratch_range(pages: u64) -> PfnRange {
    use crate::addr::PageSize;
    use core::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1 << 32);
    let span = pages.next_multiple_of(PageSize::Size1G.pages());
    // Relaxed: only the uniqueness of the range matters.
    let start = NEXT.fetch_add(span, Ordering::Relaxed);
    Pfn::new(start)
        .and_then(|start| PfnRange::new(start, pages))
        .expect("frame numbers left for tests")
}
