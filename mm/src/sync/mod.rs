//! Locks, waiting and the machine underneath them.
//!
//! | lock | waits by | interrupt context | held across a sleep |
//! |---|---|---|---|
//! | [`SpinLock`] | spinning, interrupts off | yes | never (checked in debug builds) |
//! | [`Mutex`], [`RwLock`] | sleeping | no | yes |
//! | [`WaitQueue`], [`WaitTable`] | sleeping until a condition holds | wake only | |
//!
//! Lock order: every sleeping lock has a [`LockClass`] with a rank; a thread takes them by ascending rank ([`class`]), and
//! spin locks last. Each thread notes what it holds in its [`HeldLocks`]; debug builds panic on the first acquisition
//! against the order, naming both classes.
//!
//! No lost wake-up, once for all of them: a waiter enters the queue, *then* looks at its condition, *then* parks; a waker
//! changes the condition, *then* looks at the queue. Either the waiter sees the change or the waker sees the waiter; the
//! orderings that make it so are in [`wait`]. A park token that arrives early is remembered by the [`Runtime`].
//!
//! Nothing here allocates: queue entries live on the stacks of the waiters.

pub mod atomic;
mod held;
#[cfg(not(target_os = "none"))]
mod host;
#[cfg(any(loom, shuttle))]
pub mod model;
mod mutex;
#[cfg(not(target_os = "none"))]
pub mod plain;
mod runtime;
mod rwlock;
#[cfg(not(target_os = "none"))]
mod section;
mod spinlock;
pub mod wait;

pub use self::{
    held::{
        HeldList, HeldLocks, InHandler, LockClass, Noted, Taken, TakenList, check_nothing_held,
        class, held_by_current, note_held,
    },
    mutex::{Mutex, MutexGuard},
    runtime::{Runtime, ThreadId, current_thread, install_runtime, now_us, runtime, sleep_us},
    rwlock::{ReadGuard, RwLock, WriteGuard},
    spinlock::{SpinGuard, SpinLock, irq_off},
    wait::{Cancel, Wait, WaitError, WaitQueue, WaitTable},
};

#[cfg(not(target_os = "none"))]
pub use self::section::{in_section, wait_for_sections};

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

#[cfg(all(test, loom))]
mod loom_tests;
