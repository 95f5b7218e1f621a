//! The entry lock among threads: who waits is woken, once, whatever becomes of the entry.

use super::*;

/// The waiter is a thread of its own, so that a forgotten one is a failure, not a hang.
#[test]
fn a_waiter_is_woken_by_unlock_and_by_erase() {
    for erase in [false, true] {
        let a = Arc::new(array());
        a.insert(7, page(1)).unwrap();
        let guard = a.lock_entry(7, 0).unwrap();
        let (tell, hear) = mpsc::channel();
        let waiter = a.clone();
        thread::spawn(move || {
            drop(waiter.lock_entry(7, 0));
            tell.send(()).unwrap();
        });
        thread::sleep(Duration::from_millis(20));
        assert!(hear.try_recv().is_err(), "the lock was taken twice");
        if erase {
            guard.erase()
        } else {
            drop(guard)
        }
        let woken = hear.recv_timeout(Duration::from_secs(5));
        assert!(woken.is_ok(), "the waiter was forgotten, erase: {erase}");
    }
}

/// Threads that all wait for one entry, which goes from one to the next.
#[test]
fn a_release_wakes_one_waiter_which_hands_on() {
    const WAITERS: u64 = 12;
    let a = array();
    a.insert(7, page(1)).unwrap();
    let guard = a.lock_entry(7, 0).unwrap();
    thread::scope(|s| {
        for _ in 0..WAITERS {
            s.spawn(|| {
                let _guard = a.lock_entry(7, 0).unwrap();
                // Long enough that all who were woken look while it is locked.
                thread::sleep(Duration::from_millis(3));
            });
        }
        thread::sleep(Duration::from_millis(50));
        drop(guard);
    });
    // One to queue, one in the queue, one when it is its turn; waking all takes some 80.
    let tries = a.tries.load(Ordering::Relaxed);
    assert!(tries <= 4 * WAITERS, "{tries} tries: a herd");
}

#[test]
fn a_run_ends_before_a_locked_entry() {
    let array = array();
    (0..10).for_each(|i| array.insert(i, page(100 + i)).unwrap());
    let guard = array.lock_existing(7).unwrap();
    let run = array.erase_run(2..10, |_| true).unwrap();
    assert_eq!((run.entries, run.next), (5, 7));
    assert_eq!(array.erase_run(2..10, |_| true).unwrap().entries, 0);
    drop(guard);
    let run = array.erase_run(2..10, |_| true).unwrap();
    assert_eq!((run.entries, run.next), (3, 10));
    assert_eq!(array.stats().entries, 2);
}

/// An entry is unlocked, one of two waiters has been woken and not looked yet; then the entry goes.
#[test]
fn a_run_wakes_all_who_wait_for_what_went() {
    let array = array();
    array.insert(3, page(1)).unwrap();
    let guard = array.lock_existing(3).unwrap();
    let (done, ended) = mpsc::channel();
    thread::scope(|s| {
        for done in [done.clone(), done] {
            let array = &array;
            s.spawn(move || done.send(array.lock_existing(3).is_none()));
        }
        thread::sleep(Duration::from_millis(50));
        array.replace(&array.inner.lock(), 3, Packed::new(page(1), false));
        assert_eq!(array.erase_run(0..9, |_| true).unwrap().entries, 1);
        let both = [(); 2].map(|()| ended.recv_timeout(Duration::from_secs(5)));
        array.wake_all(3); // so that a failure is no hang
        assert_eq!(both, [Ok(true); 2]);
        drop(guard);
    });
}

/// Threads count up a number that only the entry lock protects.
#[test]
fn the_entry_lock_excludes_and_no_waiter_is_forgotten() {
    let (a, rounds) = (array(), if cfg!(miri) { 20 } else { 5_000 });
    let counter = AtomicU64::new(0);
    thread::scope(|s| {
        for t in 0..4 {
            let (a, counter) = (&a, &counter);
            s.spawn(move || {
                for i in 0..rounds {
                    let mut guard = a.lock_entry(512 + (i * t) % 512, 9).unwrap();
                    let seen = counter.load(Ordering::Relaxed);
                    if i % 3 == 0 {
                        guard.store(Entry::Zero { order: 9 });
                    }
                    if i % 8 == 0 {
                        thread::yield_now();
                    }
                    counter.store(seen + 1, Ordering::Relaxed);
                    if i % 5 == 0 {
                        guard.erase()
                    } else {
                        drop(guard)
                    }
                }
            });
        }
    });
    assert_eq!(counter.load(Ordering::Relaxed), 4 * rounds);
}
