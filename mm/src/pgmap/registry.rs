//! The registered pgmaps, by range.
//!
//! The registry owns them: a registered pgmap lives until its removal takes it out. One spin lock guards a short sorted array.

use super::{LifePolicy, Pgmap, PgmapError, Sweep};
use crate::addr::{Pfn, PfnRange};
use crate::sync::SpinLock;
use alloc::sync::Arc;
use arrayvec::ArrayVec;
use core::any::Any;

/// How many pgmaps there may be: one for each device. Host test processes make one for each test.
pub const MAX_PGMAPS: usize = if cfg!(target_os = "none") { 32 } else { 4096 };

struct Entry {
    range: PfnRange,
    /// A [`Pgmap`] of some policy.
    pgmap: Arc<dyn Any + Send + Sync>,
}

/// Ascending, disjoint.
static REGISTRY: SpinLock<ArrayVec<Entry, MAX_PGMAPS>> = SpinLock::new(ArrayVec::new_const());

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
    all.insert(
        at,
        Entry {
            range: wanted,
            pgmap,
        },
    );
    Ok(())
}

/// Takes `pgmap` out and returns the registry's reference, to be dropped without the lock. `None`: it was not registered.
pub(super) fn take<L: LifePolicy>(pgmap: &Pgmap<L>) -> Option<Arc<dyn Any + Send + Sync>> {
    let mut all = REGISTRY.lock();
    // By identity: the range may already belong to the next device.
    let at = all
        .iter()
        .position(|e| core::ptr::addr_eq(Arc::as_ptr(&e.pgmap), pgmap))?;
    Some(all.remove(at).pgmap)
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
