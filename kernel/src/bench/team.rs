//! The same work on several CPUs at once, one thread pinned to each: what sharing costs.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mm::mem::OutOfMemory;
use mm::pgmap::LifePolicy;

use super::bed::{Bed, Grain, View};
use super::error::BenchError;
use super::faults::Touch;
use super::life;
use super::sample::{Counters, Sample};
use crate::thread;
use crate::time::ticks;

/// Pages that a team faults in: 32 MiB.
const PAGES: u64 = 8192;
/// Flushes that are timed.
const FLUSHES: u64 = 100;

/// Where threads wait for each other.
struct Gate {
    here: AtomicUsize,
    all: usize,
}

impl Gate {
    fn new(all: usize) -> Arc<Self> {
        Arc::new(Self {
            here: AtomicUsize::new(0),
            all,
        })
    }

    /// Spins until all have come.
    fn pass(&self) {
        // AcqRel, Acquire: each pairs with the others' arrival; what was prepared before is seen after.
        self.here.fetch_add(1, Ordering::AcqRel);
        while self.here.load(Ordering::Acquire) < self.all {
            spin_loop();
        }
    }
}

/// Runs `work(i)` on CPU i for each of `cpus` CPUs, begun together; returns the ticks from the first start to the last end.
fn together<W>(cpus: usize, work: W) -> Result<u64, BenchError>
where
    W: Fn(usize) -> Result<(), BenchError> + Send + Sync + 'static,
{
    let (gate, work) = (Gate::new(cpus), Arc::new(work));
    let mut threads = Vec::new();
    threads.try_reserve_exact(cpus).map_err(|_| OutOfMemory)?;
    for i in 0..cpus {
        let (gate, work) = (gate.clone(), work.clone());
        threads.push(thread::spawn_on(i, "bench", move || {
            gate.pass();
            let start = ticks();
            work(i).map(|()| (start, ticks()))
        })?);
    }
    let mut span = (u64::MAX, 0);
    for thread in threads {
        let (start, end) = thread.join()?;
        span = (span.0.min(start), span.1.max(end));
    }
    Ok(span.1.saturating_sub(span.0))
}

/// Faults in the pages of one mapping, each CPU its part.
pub fn faults(bed: &Bed, grain: Grain, touch: Touch, cpus: usize) -> Result<Sample, BenchError> {
    let file = bed.file(PAGES + 1)?;
    let view = Arc::new(View::new(file.inode(), PAGES, grain)?);
    let (entries, theirs) = (view.entries(), view.clone());
    let part = entries / cpus as u64;
    let before = Counters::now();
    let ticks = together(cpus, move |i| {
        let first = i as u64 * part;
        touch.some(&theirs, first..first + part)
    })?;
    drop(view);
    Ok(Sample {
        ops: part * cpus as u64,
        ticks,
        counters: Counters::now().since(&before),
    })
}

/// First mappings and their ends, each CPU on pages of its own of one device.
pub fn life<L: LifePolicy>(_: &Bed, cpus: usize) -> Result<Sample, BenchError> {
    let device = Arc::new(life::Device::<L>::new()?);
    let (theirs, part) = (device.clone(), life::PAGES / cpus as u64);
    let ticks = together(cpus, move |i| {
        let first = i as u64 * part;
        theirs.get_put(first..first + part)
    })?;
    Ok(Sample {
        ops: part * cpus as u64,
        ticks,
        counters: Counters::default(),
    })
}

/// Clears one entry and makes every CPU forget it, while the other CPUs run on the same address space.
pub fn shootdown(bed: &Bed, cpus: usize) -> Result<Sample, BenchError> {
    let file = bed.file(2)?;
    let view = Arc::new(View::new(file.inode(), 1, Grain::Small)?);
    let (gate, stop) = (Gate::new(cpus), Arc::new(AtomicBool::new(false)));
    let others = (1..cpus).map(|i| {
        let (gate, stop) = (gate.clone(), stop.clone());
        thread::spawn_on(i, "bench", move || {
            gate.pass();
            // Relaxed: nothing else depends on it.
            while !stop.load(Ordering::Relaxed) {
                spin_loop();
            }
        })
    });
    let others: Vec<_> = others.collect::<Result<_, _>>()?;
    let (theirs, overhead) = (view.clone(), bed.clock.overhead);
    let sample = thread::spawn_on(0, "bench", move || {
        gate.pass();
        zap_again_and_again(&theirs, overhead)
    })?
    .join();
    // Relaxed: as above.
    stop.store(true, Ordering::Relaxed);
    others.into_iter().for_each(|o| o.join());
    sample
}

fn zap_again_and_again(view: &View, overhead: u64) -> Result<Sample, BenchError> {
    let (before, mut spent) = (Counters::now(), 0);
    for _ in 0..FLUSHES {
        view.load(0..1)?;
        let start = ticks();
        view.space().zap(view.range());
        spent += ticks().saturating_sub(start + overhead);
    }
    Ok(Sample {
        ops: FLUSHES,
        ticks: spent,
        counters: Counters::now().since(&before),
    })
}
