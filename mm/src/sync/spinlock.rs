//! Spin locks, with interrupts off on bare metal.
//!
//! A guard remembers whether interrupts were on when it was made and puts that back when it is dropped. That nests
//! correctly when guards are dropped in the reverse order of their making; debug builds assert that order, on the host too.

use super::held::{LockClass, class};
#[cfg(debug_assertions)]
use super::runtime::runtime;
use core::ops::{Deref, DerefMut};

#[cfg(any(loom, shuttle))]
use super::model::{ModelMutex as Inner, ModelMutexGuard as InnerGuard};
#[cfg(not(target_os = "none"))]
use super::section::Section;
#[cfg(not(any(loom, shuttle)))]
use spin::mutex::{SpinMutex as Inner, SpinMutexGuard as InnerGuard};

/// A lock that spins; on bare metal interrupts are off on this processor while it is held.
///
/// Its holder must not sleep: waiting and sleeping locks panic in debug builds while a spin lock is held.
pub struct SpinLock<T: ?Sized> {
    class: &'static LockClass,
    inner: Inner<T>,
}

impl<T: Default> Default for SpinLock<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> SpinLock<T> {
    /// An unlocked lock around `value`, of the class of those that do not nest ([`class::SPIN`]).
    pub const fn new(value: T) -> Self {
        Self::with_class(&class::SPIN, value)
    }

    /// An unlocked lock of `class` around `value`.
    pub const fn with_class(class: &'static LockClass, value: T) -> Self {
        Self {
            class,
            inner: Inner::new(value),
        }
    }

    /// The value, when nobody else can reach the lock.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }
}

impl<T: ?Sized> SpinLock<T> {
    /// Spins until the lock is free and takes it. Guards are dropped in the reverse order of locking. Debug builds panic on a wrong
    /// order, and when the caller holds the lock.
    #[track_caller]
    pub fn lock(&self) -> SpinGuard<'_, T> {
        let entered = Entered::new(self.class, self.address(), true);
        SpinGuard {
            inner: self.inner.lock(),
            _entered: entered,
        }
    }

    /// Takes the lock if it is free. Never waits, so any order is allowed.
    #[track_caller]
    pub fn try_lock(&self) -> Option<SpinGuard<'_, T>> {
        let entered = Entered::new(self.class, self.address(), false);
        Some(SpinGuard {
            inner: self.inner.try_lock()?,
            _entered: entered,
        })
    }

    fn address(&self) -> usize {
        (&raw const self.class).addr()
    }

    /// The value, through the exclusive borrow that proves the lock free.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

/// Access to the value of a locked [`SpinLock`].
#[must_use]
pub struct SpinGuard<'a, T: ?Sized> {
    // Fields drop in this order: the lock opens before interrupts come back, or a handler could spin on it for ever.
    inner: InnerGuard<'a, T>,
    _entered: Entered,
}

impl<T: ?Sized> Deref for SpinGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: ?Sized> DerefMut for SpinGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// Interrupts off and, in debug builds, one more spin lock counted; undone on drop.
struct Entered {
    _irq: IrqOff,
    #[cfg(debug_assertions)]
    depth: u32,
}

impl Entered {
    /// `lock`: its address; 0 for interrupts turned off without a lock.
    #[track_caller]
    #[cfg_attr(
        not(debug_assertions),
        allow(unused_variables, reason = "for the checker of debug builds")
    )]
    fn new(class: &'static LockClass, lock: usize, in_order: bool) -> Self {
        let irq = IrqOff::new();
        Self {
            _irq: irq,
            #[cfg(debug_assertions)]
            depth: runtime().held().spin_enter(class, lock, in_order),
        }
    }
}

#[cfg(debug_assertions)]
impl Drop for Entered {
    fn drop(&mut self) {
        let held = runtime().held();
        held.spin_leave();
        if !panicking() {
            assert_eq!(
                held.spin_depth(),
                self.depth,
                "spin locks released out of order"
            );
        }
    }
}

#[cfg(all(debug_assertions, not(target_os = "none")))]
fn panicking() -> bool {
    std::thread::panicking()
}

#[cfg(all(debug_assertions, target_os = "none"))]
const fn panicking() -> bool {
    false
}

/// Interrupts off until dropped, then as they were.
struct IrqOff {
    #[cfg(target_os = "none")]
    were_on: bool,
}

impl IrqOff {
    #[cfg(target_os = "none")]
    fn new() -> Self {
        let were_on = x86_64::instructions::interrupts::are_enabled();
        if were_on {
            x86_64::instructions::interrupts::disable();
        }
        Self { were_on }
    }

    #[cfg(not(target_os = "none"))]
    const fn new() -> Self {
        Self {}
    }
}

#[cfg(target_os = "none")]
impl Drop for IrqOff {
    fn drop(&mut self) {
        if self.were_on {
            x86_64::instructions::interrupts::enable();
        }
    }
}

/// Runs `f` with interrupts off on this processor. `f` must not sleep.
///
/// On the host and in the models there are no interrupts; there the section is counted, so that the fakes of
/// [`crate::tlb::Tlb`] can wait for it ([`super::wait_for_sections`]).
#[track_caller]
pub fn irq_off<R>(f: impl FnOnce() -> R) -> R {
    let _entered = Entered::new(&class::IRQ_OFF, 0, false);
    #[cfg(not(target_os = "none"))]
    let _section = Section::begin();
    f()
}
