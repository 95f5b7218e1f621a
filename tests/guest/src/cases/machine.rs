//! The machine layer: fair turns, hand-overs, memory and its permissions.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kernel::mem::{self, frames, paging};
use kernel::{thread, time};
use mm::addr::{PAGE_SIZE, VirtAddr};
use mm::sync::{SpinLock, Wait, WaitQueue, runtime, sleep_us};

use crate::case;

case! {
    /// Three busy threads get about the same share.
    fn busy_threads_take_turns() {
        let end = time::now_us() + 300_000;
        let spin = move || {
            let mut slices = 0_u64;
            let mut last = time::now_us();
            while last < end {
                let now = time::now_us();
                slices += u64::from(now - last > 1000);
                last = now;
            }
            slices
        };
        let threads: Vec<_> = (0..3).map(|_| thread::spawn("spin", spin).expect("a thread")).collect();
        threads.into_iter().for_each(|t| assert!(t.join() >= 3, "a thread was interrupted less than 3 times"));
    }
}

case! {
    /// Two threads hand a turn to and fro; a wake-up that comes before the sleep is not lost.
    fn ten_thousand_hand_overs_lose_none() {
        const TURNS: u64 = 10_000;
        let shared = Arc::new((WaitQueue::new(), AtomicU64::new(0)));
        let play = |side: u64, shared: Arc<(WaitQueue, AtomicU64)>| move || {
            while shared.1.load(Ordering::Acquire) < TURNS {
                let mine = || {
                    let turn = shared.1.load(Ordering::Acquire);
                    turn % 2 == side || turn >= TURNS
                };
                if shared.0.wait_until(mine, &Wait::until(time::now_us() + 2_000_000)).is_err() {
                    return false;
                }
                if shared.1.load(Ordering::Acquire) < TURNS {
                    shared.1.fetch_add(1, Ordering::AcqRel);
                }
                shared.0.wake_all();
            }
            true
        };
        let other = thread::spawn("other", play(1, shared.clone())).expect("a thread");
        assert!(play(0, shared)(), "a wake-up was lost here");
        assert!(other.join(), "a wake-up was lost there");
    }
}

case! {
    /// A wake-up that comes before the sleep is remembered, once.
    fn an_early_wake_up_is_remembered_once() {
        let machine = runtime();
        machine.unpark(machine.current());
        machine.unpark(machine.current());
        let start = time::now_us();
        machine.park(Some(start + 5_000_000));
        assert!(time::now_us() - start < 4_000_000, "the wake-up was lost");
        let start = time::now_us();
        machine.park(Some(start + 5_000));
        assert!(time::now_us() - start >= 5_000, "one wake-up ended two sleeps");
    }
}

case! {
    /// No memory for a stack, or no slot, is an error; afterwards threads can be made again.
    fn spawning_without_memory_is_an_error() {
        let gate = Arc::new((WaitQueue::new(), AtomicBool::new(false)));
        let hold = |gate: Arc<(WaitQueue, AtomicBool)>| move || {
            gate.0.wait_until(|| gate.1.load(Ordering::Acquire), &Wait::forever()).is_ok()
        };
        let mut threads = Vec::with_capacity(thread::MAX_THREADS);
        mem::inject_failures(u64::MAX);
        let refused = (0..=thread::MAX_THREADS).find_map(|_| match thread::spawn("held", hold(gate.clone())) {
            Ok(t) => {
                threads.push(t);
                None
            }
            Err(e) => Some(e),
        });
        mem::inject_failures(0);
        assert_eq!(refused, Some(thread::SpawnError::OutOfMemory));
        let again = thread::spawn("again", || 7).expect("memory is back");
        gate.1.store(true, Ordering::Release);
        gate.0.wake_all();
        assert!(threads.into_iter().all(thread::JoinHandle::join));
        assert_eq!(again.join(), 7);
    }
}

case! {
    /// No page of the kernel's half is both writable and executable, and the image has no writable alias.
    fn nothing_is_writable_and_executable() {
        let text = VirtAddr::new(nothing_is_writable_and_executable as *const () as u64);
        let code = paging::kernel().walk(text).expect("code is mapped").entry;
        assert!(!code.is_writable());
        let phys = paging::phys_of(text).expect("code is mapped");
        assert!(paging::kernel().walk(paging::direct(phys)).is_none(), "the text is in the direct map");
        let local = 0_u64;
        let heap = alloc::boxed::Box::new(0_u64);
        for data in [&raw const local as u64, &raw const *heap as u64, &raw const COUNTER as u64] {
            let entry = paging::kernel().walk(VirtAddr::new(data)).expect("data is mapped").entry;
            assert!(entry.is_writable() && entry.flags().contains(mm::table::MapFlags::NO_EXECUTE), "{entry:?}");
        }
    }
}

static COUNTER: AtomicU64 = AtomicU64::new(0);

case! {
    /// Below every stack lies unmapped memory.
    fn stacks_have_guard_pages() {
        let here = 0_u8;
        let mut at = &raw const here as u64 & !(PAGE_SIZE - 1);
        let bottom = at - thread::STACK_BYTES;
        while paging::kernel().walk(VirtAddr::new(at)).is_some() {
            at -= PAGE_SIZE;
            assert!(at >= bottom, "no guard page below the stack");
        }
    }
}

case! {
    machine = "--no-pmem --memory 128M",
    /// The heap grows as long as there is RAM; then an allocation is an error, and the kernel goes on.
    fn a_full_heap_is_an_error() {
        let mut blocks: Vec<Vec<u8>> = Vec::with_capacity(256);
        let size = 1 << 20;
        let refused = loop {
            let mut block = Vec::new();
            match block.try_reserve_exact(size) {
                Ok(()) => blocks.push(block),
                Err(e) => break e,
            }
            assert!(blocks.len() < 128, "more than the machine's RAM");
        };
        assert!(blocks.len() > 64, "only {} MiB before {refused}", blocks.len());
        assert!(frames::free_frames() > 0, "nothing is left for page tables");
        drop(blocks);
        let mut again = Vec::<u8>::new();
        assert!(again.try_reserve_exact(32 << 20).is_ok(), "the memory did not come back");
    }
}

case! {
    /// The frame allocator gives every frame once and takes it back.
    fn frames_are_given_once() {
        let before = frames::free_frames();
        let taken: Vec<_> = (0..64).map(|_| frames::alloc(0).expect("a frame")).collect();
        for (i, frame) in taken.iter().enumerate() {
            assert!(!taken[..i].contains(frame), "{frame:?} was given twice");
        }
        taken.into_iter().for_each(|f| frames::free(f, 0));
        assert_eq!(frames::free_frames(), before);
    }
}

case! {
    /// A spin lock keeps the timer away: no other thread runs on its CPU while it is held.
    fn a_spin_lock_holds_off_preemption() {
        static SEEN: AtomicU64 = AtomicU64::new(0);
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = stop.clone();
        let other = thread::spawn_on(0, "other", move || {
            while !theirs.load(Ordering::Relaxed) {
                SEEN.fetch_add(1, Ordering::Relaxed);
            }
        });
        let holder = thread::spawn_on(0, "holder", move || {
            sleep_us(1_000);
            let lock = SpinLock::new(());
            let _guard = lock.lock();
            let before = SEEN.load(Ordering::Relaxed);
            time::spin_us(20_000);
            (before, SEEN.load(Ordering::Relaxed))
        });
        let (before, after) = holder.expect("a thread").join();
        stop.store(true, Ordering::Relaxed);
        other.expect("a thread").join();
        assert!(before > 0, "the other thread never ran");
        assert_eq!(before, after);
    }
}
