//! Durable on demand, and letting go of inodes that nobody uses.

use dax::pmem::Pmem;
use mm::sync::atomic::Ordering;
use mm::trace::{self, What};

use crate::cut::PAGES_END;
use crate::error::ChangeError;
use crate::fs::Fs;
use crate::inode::{Inode, Vnode};

impl<P: Pmem> Fs<P> {
    /// Makes all stores through mappings durable and writes lazy times. Ends orphans.
    pub fn sync(&self) -> Result<(), ChangeError> {
        let _inside = self.shared.gate.enter()?;
        self.reap_orphans();
        let mut from = 0;
        while let Some(inode) = self.table.user_from(from) {
            self.fsync(&inode)?;
            from = inode.ino() + 1;
        }
        self.shrink();
        Ok(())
    }

    /// Makes all stores to one file durable, through mappings too, and writes its lazy time. What write(2) wrote is durable already.
    pub fn fsync(&self, inode: &Inode<P>) -> Result<(), ChangeError> {
        let _inside = self.shared.gate.enter()?;
        inode.clean(0..PAGES_END);
        if !self.shared.read_only && inode.stat().nlink > 0 {
            inode.settle_times(&mut self.lock())?;
        }
        Ok(())
    }

    /// Lets go of inodes that nobody uses, when there are many. Those with pages in their index must be clean.
    pub(crate) fn shrink(&self) {
        if self.table.len() > self.keep() {
            while self.forget_one() {}
        }
    }

    fn keep(&self) -> usize {
        // Relaxed: a bound that may be a moment old.
        self.keep.load(Ordering::Relaxed)
    }

    fn forget_one(&self) -> bool {
        let mut state = self.lock();
        let unused = self.table.take_unused(self.keep() / 2, Vnode::is_clean);
        let Some(inode) = unused else {
            return false;
        };
        state.space.withdraw(inode.runs());
        drop(state);
        trace::note(trace::Kind::Evict, || {
            What::default().file(inode.ino().into(), 0)
        });
        drop(inode);
        true
    }
}
