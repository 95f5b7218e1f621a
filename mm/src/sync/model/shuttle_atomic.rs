//! core's atomics with a scheduling point of shuttle's before each access.
//!
//! shuttle runs one thread at a time, so every schedule is sequentially consistent and the orderings do not matter to it.

use core::sync::atomic::{self as real, Ordering};
use std::time::Duration;

// Relaxed: one thread of the host runs all threads of a model, and one model runs at a time.
static QUIET: real::AtomicBool = real::AtomicBool::new(false);
static COARSE: real::AtomicBool = real::AtomicBool::new(false);

/// Whether relaxed loads are no scheduling points.
pub(super) fn set_coarse(coarse: bool) {
    COARSE.store(coarse, Ordering::Relaxed);
}

fn switch_before_load(order: Ordering) {
    if order != Ordering::Relaxed || !COARSE.load(Ordering::Relaxed) {
        switch();
    }
}

/// Turns the scheduling points off or on.
pub(super) fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// Lets shuttle choose who goes on. Nothing outside of a model.
pub(super) fn switch() {
    if !QUIET.load(Ordering::Relaxed) && super::running() && !std::thread::panicking() {
        // A sleep is nothing but a scheduling point there: no hint that this thread wants to give way.
        shuttle::thread::sleep(Duration::ZERO);
    }
}

/// A fence: nothing to do in sequentially consistent schedules.
pub const fn fence(_order: Ordering) {}

macro_rules! wrapped {
    ($name:ident $(<$param:ident>)?, $value:ty) => {
        #[doc = concat!("core's [`", stringify!($name), "`](real::", stringify!($name), ") under shuttle.")]
        #[derive(Debug)]
        #[repr(transparent)]
        pub struct $name $(<$param>)? (real::$name $(<$param>)?);

        #[allow(missing_docs, reason = "the methods of core's atomics")]
        impl $(<$param>)? $name $(<$param>)? {
            pub const fn new(value: $value) -> Self {
                Self(real::$name::new(value))
            }

            pub fn load(&self, order: Ordering) -> $value {
                switch_before_load(order);
                self.0.load(order)
            }

            pub fn store(&self, value: $value, order: Ordering) {
                switch();
                self.0.store(value, order);
            }

            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                switch();
                self.0.swap(value, order)
            }

            pub fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                switch();
                self.0.compare_exchange(old, new, success, failure)
            }

            pub fn compare_exchange_weak(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(old, new, success, failure)
            }

            pub fn fetch_update(
                &self,
                set: Ordering,
                fetch: Ordering,
                mut f: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                let mut seen = self.load(fetch);
                while let Some(next) = f(seen) {
                    match self.compare_exchange(seen, next, set, fetch) {
                        Ok(was) => return Ok(was),
                        Err(now) => seen = now,
                    }
                }
                Err(seen)
            }

            pub fn get_mut(&mut self) -> &mut $value {
                self.0.get_mut()
            }

            pub fn into_inner(self) -> $value {
                self.0.into_inner()
            }
        }
    };
}

macro_rules! updates {
    ($name:ident, $value:ty: $($method:ident)+) => {
        #[allow(missing_docs, reason = "the methods of core's atomics")]
        impl $name {
            $(pub fn $method(&self, value: $value, order: Ordering) -> $value {
                switch();
                self.0.$method(value, order)
            })+
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new(Default::default())
            }
        }
    };
}

wrapped!(AtomicBool, bool);
wrapped!(AtomicU8, u8);
wrapped!(AtomicU32, u32);
wrapped!(AtomicU64, u64);
wrapped!(AtomicUsize, usize);
wrapped!(AtomicPtr<T>, *mut T);
updates!(AtomicBool, bool: fetch_or fetch_and fetch_xor);
updates!(AtomicU8, u8: fetch_add fetch_sub fetch_or fetch_and fetch_xor fetch_max fetch_min);
updates!(AtomicU32, u32: fetch_add fetch_sub fetch_or fetch_and fetch_xor fetch_max fetch_min);
updates!(AtomicU64, u64: fetch_add fetch_sub fetch_or fetch_and fetch_xor fetch_max fetch_min);
updates!(AtomicUsize, usize: fetch_add fetch_sub fetch_or fetch_and fetch_xor fetch_max fetch_min);

impl<T> Default for AtomicPtr<T> {
    fn default() -> Self {
        Self::new(core::ptr::null_mut())
    }
}
