//! The locks, the waiting and the facade itself under loom. Bounds: see each test; most have three forced switches.

#![expect(unsafe_code, reason = "reads and writes what loom watches")]

use super::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use super::model::{Bounds, JoinHandle, check, spawn};
use super::*;
use std::sync::Arc;
use std::vec::Vec;

const THREE: Bounds = Bounds::preemptions(3);
const TWO: Bounds = Bounds::preemptions(2);

fn join_all<T>(threads: impl IntoIterator<Item = JoinHandle<T>>) -> Vec<T> {
    let threads: Vec<_> = threads.into_iter().collect();
    threads.into_iter().map(|t| t.join().unwrap()).collect()
}

/// What loom checks by itself: two accesses at once, one of them a write, or a write that the next reader does not see.
#[derive(Default)]
struct Watched(loom::cell::UnsafeCell<u32>);

impl Watched {
    fn add_one(&self) {
        // SAFETY: exclusive, or loom fails the model.
        self.0.with_mut(|n| unsafe { *n += 1 });
    }

    fn read(&self) -> u32 {
        // SAFETY: nobody writes, or loom fails the model.
        self.0.with(|n| unsafe { *n })
    }
}

// SAFETY: loom checks every access.
unsafe impl Sync for Watched {}

/// The facade's order of SeqCst accesses: of two threads that write and then read each other's place, one sees the other.
fn store_then_load(store: Ordering, load: Ordering) {
    check(Bounds::preemptions(4), move || {
        let places = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
        let run = |mine: usize| {
            let places = places.clone();
            spawn(move || {
                places[mine].store(1, store);
                places[1 - mine].load(load)
            })
        };
        let seen = join_all([run(0), run(1)]);
        assert_ne!(seen, [0, 0], "neither saw the other");
    });
}

#[test]
fn seqcst_pairs_are_ordered() {
    store_then_load(Ordering::SeqCst, Ordering::SeqCst);
}

#[test]
#[should_panic(expected = "neither saw the other")]
fn a_weaker_store_is_noticed() {
    store_then_load(Ordering::Release, Ordering::SeqCst);
}

#[test]
#[should_panic(expected = "neither saw the other")]
fn a_weaker_load_is_noticed() {
    store_then_load(Ordering::SeqCst, Ordering::Acquire);
}

/// Atomics whose initial value is not 0, statics among them, begin each execution with that value.
#[test]
fn statics_begin_anew() {
    static N: AtomicU64 = AtomicU64::new(7);
    check(TWO, || {
        assert_eq!(N.load(Ordering::Relaxed), 7);
        let other = spawn(|| N.fetch_add(1, Ordering::Relaxed));
        N.fetch_sub(2, Ordering::Relaxed);
        other.join().unwrap();
        assert_eq!(N.load(Ordering::Relaxed), 6);
        assert_eq!(N.swap(u64::MAX, Ordering::Relaxed), 6);
    });
}

/// A wake-up that comes before the park, or while it begins, or later: the park ends, and what was written before is seen.
#[test]
fn a_park_token_is_remembered() {
    check(Bounds::preemptions(4), || {
        let value = Arc::new(Watched::default());
        let me = current_thread();
        let waker = {
            let value = value.clone();
            spawn(move || {
                value.add_one();
                runtime().unpark(me);
            })
        };
        runtime().park(None);
        assert_eq!(value.read(), 1);
        waker.join().unwrap();
    });
}

/// Two wake-ups before the park are one token; a thread that has ended is ignored.
#[test]
fn tokens_do_not_add_up() {
    check(TWO, || {
        let (me, ended) = (current_thread(), spawn(current_thread).join().unwrap());
        join_all([
            spawn(move || runtime().unpark(me)),
            spawn(move || runtime().unpark(me)),
        ]);
        runtime().unpark(ended);
        runtime().park(None);
        // No token is left: a park with a deadline gives up, and time has passed.
        runtime().park(Some(5));
        assert_eq!(now_us(), 5);
    });
}

/// The condition is stored relaxed, as a count may be: only the fences of the queue order it.
fn no_wake_up_is_lost(wake: impl Fn(&WaitQueue) + Send + Sync + Copy + 'static) {
    check(THREE, move || {
        let shared = Arc::new((WaitQueue::new(), AtomicU32::new(0)));
        let waker = {
            let shared = shared.clone();
            spawn(move || {
                shared.1.store(1, Ordering::Relaxed);
                wake(&shared.0);
            })
        };
        let come = || shared.1.load(Ordering::Relaxed) == 1;
        assert_eq!(shared.0.wait_until(come, &Wait::forever()), Ok(()));
        waker.join().unwrap();
        assert!(shared.0.is_empty());
    });
}

#[test]
fn wake_one_is_not_lost() {
    no_wake_up_is_lost(WaitQueue::wake_one);
}

#[test]
fn wake_all_is_not_lost() {
    no_wake_up_is_lost(WaitQueue::wake_all);
}

/// Who changes many conditions at once looks first whether anybody waits at all.
#[test]
fn a_look_for_waiters_misses_none() {
    check(THREE, || {
        let shared = Arc::new((WaitTable::new(), AtomicU32::new(0)));
        let waker = {
            let shared = shared.clone();
            spawn(move || {
                shared.1.store(1, Ordering::Relaxed);
                if !shared.0.nobody_waits() {
                    shared.0.wake_all(5);
                }
            })
        };
        let come = || shared.1.load(Ordering::Relaxed) == 1;
        assert_eq!(shared.0.wait_until(5, come, &Wait::forever()), Ok(()));
        waker.join().unwrap();
        assert!(shared.0.nobody_waits());
    });
}

/// Two items and two wakes for two waiters: a wake that its waiter does not need goes to the other.
#[test]
fn wakes_are_passed_on() {
    check(TWO, || {
        let shared = Arc::new((WaitQueue::new(), AtomicU32::new(0)));
        let take = |shared: &(WaitQueue, AtomicU32)| {
            let less = |n: u32| n.checked_sub(1);
            shared
                .1
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
                .is_ok()
        };
        let wait = |_| {
            let shared = shared.clone();
            spawn(move || shared.0.wait_until(|| take(&shared), &Wait::forever()))
        };
        let waiters: Vec<_> = (0..2).map(wait).collect();
        for _ in 0..2 {
            shared.1.fetch_add(1, Ordering::Relaxed);
            shared.0.wake_one();
        }
        assert_eq!(join_all(waiters), [Ok(()), Ok(())]);
    });
}

/// A cancellation ends the wait, whenever it comes.
#[test]
fn a_cancellation_is_not_lost() {
    check(THREE, || {
        let shared = Arc::new((WaitQueue::new(), Cancel::new()));
        let canceller = {
            let shared = shared.clone();
            spawn(move || shared.1.cancel())
        };
        let wait = Wait::forever().or_cancelled(&shared.1);
        assert_eq!(
            shared.0.wait_until(|| false, &wait),
            Err(WaitError::Cancelled)
        );
        canceller.join().unwrap();
    });
}

/// No two holders at once, each sees what the last one wrote, and no sleeper is forgotten.
#[test]
fn a_mutex_excludes_and_wakes() {
    check(TWO, || {
        let lock = Arc::new(Mutex::new(&class::INODE, Watched::default()));
        let add = |_| {
            let lock = lock.clone();
            spawn(move || lock.lock().add_one())
        };
        let others: Vec<_> = (0..2).map(add).collect();
        lock.lock().add_one();
        join_all(others);
        assert_eq!(lock.lock().read(), 3);
    });
}

fn readers_and_writers(readers: usize, writers: u32, bounds: Bounds) {
    check(bounds, move || {
        let lock = Arc::new(RwLock::new(&class::INVALIDATE, Watched::default()));
        let write = |_| {
            let lock = lock.clone();
            spawn(move || lock.write().add_one())
        };
        let read = |_| {
            let lock = lock.clone();
            spawn(move || assert!(lock.read().read() <= writers))
        };
        let threads: Vec<_> = (1..writers)
            .map(write)
            .chain((0..readers).map(read))
            .collect();
        lock.write().add_one();
        join_all(threads);
        assert_eq!(lock.read().read(), writers);
    });
}

#[test]
fn a_rwlock_with_two_readers() {
    readers_and_writers(2, 1, TWO);
}

#[test]
fn a_rwlock_with_two_writers() {
    readers_and_writers(1, 2, TWO);
}

/// Who waits for sections finds what a section that was under way did, and a later section finds what the waiter did before.
#[test]
fn sections_are_waited_for() {
    check(THREE, || {
        let shared = Arc::new((AtomicU32::new(0), Watched::default()));
        let walker = {
            let shared = shared.clone();
            spawn(move || {
                irq_off(|| {
                    if shared.0.load(Ordering::Relaxed) == 0 {
                        shared.1.read();
                    }
                })
            })
        };
        // The pointer is taken away, the walkers leave, then what it led to is freed.
        shared.0.store(1, Ordering::Relaxed);
        wait_for_sections();
        shared.1.add_one();
        walker.join().unwrap();
    });
}

/// The test of the test: without the wait, the walker meets what is being freed.
#[test]
#[should_panic(expected = "Causality violation")]
fn a_section_that_is_not_waited_for_is_noticed() {
    check(THREE, || {
        let shared = Arc::new((AtomicU32::new(0), Watched::default()));
        let walker = {
            let shared = shared.clone();
            spawn(move || {
                if shared.0.load(Ordering::Relaxed) == 0 {
                    shared.1.read();
                }
            })
        };
        shared.0.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        shared.1.add_one();
        walker.join().unwrap();
    });
}
