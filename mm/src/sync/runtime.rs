//! The machine under the locks: threads, time and parking.
//!
//! Bare metal: the kernel installs its scheduler with [`install_runtime`]. Until then a single-threaded stand-in serves: its
//! `park` returns at once, which the contract of [`Runtime::park`] allows, so early boot may use every lock.
//! Host: std threads are built in.

use super::held::HeldLocks;
use super::wait::{Wait, WaitError, WaitQueue};
use core::fmt;
use core::num::NonZeroU64;

/// A thread, as the [`Runtime`] numbers them: never 0, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct ThreadId(NonZeroU64);

impl ThreadId {
    /// The thread numbered `id`, or `None` for 0.
    pub const fn new(id: u64) -> Option<Self> {
        match NonZeroU64::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for ThreadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What the locks ask of the machine.
///
/// No method may use a sleeping lock, a [`WaitQueue`] or a [`super::SpinLock`] whose guard outlives the call; `held` and
/// `cpu` may use no lock at all, for every spin lock calls `held` in debug builds.
pub trait Runtime: Sync {
    /// The calling thread.
    fn current(&self) -> ThreadId;

    /// Sleeps until [`Runtime::unpark`] of this thread or until `deadline_us` (of [`Runtime::now_us`]). May return early
    /// for no reason. An unpark that came before is remembered (one token) and makes the next park return at once.
    /// Memory written before the unpark is visible after the park that it ends.
    fn park(&self, deadline_us: Option<u64>);

    /// Wakes `thread`, or leaves it a token. Callable from interrupt context and under spin locks; a thread that has ended
    /// is ignored.
    fn unpark(&self, thread: ThreadId);

    /// Microseconds since an arbitrary start, never going back.
    fn now_us(&self) -> u64;

    /// The list of locks of the calling thread.
    fn held(&self) -> &HeldLocks;

    /// The processor that runs the caller, from 0. Stable only while interrupts are off.
    fn cpu(&self) -> usize;
}

#[cfg(target_os = "none")]
mod installed {
    use super::{HeldLocks, Runtime, ThreadId};

    static RUNTIME: spin::Once<&'static dyn Runtime> = spin::Once::new();

    /// One thread that cannot sleep: serves until the kernel installs its scheduler.
    struct Early(HeldLocks);

    static EARLY: Early = Early(HeldLocks::new());

    impl Runtime for Early {
        fn current(&self) -> ThreadId {
            ThreadId::new(u64::MAX).unwrap_or_else(|| unreachable!("not zero"))
        }
        fn park(&self, _deadline_us: Option<u64>) {
            core::hint::spin_loop();
        }
        fn unpark(&self, _thread: ThreadId) {}
        fn now_us(&self) -> u64 {
            0
        }
        fn held(&self) -> &HeldLocks {
            &self.0
        }
        fn cpu(&self) -> usize {
            0
        }
    }

    /// Makes `runtime` the machine of every lock. The first call counts; the caller holds no lock of this crate.
    pub fn install_runtime(runtime: &'static dyn Runtime) {
        RUNTIME.call_once(|| runtime);
    }

    /// The machine under the locks.
    pub fn runtime() -> &'static dyn Runtime {
        *RUNTIME.get().unwrap_or(&(&EARLY as &dyn Runtime))
    }
}

#[cfg(not(target_os = "none"))]
mod installed {
    use super::Runtime;
    use crate::sync::host::HOST;

    /// Does nothing on the host, where std threads are built in.
    pub fn install_runtime(_runtime: &'static dyn Runtime) {}

    /// The machine under the locks.
    pub fn runtime() -> &'static dyn Runtime {
        &HOST
    }
}

pub use installed::{install_runtime, runtime};

/// Microseconds since an arbitrary start, never going back.
pub fn now_us() -> u64 {
    runtime().now_us()
}

/// The calling thread.
pub fn current_thread() -> ThreadId {
    runtime().current()
}

/// Sleeps for `us` microseconds. Not under a spin lock.
pub fn sleep_us(us: u64) {
    let nobody = WaitQueue::new();
    let ended = nobody.wait_until(|| false, &Wait::until(now_us().saturating_add(us)));
    debug_assert_eq!(ended, Err(WaitError::TimedOut));
}
