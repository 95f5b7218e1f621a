//! The removal of a device. The argument is in the heads of `pgmap` and `life`.

use super::{Counts, LifePolicy, PAGE_WAITERS, Page, Pgmap, RemoveError, State, registry};
use crate::addr::{PageSize, Pfn};
use crate::sync::{Wait, WaitError};
use core::ops::ControlFlow;

impl<L: LifePolicy> Pgmap<L> {
    /// Removes the device: no page is mapped any more, `unmap_all` takes the pages out of every page table (and flushes the
    /// TLBs), then this sleeps until the last reference is gone, and unregisters the pgmap.
    ///
    /// `unmap_all` keeps faults out while it unmaps (the mapping's invalidate lock, exclusively): a fault that was granted its reference
    /// before the mark must have written its entry before the unmapping, or the page stays mapped, and this waits for ever.
    ///
    /// On an error the pgmap stays dying, and a further call goes on. Removing a dead pgmap does nothing. Takes no lock
    /// while it waits; allocates nothing.
    pub fn remove(&self, mut unmap_all: impl FnMut(), wait: &Wait) -> Result<(), RemoveError> {
        if self.gate.state() == State::Dead {
            return Ok(());
        }
        self.gate.kill();
        unmap_all();
        if L::SWEEPS {
            self.sweep(wait)?;
        }
        self.drain(wait)?;
        self.gate.bury();
        drop(registry::take(self));
        Ok(())
    }

    /// One look at every populated page, waiting for each that is not at rest.
    fn sweep(&self, wait: &Wait) -> Result<(), RemoveError> {
        let swept = self
            .map
            .visit(self.range(), |pfn, _: PageSize, page: &Page| {
                match self.wait_idle(pfn, page, wait) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(why) => {
                        ControlFlow::Break(self.unfinished(why, Some((pfn, page.counts()))))
                    }
                }
            });
        swept.break_value().map_or(Ok(()), Err)
    }

    fn wait_idle(&self, pfn: Pfn, page: &Page, wait: &Wait) -> Result<(), WaitError> {
        if page.refs().is_settled_idle() {
            return Ok(());
        }
        PAGE_WAITERS.wait_until(pfn.get(), || page.refs().is_settled_idle(), wait)
    }

    /// Waits for the references that the policy counts.
    fn drain(&self, wait: &Wait) -> Result<(), RemoveError> {
        let drained = self.drained.wait_until(|| self.gate.held() == 0, wait);
        drained.map_err(|why| self.unfinished(why, self.first_busy()))
    }

    fn unfinished(&self, why: WaitError, first: Option<(Pfn, Counts)>) -> RemoveError {
        RemoveError {
            why,
            first,
            held: self.gate.held(),
        }
    }
}
