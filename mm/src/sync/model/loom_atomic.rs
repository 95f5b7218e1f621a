//! Atomics that stand for atomics of loom ([`super::loom_pool`]).
//!
//! loom's atomic holds the difference to the initial value, so that it can be made before that value is known.
//!
//! # SeqCst
//! loom takes SeqCst accesses for AcqRel ones and models only SeqCst fences. What the shipped code builds on the single order
//! of SeqCst accesses is the store-load pair: each side writes one place, then reads the other's, and one of them must see
//! the other's write. So a SeqCst read that comes after a SeqCst write of the same thread is preceded by a fence here. A
//! weaker ordering on either side leaves the fence out, and the model finds the pair broken. This is no stronger than C++20's
//! order for such pairs; it is weaker for programs that compare two SeqCst reads of independent writers, of which there are none.

use super::loom_pool::{Atom, order_reads, wrote};
use core::sync::atomic::{self as real, Ordering};
use std::ptr;

pub use loom::sync::atomic::fence;

/// A value that an atomic may hold, as a word.
trait Word: Copy {
    fn word(self) -> u64;
    fn value(word: u64) -> Self;
}

macro_rules! words {
    ($($value:ty)+) => {
        $(impl Word for $value {
            fn word(self) -> u64 {
                self as u64
            }
            fn value(word: u64) -> Self {
                word as Self
            }
        })+
    };
}

words!(u8 u32 u64 usize);

impl Word for bool {
    fn word(self) -> u64 {
        u64::from(self)
    }
    fn value(word: u64) -> Self {
        word != 0
    }
}

impl<T> Word for *mut T {
    fn word(self) -> u64 {
        self.expose_provenance() as u64
    }
    fn value(word: u64) -> Self {
        ptr::with_exposed_provenance_mut(word as usize)
    }
}

/// Orders a read after earlier SeqCst writes, as the module head says.
fn before_read(order: Ordering) {
    if order == Ordering::SeqCst {
        order_reads();
    }
}

fn after_write(order: Ordering) {
    if order == Ordering::SeqCst {
        wrote();
    }
}

macro_rules! wrapped {
    ($name:ident $(<$param:ident>)?, $value:ty) => {
        #[doc = concat!("core's [`", stringify!($name), "`](real::", stringify!($name), ") under loom.")]
        #[derive(Debug)]
        #[repr(C)]
        pub struct $name $(<$param>)? {
            /// The initial value; the value, while no model runs.
            start: real::$name $(<$param>)?,
            tag: real::AtomicU64,
        }

        #[allow(missing_docs, reason = "the methods of core's atomics")]
        impl $(<$param>)? $name $(<$param>)? {
            pub const fn new(value: $value) -> Self {
                Self { start: real::$name::new(value), tag: real::AtomicU64::new(0) }
            }

            fn start(&self) -> u64 {
                self.start.load(Ordering::Relaxed).word()
            }

            /// A value as loom's atomic holds it.
            fn raw(&self, value: $value) -> u64 {
                value.word().wrapping_sub(self.start())
            }

            fn value(&self, raw: u64) -> $value {
                Word::value(raw.wrapping_add(self.start()))
            }

            #[track_caller]
            pub fn load(&self, order: Ordering) -> $value {
                let Some(atom) = Atom::of(&self.tag) else { return self.start.load(order) };
                before_read(order);
                atom.touch_own();
                self.value(atom.load(order))
            }

            #[track_caller]
            pub fn store(&self, value: $value, order: Ordering) {
                let Some(atom) = Atom::of(&self.tag) else { return self.start.store(value, order) };
                atom.touch_others();
                atom.store(self.raw(value), order);
                after_write(order);
            }

            #[track_caller]
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                let Some(atom) = Atom::of(&self.tag) else { return self.start.swap(value, order) };
                before_read(order);
                atom.touch_own();
                atom.touch_others();
                let was = self.value(atom.swap(self.raw(value), order));
                after_write(order);
                was
            }

            #[track_caller]
            pub fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                let Some(atom) = Atom::of(&self.tag) else {
                    return self.start.compare_exchange(old, new, success, failure);
                };
                before_read(success);
                atom.touch_own();
                atom.touch_others();
                let done = atom.compare_exchange(self.raw(old), self.raw(new), success, failure);
                if done.is_ok() {
                    after_write(success);
                }
                done.map(|v| self.value(v)).map_err(|v| self.value(v))
            }

            #[track_caller]
            pub fn compare_exchange_weak(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(old, new, success, failure)
            }

            #[track_caller]
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
                if let Some(atom) = Atom::taken(&self.tag) {
                    // A read-modify-write reads the last value; nobody else is there to order it against.
                    let now = self.value(atom.fetch_add(0, Ordering::Relaxed));
                    *self.start.get_mut() = now;
                    self.tag = real::AtomicU64::new(0);
                }
                self.start.get_mut()
            }

            pub fn into_inner(mut self) -> $value {
                *self.get_mut()
            }
        }
    };
}

macro_rules! updates {
    ($name:ident, $value:ty: $($method:ident)+; $($from_zero:ident)*) => {
        #[allow(missing_docs, reason = "the methods of core's atomics")]
        impl $name {
            $(#[track_caller]
            pub fn $method(&self, value: $value, order: Ordering) -> $value {
                let Some(atom) = Atom::of(&self.tag) else { return self.start.$method(value, order) };
                before_read(order);
                atom.touch_own();
                atom.touch_others();
                let was = self.value(atom.$method(value.word(), order));
                after_write(order);
                was
            })+

            $(#[track_caller]
            pub fn $from_zero(&self, value: $value, order: Ordering) -> $value {
                assert_eq!(self.start(), 0, "not modelled for an atomic whose initial value is not 0");
                let Some(atom) = Atom::of(&self.tag) else { return self.start.$from_zero(value, order) };
                before_read(order);
                atom.touch_own();
                atom.touch_others();
                let was = self.value(atom.$from_zero(value.word(), order));
                after_write(order);
                was
            })*
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
updates!(AtomicU8, u8: fetch_add fetch_sub; fetch_or fetch_and fetch_xor fetch_max fetch_min);
updates!(AtomicU32, u32: fetch_add fetch_sub; fetch_or fetch_and fetch_xor fetch_max fetch_min);
updates!(AtomicU64, u64: fetch_add fetch_sub; fetch_or fetch_and fetch_xor fetch_max fetch_min);
updates!(AtomicUsize, usize: fetch_add fetch_sub; fetch_or fetch_and fetch_xor fetch_max fetch_min);

impl Default for AtomicBool {
    fn default() -> Self {
        Self::new(false)
    }
}

impl<T> Default for AtomicPtr<T> {
    fn default() -> Self {
        Self::new(ptr::null_mut())
    }
}
