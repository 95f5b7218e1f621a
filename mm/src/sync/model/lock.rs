//! The lock under [`super::super::SpinLock`] in a model, with the interface of spin's mutex.

#![expect(
    unsafe_code,
    reason = "the value sits in an UnsafeCell that the raw lock guards"
)]

#[cfg(loom)]
use super::loom_pool::{RawGuard, RawLock};
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};

/// A mutual-exclusion lock of the model around a value.
#[derive(Default)]
pub(in crate::sync) struct ModelMutex<T: ?Sized> {
    raw: RawLock,
    value: UnsafeCell<T>,
}

// SAFETY: the raw lock gives access to one thread at a time, so sharing the lock only moves access to T.
unsafe impl<T: ?Sized + Send> Sync for ModelMutex<T> {}
// SAFETY: moving the lock moves T.
unsafe impl<T: ?Sized + Send> Send for ModelMutex<T> {}

impl<T> ModelMutex<T> {
    pub(in crate::sync) const fn new(value: T) -> Self {
        Self {
            raw: RawLock::new(),
            value: UnsafeCell::new(value),
        }
    }

    pub(in crate::sync) fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> ModelMutex<T> {
    pub(in crate::sync) fn lock(&self) -> ModelMutexGuard<'_, T> {
        ModelMutexGuard {
            value: &self.value,
            _raw: self.raw.lock(),
        }
    }

    pub(in crate::sync) fn try_lock(&self) -> Option<ModelMutexGuard<'_, T>> {
        Some(ModelMutexGuard {
            value: &self.value,
            _raw: self.raw.try_lock()?,
        })
    }

    pub(in crate::sync) fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

/// Access to the value of a locked [`ModelMutex`].
pub(in crate::sync) struct ModelMutexGuard<'a, T: ?Sized> {
    value: &'a UnsafeCell<T>,
    _raw: RawGuard<'a>,
}

// SAFETY: a shared guard gives only &T.
unsafe impl<T: ?Sized + Sync> Sync for ModelMutexGuard<'_, T> {}

impl<T: ?Sized> Deref for ModelMutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the raw guard exists, so nobody else has access.
        unsafe { &*self.value.get() }
    }
}

impl<T: ?Sized> DerefMut for ModelMutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the raw guard exists, so nobody else has access; this guard is borrowed exclusively.
        unsafe { &mut *self.value.get() }
    }
}

/// A flag that is spun upon, giving way to the other threads of the model.
#[cfg(shuttle)]
#[derive(Default)]
struct RawLock(super::atomic::AtomicBool);

#[cfg(shuttle)]
struct RawGuard<'a>(&'a RawLock);

#[cfg(shuttle)]
impl RawLock {
    const fn new() -> Self {
        Self(super::atomic::AtomicBool::new(false))
    }

    fn lock(&self) -> RawGuard<'_> {
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            if super::running() {
                super::yield_now();
            }
        }
    }

    fn try_lock(&self) -> Option<RawGuard<'_>> {
        use core::sync::atomic::Ordering::{Acquire, Relaxed};
        // Acquire pairs with the Release of the guard's drop; shuttle does not look at either.
        let taken = self.0.compare_exchange(false, true, Acquire, Relaxed);
        taken.is_ok().then(|| RawGuard(self))
    }
}

#[cfg(shuttle)]
impl Drop for RawGuard<'_> {
    fn drop(&mut self) {
        self.0.0.store(false, core::sync::atomic::Ordering::Release);
    }
}
