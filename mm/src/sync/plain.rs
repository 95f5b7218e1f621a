//! A mutex for fakes and tests: no class, no poison, and no part of any protocol. In a model it belongs to the model.

use core::fmt;
use core::ops::{Deref, DerefMut};

#[cfg(any(loom, shuttle))]
use super::model::{ModelMutex as Inner, ModelMutexGuard as InnerGuard};
#[cfg(not(any(loom, shuttle)))]
use std::sync::{Mutex as Inner, MutexGuard as InnerGuard};

/// A mutual-exclusion lock of the host. A holder that panicked does no harm to the next.
#[derive(Default)]
pub struct Mutex<T: ?Sized>(Inner<T>);

impl<T> Mutex<T> {
    /// An unlocked lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(Inner::new(value))
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits until the lock is free and takes it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        #[cfg(any(loom, shuttle))]
        return MutexGuard(self.0.lock());
        #[cfg(not(any(loom, shuttle)))]
        MutexGuard(
            self.0
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }
}

impl<T: ?Sized> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("Mutex")
    }
}

/// Access to the value of a locked [`Mutex`].
#[must_use]
pub struct MutexGuard<'a, T: ?Sized>(InnerGuard<'a, T>);

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}
