//! The array's readers and its entry lock under loom, two forced switches each.
//!
//! The pool is made before the writer starts; a reader's tree is two levels high at most. A reader falls back to the lock after
//! two void walks here, after sixteen elsewhere.

#![expect(unsafe_code, reason = "shares what loom watches")]

use super::*;
use crate::entry::Entry;
use mm::sync::model::{Bounds, check, spawn};

/// Slots of the nodes that a walk or a scan may look at, and then some.
const BOUNDS: Bounds = Bounds::preemptions(2).objects(600);

fn page(n: u64) -> Entry {
    let pfn = Pfn::new(n).expect("a small number");
    Entry::Pfn { pfn, order: 0 }
}

fn array(pool: &Arc<NodePool>) -> Arc<XArray> {
    Arc::new(XArray::new(pool.clone()))
}

fn entry(array: &XArray, index: u64) -> Option<Entry> {
    array.load(index).map(|found| found.entry)
}

/// An entry that stays is found, while the tree grows above it and shrinks again.
#[test]
fn what_stays_is_found_while_the_tree_grows_and_shrinks() {
    check(BOUNDS, || {
        let a = array(&NodePool::new(1).expect("memory"));
        a.insert(63, page(63)).expect("room");
        let writer = {
            let a = a.clone();
            spawn(move || {
                a.insert(64, page(64)).expect("room");
                a.erase(64);
            })
        };
        assert_eq!(entry(&a, 63), Some(page(63)));
        writer.join().expect("the writer ends");
    });
}

/// A reader follows a path whose nodes are given back and taken by another array: it finds its own entry or none.
#[test]
fn a_reader_never_sees_the_next_owner_of_a_node() {
    check(BOUNDS, || {
        let pool = NodePool::new(1).expect("memory");
        let (a, b) = (array(&pool), array(&pool));
        a.insert(0, page(1)).expect("room");
        let writer = {
            let (a, b) = (a.clone(), b.clone());
            spawn(move || {
                a.erase(0);
                b.insert(0, page(2)).expect("room");
            })
        };
        let seen = entry(&a, 0);
        assert!(seen.is_none() || seen == Some(page(1)), "saw {seen:?}");
        writer.join().expect("the writer ends");
        assert_eq!((entry(&a, 0), entry(&b, 0)), (None, Some(page(2))));
    });
}

/// What was done to a page before its entry was inserted is seen by who finds the entry.
#[test]
fn who_finds_an_entry_sees_what_came_before_it() {
    check(BOUNDS, || {
        let a = array(&NodePool::new(1).expect("memory"));
        let owner = Arc::new(AtomicU64::new(0));
        let writer = {
            let (a, owner) = (a.clone(), owner.clone());
            spawn(move || {
                owner.store(7, Ordering::Relaxed);
                a.insert(0, page(1)).expect("room");
            })
        };
        if entry(&a, 0).is_some() {
            assert_eq!(owner.load(Ordering::Relaxed), 7);
        }
        writer.join().expect("the writer ends");
    });
}

/// The same, for the page that replaces a placeholder, as a fault does it.
#[test]
fn who_finds_a_stored_page_sees_what_came_before_it() {
    check(BOUNDS, || {
        let a = array(&NodePool::new(1).expect("memory"));
        let owner = Arc::new(AtomicU64::new(0));
        let mut guard = a.lock_entry(0, 0).expect("an entry of order 0");
        let reader = {
            let (a, owner) = (a.clone(), owner.clone());
            spawn(move || {
                if entry(&a, 0) == Some(page(1)) {
                    assert_eq!(owner.load(Ordering::Relaxed), 7);
                }
            })
        };
        owner.store(7, Ordering::Relaxed);
        guard.store(page(1));
        drop(guard);
        reader.join().expect("the reader ends");
    });
}

/// What loom watches: two at once in here fail the model.
#[derive(Default)]
struct Inside(loom::cell::Cell<u32>);

// SAFETY: loom checks every access.
unsafe impl Sync for Inside {}
// SAFETY: as above.
unsafe impl Send for Inside {}

impl Inside {
    fn add_one(&self) {
        self.0.set(self.0.get() + 1);
    }
}

/// The lock of an entry goes from one to the next: one holder at a time, each sees what the last one did, nobody sleeps on.
fn hand_over(erase_first: bool) {
    check(BOUNDS, move || {
        let a = array(&NodePool::new(1).expect("memory"));
        let inside = Arc::new(Inside::default());
        let lock = |erase: bool| {
            let (a, inside) = (a.clone(), inside.clone());
            move || {
                let mut guard = a.lock_entry(0, 0).expect("an entry of order 0");
                inside.add_one();
                guard.store(page(1));
                if erase {
                    guard.erase();
                }
            }
        };
        let other = spawn(lock(erase_first));
        lock(false)();
        other.join().expect("the other ends");
        assert_eq!(inside.0.get(), 2);
        let left = a.load(0);
        assert!(
            left.is_none_or(|f| !f.locked && f.entry == page(1)),
            "left {left:?}"
        );
    });
}

#[test]
fn the_entry_lock_is_handed_over() {
    hand_over(false);
}

/// Who waits for the lock of an entry that is erased makes one of its own.
#[test]
fn the_entry_lock_of_an_erased_entry_is_handed_over() {
    hand_over(true);
}
