//! Threads that move from CPU to CPU, or must not.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kernel::{thread, time};
use mm::sync::{Wait, WaitQueue, current_thread, irq_off, now_us, sleep_us};

use super::smp::{here, spin_until};
use crate::case;

case! {
    seconds = 30,
    /// Threads that move between CPUs keep their identity, their registers and their stacks.
    fn threads_that_move_stay_themselves() {
        let work = |seed: u64| move || {
            let (me, mut sum, mut cpus) = (current_thread(), seed, 0_u64);
            for round in 0..3_000_u64 {
                let kept = core::hint::black_box([sum; 32]);
                if round % 3 == 0 { thread::yield_now() } else { time::spin_us(seed % 7) }
                assert_eq!(current_thread(), me);
                sum = sum.wrapping_add(kept[round as usize % 32] ^ round);
                cpus |= 1 << here();
            }
            (sum, cpus)
        };
        let run = || -> Vec<(u64, u64)> {
            let threads: Vec<_> = (1..=7).map(|n| thread::spawn("mover", work(n)).expect("a thread")).collect();
            threads.into_iter().map(thread::JoinHandle::join).collect()
        };
        let (first, second) = (run(), run());
        assert!(first.iter().zip(&second).all(|(a, b)| a.0 == b.0), "a register or a stack was lost");
        let moved = first.iter().chain(&second).filter(|r| r.1 == 3).count();
        assert!(moved > 0, "no thread ever moved");
    }
}

/// Switches take longer while this lives.
struct SlowSwitches;

impl SlowSwitches {
    fn new(us: u64) -> Self {
        thread::inject_switch_delay(us);
        Self
    }
}

impl Drop for SlowSwitches {
    fn drop(&mut self) {
        thread::inject_switch_delay(0);
    }
}

/// Goes on until `end_us`, by turns busy, asleep and giving way, and looks whether it stays itself.
fn wander(seed: u64, end_us: u64) -> impl FnOnce() + Send + 'static {
    move || {
        let (me, mut round) = (current_thread(), seed);
        while now_us() < end_us {
            round += 1;
            let kept = core::hint::black_box([round ^ seed; 64]);
            match round % 3 {
                0 => sleep_us(50),
                1 => thread::yield_now(),
                _ => time::spin_us(30),
            }
            assert!(
                kept.iter().all(|&k| k == round ^ seed),
                "a stack has two users"
            );
            assert_eq!(current_thread(), me);
        }
    }
}

case! {
    machine = "--cpus 4", seconds = 30,
    /// A thread whose registers are still being saved is not stolen.
    fn a_thread_being_left_is_not_run() {
        let _slow = SlowSwitches::new(200);
        let end = now_us() + 800_000;
        let wanderers: Vec<_> = (0..9).map(|n| thread::spawn("wanderer", wander(n, end)).expect("a thread")).collect();
        wanderers.into_iter().for_each(thread::JoinHandle::join);
    }
}

case! {
    machine = "--cpus 3", seconds = 20,
    /// A waker does not send a thread whose registers are still being saved to another CPU, even if its own has somebody else to run and
    /// another has nothing: that CPU would run on the same stack.
    fn a_thread_woken_while_it_is_left_stays() {
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::new((WaitQueue::new(), AtomicBool::new(false), AtomicU64::new(0)));
        let came = shared.clone();
        let busy = {
            let (stop, came) = (stop.clone(), came.clone());
            thread::spawn_on(2, "busy", move || {
                came.2.fetch_add(1, Ordering::AcqRel);
                while !stop.load(Ordering::Acquire) { spin_loop() }
            }).expect("a thread")
        };
        let waker = thread::spawn_on(1, "waker", move || {
            came.2.fetch_add(1, Ordering::AcqRel);
            spin_until("the thread waits", || came.0.len() == 1);
            time::spin_us(5_000);
            came.1.store(true, Ordering::Release);
            came.0.wake_all();
        }).expect("a thread");
        let left = thread::spawn_on(0, "spawner", move || {
            spin_until("both are busy", || shared.2.load(Ordering::Acquire) == 2);
            thread::spawn("left", move || {
                stop.store(true, Ordering::Release);
                time::spin_us(2_000); // CPU 2 has nothing to do now
                let slow = SlowSwitches::new(40_000);
                let other = thread::spawn_on(here(), "next", || ());
                let woken = shared.0.wait_until(|| shared.1.load(Ordering::Acquire), &Wait::for_us(5_000_000));
                drop(slow);
                assert_eq!(woken, Ok(()));
                other.expect("a thread").join();
            })
        }).expect("a thread").join();
        left.expect("a thread").join();
        waker.join();
        busy.join();
    }
}

case! {
    seconds = 20,
    /// Who runs is known right at any moment, also when the thread is moved just then.
    fn a_thread_that_is_moved_knows_itself() {
        let end = now_us() + 600_000;
        let hot = move || {
            let me = current_thread();
            while now_us() < end {
                let until = now_us() + 2_000;
                while now_us() < until {
                    assert_eq!(current_thread(), me);
                }
                sleep_us(700);
            }
        };
        let threads: Vec<_> = (0..5).map(|_| thread::spawn("hot", hot).expect("a thread")).collect();
        threads.into_iter().for_each(thread::JoinHandle::join);
    }
}

case! {
    seconds = 20,
    /// The number of a thread that has ended is never that of another.
    fn numbers_are_not_used_again() {
        let mut numbers: Vec<_> = (0..300).map(|_| {
            let brief = thread::spawn("brief", || ()).expect("a thread");
            let id = brief.id();
            brief.join();
            id
        }).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 300);
    }
}

case! {
    seconds = 20,
    /// A thread that gave way to another goes on at once on a CPU that has nothing to do.
    fn a_preempted_thread_is_offered() {
        let (stop, busy, again) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let spinner = {
            let (stop, busy) = (stop.clone(), busy.clone());
            thread::spawn_on(1, "spinner", move || {
                busy.store(true, Ordering::Release);
                while !stop.load(Ordering::Acquire) { spin_loop() }
            }).expect("a thread")
        };
        let gives_way = thread::spawn("gives way", move || {
            spin_until("the spinner runs", || busy.load(Ordering::Acquire) && here() == 0);
            let seen = again.clone();
            let stopped = stop.clone();
            let rude = thread::spawn_on(0, "rude", move || {
                // A tick may come between: then it is the other's turn again.
                spin_until("CPU 1 is let go", || stopped.load(Ordering::Acquire));
                irq_off(|| spin_until("the thread goes on", || seen.load(Ordering::Acquire)));
            });
            stop.store(true, Ordering::Release);
            time::spin_us(3_000); // CPU 1 has nothing to do now
            thread::yield_now();
            again.store(true, Ordering::Release);
            rude.expect("a thread").join();
        });
        gives_way.expect("a thread").join();
        spinner.join();
    }
}
