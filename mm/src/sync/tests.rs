use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::string::String;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread;

const ROUNDS: u32 = if cfg!(miri) { 20 } else { 2000 };

/// Runs a wait that a wake-up should end. A lost one shows as a wait that lasts to its deadline, though it may end well there.
fn promptly<R>(wait: impl FnOnce(Wait<'static>) -> R) -> R {
    let start = now_us();
    let ended = wait(Wait::until(start + 30_000_000));
    assert!(now_us() - start < 25_000_000, "no wake-up came");
    ended
}

fn wait_for(cond: impl Fn() -> bool) {
    while !cond() {
        thread::yield_now();
    }
}

/// The message of the panic that `f` must end in.
#[cfg(debug_assertions)]
fn panic_of(f: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(f)).expect_err("no panic");
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => String::from(*other.downcast::<&str>().unwrap()),
    }
}

/// Adds 1 in two steps with room for others in between: only exclusion keeps the sum right.
fn add_one(n: &mut u64, round: u32) {
    let seen = *n;
    if round.is_multiple_of(64) {
        thread::yield_now();
    }
    *n = core::hint::black_box(seen) + 1;
}

#[test]
fn a_mutex_excludes() {
    let lock = Mutex::new(&class::INODE, 0);
    thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| (0..ROUNDS).for_each(|i| add_one(&mut lock.lock(), i)));
        }
    });
    assert_eq!(lock.into_inner(), 4 * u64::from(ROUNDS));
}

#[test]
fn a_mutex_serves_first_come_first() {
    let lock = Mutex::new(&class::INODE, Vec::new());
    thread::scope(|s| {
        let held = lock.lock();
        for i in 0..5 {
            let lock = &lock;
            s.spawn(move || lock.lock().push(i));
            wait_for(|| lock.waiters() == i + 1);
        }
        drop(held);
    });
    assert_eq!(lock.into_inner(), [0, 1, 2, 3, 4]);
}

#[test]
fn try_lock_never_waits() {
    let lock = Mutex::new(&class::INODE, ());
    let held = lock.try_lock().unwrap();
    assert!(lock.is_locked() && lock.try_lock().is_none());
    drop(held);
    assert!(!lock.is_locked());
}

#[test]
fn a_rwlock_shares_and_excludes() {
    let lock = RwLock::new(&class::INVALIDATE, 0);
    let (reading, together) = (AtomicU32::new(0), Barrier::new(3));
    let one_thread = || {
        // All three hold the lock at once, or this never ends.
        let shared = lock.read();
        together.wait();
        drop(shared);
        for i in 0..ROUNDS {
            if i % 3 == 0 {
                let mut n = lock.write();
                assert_eq!(reading.load(SeqCst), 0);
                add_one(&mut n, i);
            } else {
                let _n = lock.read();
                reading.fetch_add(1, SeqCst);
                reading.fetch_sub(1, SeqCst);
            }
        }
    };
    thread::scope(|s| (0..3).for_each(|_| drop(s.spawn(one_thread))));
    assert_eq!(lock.into_inner(), 3 * u64::from(ROUNDS.div_ceil(3)));
}

#[test]
fn a_waiting_writer_goes_before_new_readers() {
    let lock = RwLock::new(&class::INVALIDATE, Vec::new());
    let order = Mutex::new(&class::ALLOC, Vec::new());
    thread::scope(|s| {
        let first = lock.read();
        s.spawn(|| {
            let _w = lock.write();
            order.lock().push("writer");
        });
        wait_for(|| lock.waiting_writers() == 1);
        assert!(lock.try_read().is_none());
        s.spawn(|| {
            let _r: ReadGuard<'_, Vec<u8>> = lock.read();
            order.lock().push("reader");
        });
        thread::sleep(std::time::Duration::from_millis(10));
        assert!(order.lock().is_empty());
        drop(first);
    });
    assert_eq!(order.into_inner(), ["writer", "reader"]);
    assert!(lock.try_write().is_some() && lock.try_read().is_some());
}

/// Two threads hand a number back and forth: one lost wake-up and the wait times out.
#[test]
fn no_wake_up_is_lost() {
    let (queue, turn) = (WaitQueue::new(), AtomicU32::new(0));
    let play = |me: u32| {
        for round in 0..ROUNDS {
            let mine = round * 2 + me;
            let is_mine = || turn.load(SeqCst) == mine;
            assert_eq!(promptly(|w| queue.wait_until(is_mine, &w)), Ok(()));
            turn.store(mine + 1, SeqCst);
            if round % 2 == 0 {
                queue.wake_one()
            } else {
                queue.wake_all()
            }
        }
    };
    thread::scope(|s| {
        s.spawn(|| play(0));
        s.spawn(|| play(1));
    });
    assert!(queue.is_empty());
}

/// A store and a wake between the evaluation of the condition and the park: the token must end the park.
#[test]
fn a_wake_before_the_park_is_remembered() {
    let (queue, done) = (WaitQueue::new(), AtomicBool::new(false));
    let mut looks = 0;
    let look = || {
        looks += 1;
        let seen = done.load(SeqCst);
        if !seen {
            thread::scope(|s| {
                s.spawn(|| {
                    done.store(true, SeqCst);
                    queue.wake_all();
                });
            });
        }
        seen
    };
    let ended = promptly(|w| queue.wait_until(look, &w));
    assert_eq!((ended, looks), (Ok(()), 2));
}

#[test]
fn waits_end_at_the_deadline_and_on_cancel() {
    let queue = WaitQueue::new();
    let start = now_us();
    assert_eq!(
        queue.wait_until(|| false, &Wait::until(start + 3000)),
        Err(WaitError::TimedOut)
    );
    assert!(now_us() >= start + 3000);
    assert_eq!(queue.wait_until(|| true, &Wait::until(0)), Ok(()));
    let cancel = Cancel::new();
    thread::scope(|s| {
        let wait = || promptly(|w| queue.wait_until(|| false, &w.or_cancelled(&cancel)));
        let waiters = [s.spawn(wait), s.spawn(wait)];
        wait_for(|| queue.len() == 2);
        cancel.cancel();
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), Err(WaitError::Cancelled));
        }
    });
    assert_eq!(
        queue.wait_until(|| false, &Wait::forever().or_cancelled(&cancel)),
        Err(WaitError::Cancelled)
    );
    assert!(queue.is_empty());
}

/// Three waiters and three single wakes, each with one item to take.
#[test]
fn wake_one_wakes_as_many_as_it_is_called() {
    let (queue, items) = (WaitQueue::new(), AtomicU64::new(0));
    let take = || {
        items
            .fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1))
            .is_ok()
    };
    thread::scope(|s| {
        let wait = || promptly(|w| queue.wait_until(take, &w));
        let waiters = [(); 3].map(|()| s.spawn(wait));
        wait_for(|| queue.len() == 3);
        for _ in 0..3 {
            items.fetch_add(1, SeqCst);
            queue.wake_one();
        }
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), Ok(()));
        }
    });
}

/// The first of the queue is woken but leaves for another reason: the second must get the wake.
#[test]
fn a_wake_that_is_not_used_is_passed_on() {
    let (queue, open) = (WaitQueue::new(), AtomicBool::new(false));
    let second = || promptly(|w| queue.wait_until(|| open.load(SeqCst), &w));
    thread::scope(|s| {
        let mut waiter = None;
        let first = queue.wait_until(
            || {
                waiter = Some(s.spawn(second));
                wait_for(|| queue.len() == 2);
                open.store(true, SeqCst);
                queue.wake_one();
                false
            },
            &Wait::until(0),
        );
        assert_eq!(first, Err(WaitError::TimedOut));
        assert_eq!(waiter.unwrap().join().unwrap(), Ok(()));
    });
}

#[test]
fn a_table_tells_keys_apart() {
    let table = WaitTable::new();
    let (a, b) = table.colliding_keys();
    let (done_a, looks_b, cancel) = (AtomicBool::new(false), AtomicU32::new(0), Cancel::new());
    let look_b = || {
        looks_b.fetch_add(1, SeqCst);
        false
    };
    let wait_a = || promptly(|w| table.wait_until(a, || done_a.load(SeqCst), &w));
    let wait_b = || table.wait_until(b, look_b, &Wait::forever().or_cancelled(&cancel));
    thread::scope(|s| {
        let (first, second) = (s.spawn(wait_a), s.spawn(wait_b));
        wait_for(|| looks_b.load(SeqCst) == 1);
        done_a.store(true, SeqCst);
        table.wake_all(a);
        assert_eq!(first.join().unwrap(), Ok(()));
        assert_eq!(looks_b.load(SeqCst), 1);
        cancel.cancel();
        assert_eq!(second.join().unwrap(), Err(WaitError::Cancelled));
    });
}

#[test]
fn a_wake_of_one_is_for_its_own_key() {
    let table = WaitTable::new();
    let (a, b) = table.colliding_keys();
    let (done, looks, cancel) = (AtomicBool::new(false), AtomicU32::new(0), Cancel::new());
    let looked = AtomicBool::new(false);
    let look = || {
        looks.fetch_add(1, SeqCst);
        false
    };
    thread::scope(|s| {
        let first = s.spawn(|| table.wait_until(b, look, &Wait::forever().or_cancelled(&cancel)));
        wait_for(|| looks.load(SeqCst) == 1);
        let second = s.spawn(|| {
            let is_done = || looked.swap(true, SeqCst) && done.load(SeqCst);
            promptly(|w| table.wait_until(a, is_done, &w))
        });
        wait_for(|| looked.load(SeqCst));
        done.store(true, SeqCst);
        table.wake_one(a);
        let (ended, looked_again) = (second.join(), looks.load(SeqCst) > 1);
        // Before anything is asserted, so that a failure is no hang.
        cancel.cancel();
        assert_eq!(first.join().unwrap(), Err(WaitError::Cancelled));
        assert_eq!(ended.unwrap(), Ok(()));
        assert!(!looked_again, "the other was woken");
    });
}

#[test]
fn held_locks_are_listed_in_order() {
    let (inode, space) = (
        Mutex::new(&class::INODE, ()),
        RwLock::new(&class::ASPACE, ()),
    );
    let names = || held_by_current().iter().map(|c| c.name).collect::<Vec<_>>();
    let i = inode.lock();
    let s = space.read();
    assert_eq!(names(), ["inode", "address space"]);
    drop(i);
    assert_eq!(names(), ["address space"]);
    drop(s);
    assert!(names().is_empty());
    thread::scope(|s| {
        s.spawn(|| assert!(held_by_current().is_empty()));
    });
}

#[cfg(debug_assertions)]
mod checker;

#[test]
#[cfg(debug_assertions)]
fn spin_locks_are_released_in_reverse_order() {
    let (a, b) = (SpinLock::with_class(&class::NODES, ()), SpinLock::new(()));
    let message = panic_of(|| {
        let first = a.lock();
        let _second = b.lock();
        drop(first);
    });
    assert!(message.contains("out of order"));
    let first = a.lock();
    assert!(a.try_lock().is_none());
    drop(b.lock());
    drop(first);
    assert_eq!(runtime().held().spin_depth(), 0);
}

#[test]
fn sleeping_takes_its_time() {
    let start = now_us();
    sleep_us(2000);
    assert!(now_us() - start >= 2000);
}

#[test]
fn threads_have_their_own_numbers() {
    let mine = current_thread();
    let other = thread::spawn(current_thread).join().unwrap();
    assert!(other != mine && current_thread() == mine);
    runtime().unpark(other);
}
