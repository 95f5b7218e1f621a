//! Work that goes on behind the prompt: commands started with `&`, and transfers of the disk.
//!
//! Both kinds share one sequence of numbers, so that `wait 3` can mean only one thing. A number stays known until someone
//! has waited for it; whether any job ever failed is remembered for the exit status of a script.
//!
//! Locks: the list's spin lock and each job's spin lock, never both at once; nothing sleeps under them.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use mm::mem::OutOfMemory;
use mm::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use mm::sync::{SpinLock, Wait, WaitError, WaitQueue};

/// What a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// A command that was started with `&`.
    Command,
    /// A transfer between a disk and a file's pages.
    Dma,
}

/// How far a job is. Times are microseconds since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Still at work.
    Running,
    /// At its end.
    Done {
        /// It did what it was to do.
        ok: bool,
        /// When it ended.
        at_us: u64,
    },
}

/// One job.
pub struct Job {
    /// Its number, from 1.
    pub id: u32,
    /// What it is.
    pub kind: JobKind,
    /// The command as typed.
    pub label: String,
    /// When it began, in microseconds since boot.
    pub began_us: u64,
    state: SpinLock<JobState>,
}

impl Job {
    /// How far it is.
    pub fn state(&self) -> JobState {
        *self.state.lock()
    }

    /// It is at its end.
    pub fn is_done(&self) -> bool {
        self.state() != JobState::Running
    }

    /// How long it ran or has been running, in microseconds.
    pub fn elapsed_us(&self) -> u64 {
        let end = match self.state() {
            JobState::Running => mm::sync::now_us(),
            JobState::Done { at_us, .. } => at_us,
        };
        end.saturating_sub(self.began_us)
    }
}

/// The jobs of one shell.
pub struct Jobs {
    list: SpinLock<Vec<Arc<Job>>>,
    next: AtomicU32,
    failed: AtomicBool,
    changed: WaitQueue,
}

impl Default for Jobs {
    fn default() -> Self {
        Self::new()
    }
}

impl Jobs {
    /// No jobs yet.
    pub const fn new() -> Self {
        Jobs {
            list: SpinLock::new(Vec::new()),
            next: AtomicU32::new(1),
            failed: AtomicBool::new(false),
            changed: WaitQueue::new(),
        }
    }

    /// Begins a job, which must be ended with [`Jobs::finish`].
    ///
    /// # Errors
    /// No memory for its entry.
    pub fn begin(&self, kind: JobKind, label: String) -> Result<Arc<Job>, OutOfMemory> {
        // Relaxed: the number only has to be unique; the list's lock publishes the job.
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let job = Job {
            id,
            kind,
            label,
            began_us: mm::sync::now_us(),
            state: SpinLock::new(JobState::Running),
        };
        let job = Arc::new(job);
        let mut list = self.list.lock();
        list.try_reserve(1).map_err(|_| OutOfMemory)?;
        list.push(job.clone());
        Ok(job)
    }

    /// Ends a job and wakes whoever waits for it. Does not sleep.
    pub fn finish(&self, job: &Job, ok: bool) {
        if !ok {
            // Relaxed: read after the job was seen done, which its state's lock orders.
            self.failed.store(true, Ordering::Relaxed);
        }
        *job.state.lock() = JobState::Done {
            ok,
            at_us: mm::sync::now_us(),
        };
        self.changed.wake_all();
    }

    /// Takes back a job that was begun and could not be started.
    pub fn forget(&self, job: &Job) {
        // The entry is freed after the lock.
        let _gone = {
            let mut list = self.list.lock();
            let at = list.iter().position(|j| j.id == job.id);
            at.map(|at| list.remove(at))
        };
    }

    /// All jobs that nobody has waited for yet.
    ///
    /// # Errors
    /// No memory for the list.
    pub fn list(&self) -> Result<Vec<Arc<Job>>, OutOfMemory> {
        let list = self.list.lock();
        let mut copy = Vec::new();
        copy.try_reserve_exact(list.len())
            .map_err(|_| OutOfMemory)?;
        copy.extend(list.iter().cloned());
        Ok(copy)
    }

    /// The job with this number.
    pub fn find(&self, id: u32) -> Option<Arc<Job>> {
        self.list.lock().iter().find(|j| j.id == id).cloned()
    }

    /// Waits until the job is done, then forgets its number.
    ///
    /// # Errors
    /// The wait ran out of time or was cancelled; the job goes on.
    pub fn wait(&self, job: &Job, wait: &Wait<'_>) -> Result<JobState, WaitError> {
        self.changed.wait_until(|| job.is_done(), wait)?;
        self.forget(job);
        Ok(job.state())
    }

    /// A job has failed since boot.
    pub fn any_failed(&self) -> bool {
        // Relaxed: see `finish`.
        self.failed.load(Ordering::Relaxed)
    }
}
