//! The end of orphans, and of blocks in quarantine: who does it, and who tells them.
//!
//! An inode whose last name went while it was open, mapped or pinned is an orphan. On the media it is free already (`nlink` 0), so
//! its end writes nothing; in memory it keeps its blocks until its last user is gone.
//!
//! # The states of an orphan
//!
//! | state | who leaves it, and how |
//! |---|---|
//! | named | `unlink`, `rename`, `rmdir` commit, and in the same hold of the commit lock note it as an orphan |
//! | named, with no storage and no page, and nobody uses it | ends in the hold of the commit lock in which its last name goes: there is nothing that anybody could hold |
//! | orphan in use | the last [`Inode`](crate::Inode) is dropped: a close, a munmap, the last unpin, in any context |
//! | over | nobody can use it again ([`Table`]); the bell has rung. [`Worker::finish`] takes its pages' entries and hands its blocks to quarantine |
//! | in quarantine | its blocks become free when nothing speaks against it (`space`) |
//!
//! # Nothing is allocated
//!
//! From "over" on: the note of the orphan was made at the unlink, room in quarantine and in the free space is promised for each extent
//! of an inode in memory ([`State::promise`](crate::shared::State)), and taking out of trees, lists and indexes only frees. So an orphan ends when memory is short, which
//! is when it must. `fs/tests/orphans.rs` counts.
//!
//! # No lost wake-up
//!
//! The drop of the last `Inode` rings after the count of users is 0 (Release), the worker takes the ring (Acquire) before it looks: a ring
//! that it has taken is of a user whose end it sees, and one that comes later stays. When a page of an orphan that is over, or of a
//! quarantined run, has a count (its holder is about to let go: an `Inode` outlives its mappings and pins), the bell becomes the pgmap's [`PgmapOps`],
//! and only then is the count looked at again: whoever lets go later finds the ops.
//!
//! # One at a time
//!
//! Finishing holds the reaper lock (rank 15, before the inode lock): the worker, an operation that wants the space now, and `umount`
//! exclude each other, so that an unmounted file system has no worker half-way through an orphan. Waits for nothing under it.

use alloc::sync::Arc;

use dax::pmem::Pmem;
use mm::addr::{PageSize, Pfn};
use mm::pgmap::PgmapOps;
use mm::sync::atomic::{AtomicBool, Ordering};
use mm::sync::{LockClass, Wait, WaitError, WaitQueue};
use mm::trace::{self, What};

use crate::inode::Vnode;
use crate::shared::Shared;
use crate::table::Table;

/// The lock of whoever finishes orphans.
pub(crate) static REAPER: LockClass = LockClass::new("reaper", 15);

/// Tells the worker that there is something to do.
#[derive(Default)]
pub(crate) struct Bell {
    rung: AtomicBool,
    closed: AtomicBool,
    queue: WaitQueue,
}

impl Bell {
    /// An orphan's last user is gone, or a page came to rest. Any context; never sleeps, allocates nothing.
    pub fn ring(&self) {
        // Release pairs with the Acquire of `take`. The queue looks for waiters after it.
        self.rung.store(true, Ordering::Release);
        self.queue.wake_all();
    }

    /// Whether it rang since the last `take`.
    pub fn is_rung(&self) -> bool {
        // Acquire pairs with the Release of `ring`.
        self.rung.load(Ordering::Acquire)
    }

    /// Takes the ring; look for what it was about afterwards.
    fn take(&self) {
        // AcqRel: Acquire pairs with the Release of `ring`.
        self.rung.swap(false, Ordering::AcqRel);
    }

    /// The file system is gone: workers end.
    pub fn close(&self) {
        // Release pairs with the Acquire of `is_closed`.
        self.closed.store(true, Ordering::Release);
        self.queue.wake_all();
    }

    fn is_closed(&self) -> bool {
        // Acquire pairs with the Release of `close`.
        self.closed.load(Ordering::Acquire)
    }

    fn wait(&self, wait: &Wait<'_>) -> Result<(), WaitError> {
        self.queue
            .wait_until(|| self.is_rung() || self.is_closed(), wait)
    }
}

impl PgmapOps for Bell {
    fn page_idle(&self, _pfn: Pfn, _size: PageSize) {
        self.ring();
    }
}

/// What a worker did at one go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// Orphans that ended.
    pub orphans: usize,
    /// Blocks that left quarantine.
    pub blocks: u64,
    /// What could not end because a page is still held: orphans that nobody uses, and runs in quarantine. The end of the hold
    /// rings the bell.
    pub held: usize,
}

/// How far to go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Orphans, to quarantine.
    Orphans,
    /// And what in quarantine may be free, to free.
    Quarantine,
    /// And directory blocks that only wait for the record floor, which is made to pass (two fences).
    Floor,
}

/// Finishes orphans of one file system, for a thread of its own: see the module's head. Does not keep the file system mounted.
pub struct Worker<P: Pmem> {
    pub(crate) shared: Arc<Shared<P>>,
    pub(crate) table: Arc<Table<P>>,
}

impl<P: Pmem> Clone for Worker<P> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            table: self.table.clone(),
        }
    }
}

impl<P: Pmem> Worker<P> {
    /// Works until the file system is unmounted, removed or dropped.
    pub fn run(&self) {
        while self.wait(&Wait::forever()).is_ok() && !self.shared.bell.is_closed() {
            self.work();
        }
    }

    /// Waits until there is something to do, or the file system is gone.
    pub fn wait(&self, wait: &Wait<'_>) -> Result<(), WaitError> {
        self.shared.bell.wait(wait)
    }

    /// Ends every orphan that nobody uses any more and frees what it can of their blocks. Never waits for a page, allocates nothing.
    /// Lock classes: reaper, and what follows it.
    pub fn work(&self) -> Finished {
        self.finish(Depth::Floor)
    }

    /// Whether there is something to finish, or somebody is at it.
    pub(crate) fn has_work(&self) -> bool {
        self.shared.bell.is_rung() || self.shared.reaping.is_locked()
    }

    /// Ends the orphan `vnode`, whose last user is gone and told nobody; the others too if it cannot end now. As [`Worker::work`] otherwise.
    pub(crate) fn end(&self, vnode: &Arc<Vnode<P>>) {
        let ended = {
            let Ok(_inside) = self.shared.gate.enter() else {
                return;
            };
            let _reaping = self.shared.reaping.lock();
            // Somebody else may have ended it meanwhile, and its number may be another one's.
            let over = self.table.is_over(vnode.ino());
            let mine = over.filter(|over| Arc::ptr_eq(over, vnode));
            self.shared.bell.is_closed() || mine.is_none_or(|mine| self.bury(&mine))
        };
        if !ended {
            self.finish(Depth::Orphans);
        }
    }

    /// Ends an orphan that is over, unless a page of it is held.
    fn bury(&self, vnode: &Vnode<P>) -> bool {
        let ended = vnode.bury();
        if ended {
            self.table.remove(vnode.ino());
            let ino = u64::from(vnode.ino());
            trace::note(trace::Kind::OrphanEnd, || What::default().file(ino, 0));
        }
        ended
    }

    pub(crate) fn finish(&self, depth: Depth) -> Finished {
        let Ok(_inside) = self.shared.gate.enter() else {
            return Finished::default();
        };
        let mut listening = self.shared.reaping.lock();
        if self.shared.bell.is_closed() {
            return Finished::default();
        }
        self.shared.bell.take();
        let mut done = self.pass(depth);
        if done.held > 0 && !*listening {
            *listening = true;
            self.listen(true);
            // What ended before it listened is seen by a second look.
            let again = self.pass(depth);
            done.orphans += again.orphans;
            done.blocks += again.blocks;
            done.held = again.held;
        }
        if done.held == 0 && *listening && depth != Depth::Orphans {
            *listening = false;
            self.listen(false);
        }
        done
    }

    /// Has the pgmap ring the bell when a page comes to rest, or not any more. Only while something is held: it costs every zap.
    pub(crate) fn listen(&self, on: bool) {
        let bell = &self.shared.bell;
        let ops = on.then(|| -> Arc<dyn PgmapOps> { bell.clone() });
        self.shared.backing.pgmap.set_ops(ops);
    }

    pub(crate) fn pass(&self, depth: Depth) -> Finished {
        let mut done = Finished::default();
        let mut from = 0;
        while let Some((at, vnode)) = self.next_over(from) {
            if self.bury(&vnode) {
                done.orphans += 1;
                // Another one stands in its place now.
                from = at;
            } else {
                done.held += 1;
                from = at + 1;
            }
        }
        if depth != Depth::Orphans {
            let mut state = self.shared.state.lock();
            let released = self.shared.release_all(&mut state, depth == Depth::Floor);
            done.blocks = released.blocks;
            done.held += released.held;
        }
        done
    }

    /// The first orphan on the list, from place `from` on, that nobody uses; and its place.
    fn next_over(&self, from: usize) -> Option<(usize, Arc<Vnode<P>>)> {
        let state = self.shared.state.lock();
        let places = state.orphans.iter().enumerate().skip(from);
        let mut over = places.map(|(at, orphan)| Some((at, self.table.is_over(orphan.ino())?)));
        over.find_map(|found| found)
    }
}
