//! The objects of loom that one execution hands out to our atomics and spin locks.
//!
//! loom wants each atomic made before every access to it, and can make none in a constant. So an execution begins by making a
//! number of them, before any thread is started, and each atomic of ours takes one when it is first used. What it took is
//! noted in a tag beside it, with the number of the execution: in the next execution the tag is stale and the atomic
//! starts again from its initial value.
//!
//! # Who has read
//! loom explores a store before a load of another thread when it finds that load as the *last* access of the atomic. A load of the
//! storing thread's own in between hides it: `seq.load(); seq.store()` and every compare-and-exchange loop that begins with a
//! load would never be tried before somebody else's load. So each atomic has an object more for each thread: a load touches that of
//! its thread, a write those of all others, both by relaxed read-modify-writes, which order nothing and which loom never loses
//! sight of.
//!
//! # Limits
//! What this cannot show: a reader that meets an atomic before its initialisation is published. Miri does.

#![expect(
    unsafe_code,
    reason = "a guard of loom's is kept beside the pool that it borrows from"
)]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::rc::Rc;
use std::vec::Vec;

/// loom's own bound on the threads of a model.
const THREADS: usize = 5;

type LoomAtom = loom::sync::atomic::AtomicU64;
type LoomMutex = loom::sync::Mutex<()>;
type LoomGuard<'a> = loom::sync::MutexGuard<'a, ()>;

/// The objects of one execution.
pub(super) struct Pool {
    number: u32,
    atoms: Vec<LoomAtom>,
    /// For each atomic, one for each thread that reads it (module head).
    readers: Vec<[LoomAtom; THREADS]>,
    threads: Cell<usize>,
    atoms_used: Cell<usize>,
    locks: Vec<LoomMutex>,
    locks_used: Cell<usize>,
}

std::thread_local! {
    /// loom runs all threads of a model on one thread of the host.
    static POOL: RefCell<Option<Rc<Pool>>> = const { RefCell::new(None) };
}

loom::thread_local! {
    /// Whether this thread of the model has made a SeqCst write since its last SeqCst fence.
    static WROTE: Cell<bool> = Cell::new(false);
    /// This thread's number in this execution, from 0.
    static NUMBER: Cell<Option<usize>> = Cell::new(None);
}

static EXECUTIONS: AtomicU32 = AtomicU32::new(0);

/// One execution of the model `f`.
pub(super) fn execution(objects: usize, f: &impl Fn()) {
    let pool = Pool {
        number: EXECUTIONS.fetch_add(1, Relaxed) + 1,
        atoms: (0..objects).map(|_| Default::default()).collect(),
        readers: (0..objects).map(|_| Default::default()).collect(),
        threads: Cell::new(0),
        atoms_used: Cell::new(0),
        locks: (0..objects).map(|_| LoomMutex::new(())).collect(),
        locks_used: Cell::new(0),
    };
    crate::sync::host::reset_clock();
    POOL.set(Some(Rc::new(pool)));
    // Dropped on the way out of a failure too: what unwinds later finds plain atomics.
    let _end = End;
    f();
}

/// Executions so far, of all models of the process.
pub(super) fn executions() -> u32 {
    EXECUTIONS.load(Relaxed)
}

struct End;

impl Drop for End {
    fn drop(&mut self) {
        // A failed execution leaves threads behind that still hold locks of the pool.
        let pool = POOL.take();
        if std::thread::panicking() {
            std::mem::forget(pool);
        }
    }
}

/// Whether an execution is under way on this thread of the host.
pub(super) fn running() -> bool {
    pool().is_some()
}

fn pool() -> Option<Rc<Pool>> {
    POOL.with_borrow(Clone::clone)
}

/// The place in the pool that `tag` notes; a stale tag takes the next free one.
fn place(tag: &AtomicU64, number: u32, used: &Cell<usize>, of: usize) -> usize {
    // Relaxed: one thread of the host.
    let noted = tag.load(Relaxed);
    if noted >> 32 == u64::from(number) {
        return noted as u32 as usize;
    }
    let next = used.replace(used.get() + 1);
    assert!(
        next < of,
        "the model uses more than {of} atomics or spin locks: raise Bounds::objects"
    );
    tag.store(u64::from(number) << 32 | next as u64, Relaxed);
    next
}

/// loom's atomic that stands for one of ours in this execution.
pub(super) struct Atom {
    pool: Rc<Pool>,
    at: usize,
}

impl Atom {
    /// `None`: no model runs.
    pub(super) fn of(tag: &AtomicU64) -> Option<Self> {
        let pool = pool()?;
        let at = place(tag, pool.number, &pool.atoms_used, pool.atoms.len());
        Some(Self { pool, at })
    }

    /// As [`Atom::of`], but `None` too when ours has not been used in this execution.
    pub(super) fn taken(tag: &AtomicU64) -> Option<Self> {
        let current = u64::from(pool()?.number);
        (tag.load(Relaxed) >> 32 == current).then(|| Self::of(tag))?
    }
}

impl Atom {
    /// To be called before a read: the writes of others that come later find it.
    #[track_caller]
    pub(super) fn touch_own(&self) {
        self.touch(self.pool.thread());
    }

    /// To be called before a write: finds the reads of others that came before.
    #[track_caller]
    pub(super) fn touch_others(&self) {
        let own = self.pool.thread();
        (0..self.pool.threads.get())
            .filter(|n| *n != own)
            .for_each(|n| self.touch(n));
    }

    fn touch(&self, thread: usize) {
        self.pool.readers[self.at][thread].fetch_add(1, Relaxed);
    }
}

impl Pool {
    /// The calling thread's number; a thread that is ending shares the last.
    fn thread(&self) -> usize {
        let fresh = || {
            let next = self.threads.get();
            self.threads.set(next + 1);
            next
        };
        let number = NUMBER.try_with(|n| {
            let number = n.get().unwrap_or_else(fresh);
            n.set(Some(number));
            number
        });
        number.unwrap_or(THREADS - 1).min(THREADS - 1)
    }
}

impl Deref for Atom {
    type Target = LoomAtom;
    fn deref(&self) -> &Self::Target {
        &self.pool.atoms[self.at]
    }
}

/// Notes a SeqCst write of this thread.
pub(super) fn wrote() {
    let _ending = WROTE.try_with(|w| w.set(true));
}

/// A SeqCst fence before a SeqCst read that follows a SeqCst write; forgets the write.
pub(super) fn order_reads() {
    if WROTE.try_with(|w| w.replace(false)).unwrap_or(false) {
        loom::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    }
}

/// A lock without a value.
#[derive(Default)]
pub(super) struct RawLock {
    tag: AtomicU64,
}

/// A [`RawLock`] that is held.
pub(super) struct RawGuard<'a> {
    // Dropped before the pool. `None`: no model ran.
    guard: Option<ManuallyDrop<LoomGuard<'static>>>,
    _pool: Option<Rc<Pool>>,
    lock: PhantomData<&'a RawLock>,
}

impl RawLock {
    pub(super) const fn new() -> Self {
        Self {
            tag: AtomicU64::new(0),
        }
    }

    pub(super) fn lock(&self) -> RawGuard<'_> {
        self.guard(|lock| Some(lock.lock().expect("loom's mutexes are not poisoned")))
            .expect("`lock` waits")
    }

    pub(super) fn try_lock(&self) -> Option<RawGuard<'_>> {
        self.guard(|lock| lock.try_lock().ok())
    }

    /// Outside of a model nobody else is there, and the lock is free.
    fn guard(
        &self,
        take: impl FnOnce(&'static LoomMutex) -> Option<LoomGuard<'static>>,
    ) -> Option<RawGuard<'_>> {
        let Some(pool) = pool() else {
            return Some(RawGuard {
                guard: None,
                _pool: None,
                lock: PhantomData,
            });
        };
        let at = place(&self.tag, pool.number, &pool.locks_used, pool.locks.len());
        // SAFETY: the guard keeps the pool, whose vector of locks never changes, and is dropped before it.
        let lock: &'static LoomMutex = unsafe { &*std::ptr::from_ref(&pool.locks[at]) };
        let guard = Some(ManuallyDrop::new(take(lock)?));
        Some(RawGuard {
            guard,
            _pool: Some(pool),
            lock: PhantomData,
        })
    }
}

impl Drop for RawGuard<'_> {
    fn drop(&mut self) {
        if let Some(guard) = &mut self.guard {
            // SAFETY: dropped here and nowhere else; the pool is still there.
            unsafe { ManuallyDrop::drop(guard) }
        }
    }
}
