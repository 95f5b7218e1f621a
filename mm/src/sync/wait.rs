//! Waiting for a condition.
//!
//! # Why no wake-up is lost
//! Waiter: enters the queue (`len` written under the queue's lock) → SeqCst fence → evaluates its condition → parks.
//! Waker: makes the condition true → SeqCst fence → reads `len`, and wakes under the queue's lock.
//! With the two fences at least one side sees the other's write: either the condition is seen true and the waiter does not
//! park, or the waker finds the waiter. A wake between evaluation and park leaves the park token, which ends that park.
//!
//! # Why a node on a stack is safe
//! A node is linked only between `Enqueued::new` and the drop of that `Enqueued`, both on the waiter's thread and under
//! the queue's lock; wakers touch nodes only under that lock. So no waker can meet a node that has gone.
//!
//! # wake_one
//! It marks the first node of its key that is not marked yet; a node keeps its place until its waiter leaves. A waiter that
//! leaves while marked (it timed out, or its condition came true by itself) passes the wake on, to the same key. Nothing here
//! allocates.

#![expect(
    unsafe_code,
    reason = "queue nodes live on the stacks of the waiters and are linked by raw pointers"
)]

use super::atomic::{AtomicBool, AtomicU32, Ordering, Ordering::Relaxed, fence};
use super::held::class;
use super::runtime::{Runtime, ThreadId, now_us, runtime};
use super::spinlock::SpinLock;
use core::ptr;
// core's, also in the models: what is read and written under the queue's lock alone.
use core::sync::atomic::{AtomicPtr, AtomicU8};
use thiserror::Error;

/// Why a wait ended before its condition came true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WaitError {
    /// The deadline passed.
    #[error("timed out")]
    TimedOut,
    /// The wait's [`Cancel`] was set.
    #[error("cancelled")]
    Cancelled,
}

/// How long a wait may last and what may end it.
#[derive(Clone, Copy, Default)]
pub struct Wait<'a> {
    /// The time of [`now_us`] at which to give up; `None`: never.
    pub deadline_us: Option<u64>,
    /// What another thread may set to end the wait; `None`: nothing.
    pub cancel: Option<&'a Cancel>,
}

impl<'a> Wait<'a> {
    /// A wait that only its condition ends.
    pub const fn forever() -> Self {
        Self {
            deadline_us: None,
            cancel: None,
        }
    }

    /// A wait that gives up at `deadline_us` (of [`now_us`]). A deadline in the past still evaluates the condition once.
    pub const fn until(deadline_us: u64) -> Self {
        Self {
            deadline_us: Some(deadline_us),
            cancel: None,
        }
    }

    /// A wait that gives up in `us` microseconds from now.
    pub fn for_us(us: u64) -> Self {
        Self::until(now_us().saturating_add(us))
    }

    /// The same wait, which `cancel` ends too.
    pub const fn or_cancelled(self, cancel: &'a Cancel) -> Self {
        Self {
            cancel: Some(cancel),
            ..self
        }
    }

    /// Why the wait is over at this moment, if it is.
    fn ended(&self, machine: &dyn Runtime) -> Option<WaitError> {
        if self.cancel.is_some_and(Cancel::is_cancelled) {
            return Some(WaitError::Cancelled);
        }
        let late = self.deadline_us.is_some_and(|at| machine.now_us() >= at);
        late.then_some(WaitError::TimedOut)
    }
}

/// A flag that ends waits. Any number of threads may wait with it; once set it stays set.
#[derive(Default)]
pub struct Cancel {
    set: AtomicBool,
    waiters: WaitQueue,
}

impl Cancel {
    /// A flag that is not set.
    pub const fn new() -> Self {
        Self {
            set: AtomicBool::new(false),
            waiters: WaitQueue::new(),
        }
    }

    /// Sets the flag and wakes every thread that waits with it. Callable from interrupt context.
    pub fn cancel(&self) {
        // Release pairs with the Acquire in is_cancelled: what the canceller did before is visible to the waiter.
        self.set.store(true, Ordering::Release);
        self.waiters.wake_all();
    }

    /// Whether the flag is set.
    pub fn is_cancelled(&self) -> bool {
        // Acquire pairs with the Release in cancel.
        self.set.load(Ordering::Acquire)
    }
}

const ASLEEP: u8 = 0;
const WOKEN_ALONE: u8 = 1;
const WOKEN_WITH_ALL: u8 = 2;

/// One waiting thread. All fields but the constants are written under the queue's lock, hence `Relaxed`.
struct Node {
    thread: ThreadId,
    key: u64,
    woken: AtomicU8,
    prev: AtomicPtr<Node>,
    next: AtomicPtr<Node>,
}

impl Node {
    const fn new(thread: ThreadId, key: u64) -> Self {
        Self {
            thread,
            key,
            woken: AtomicU8::new(ASLEEP),
            prev: AtomicPtr::new(ptr::null_mut()),
            next: AtomicPtr::new(ptr::null_mut()),
        }
    }
}

/// The ends of a doubly linked list of nodes, oldest first.
struct List {
    head: AtomicPtr<Node>,
    tail: AtomicPtr<Node>,
}

impl List {
    const fn new() -> Self {
        Self {
            head: AtomicPtr::new(ptr::null_mut()),
            tail: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// The nodes in order. The list must stay locked while the iterator lives: `&self` comes from the lock's guard.
    fn iter(&self) -> impl Iterator<Item = &Node> {
        let at = |link: &AtomicPtr<Node>| {
            // SAFETY: a pointer in a locked list is null or a linked node, and a linked node is alive (module head).
            unsafe { link.load(Relaxed).as_ref() }
        };
        core::iter::successors(at(&self.head), move |node| at(&node.next))
    }

    fn push(&mut self, node: &Node) {
        let this = ptr::from_ref(node).cast_mut();
        let last = self.tail.load(Relaxed);
        node.prev.store(last, Relaxed);
        node.next.store(ptr::null_mut(), Relaxed);
        // SAFETY: null or a linked node, alive while the list is locked.
        match unsafe { last.as_ref() } {
            Some(last) => last.next.store(this, Relaxed),
            None => self.head.store(this, Relaxed),
        }
        self.tail.store(this, Relaxed);
    }

    fn unlink(&mut self, node: &Node) {
        let (prev, next) = (node.prev.load(Relaxed), node.next.load(Relaxed));
        // SAFETY: neighbours of a linked node are null or linked, alive while the list is locked.
        match unsafe { prev.as_ref() } {
            Some(prev) => prev.next.store(next, Relaxed),
            None => self.head.store(next, Relaxed),
        }
        // SAFETY: as above.
        match unsafe { next.as_ref() } {
            Some(next) => next.prev.store(prev, Relaxed),
            None => self.tail.store(prev, Relaxed),
        }
    }

    /// Marks and wakes the first thread that waits on `key` and is not marked.
    fn wake_one(&self, key: u64) {
        let asleep = |n: &&Node| n.key == key && n.woken.load(Relaxed) == ASLEEP;
        if let Some(node) = self.iter().find(asleep) {
            node.woken.store(WOKEN_ALONE, Relaxed);
            runtime().unpark(node.thread);
        }
    }
}

/// Threads that wait for conditions which the wakers know to concern this queue.
pub struct WaitQueue {
    /// The number of nodes in `list`; written under its lock, read without.
    len: AtomicU32,
    list: SpinLock<List>,
}

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl WaitQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self {
            len: AtomicU32::new(0),
            list: SpinLock::with_class(&class::WAIT_QUEUE, List::new()),
        }
    }

    /// Sleeps until `cond` returns true, at most as long as `w` allows.
    ///
    /// `cond` runs on the calling thread with no lock of the queue held, an unknown number of times; it may take spin locks
    /// but not sleep. Debug builds panic when the caller holds a spin lock. Errors: as `w` says; `cond` is always
    /// evaluated before an error is returned.
    #[track_caller]
    pub fn wait_until(&self, mut cond: impl FnMut() -> bool, w: &Wait) -> Result<(), WaitError> {
        self.wait(0, |_| cond(), w)
    }

    /// As [`WaitQueue::wait_until`] for ever; `cond` also hears whether the caller is the first of the queue.
    #[track_caller]
    pub(super) fn wait_in_turn(&self, cond: impl FnMut(bool) -> bool) {
        let ended = self.wait(0, cond, &Wait::forever());
        debug_assert!(ended.is_ok(), "a wait without an end ended");
    }

    #[track_caller]
    fn wait(
        &self,
        key: u64,
        mut cond: impl FnMut(bool) -> bool,
        w: &Wait,
    ) -> Result<(), WaitError> {
        let machine = runtime();
        machine.held().check_may_sleep("wait");
        let me = machine.current();
        let (node, cancel_node) = (Node::new(me, key), Node::new(me, 0));
        let queued = Enqueued::new(self, &node);
        let _cancel_queued = w.cancel.map(|c| Enqueued::new(&c.waiters, &cancel_node));
        loop {
            let first = queued.arm();
            // Pairs with the fence in `awake`: the node is in the queue before the condition is read.
            fence(Ordering::SeqCst);
            if cond(first) {
                return Ok(());
            }
            if let Some(why) = w.ended(machine) {
                return Err(why);
            }
            machine.park(w.deadline_us);
        }
    }

    /// The number of threads that wait at this moment.
    pub fn len(&self) -> u32 {
        // Relaxed: a glance; those who decide by it order it by the fences of the module head.
        self.len.load(Relaxed)
    }

    /// Whether nobody waits at this moment.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Wakes the thread that has waited longest. Make its condition true first. Callable from interrupt context.
    pub fn wake_one(&self) {
        self.wake_one_of(0);
    }

    fn wake_one_of(&self, key: u64) {
        if self.awaited() {
            self.list.lock().wake_one(key);
        }
    }

    /// Wakes every waiting thread. Make their conditions true first. Callable from interrupt context.
    pub fn wake_all(&self) {
        self.wake_matching(|_| true);
    }

    fn wake_matching(&self, matches: impl Fn(&Node) -> bool) {
        if self.awaited() {
            let list = self.list.lock();
            for node in list.iter().filter(|n| matches(n)) {
                node.woken.store(WOKEN_WITH_ALL, Relaxed);
                runtime().unpark(node.thread);
            }
        }
    }

    /// Whether somebody waits, read after everything that the caller wrote.
    fn awaited(&self) -> bool {
        // Pairs with the fence in `wait`: the condition is changed before the queue is read.
        fence(Ordering::SeqCst);
        !self.is_empty()
    }
}

/// A node in a queue, taken out on drop.
struct Enqueued<'a> {
    queue: &'a WaitQueue,
    node: &'a Node,
}

impl<'a> Enqueued<'a> {
    fn new(queue: &'a WaitQueue, node: &'a Node) -> Self {
        let mut list = queue.list.lock();
        list.push(node);
        queue.len.store(queue.len.load(Relaxed) + 1, Relaxed);
        Self { queue, node }
    }

    /// Makes the node wakeable again, before its condition is read. Returns whether it is the first of the queue.
    fn arm(&self) -> bool {
        let list = self.queue.list.lock();
        self.node.woken.store(ASLEEP, Relaxed);
        ptr::eq(list.head.load(Relaxed), self.node)
    }
}

impl Drop for Enqueued<'_> {
    fn drop(&mut self) {
        let mut list = self.queue.list.lock();
        list.unlink(self.node);
        self.queue
            .len
            .store(self.queue.len.load(Relaxed) - 1, Relaxed);
        if self.node.woken.load(Relaxed) == WOKEN_ALONE {
            list.wake_one(self.node.key);
        }
    }
}

const BUCKETS: usize = 64;

/// Wait queues for many objects, hashed by a key of the caller's choice (a page's pfn, an entry's address).
///
/// Two keys may share a queue: their waiters are told apart by key, so a wake-up reaches only its own.
pub struct WaitTable {
    /// Threads inside [`WaitTable::wait_until`]: raised before they enter a queue, lowered after they left it.
    waiting: AtomicU32,
    buckets: [WaitQueue; BUCKETS],
}

impl Default for WaitTable {
    fn default() -> Self {
        Self::new()
    }
}

impl WaitTable {
    /// A table in which nobody waits.
    pub const fn new() -> Self {
        Self {
            waiting: AtomicU32::new(0),
            buckets: [const { WaitQueue::new() }; BUCKETS],
        }
    }

    /// As [`WaitQueue::wait_until`], woken by [`WaitTable::wake_all`] of the same `key`.
    #[track_caller]
    pub fn wait_until(
        &self,
        key: u64,
        mut cond: impl FnMut() -> bool,
        w: &Wait,
    ) -> Result<(), WaitError> {
        // Relaxed: the fence in `wait` stands between this and the condition.
        self.waiting.fetch_add(1, Relaxed);
        let ended = self.bucket(key).wait(key, |_| cond(), w);
        self.waiting.fetch_sub(1, Relaxed);
        ended
    }

    /// Whether nobody waits on any key, read after everything that the caller wrote: then there is nobody to wake. For those who make
    /// many conditions true at once.
    pub fn nobody_waits(&self) -> bool {
        // Pairs with the fence in `wait`: the conditions are changed before the number is read.
        fence(Ordering::SeqCst);
        self.waiting.load(Relaxed) == 0
    }

    /// Wakes every thread that waits on `key`. Make the condition true first. Callable from interrupt context.
    pub fn wake_all(&self, key: u64) {
        self.bucket(key).wake_matching(|node| node.key == key);
    }

    /// Wakes the thread that has waited longest on `key`. Make the condition true first. Callable from interrupt context.
    pub fn wake_one(&self, key: u64) {
        self.bucket(key).wake_one_of(key);
    }

    /// Two keys that share a queue.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(super) fn colliding_keys(&self) -> (u64, u64) {
        let shares = |key: &u64| ptr::eq(self.bucket(*key), self.bucket(0));
        (0, (1..).find(shares).expect("more keys than queues"))
    }

    fn bucket(&self, key: u64) -> &WaitQueue {
        // Fibonacci hashing: the top six bits of the product.
        let hash = key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58;
        &self.buckets[hash as usize]
    }
}
