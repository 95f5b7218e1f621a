//! The user of a pgmap's pages, who is told when one comes to rest.

use crate::addr::{PageSize, Pfn};
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
pub(super) struct OpsSlot(spin::RwLock<Option<Arc<dyn PgmapOps>>>);

impl OpsSlot {
    pub(super) const fn new(ops: Option<Arc<dyn PgmapOps>>) -> Self {
        Self(spin::RwLock::new(ops))
    }

    pub(super) fn set(&self, ops: Option<Arc<dyn PgmapOps>>) {
        // The old ops are dropped with interrupts back on: their destructor may be long.
        let old = irq_off(|| core::mem::replace(&mut *self.0.write(), ops));
        drop(old);
    }

    pub(super) fn page_idle(&self, pfn: Pfn, size: PageSize) {
        irq_off(|| {
            if let Some(ops) = &*self.0.read() {
                ops.page_idle(pfn, size);
            }
        });
    }
}
