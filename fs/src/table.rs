//! The inodes in use, by number.
//!
//! An inode with a name is kept by the table itself, so "nobody uses it" is "the only user is the table's". When its last name goes,
//! the table lets go of it as a user and keeps only the [`Vnode`]: from then on the last drop of an [`Inode`] is the end of all use, for
//! good. Nobody becomes a user of an orphan but through another user, which [`Weak::upgrade`] decides in one step: either a look-up
//! by number finds it alive, or it is over and the number leads nowhere.
//!
//! The table's spin lock is held for a look or a change. What is taken out is dropped without it. A search for an inode that nobody uses
//! looks at a bounded number, from where the last search ended: however many are in use, no operation walks through all of them.
//!
//! Whoever is to put an inode in takes a [`Room`] first, which can fail; putting it in takes no memory, so that it can follow a commit.

mod places;

use alloc::sync::{Arc, Weak};

use dax::pmem::Pmem;
use mm::mem::OutOfMemory;
use mm::sync::atomic::{AtomicUsize, Ordering, fence};
use mm::sync::{SpinLock, class};

use crate::inode::{Inode, Vnode};
use crate::layout::Ino;
use places::Places;

enum Entry<P: Pmem> {
    Named(Arc<Inode<P>>),
    Orphan(Arc<Vnode<P>>, Weak<Inode<P>>),
}

impl<P: Pmem> Entry<P> {
    fn vnode(&self) -> &Arc<Vnode<P>> {
        match self {
            Self::Named(inode) => inode.vnode(),
            Self::Orphan(vnode, _) => vnode,
        }
    }

    fn user(&self) -> Option<Arc<Inode<P>>> {
        match self {
            Self::Named(inode) => Some(inode.clone()),
            Self::Orphan(_, user) => user.upgrade(),
        }
    }

    /// Whether anybody besides the table uses it.
    fn is_used(&self) -> bool {
        match self {
            Self::Named(inode) => Arc::strong_count(inode) > 1,
            Self::Orphan(_, user) => user.strong_count() > 0,
        }
    }
}

/// What the table knows of a number.
pub(crate) enum Known<P: Pmem> {
    /// It is in use.
    Used(Arc<Inode<P>>),
    /// An orphan whose last user is gone.
    Over,
    /// Nothing.
    Absent,
}

/// Inodes that one search for an unused one looks at.
const LOOKS: usize = 128;

/// The inodes by number, and where the next search for an unused one begins.
struct Inner<P: Pmem> {
    entries: Places<Entry<P>>,
    hand: Ino,
}

/// The table.
pub(crate) struct Table<P: Pmem> {
    inner: SpinLock<Inner<P>>,
    /// How many inodes there are: written under the lock, read at the start of every operation without it.
    count: AtomicUsize,
}

/// The memory for one inode in the table; given back when it is dropped unused.
#[must_use = "put an inode in, or drop it"]
pub(crate) struct Room<'a, P: Pmem> {
    table: &'a Table<P>,
    ino: Ino,
}

impl<P: Pmem> Room<'_, P> {
    /// Puts in the inode that the room is for, which is not there. Takes no memory.
    pub fn fill(self, inode: Arc<Inode<P>>) {
        debug_assert_eq!(self.ino, inode.ino());
        let old = self
            .table
            .change(|table| table.entries.fill(self.ino, Entry::Named(inode)));
        debug_assert!(old.is_none(), "an inode is in memory once");
        // The entry has the room now.
        core::mem::forget(self);
    }
}

impl<P: Pmem> Drop for Room<'_, P> {
    fn drop(&mut self) {
        // Dropped without the lock.
        let _memory = self.table.inner.lock().entries.give_back(self.ino);
    }
}

impl<P: Pmem> Table<P> {
    pub const fn new() -> Self {
        let inner = Inner {
            entries: Places::new(),
            hand: 0,
        };
        Self {
            inner: SpinLock::with_class(&class::INODE_TABLE, inner),
            count: AtomicUsize::new(0),
        }
    }

    /// How many inodes there are, at this moment. One load, no lock.
    pub fn len(&self) -> usize {
        // Relaxed: a number that may be a moment old.
        self.count.load(Ordering::Relaxed)
    }

    /// Does `change` under the lock, and counts afterwards.
    fn change<R>(&self, change: impl FnOnce(&mut Inner<P>) -> R) -> R {
        let mut inner = self.inner.lock();
        let result = change(&mut inner);
        // Relaxed: nothing is ordered by it.
        self.count.store(inner.entries.len(), Ordering::Relaxed);
        result
    }

    pub fn find(&self, ino: Ino) -> Known<P> {
        match self.inner.lock().entries.get(ino) {
            None => Known::Absent,
            Some(entry) => entry.user().map_or(Known::Over, Known::Used),
        }
    }

    /// Makes room for inode `ino`. Takes memory.
    pub fn room(&self, ino: Ino) -> Result<Room<'_, P>, OutOfMemory> {
        self.inner.lock().entries.reserve(ino)?;
        Ok(Room { table: self, ino })
    }

    /// The last name of `ino` is gone: the table is no user of it any more. Takes no memory. The caller holds a user of its own.
    pub fn orphan(&self, ino: Ino) {
        let mut table = self.inner.lock();
        if let Some(entry) = table.entries.get_mut(ino)
            && let Entry::Named(inode) = entry
        {
            let weak = Entry::Orphan(inode.vnode().clone(), Arc::downgrade(inode));
            let named = core::mem::replace(entry, weak);
            drop(table);
            drop(named);
        }
    }

    /// Takes out the inode of `user`, which has a name, if nobody uses it but the table and the caller, and `bare` holds for it then. From
    /// there on the caller has it alone. Takes no memory.
    pub fn remove_sole(&self, user: &Arc<Inode<P>>, bare: impl FnOnce(&Vnode<P>) -> bool) -> bool {
        let removed = self.change(|table| {
            let entry = table.entries.get(user.ino());
            let sole = match entry {
                Some(Entry::Named(inode)) => {
                    Arc::ptr_eq(inode, user) && Arc::strong_count(inode) == 2
                }
                _ => false,
            };
            // Acquire pairs with the Release of the drop of the last other user: what it did has happened. New ones come only from
            // the table, under its lock.
            fence(Ordering::Acquire);
            let gone = sole && bare(user);
            gone.then(|| table.entries.remove(user.ino())).flatten()
        });
        removed.is_some()
    }

    /// An orphan whose last user is gone.
    pub fn is_over(&self, ino: Ino) -> Option<Arc<Vnode<P>>> {
        let table = self.inner.lock();
        let entry = table.entries.get(ino)?;
        (!entry.is_used()).then(|| entry.vnode().clone())
    }

    /// Takes an inode out. Takes no memory.
    pub fn remove(&self, ino: Ino) {
        // Dropped without the lock.
        let _entry = self.change(|table| table.entries.remove(ino));
    }

    /// Takes all out.
    pub fn clear(&self) {
        // Dropped without the lock.
        let _all = self.change(|table| core::mem::take(&mut table.entries));
    }

    /// The first inode from `from` on.
    pub fn from(&self, from: Ino) -> Option<Arc<Vnode<P>>> {
        let table = self.inner.lock();
        let entry = table.entries.from(from).next();
        entry.map(|(_, entry)| entry.vnode().clone())
    }

    /// The first inode from `from` on that somebody uses.
    pub fn user_from(&self, from: Ino) -> Option<Arc<Inode<P>>> {
        let table = self.inner.lock();
        let mut entries = table.entries.from(from);
        entries.find_map(|(_, entry)| entry.user())
    }

    /// An inode that somebody besides the table uses, or for which `or` holds.
    pub fn first_used(&self, or: impl Fn(&Vnode<P>) -> bool) -> Option<Arc<Vnode<P>>> {
        let table = self.inner.lock();
        let mut entries = table.entries.from(0);
        let used = entries.find(|(_, e)| e.is_used() || or(e.vnode()));
        used.map(|(_, entry)| entry.vnode().clone())
    }

    /// Takes out an inode with a name that nobody uses and for which `wanted` holds, if there are more than `keep`. Looks at 128 at
    /// most; the next search goes on behind the last one looked at.
    pub fn take_unused(
        &self,
        keep: usize,
        wanted: impl Fn(&Vnode<P>) -> bool,
    ) -> Option<Arc<Inode<P>>> {
        // The memory is dropped without the lock.
        let (entry, _memory) = self.change(|Inner { entries, hand }| {
            if entries.len() <= keep {
                return None;
            }
            let unused = |entry: &Entry<P>| {
                matches!(entry, Entry::Named(_)) && !entry.is_used() && wanted(entry.vnode())
            };
            let around = entries.from(*hand).chain(entries.from(0));
            let mut looked = around.take(LOOKS).map(|(ino, entry)| {
                *hand = ino + 1;
                (ino, unused(entry))
            });
            let (ino, _) = looked.find(|(_, unused)| *unused)?;
            drop(looked);
            entries.remove(ino)
        })?;
        match entry {
            Entry::Named(inode) => Some(inode),
            Entry::Orphan(..) => None,
        }
    }
}
