//! Many workloads, on all CPUs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::figures::Figures;
use super::lab::{Lab, Plan};
use super::worlds::World;

/// Workloads: which, and how each is explored.
pub struct Job<'a> {
    pub world: Arc<World>,
    pub plan: Plan,
    /// Numbers of the workloads.
    pub numbers: Vec<u64>,
    /// The operations of a workload, by its number.
    pub sequence: &'a (dyn Fn(u64) -> Vec<usize> + Sync),
    /// Called now and then: workloads done, of how many, figures so far.
    pub progress: Option<&'a (dyn Fn(&Progress) + Sync)>,
}

/// How far a job is.
pub struct Progress {
    pub done: u64,
    pub total: u64,
    pub figures: Figures,
    pub time: Duration,
}

/// The end of a job.
pub struct Outcome {
    pub figures: Figures,
    pub found: Option<String>,
    pub time: Duration,
}

/// All sequences of `length` operations of a list of `n`: their number, and each by its number.
pub fn all_sequences(n: usize, length: u32) -> (u64, impl Fn(u64) -> Vec<usize> + Sync) {
    let n = n as u64;
    let digits = move |number: u64| {
        let digit = |place| (number / n.pow(length - 1 - place) % n) as usize;
        (0..length).map(digit).collect()
    };
    (n.pow(length), digits)
}

/// Random sequences: of each seed the first operation, the first two, and so on up to `length`.
pub fn prefixes(n: usize, length: u64) -> impl Fn(u64) -> Vec<usize> + Sync {
    move |number| {
        let mut random = (number / length).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 20) as usize % n
        };
        (0..=number % length).map(|_| next()).collect()
    }
}

/// How many workers there are.
pub fn workers() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Does a job. Ends early at the first violation.
pub fn run(job: &Job<'_>) -> Outcome {
    let begun = Instant::now();
    let (next, done, halt) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let all = Mutex::new((Figures::default(), None));
    let work = || {
        let mut lab = Lab::new(&job.world, job.plan);
        while !halt.load(Relaxed) {
            let index = next.fetch_add(1, Relaxed) as usize;
            let Some(number) = job.numbers.get(index) else {
                break;
            };
            lab.run(&(job.sequence)(*number));
            done.fetch_add(1, Relaxed);
            if index.is_multiple_of(16) || lab.found.is_some() {
                hand_in(&mut lab, &all, &halt);
            }
        }
        hand_in(&mut lab, &all, &halt);
    };
    let total = job.numbers.len() as u64;
    thread::scope(|scope| {
        let crew: Vec<_> = (0..workers()).map(|_| scope.spawn(work)).collect();
        while let Some(progress) = job
            .progress
            .filter(|_| crew.iter().any(|t| !t.is_finished()))
        {
            thread::sleep(Duration::from_millis(250));
            let figures = all.lock().expect("no worker died").0;
            progress(&Progress {
                done: done.load(Relaxed),
                total,
                figures,
                time: begun.elapsed(),
            });
        }
    });
    let (figures, found) = all.into_inner().expect("no worker died");
    Outcome {
        figures,
        found,
        time: begun.elapsed(),
    }
}

fn hand_in(lab: &mut Lab, all: &Mutex<(Figures, Option<String>)>, halt: &AtomicBool) {
    let mut all = all.lock().expect("no worker died");
    all.0 += std::mem::take(&mut lab.figures);
    if let Some(found) = lab.found.take() {
        all.1.get_or_insert(found);
        halt.store(true, Relaxed);
    }
}
