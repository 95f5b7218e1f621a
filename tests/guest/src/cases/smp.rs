//! Many CPUs: threads at once, wake-ups across CPUs, stealing, shootdowns, address spaces, CPUs that do not answer.
#![expect(unsafe_code, reason = "fills frames through the direct map")]

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use kernel::cpu::{self, smp, stats};
use kernel::mem::paging::{self, Cache};
use kernel::mem::{frames, tlb::MachineTlb};
use kernel::{fault, thread, time, uaccess};
use mm::addr::{PageSize, Pfn, PhysAddr, VirtAddr};
use mm::aspace::{
    AddressSpace, Attachment, FaultAt, FaultError, FaultSink, Prot, SpaceId, VaRange, VmObject,
};
use mm::mem::OutOfMemory;
use mm::sync::{Wait, WaitQueue, irq_off, now_us, sleep_us};
use mm::tlb::Tlb;

use crate::case;
use crate::control::NOISE;

/// Longer than anything here takes on a busy host.
const PATIENCE_US: u64 = 8_000_000;

/// Spins until `done`, with a panic when it takes too long.
pub(super) fn spin_until(what: &str, done: impl Fn() -> bool) {
    let end = now_us() + PATIENCE_US;
    while !done() {
        assert!(now_us() < end, "{what}: never");
        spin_loop();
    }
}

/// A frame that is full of one number.
struct Filled(Pfn);

impl Filled {
    fn new(number: u64) -> Self {
        let frame = frames::alloc_zeroed().expect("a frame");
        let at: *mut [u64; 512] = paging::direct(frame.phys()).as_mut_ptr();
        // SAFETY: the frame is RAM, mapped in the direct map, and ours.
        unsafe { at.write([number; 512]) };
        Self(frame)
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        frames::free(self.0, 0);
    }
}

/// One page that shows one of two frames: OLD or NEW.
struct Shown {
    frames: [Filled; 2],
    which: AtomicUsize,
}

const OLD: u64 = 0x0101_0101;
const NEW: u64 = 0x0202_0202;

impl VmObject for Shown {
    fn fault(&self, at: &FaultAt, sink: &FaultSink<'_>) -> Result<(), FaultError> {
        let frame = self.frames[self.which.load(Ordering::Acquire)].0;
        sink.install_uncounted(at.va, frame, PageSize::Size4K)
            .map(drop)
    }

    fn attach(&self, _: Attachment) -> Result<(), OutOfMemory> {
        Ok(())
    }

    fn detach(&self, _: SpaceId, _: VaRange) {}
}

/// The page, mapped in a space; unmapped when dropped.
struct Page {
    object: Arc<Shown>,
    space: Arc<AddressSpace>,
    range: VaRange,
}

impl Page {
    fn new(space: Arc<AddressSpace>, numbers: [u64; 2]) -> Self {
        let object = Arc::new(Shown {
            frames: numbers.map(Filled::new),
            which: AtomicUsize::new(0),
        });
        let range = space.map(object.clone(), 0, 1, Prot::empty(), PageSize::Size4K);
        Self {
            object,
            space,
            range: range.expect("room in the window"),
        }
    }

    fn at(&self) -> VirtAddr {
        self.range.start()
    }

    fn load(&self) -> u64 {
        uaccess::load64(self.at()).expect("the page is served")
    }

    /// Shows the other frame from now on, to all.
    fn show(&self, which: usize) {
        self.object.which.store(which, Ordering::Release);
        self.space.zap(self.range);
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.space.unmap(self.range).expect("it is mapped");
    }
}

fn kernel_page() -> Arc<Page> {
    Arc::new(Page::new(fault::space().clone(), [OLD, NEW]))
}

/// The index of the CPU that runs this.
pub(super) fn here() -> usize {
    cpu::this().index()
}

/// Starts as many threads as there are CPUs, and lets them meet: each waits for all the others without giving way.
fn meet(count: usize, pinned: bool) {
    let go = Arc::new((AtomicBool::new(false), WaitQueue::new()));
    let came = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..count)
        .map(|n| {
            let (go, came) = (go.clone(), came.clone());
            let wait = move || {
                // All are spawned first, by a thread that one of these would keep off its CPU.
                let woken =
                    go.1.wait_until(|| go.0.load(Ordering::Acquire), &Wait::forever());
                assert_eq!(woken, Ok(()));
                irq_off(|| {
                    came.fetch_add(1, Ordering::AcqRel);
                    spin_until("all at once", || came.load(Ordering::Acquire) == count);
                    here()
                })
            };
            let spawned = if pinned {
                thread::spawn_on(n, "meet", wait)
            } else {
                thread::spawn("meet", wait)
            };
            spawned.expect("a thread")
        })
        .collect();
    go.0.store(true, Ordering::Release);
    go.1.wake_all();
    let mut seen: Vec<_> = threads.into_iter().map(thread::JoinHandle::join).collect();
    seen.sort_unstable();
    assert!(seen.iter().copied().eq(0..count), "{seen:?}");
}

case! {
    machine = "--cpus 4", seconds = 20,
    /// With interrupts off, none gives way to another: they can only meet when all run at the same time.
    fn all_cpus_run_threads_at_once() {
        assert_eq!(cpu::online(), 4);
        for _ in 0..20 {
            meet(4, true);
        }
    }
}

case! {
    machine = "--cpus 4", seconds = 20,
    /// Threads without a wish are spread, by whoever is idle.
    fn threads_spread_over_idle_cpus() {
        // This thread sleeps while they meet, so all four CPUs are theirs.
        for _ in 0..20 {
            meet(4, false);
        }
    }
}

case! {
    fn two_cpus_are_the_default_and_listed() {
        assert_eq!(cpu::online(), 2);
        let idle = thread::threads().expect("a list").into_iter().filter(|t| t.idle).count();
        assert_eq!(idle, 2);
        assert!(matches!(thread::spawn_on(2, "nowhere", || ()), Err(thread::SpawnError::NoSuchCpu(2))));
    }
}

case! {
    seconds = 20,
    /// Two threads, each on a CPU of its own, wake each other in turn: no wake-up is lost between CPUs.
    fn a_thread_is_woken_from_another_cpu() {
        const TURNS: u64 = 5_000;
        let shared = Arc::new((WaitQueue::new(), AtomicU64::new(0)));
        let play = |side: u64| {
            let shared = shared.clone();
            thread::spawn_on(side as usize, "player", move || {
                while shared.1.load(Ordering::Acquire) < TURNS {
                    let mine = || shared.1.load(Ordering::Acquire) % 2 == side || shared.1.load(Ordering::Acquire) >= TURNS;
                    if shared.0.wait_until(mine, &Wait::for_us(PATIENCE_US)).is_err() {
                        return false;
                    }
                    if shared.1.load(Ordering::Acquire) < TURNS {
                        shared.1.fetch_add(1, Ordering::AcqRel);
                    }
                    shared.0.wake_all();
                }
                here() == side as usize
            }).expect("a thread")
        };
        let players = [play(0), play(1)];
        assert!(players.into_iter().all(thread::JoinHandle::join), "a wake-up was lost, or a pinned thread moved");
    }
}

case! {
    seconds = 20,
    /// A thread in the queue of a CPU that does not give way is taken by the other, once that has nothing to do.
    fn an_idle_cpu_steals() {
        let before = stats::totals().steals;
        let (stop, busy, ran) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let spinner = {
            let (stop, busy) = (stop.clone(), busy.clone());
            thread::spawn_on(1, "spinner", move || {
                busy.store(true, Ordering::Release);
                // Relaxed: only the flag itself counts.
                while !stop.load(Ordering::Relaxed) { spin_loop() }
            }).expect("a thread")
        };
        let holder = thread::spawn_on(0, "holder", move || {
            spin_until("the spinner runs", || busy.load(Ordering::Acquire));
            irq_off(|| {
                let seen = ran.clone();
                let queued = thread::spawn("queued", move || {
                    ran.store(true, Ordering::Release);
                    here()
                });
                stop.store(true, Ordering::Relaxed); // CPU 1 becomes idle; this one does not give way
                spin_until("the thread is stolen", || seen.load(Ordering::Acquire));
                queued
            })
        });
        let queued = holder.expect("a thread").join();
        assert_eq!(queued.expect("a thread").join(), 1);
        spinner.join();
        assert!(stats::totals().steals > before);
    }
}

case! {
    machine = "--cpus 4", seconds = 20,
    /// Sleepers wake on whichever CPU they slept.
    fn sleepers_on_every_cpu_wake_in_time() {
        let threads: Vec<_> = (0..16).map(|n| thread::spawn_on(n % 4, "sleeper", move || {
            (0..20).map(|_| {
                let start = now_us();
                sleep_us(2_000);
                now_us() - start
            }).max().unwrap_or(0)
        }).expect("a thread")).collect();
        for slept in threads.into_iter().map(thread::JoinHandle::join) {
            assert!((2_000..3_000_000).contains(&slept), "{slept} us");
        }
    }
}

/// A thread on the CPU with `index` that looks at the page all the time, and counts what it sees after it must not: the old number,
/// loaded after `expected` said new.
fn watch(
    index: usize,
    page: &Arc<Page>,
    expected: &Arc<AtomicU64>,
    stop: &Arc<AtomicBool>,
    looks: &Arc<AtomicU64>,
) -> thread::JoinHandle<u64> {
    let (page, expected, stop, looks) =
        (page.clone(), expected.clone(), stop.clone(), looks.clone());
    thread::spawn_on(index, "watcher", move || {
        let mut stale = 0;
        while !stop.load(Ordering::Acquire) {
            let must = expected.load(Ordering::Acquire);
            let seen = page.load();
            let now = expected.load(Ordering::Acquire);
            // Between the two readings nothing was said to change: then only the one number is right.
            stale += u64::from(must == now && must != 0 && seen != must);
            looks.fetch_add(1, Ordering::Release);
        }
        stale
    })
    .expect("a thread")
}

case! {
    machine = "--cpus 4", seconds = 30,
    /// What a CPU has looked at is gone from its TLB when another's zap returns.
    fn a_zapped_translation_is_gone_on_every_cpu() {
        let page = kernel_page();
        let (expected, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let looks: Vec<_> = (0..3).map(|_| Arc::new(AtomicU64::new(0))).collect();
        let watchers: Vec<_> = (0..3).map(|n| watch(n + 1, &page, &expected, &stop, &looks[n])).collect();
        let before = stats::totals();
        let zapper = thread::spawn_on(0, "zapper", move || {
            for round in 1..=60 {
                let number = [OLD, NEW][round % 2];
                expected.store(0, Ordering::Release); // in doubt
                page.show(round % 2);
                expected.store(number, Ordering::Release);
                let seen: Vec<_> = looks.iter().map(|l| l.load(Ordering::Acquire)).collect();
                let all = || looks.iter().zip(&seen).all(|(l, s)| l.load(Ordering::Acquire) >= s + 3);
                spin_until("every watcher looks", all);
            }
            stop.store(true, Ordering::Release);
        }).expect("a thread");
        zapper.join();
        let stale: Vec<_> = watchers.into_iter().map(thread::JoinHandle::join).collect();
        assert_eq!(stale, [0, 0, 0], "loads through a stale translation");
        let after = stats::totals();
        assert!(after.shootdowns - before.shootdowns >= 30, "{before:?} {after:?}");
        assert!(after.pages_flushed > before.pages_flushed);
    }
}

case! {
    seconds = 20,
    /// An idle CPU is not interrupted, and yet has forgotten the translation when it runs again.
    fn an_idle_cpu_flushes_when_it_leaves_idle() {
        let skipped = thread::spawn_on(0, "zapper", || {
            let page = kernel_page();
            let look = || {
                let page = page.clone();
                thread::spawn_on(1, "looker", move || page.load()).expect("a thread").join()
            };
            let mut skipped = 0;
            for round in 1..=50 {
                let number = [OLD, NEW][round % 2];
                look();
                sleep_us(500);
                let before = stats::totals();
                page.show(round % 2);
                let after = stats::totals();
                skipped += after.lazy_skipped - before.lazy_skipped;
                assert_eq!(look(), number, "round {round}");
            }
            skipped
        }).expect("a thread").join();
        assert!(skipped > 10, "{skipped} of 50 flushes passed over the idle CPU");
    }
}

case! {
    seconds = 30,
    /// Two senders that ask each other, all the time, both get their answers.
    fn two_senders_do_not_wait_for_each_other_for_ever() {
        let send = |n: usize| thread::spawn_on(n, "sender", move || {
            let page = kernel_page();
            for round in 0..200 {
                assert_eq!(page.load(), [OLD, NEW][round % 2]);
                page.show((round + 1) % 2);
            }
        }).expect("a thread");
        [send(0), send(1)].into_iter().for_each(thread::JoinHandle::join);
    }
}

case! {
    seconds = 20,
    /// `quiesce` returns only after a section with interrupts off that was under way on another CPU.
    fn quiesce_waits_for_sections_with_interrupts_off() {
        for _ in 0..20 {
            let (inside, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
            let section = {
                let (inside, over) = (inside.clone(), over.clone());
                thread::spawn_on(1, "section", move || irq_off(|| {
                    inside.store(true, Ordering::Release);
                    time::spin_us(5_000);
                    over.store(true, Ordering::Release);
                })).expect("a thread")
            };
            let waited = thread::spawn_on(0, "quiescer", move || {
                spin_until("the section begins", || inside.load(Ordering::Acquire));
                MachineTlb.quiesce();
                over.load(Ordering::Acquire)
            }).expect("a thread").join();
            assert!(waited, "quiesce returned while a section was under way");
            section.join();
        }
    }
}

case! {
    machine = "--cpus 4", seconds = 30,
    /// The same address shows each space its own page, whoever ran before on the CPU.
    fn address_spaces_are_apart() {
        let spaces: Vec<_> = (0..3).map(|_| fault::new_space().expect("a space")).collect();
        let pages: Vec<_> = spaces.iter().zip(1_u64..).map(|(s, n)| Arc::new(Page::new(s.clone(), [n, n + 100]))).collect();
        assert!(pages.iter().all(|p| p.at() == pages[0].at()), "the same address in each");
        let at = pages[0].at();
        let threads: Vec<_> = (0..9).map(|n| {
            let (space, page) = (spaces[n % 3].clone(), pages[n % 3].clone());
            let id = space.id();
            thread::spawn_in(space, "tenant", move || {
                for round in 0..200 {
                    assert_eq!(fault::current_space().id(), id);
                    let seen = page.load();
                    assert!([n as u64 % 3 + 1, n as u64 % 3 + 101].contains(&seen), "{seen} in space {}", n % 3);
                    match round % 5 {
                        0 => thread::yield_now(),
                        1 => page.show(round % 2),
                        _ => {}
                    }
                }
            }).expect("a thread")
        }).collect();
        threads.into_iter().for_each(thread::JoinHandle::join);
        assert_eq!(fault::current_space().id(), fault::space().id());
        assert_eq!(uaccess::load64(at), Err(FaultError::NoMapping), "the kernel's own space has nothing there");
    }
}

case! {
    seconds = 30,
    /// Spaces that are dropped give back their page tables, on CPUs busy and idle.
    fn a_dropped_space_gives_its_memory_back() {
        let live = || {
            let space = fault::new_space().expect("a space");
            let page = Arc::new(Page::new(space.clone(), [7, 8]));
            for n in 0..2 {
                let page = page.clone();
                let seen = thread::spawn_with(Some(n), Some(space.clone()), "tenant", move || page.load());
                assert_eq!(seen.expect("a thread").join(), 7);
            }
        };
        let last = || {
            let space = fault::new_space().expect("a space");
            let page = Page::new(space.clone(), [7, 8]);
            // The thread has the last references, and drops the space while it runs.
            let seen = thread::spawn_in(space, "last", move || page.load());
            assert_eq!(seen.expect("a thread").join(), 7);
        };
        (0..20).for_each(|_| live());
        (0..20).for_each(|_| last());
        let before = frames::free_frames();
        (0..200).for_each(|_| live());
        let lost = before.saturating_sub(frames::free_frames());
        assert!(lost < 300, "200 spaces took {lost} frames"); // the heap may have grown once
    }
}

case! {
    /// A new kernel mapping under a top-level entry that was never used is seen in a space made before.
    fn the_upper_half_is_shared_for_ever() {
        let space = fault::new_space().expect("a space");
        // Nobody lives at 700 GiB; reading there yields something, and no fault, if it is mapped.
        let at = paging::map_phys(PhysAddr::new(700 << 30), 4096, Cache::Device).expect("it can be mapped");
        let read = thread::spawn_in(space, "reader", move || {
            let at: *const u32 = at.as_ptr();
            // SAFETY: mapped for ever; there is no device that could mind.
            unsafe { at.read_volatile() }
        });
        read.expect("a thread").join();
    }
}

case! {
    /// A CPU that does not exist does not answer; it is left out in time, and the others go on.
    fn a_cpu_that_does_not_answer_is_left_out() {
        let (before, start) = (cpu::online(), now_us());
        assert_eq!(smp::start_one(200, 50_000), Err(smp::StartError::NoAnswer));
        assert!(now_us() - start < 5_000_000);
        assert_eq!(cpu::online(), before);
        meet(before, true);
    }
}

case! {
    panics = "on the second CPU",
    /// A panic on another CPU stops the rest, which may hold any lock, before it prints.
    fn a_panic_on_another_cpu_is_told() {
        thread::spawn_on(0, "noisy", || loop { {
            kernel::println!("noise");
            NOISE.fetch_add(1, Ordering::Relaxed);
        }; }).expect("a thread");
        let other = thread::spawn_on(1, "panicking", || {
            time::spin_us(5_000);
            panic!("on the second CPU")
        });
        other.expect("a thread").join()
    }
}
