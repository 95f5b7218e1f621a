//! What the checker of lock order and of sleeping says: each mistake, and both places.

use super::*;
use crate::sync::{InHandler, check_nothing_held, note_held};

/// The lines that a complaint must name, in the order in which they are run.
#[derive(Default)]
struct Lines(core::cell::RefCell<Vec<u32>>);

impl Lines {
    /// The statement on the line after `line` takes a lock, or sleeps.
    fn next(&self, line: u32) {
        self.0.borrow_mut().push(line + 1);
    }
}

/// Asserts that `f` panics with a message that begins with `what` and names the lines noted, the last first.
#[track_caller]
fn complains(what: &str, f: impl FnOnce(&Lines)) {
    let lines = Lines::default();
    let message = panic_of(|| f(&lines));
    assert!(message.starts_with(what), "{message}");
    let mut rest = message.as_str();
    for line in lines.0.into_inner().into_iter().rev() {
        let place = std::format!("{}:{line}:", file!());
        let at = rest.find(&place);
        rest = &rest[at.unwrap_or_else(|| panic!("{place} not told in: {message}"))..];
    }
    assert!(
        held_by_current().is_empty(),
        "the unwound guards left the list"
    );
    assert_eq!(runtime().held().spin_depth(), 0);
}

fn locks() -> (Mutex<()>, RwLock<()>) {
    (
        Mutex::new(&class::INODE, ()),
        RwLock::new(&class::ENTRY, ()),
    )
}

#[test]
fn a_wrong_order_names_both_places() {
    let (inode, entry) = locks();
    let what = "lock order: inode (rank 20) taken at";
    complains(what, |at| {
        at.next(line!());
        let _e = entry.write();
        at.next(line!());
        let _i = inode.lock();
    });
    complains(what, |at| {
        at.next(line!());
        let _e = entry.try_read();
        at.next(line!());
        let _i = inode.lock();
    });
}

#[test]
fn two_of_a_class_need_nested() {
    let ((one, entry), (other, _)) = (locks(), locks());
    complains("lock order: inode (rank 20) taken at", |at| {
        at.next(line!());
        let _a = one.lock();
        at.next(line!());
        let _b = other.lock();
    });
    let _a = one.lock();
    let _b = other.lock_nested();
    let _c = entry.read();
}

#[test]
fn a_lock_is_not_taken_twice_by_one_thread() {
    let (inode, entry) = locks();
    complains("lock order: inode (rank 20) taken at", |at| {
        at.next(line!());
        let _a = inode.lock();
        at.next(line!());
        let _b = inode.lock_nested();
    });
    complains("lock order: entry (rank 50) taken at", |at| {
        at.next(line!());
        let _a = entry.read();
        at.next(line!());
        let _b = entry.read();
    });
    let spin = SpinLock::new(());
    complains("lock order: spin lock (rank 200) taken at", |at| {
        at.next(line!());
        let _a = spin.lock();
        at.next(line!());
        let _b = spin.lock();
    });
    assert!(
        panic_of(|| {
            let _a = spin.lock();
            let _b = spin.lock();
        })
        .contains("by the thread that holds it")
    );
}

#[test]
fn spin_locks_have_an_order() {
    let (tree, pool, unnamed) = (
        SpinLock::with_class(&class::XARRAY, ()),
        SpinLock::with_class(&class::NODES, ()),
        SpinLock::new(()),
    );
    complains("lock order: xarray (rank 90) taken at", |at| {
        at.next(line!());
        let _p = pool.lock();
        at.next(line!());
        let _t = tree.lock();
    });
    let _t = tree.lock();
    let _p = pool.lock();
    let _s = unnamed.lock();
}

#[test]
fn unnamed_spin_locks_do_not_nest() {
    let (a, b) = (SpinLock::new(()), SpinLock::new(()));
    complains("lock order: spin lock (rank 200) taken at", |at| {
        at.next(line!());
        let _a = a.lock();
        at.next(line!());
        let _b = b.lock();
    });
    let _a = a.lock();
    // Tried for, not waited for.
    assert!(b.try_lock().is_some());
    // Any holder may wake.
    WaitQueue::new().wake_all();
}

#[test]
fn nothing_sleeps_under_a_spin_lock() {
    let (spin, mutex, queue) = (SpinLock::new(0), locks().0, WaitQueue::new());
    let what = "sleeping in atomic context: about to take inode (rank 20) at";
    complains(what, |at| {
        at.next(line!());
        let _held = spin.lock();
        at.next(line!());
        drop(mutex.lock());
    });
    complains("sleeping in atomic context: about to wait at", |at| {
        at.next(line!());
        let _held = spin.lock();
        at.next(line!());
        let _ended = queue.wait_until(|| true, &Wait::forever());
    });
    assert!(mutex.try_lock().is_some());
}

#[test]
fn nothing_sleeps_with_interrupts_off() {
    complains("sleeping in atomic context: about to wait at", |at| {
        at.next(line!());
        irq_off(|| sleep_us(1));
    });
    assert!(
        panic_of(|| irq_off(|| sleep_us(1))).contains("under interrupts off (rank 0), taken at")
    );
}

#[test]
fn nothing_sleeps_in_an_interrupt_handler() {
    let mutex = locks().0;
    complains("sleeping in atomic context: about to take inode", |at| {
        at.next(line!());
        let _handler = InHandler::enter();
        // A handler in a handler ends first.
        drop(InHandler::enter());
        at.next(line!());
        drop(mutex.lock());
    });
    // The handler has ended.
    drop(mutex.lock());
}

#[test]
fn a_long_wait_holds_nothing() {
    let mutex = locks().0;
    let what = "waiting with a lock: about to wait for pins at";
    complains(what, |at| {
        at.next(line!());
        let _i = mutex.lock();
        at.next(line!());
        check_nothing_held("wait for pins");
    });
    complains("waiting with a lock", |at| {
        at.next(line!());
        let _e = note_held(&class::ENTRY);
        at.next(line!());
        check_nothing_held("wait for pins");
    });
    complains("sleeping in atomic context: about to wait for pins", |at| {
        at.next(line!());
        irq_off(|| check_nothing_held("wait for pins"));
    });
    check_nothing_held("wait for pins");
}

/// The lists belong to threads: what one holds does not forbid anything to another.
#[test]
fn each_thread_has_its_own_list() {
    let (inode, entry) = locks();
    let _e = entry.write();
    thread::scope(|s| {
        s.spawn(|| drop(inode.lock()));
    });
}
