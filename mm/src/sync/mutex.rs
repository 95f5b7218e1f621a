//! The sleeping mutex.
//!
//! Fair enough: a newcomer takes a free lock only when nobody queues for it, and queued threads take it first come, first
//! served. So the lock is either held, or free with an empty queue, or free with the first of the queue already woken (or
//! still awake): no sleeper is forgotten, because each unlock wakes the first of the queue.

#![expect(
    unsafe_code,
    reason = "the value sits in an UnsafeCell that the lock state guards"
)]

use super::atomic::{AtomicBool, Ordering};
use super::held::LockClass;
use super::runtime::runtime;
use super::wait::WaitQueue;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

/// A mutual-exclusion lock whose waiters sleep.
pub struct Mutex<T: ?Sized> {
    class: &'static LockClass,
    locked: AtomicBool,
    queue: WaitQueue,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives out the value to one thread at a time, so sharing the lock only ever moves access to T between
// threads: T: Send is what that needs.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    /// An unlocked lock of `class` around `value`.
    pub const fn new(class: &'static LockClass, value: T) -> Self {
        Self {
            class,
            locked: AtomicBool::new(false),
            queue: WaitQueue::new(),
            value: UnsafeCell::new(value),
        }
    }

    /// The value, when nobody else can reach the lock.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Sleeps until the lock is free and takes it. Debug builds panic on a wrong lock order or under a spin lock.
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        runtime().held().check(self.class, self.address(), false);
        self.acquire()
    }

    /// As [`Mutex::lock`], but allows that a lock of the same class is held: the caller orders the two by other means
    /// (inodes: lower number first).
    #[track_caller]
    pub fn lock_nested(&self) -> MutexGuard<'_, T> {
        runtime().held().check(self.class, self.address(), true);
        self.acquire()
    }

    /// Takes the lock if it is free. Never sleeps, so any order is allowed.
    #[track_caller]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        if self.take() {
            Some(self.guard())
        } else {
            None
        }
    }

    /// Whether somebody holds the lock at this moment.
    pub fn is_locked(&self) -> bool {
        // Relaxed: a glance, for display and assertions.
        self.locked.load(Ordering::Relaxed)
    }

    /// The number of threads that wait for the lock at this moment.
    pub fn waiters(&self) -> u32 {
        self.queue.len()
    }

    /// The value, through the exclusive borrow that proves the lock free.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    fn address(&self) -> usize {
        (&raw const self.locked).addr()
    }

    #[track_caller]
    fn acquire(&self) -> MutexGuard<'_, T> {
        if !(self.queue.is_empty() && self.take()) {
            self.queue.wait_in_turn(|first| first && self.take());
        }
        self.guard()
    }

    #[track_caller]
    fn guard(&self) -> MutexGuard<'_, T> {
        runtime().held().push(self.class, self.address());
        MutexGuard {
            lock: self,
            not_send: PhantomData,
        }
    }

    fn take(&self) -> bool {
        // Acquire pairs with the Release store in the guard's drop: the value as the last holder left it.
        self.locked
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }
}

/// Access to the value of a locked [`Mutex`]. Stays on its thread, whose list of held locks names it.
#[must_use]
pub struct MutexGuard<'a, T: ?Sized> {
    lock: &'a Mutex<T>,
    not_send: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives only &T.
unsafe impl<T: ?Sized + Sync> Sync for MutexGuard<'_, T> {}

impl<'a, T: ?Sized> MutexGuard<'a, T> {
    /// The lock that this guard holds.
    pub const fn mutex(this: &Self) -> &'a Mutex<T> {
        this.lock
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard exists, so this thread holds the lock and nobody else has access.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in deref; the guard is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        runtime().held().pop(self.lock.class, self.lock.address());
        // Release pairs with the Acquire in `take`. wake_one orders the store before its look at the queue.
        self.lock.locked.store(false, Ordering::Release);
        self.lock.queue.wake_one();
    }
}
