//! The shipped code under a model checker: loom (`--cfg loom`) or shuttle (`--cfg shuttle`).
//!
//! | | loom | shuttle |
//! |---|---|---|
//! | explores | every interleaving and every value that a load may return, within a bound on preemptions | random or priority-driven schedules, sequentially consistent |
//! | atomics | loom's, one handed to each of ours when it is first used | core's, with a scheduling point before each access |
//! | spin locks | loom's mutex | spin, giving way to the others |
//! | park tokens | loom's mutex and condition variable | shuttle's park |
//!
//! # Time
//! The model's clock stands still. It moves in one place: a park with a deadline gives up, and then it is at least that
//! deadline. Under loom such a park gives up at once; under shuttle after a random number of turns of the others, so that the
//! wake-up may come first or last. A wait without a deadline whose wake-up was lost is a deadlock, which both models report.
//!
//! # One model at a time
//! Statics are shared by all models of a process, so [`check`] holds a lock of the process; each execution begins with the
//! statics' initial values (loom) or must leave them as it found them (shuttle).

mod lock;
#[cfg(loom)]
mod loom_atomic;
#[cfg(loom)]
mod loom_pool;
#[cfg(shuttle)]
mod shuttle_atomic;

/// The atomics of the model.
pub mod atomic {
    #[cfg(loom)]
    pub use super::loom_atomic::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, fence,
    };
    #[cfg(shuttle)]
    pub use super::shuttle_atomic::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, fence,
    };
}

pub(in crate::sync) use lock::{ModelMutex, ModelMutexGuard};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(loom)]
pub use loom::thread::{JoinHandle, yield_now};
#[cfg(shuttle)]
pub use shuttle::thread::{JoinHandle, yield_now};

/// Words of stack for a thread of a model under loom; bytes are eight times that.
#[cfg(loom)]
const STACK_WORDS: usize = 32 << 10;
/// Bytes of stack for a thread of a model under shuttle.
#[cfg(shuttle)]
const STACK: usize = 256 << 10;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a thread of the model.
#[cfg(loom)]
pub fn spawn<T: 'static>(f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T>
where
    T: Send,
{
    let builder = loom::thread::Builder::new().stack_size(STACK_WORDS);
    builder.spawn(f).expect("loom starts threads")
}

/// Starts a thread of the model.
#[cfg(shuttle)]
#[track_caller]
pub fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    shuttle::thread::spawn(f)
}

/// The bounds of a search by loom.
#[cfg(loom)]
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Forced switches in one execution; `None`: every interleaving.
    pub preemptions: Option<usize>,
    /// Atomics and spin locks that one execution uses, each at most this many.
    pub objects: usize,
    /// Steps of one execution.
    pub branches: usize,
}

#[cfg(loom)]
impl Bounds {
    /// At most `n` forced switches.
    pub const fn preemptions(n: usize) -> Self {
        Self {
            preemptions: Some(n),
            objects: 64,
            branches: 5_000,
        }
    }

    /// Room for `objects` atomics and as many spin locks.
    pub const fn objects(self, objects: usize) -> Self {
        Self { objects, ..self }
    }
}

/// Runs `f` under every interleaving within the bounds. Panics when one of them panics, deadlocks or loses a thread.
///
/// At most four threads besides the one that runs `f` ([`spawn`]). The environment's `LOOM_MAX_PREEMPTIONS` replaces the
/// bound.
#[cfg(loom)]
pub fn check(bounds: Bounds, f: impl Fn() + Send + Sync + 'static) {
    let _alone = alone();
    let mut model = loom::model::Builder::new();
    if model.preemption_bound.is_none() {
        model.preemption_bound = bounds.preemptions;
    }
    model.max_branches = bounds.branches;
    let before = loom_pool::executions();
    model.check(move || loom_pool::execution(bounds.objects, &f));
    std::eprintln!("{} executions", loom_pool::executions() - before);
}

/// How shuttle chooses its schedules.
#[cfg(shuttle)]
#[derive(Clone, Copy, Debug)]
pub enum Choice {
    /// Each step goes to a thread at random.
    Random,
    /// Threads have random priorities, which change at this many points (probabilistic concurrency testing).
    Priorities(usize),
}

/// Runs `f` under `schedules` schedules. Panics when one of them panics or deadlocks, and prints the schedule
/// (`shuttle::replay` repeats it).
///
/// The environment's `HOLDFAST_SCHEDULES` replaces the number. The choice is seeded, the same in every run, unless
/// `SHUTTLE_RANDOM_SEED` says otherwise.
#[cfg(shuttle)]
pub fn check(schedules: usize, choice: Choice, f: impl Fn() + Send + Sync + 'static) {
    use shuttle::scheduler::{PctScheduler, RandomScheduler};
    let _alone = alone();
    let schedules = schedules_wanted(schedules);
    let seed = seed_wanted();
    let f = move || {
        shuttle_atomic::set_quiet(false);
        shuttle_atomic::set_coarse(false);
        super::host::reset_clock();
        f();
    };
    match choice {
        Choice::Random => {
            let scheduler = RandomScheduler::new_from_seed(seed, schedules);
            shuttle::Runner::new(scheduler, config()).run(f)
        }
        Choice::Priorities(points) => {
            let scheduler = PctScheduler::new_from_seed(seed, points, schedules);
            shuttle::Runner::new(scheduler, config()).run(f)
        }
    };
}

#[cfg(shuttle)]
fn config() -> shuttle::Config {
    let mut config = shuttle::Config::new();
    config.stack_size = STACK;
    config.silence_warnings = true;
    config
}

#[cfg(shuttle)]
fn schedules_wanted(default: usize) -> usize {
    let wanted = std::env::var("HOLDFAST_SCHEDULES").ok();
    wanted.map_or(default, |n| n.parse().expect("a number of schedules"))
}

#[cfg(shuttle)]
fn seed_wanted() -> u64 {
    let wanted = std::env::var("SHUTTLE_RANDOM_SEED").ok();
    wanted.map_or(0x5eed, |n| n.parse().expect("a seed"))
}

/// From here to the end of this execution relaxed loads are no scheduling points: a scan of a table or a node is one step. For models of
/// whole operations, whose lock-free parts have models of their own.
#[cfg(shuttle)]
pub fn coarsely() {
    shuttle_atomic::set_coarse(true);
}

/// Runs `f` without scheduling points: for what one thread does before it starts the others, or after they have ended. `f` starts no
/// thread and does not wait.
#[cfg(shuttle)]
pub fn quietly<T>(f: impl FnOnce() -> T) -> T {
    shuttle_atomic::set_quiet(true);
    let done = f();
    shuttle_atomic::set_quiet(false);
    done
}

/// Whether a model runs on this thread of the host.
pub fn running() -> bool {
    #[cfg(loom)]
    return loom_pool::running();
    #[cfg(shuttle)]
    return shuttle::current::try_get_current_task().is_some();
}

/// A number below `n`, chosen by the model: always 0 under loom.
pub fn choose(n: u64) -> u64 {
    #[cfg(shuttle)]
    if running() {
        use shuttle::rand::RngCore;
        return shuttle::rand::thread_rng().next_u64() % n;
    }
    let _ = n;
    0
}
