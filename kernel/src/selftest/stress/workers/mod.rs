//! The workers of a round.
//!
//! Each is a thread that does one operation after the other, planned by dice of its own, until the round is over or the
//! device is gone. An operation that finds a file cut, unlinked or the disk full is one that happened; what must not happen is told by
//! the judge, or is an unexpected error.

mod cutter;
mod dma;
pub mod duel;
mod faulter;
mod hog;
mod names;
mod pinner;
mod unlinker;
mod writer;

use super::dice::Dice;
use super::file::{File, View};
use super::tally::Count;
use super::trouble::Trouble;
use super::world::{Round, Run};
use crate::thread::{self, JoinHandle, SpawnError};
use alloc::string::String;
use alloc::sync::Arc;
use mm::aspace::AddressSpace;

/// What the workers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Loads and stores through mappings.
    Faulter,
    /// Pins pages, holds them, looks at them.
    Pinner,
    /// Transfers between pages and a disk.
    Dma,
    /// Truncates and punches.
    Cutter,
    /// Writes and reads, and makes durable.
    Writer,
    /// Replaces files.
    Unlinker,
    /// Fills the file system.
    Hog,
    /// Makes, reads and removes files that nobody has open.
    Names,
    /// Gives a page to a watcher, and takes it away.
    Holder,
    /// Looks whether it is gone.
    Watcher,
}

impl Job {
    /// All of them.
    pub const ALL: [Job; 10] = [
        Job::Faulter,
        Job::Pinner,
        Job::Dma,
        Job::Cutter,
        Job::Writer,
        Job::Unlinker,
        Job::Hog,
        Job::Names,
        Job::Holder,
        Job::Watcher,
    ];

    /// What its threads are called.
    pub const fn name(self) -> &'static str {
        match self {
            Job::Faulter => "faulter",
            Job::Pinner => "pinner",
            Job::Dma => "dma",
            Job::Cutter => "cutter",
            Job::Writer => "writer",
            Job::Unlinker => "unlinker",
            Job::Hog => "hog",
            Job::Names => "names",
            Job::Holder => "holder",
            Job::Watcher => "watcher",
        }
    }

    /// How many of them there are on `cpus` CPUs.
    pub fn how_many(self, cpus: usize) -> usize {
        match self {
            Job::Faulter => (cpus + 2).min(8),
            Job::Pinner | Job::Cutter => (cpus / 2 + 1).min(4),
            Job::Dma => 1 + cpus / 8,
            Job::Writer => 2,
            Job::Unlinker | Job::Hog | Job::Names => 1,
            Job::Holder | Job::Watcher => duels(cpus),
        }
    }
}

/// Pairs of a holder and a watcher on `cpus` CPUs.
pub fn duels(cpus: usize) -> usize {
    1 + cpus / 4
}

/// One worker, in its own thread.
pub struct Worker {
    /// The round.
    pub round: Arc<Round>,
    /// Its place in the round's list.
    pub index: usize,
    /// The address space that it runs in, by its place in the round's list.
    pub space_index: usize,
    /// What its plans come from.
    pub dice: Dice,
}

impl Worker {
    /// The run.
    pub fn run(&self) -> &Run {
        &self.round.run
    }

    /// Counts one.
    pub fn count(&self, count: Count) {
        self.run().tally.one(count);
    }

    /// The address space that it runs in.
    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.round.spaces[self.space_index]
    }

    /// The mapping of a file in this worker's address space.
    pub fn view(&self, file: &File) -> Result<Arc<View>, Trouble> {
        file.view(self.space_index, self.space())
    }

    /// Says what it does now.
    pub fn begins(&self, what: &'static str, file: u32, page: u64) {
        self.round.progress[self.index].begins(what, file, page);
    }

    /// Takes an operation's end: counts what is known, accuses what must not be. False when the worker is to end.
    fn takes(&self, done: Result<(), Trouble>, job: Job) -> bool {
        match done {
            Ok(()) | Err(Trouble::PastEnd) => {}
            Err(Trouble::Short) => mm::sync::sleep_us(1_000),
            Err(Trouble::NoSpace) => {
                self.count(Count::NoSpace);
                // Whoever has the space gets the CPU to let go of some.
                mm::sync::sleep_us(500);
            }
            Err(Trouble::WouldBlock) => self.count(Count::WouldBlock),
            Err(Trouble::TimedOut) => self.count(Count::TimedOut),
            Err(Trouble::Gone) => {
                self.count(Count::Gone);
                return false;
            }
            Err(Trouble::Unexpected(what)) => self.round.accuse(
                "unexpected",
                String::from(job.name()),
                String::from("success, or a known refusal"),
                what,
                None,
            ),
        }
        !self.round.is_over()
    }

    fn work(&mut self, job: Job, number: usize) {
        let mut state = State::new(job, number, &self.round);
        loop {
            let done = state.step(self);
            if !self.takes(done, job) {
                break;
            }
        }
        drop(state);
        self.round.progress[self.index].end();
    }
}

/// What a worker keeps from one step to the next.
enum State {
    Faulter,
    Pinner,
    Dma(dma::Dma),
    Cutter,
    Writer(writer::Writer),
    Unlinker,
    Hog(hog::Hog),
    Names(names::Names),
    Holder(Arc<duel::Duel>),
    Watcher(Arc<duel::Duel>),
}

impl State {
    /// `number`: which of those with the same job it is.
    fn new(job: Job, number: usize, round: &Round) -> Self {
        match job {
            Job::Holder => State::Holder(round.duels[number].clone()),
            Job::Watcher => State::Watcher(round.duels[number].clone()),
            Job::Faulter => State::Faulter,
            Job::Pinner => State::Pinner,
            Job::Dma => State::Dma(dma::Dma::default()),
            Job::Cutter => State::Cutter,
            Job::Writer => State::Writer(writer::Writer::default()),
            Job::Unlinker => State::Unlinker,
            Job::Hog => State::Hog(hog::Hog::default()),
            Job::Names => State::Names(names::Names::default()),
        }
    }

    fn step(&mut self, worker: &mut Worker) -> Result<(), Trouble> {
        match self {
            State::Faulter => faulter::step(worker),
            State::Pinner => pinner::step(worker),
            State::Dma(dma) => dma.step(worker),
            State::Cutter => cutter::step(worker),
            State::Writer(writer) => writer.step(worker),
            State::Unlinker => unlinker::step(worker),
            State::Hog(hog) => hog.step(worker),
            State::Names(names) => names.step(worker),
            State::Holder(duel) => duel::hold(worker, duel),
            State::Watcher(duel) => duel::watch(worker, duel),
        }
    }
}

/// The workers of a round, in the order of their places: what each does, and which of those that do it it is.
pub fn plan(cpus: usize, disk: bool) -> impl Iterator<Item = (Job, usize)> {
    let wanted = move |job: &Job| disk || *job != Job::Dma;
    let jobs = Job::ALL.into_iter().filter(wanted);
    jobs.flat_map(move |job| (0..job.how_many(cpus)).map(move |n| (job, n)))
}

/// Starts a worker.
///
/// # Errors
/// No thread for it.
pub fn start(
    round: &Arc<Round>,
    index: usize,
    (job, number): (Job, usize),
    dice: Dice,
) -> Result<JoinHandle<()>, SpawnError> {
    let space_index = index % round.spaces.len();
    let mut worker = Worker {
        round: round.clone(),
        index,
        space_index,
        dice,
    };
    let (space, name) = (
        round.spaces[space_index].clone(),
        &round.progress[index].name,
    );
    thread::spawn_in(space, name, move || worker.work(job, number))
}
