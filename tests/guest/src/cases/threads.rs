//! Threads, waiting and the clock, with real interrupts.

use alloc::sync::Arc;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kernel::thread;
use mm::sync::{Cancel, Mutex, Wait, WaitError, WaitQueue, class, now_us, sleep_us};

use crate::case;

case! {
    fn a_thread_hands_its_result_to_the_one_that_joins_it() {
        let threads: [_; 8] = core::array::from_fn(|n| thread::spawn("worker", move || n * n).expect("a thread"));
        for (n, worker) in threads.into_iter().enumerate() {
            assert_eq!(worker.join(), n * n);
        }
    }
}

case! {
    /// One that never gives way is interrupted by the timer.
    fn a_thread_that_spins_does_not_stop_the_others() {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        // Relaxed: only the flag itself counts; the join orders the rest.
        let spinner = thread::spawn("spinner", move || while !seen.load(Ordering::Relaxed) { spin_loop() }).expect("a thread");
        sleep_us(50_000);
        stop.store(true, Ordering::Relaxed);
        spinner.join();
    }
}

case! {
    fn sleeping_takes_the_time_asked_for_and_little_more() {
        let before = now_us();
        sleep_us(30_000);
        let took = now_us() - before;
        assert!((30_000..2_000_000).contains(&took), "{took} us");
    }
}

case! {
    fn the_clock_never_goes_back() {
        let mut last = now_us();
        for _ in 0..100_000 {
            let now = now_us();
            assert!(now >= last, "{now} after {last}");
            last = now;
        }
    }
}

case! {
    fn a_wait_with_a_deadline_ends_at_it() {
        let (queue, before) = (WaitQueue::new(), now_us());
        assert_eq!(queue.wait_until(|| false, &Wait::until(before + 20_000)), Err(WaitError::TimedOut));
        assert!(now_us() - before >= 20_000);
    }
}

case! {
    fn a_wait_can_be_cancelled_by_another_thread() {
        let cancel = Arc::new(Cancel::new());
        let theirs = cancel.clone();
        let canceller = thread::spawn("canceller", move || {
            sleep_us(10_000);
            theirs.cancel();
        }).expect("a thread");
        let wait = Wait::forever().or_cancelled(&cancel);
        assert_eq!(WaitQueue::new().wait_until(|| false, &wait), Err(WaitError::Cancelled));
        canceller.join();
    }
}

case! {
    /// Each adds by a load and a store, with a pause between: without exclusion sums get lost.
    fn a_mutex_excludes_preempted_threads() {
        const ROUNDS: u64 = 200;
        static SUM: Mutex<u64> = Mutex::new(&class::INODE, 0);
        let add = || for _ in 0..ROUNDS {
            let mut sum = SUM.lock();
            let old = *sum;
            thread::yield_now();
            *sum = old + 1;
        };
        *SUM.lock() = 0;
        let threads: [_; 4] = core::array::from_fn(|_| thread::spawn("adder", add).expect("a thread"));
        threads.into_iter().for_each(|t| t.join());
        assert_eq!(*SUM.lock(), 4 * ROUNDS);
    }
}

case! {
    seconds = 20,
    /// Stacks and slots come back: many more threads than there is room for at once.
    fn a_thousand_threads_one_after_the_other() {
        let sum = Arc::new(AtomicU64::new(0));
        for n in 0..1000 {
            let sum = sum.clone();
            // Relaxed: the join orders the additions before the load.
            thread::spawn("brief", move || sum.fetch_add(n, Ordering::Relaxed)).expect("a thread").join();
        }
        assert_eq!(sum.load(Ordering::Relaxed), 499_500);
    }
}

case! {
    panics = "stack overflow",
    /// The guard page turns it into words, not into somebody else's memory.
    fn a_stack_that_overflows_is_told() {
        fn deeper(n: u64) -> u64 {
            core::hint::black_box([n; 64])[n as usize % 64] + if n == u64::MAX { 0 } else { deeper(n + 1) }
        }
        thread::spawn("deep", || deeper(0)).expect("a thread").join();
    }
}
