//! The user of a pgmap's pages, who is told when one comes to rest.

use crate::addr::{PageSize, Pfn};
use crate::sync::atomic::{AtomicBool, Ordering, spin_loop};
use crate::sync::irq_off;
use alloc::sync::Arc;

/// What the user of a pgmap's pages (a file system) is told.
pub trait PgmapOps: Send + Sync {
    /// The folio's total count reached 0. Any context, interrupts off: no sleep, no allocation, no call of
    /// [`super::Pgmap::set_ops`]. A hint: the folio may have left 0 again.
    fn page_idle(&self, pfn: Pfn, size: PageSize);
}

/// The ops, shared by the calls under way and exclusive to the one who changes them.
///
/// Interrupts are off on both sides: a handler that drops the last pin on this processor must not meet a writer that it
/// interrupted. Readers nest, for a call may drop another page's last reference.
pub(super) struct OpsSlot {
    ops: spin::RwLock<Option<Arc<dyn PgmapOps>>>,
    /// Whether there are any: where nobody listens, a page's rest costs a look at this.
    set: AtomicBool,
}

impl OpsSlot {
    pub(super) fn new(ops: Option<Arc<dyn PgmapOps>>) -> Self {
        let set = AtomicBool::new(ops.is_some());
        Self {
            ops: spin::RwLock::new(ops),
            set,
        }
    }

    pub(super) fn set(&self, ops: Option<Arc<dyn PgmapOps>>) {
        // The old ops are dropped with interrupts back on: their destructor may be long.
        let old = irq_off(|| {
            let mut slot = spun(|| self.ops.try_write());
            // Release: pairs with the Acquire in `is_set`.
            self.set.store(ops.is_some(), Ordering::Release);
            core::mem::replace(&mut *slot, ops)
        });
        drop(old);
    }

    /// Whether somebody is told.
    #[inline]
    pub(super) fn is_set(&self) -> bool {
        // Acquire: pairs with the Release in `set`. A page that comes to rest after `set` has returned is told of.
        self.set.load(Ordering::Acquire)
    }

    pub(super) fn page_idle(&self, pfn: Pfn, size: PageSize) {
        if !self.is_set() {
            return;
        }
        irq_off(|| {
            if let Some(ops) = &*spun(|| self.ops.try_read()) {
                ops.page_idle(pfn, size);
            }
        });
    }
}

/// Tries until it works; in a model, the others go on meanwhile.
fn spun<G>(mut take: impl FnMut() -> Option<G>) -> G {
    loop {
        if let Some(guard) = take() {
            return guard;
        }
        spin_loop();
    }
}
