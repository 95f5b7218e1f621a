//! The lock of the machine layer: a spin lock that keeps interrupts off on this CPU while it is held.
//!
//! `mm::sync` offers the same to the rest of the system, with lock-order checks that ask the thread runtime who is running.
//! The runtime itself, the heap and the console lie beneath that question, so they use this one. Nothing sleeps, faults or
//! allocates from the heap while holding it (the heap, which is one such lock, grows by frames, not from itself).

#![expect(unsafe_code, reason = "breaks a lock open at a panic")]

use core::ops::{Deref, DerefMut};

use spin::mutex::{Mutex, MutexGuard};
use x86_64::instructions::interrupts;

/// A value behind a spin lock that keeps interrupts off.
pub struct IrqLock<T>(Mutex<T>);

impl<T> IrqLock<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Turns interrupts off on this CPU and takes the lock; the guard's end undoes both.
    pub fn lock(&self) -> IrqGuard<'_, T> {
        let irq = IrqOff::new();
        IrqGuard {
            value: self.0.lock(),
            _irq: irq,
        }
    }

    /// Breaks the lock; for the panic handler, when nothing else runs any more.
    ///
    /// # Safety
    /// Whoever held the lock never runs again.
    pub unsafe fn break_open(&self) {
        // SAFETY: passed on to the caller.
        unsafe { self.0.force_unlock() };
    }
}

/// Access to the value of an [`IrqLock`]. Fields drop in order: first the lock is freed, then interrupts are restored.
pub struct IrqGuard<'a, T> {
    value: MutexGuard<'a, T>,
    _irq: IrqOff,
}

impl<T> Deref for IrqGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for IrqGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

/// Interrupts are off on this CPU while this lives; its end restores what was before.
pub struct IrqOff {
    were_on: bool,
}

impl IrqOff {
    /// Turns interrupts off.
    pub fn new() -> Self {
        let were_on = interrupts::are_enabled();
        interrupts::disable();
        Self { were_on }
    }

    /// Whether interrupts come on again at the end.
    pub fn were_on(&self) -> bool {
        self.were_on
    }
}

impl Default for IrqOff {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for IrqOff {
    fn drop(&mut self) {
        if self.were_on {
            interrupts::enable();
        }
    }
}
