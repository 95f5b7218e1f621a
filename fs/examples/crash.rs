//! Crash exploration as a command: sequences of operations, each crashed at every point of its last one.
//!
//! docs/crash.md says what it tries; `--help` lists the options. Ends with 1 at the first violation, which it prints.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/explorer/mod.rs"]
mod explorer;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use clap::{Parser, ValueEnum};
use explorer::crew::{Job, Progress, all_sequences, run};
use explorer::lab::{Plan, TORN};
use explorer::states::Depth;
use explorer::worlds::{World, ace, ace_modes, deep, metadata, own};

/// Explores what crashes may leave of sequences of operations.
#[derive(Parser)]
#[command(name = "crash")]
struct Options {
    /// Operations of a sequence; all sequences of that length are explored.
    #[arg(long, default_value_t = 3)]
    seq: u32,
    /// The list of operations.
    #[arg(long, value_enum, default_value_t = List::Ace)]
    ops: List,
    /// How many states of a crash point.
    #[arg(long, value_enum, default_value_t = How::Thin)]
    depth: How,
    /// Crashes in the recovery of final states, that many deep (0 to 2).
    #[arg(long, default_value_t = 0)]
    recovery: u8,
    /// With --recovery: one state within an operation of so many is crashed in its recovery too. 1: each.
    #[arg(long, value_name = "N", default_value_t = TORN, value_parser = clap::value_parser!(u64).range(1..))]
    torn: u64,
    /// Each state recovers, does one more operation, and crashes in that.
    #[arg(long)]
    more: bool,
    /// Every N-th sequence from the I-th on, as I/N with I from 1.
    #[arg(long, default_value = "1/1", value_parser = part)]
    part: (u64, u64),
    /// Leaves out that many of them: where an interrupted run got to.
    #[arg(long, default_value_t = 0)]
    skip: usize,
    /// So many of them, chosen at random.
    #[arg(long)]
    sample: Option<usize>,
    /// What the choice depends on.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum List {
    Ace,
    Own,
    Metadata,
    /// ACE's fallocate with each of its modes.
    Modes,
    /// Changes of a tree of extents of two levels.
    Deep,
}

#[derive(Clone, Copy, ValueEnum)]
enum How {
    Bare,
    Thin,
    Normal,
    Deep,
}

fn part(text: &str) -> Result<(u64, u64), String> {
    let (i, n) = text.split_once('/').ok_or("I/N is wanted")?;
    let number = |s: &str| s.parse::<u64>().map_err(|e| e.to_string());
    let (i, n) = (number(i)?, number(n)?);
    if i == 0 || i > n {
        return Err("I must be from 1 to N".into());
    }
    Ok((i, n))
}

impl Options {
    fn world(&self) -> Arc<World> {
        match self.ops {
            List::Ace => ace(),
            List::Own => own(),
            List::Metadata => metadata(),
            List::Modes => ace_modes(),
            List::Deep => deep(),
        }
    }

    fn plan(&self) -> Plan {
        Plan {
            depth: match self.depth {
                How::Bare => Depth::Bare,
                How::Thin => Depth::Thin,
                How::Normal => Depth::Normal,
                How::Deep => Depth::Deep,
            },
            recovery: self.recovery.min(2),
            torn: self.torn,
            more: self.more,
        }
    }

    /// The sequences to explore, by number.
    fn numbers(&self, total: u64) -> Vec<u64> {
        let (i, n) = self.part;
        let mut numbers: Vec<u64> = (i - 1..total).step_by(n as usize).collect();
        if let Some(sample) = self.sample {
            let mut random = self.seed | 1;
            for at in (1..numbers.len()).rev() {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                numbers.swap(at, (random % (at as u64 + 1)) as usize);
            }
            numbers.truncate(sample);
        }
        numbers.split_off(self.skip.min(numbers.len()))
    }
}

fn tell(skipped: usize, last: &AtomicU64, now: &Progress) {
    let seconds = now.time.as_secs();
    if seconds < last.load(Relaxed) + 5 || now.done == 0 {
        return;
    }
    last.store(seconds, Relaxed);
    let left = seconds as f64 * (now.total - now.done) as f64 / now.done as f64;
    // A worker hands in what it did every few workloads: go on a little before.
    let resume = (skipped as u64 + now.done).saturating_sub(64);
    eprintln!(
        "{} of {} sequences, {} states, {seconds} s, about {left:.0} s left (go on: --skip {resume})",
        now.done,
        now.total,
        now.figures.all(),
    );
}

fn main() -> ExitCode {
    let options = Options::parse();
    let world = options.world();
    let (total, sequence) = all_sequences(world.acts.len(), options.seq);
    let last = AtomicU64::new(0);
    let progress = |now: &Progress| tell(options.skip, &last, now);
    let job = Job {
        world: world.clone(),
        plan: options.plan(),
        numbers: options.numbers(total),
        sequence: &sequence,
        progress: Some(&progress),
    };
    let name = format!(
        "{}, {} operations, {} of {total} sequences",
        world.name,
        options.seq,
        job.numbers.len()
    );
    eprintln!("{name}");
    let outcome = run(&job);
    println!("{}", outcome.figures.line(&name, outcome.time));
    match outcome.found {
        None => ExitCode::SUCCESS,
        Some(found) => {
            println!("VIOLATION: {found}");
            ExitCode::FAILURE
        }
    }
}
