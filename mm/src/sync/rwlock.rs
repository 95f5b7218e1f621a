//! The sleeping reader-writer lock, preferring writers.
//!
//! `state` is the number of readers, or [`WRITER`]. A reader waits while a writer holds the lock *or waits for it*, so
//! readers cannot keep a writer out; a stream of writers can keep readers out, which its users must not produce.
//! Writers queue among themselves first come, first served. Wake-ups: the last reader wakes the first writer; a writer
//! that leaves wakes the first writer and every reader, and the readers that find writers waiting sleep again.

#![expect(
    unsafe_code,
    reason = "the value sits in an UnsafeCell that the lock state guards"
)]

use super::atomic::{AtomicU32, Ordering};
use super::held::LockClass;
use super::runtime::runtime;
use super::wait::WaitQueue;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

const WRITER: u32 = u32::MAX;

/// A lock that many readers or one writer hold; waiters sleep and writers go first.
pub struct RwLock<T: ?Sized> {
    class: &'static LockClass,
    state: AtomicU32,
    readers: WaitQueue,
    writers: WaitQueue,
    value: UnsafeCell<T>,
}

// SAFETY: readers on several threads share &T (Sync), writers move access to T between threads (Send).
unsafe impl<T: ?Sized + Send + Sync> Sync for RwLock<T> {}

impl<T> RwLock<T> {
    /// An unlocked lock of `class` around `value`.
    pub const fn new(class: &'static LockClass, value: T) -> Self {
        Self {
            class,
            state: AtomicU32::new(0),
            readers: WaitQueue::new(),
            writers: WaitQueue::new(),
            value: UnsafeCell::new(value),
        }
    }

    /// The value, when nobody else can reach the lock.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Sleeps until no writer holds or wants the lock and shares it. Debug builds panic on a wrong lock order, which
    /// includes a second read lock of the same class on one thread: a writer in between would stop both for ever.
    #[track_caller]
    pub fn read(&self) -> ReadGuard<'_, T> {
        runtime().held().check(self.class, self.address(), false);
        if !self.take_shared() {
            self.readers.wait_in_turn(|_| self.take_shared());
        }
        self.read_guard()
    }

    /// Shares the lock if no writer holds or wants it. Never sleeps, so any order is allowed.
    #[track_caller]
    pub fn try_read(&self) -> Option<ReadGuard<'_, T>> {
        if self.take_shared() {
            Some(self.read_guard())
        } else {
            None
        }
    }

    /// Sleeps until nobody holds the lock and takes it exclusively.
    #[track_caller]
    pub fn write(&self) -> WriteGuard<'_, T> {
        runtime().held().check(self.class, self.address(), false);
        if !(self.writers.is_empty() && self.take_exclusive()) {
            self.writers
                .wait_in_turn(|first| first && self.take_exclusive());
        }
        self.write_guard()
    }

    /// Takes the lock exclusively if nobody holds it. Never sleeps, so any order is allowed.
    #[track_caller]
    pub fn try_write(&self) -> Option<WriteGuard<'_, T>> {
        if self.take_exclusive() {
            Some(self.write_guard())
        } else {
            None
        }
    }

    /// The number of threads that wait for the lock exclusively at this moment.
    pub fn waiting_writers(&self) -> u32 {
        self.writers.len()
    }

    /// The value, through the exclusive borrow that proves the lock free.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    fn address(&self) -> usize {
        (&raw const self.state).addr()
    }

    fn take_shared(&self) -> bool {
        if !self.writers.is_empty() {
            return false;
        }
        // Acquire pairs with the Release of a writer's leaving. WRITER and a full count both refuse.
        let more = |readers: u32| (readers < WRITER - 1).then(|| readers + 1);
        self.state
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, more)
            .is_ok()
    }

    fn take_exclusive(&self) -> bool {
        // Acquire pairs with the Release of every reader's and writer's leaving.
        self.state
            .compare_exchange(0, WRITER, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    #[track_caller]
    fn read_guard(&self) -> ReadGuard<'_, T> {
        runtime().held().push(self.class, self.address());
        ReadGuard {
            lock: self,
            not_send: PhantomData,
        }
    }

    #[track_caller]
    fn write_guard(&self) -> WriteGuard<'_, T> {
        runtime().held().push(self.class, self.address());
        WriteGuard {
            lock: self,
            not_send: PhantomData,
        }
    }
}

/// Shared access to the value of an [`RwLock`].
#[must_use]
pub struct ReadGuard<'a, T: ?Sized> {
    lock: &'a RwLock<T>,
    not_send: PhantomData<*const ()>,
}

/// Exclusive access to the value of an [`RwLock`].
#[must_use]
pub struct WriteGuard<'a, T: ?Sized> {
    lock: &'a RwLock<T>,
    not_send: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives only &T.
unsafe impl<T: ?Sized + Sync> Sync for ReadGuard<'_, T> {}
// SAFETY: a shared guard gives only &T.
unsafe impl<T: ?Sized + Sync> Sync for WriteGuard<'_, T> {}

impl<T: ?Sized> Deref for ReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard exists, so the state counts this reader and no writer has access.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> Deref for WriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard exists, so the state is WRITER, set by this thread: nobody else has access.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in deref; the guard is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        runtime().held().pop(self.lock.class, self.lock.address());
        // Release pairs with the Acquire in take_exclusive. wake_one orders it before its look at the queue.
        if self.lock.state.fetch_sub(1, Ordering::Release) == 1 {
            self.lock.writers.wake_one();
        }
    }
}

impl<T: ?Sized> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        runtime().held().pop(self.lock.class, self.lock.address());
        // Release pairs with the Acquires in take_shared and take_exclusive.
        self.lock.state.store(0, Ordering::Release);
        self.lock.writers.wake_one();
        self.lock.readers.wake_all();
    }
}
