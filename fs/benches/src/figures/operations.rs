//! Single operations: what reaches the region, and times, of ours and of each peer.

use std::hint::black_box;

use fs_bench::{Counted, Counts, Op, World, memory};
use serde::Serialize;

use super::peer::{Peer, PeerArg};
use super::timing::{BATCH, BATCHES, Spread, Times};
use super::{progress, units};

/// Operations of one kind in a row.
const ROUND: usize = BATCH * BATCHES;
/// Rounds of ours, and of peers that are not made durable.
const ROUNDS: usize = 5;

/// What one operation costs, by what reaches the region.
#[derive(Clone, Copy, Serialize)]
struct Reached {
    fences: f64,
    /// Lines whose write-back was started.
    lines: f64,
    /// Bytes stored through the caches.
    cached: f64,
    /// Bytes stored past the caches.
    streamed: f64,
}

impl Reached {
    fn new(before: Counts, after: Counts) -> Self {
        let per = |before: u64, after: u64| (after - before) as f64 / ROUND as f64;
        Self {
            fences: per(before.fences, after.fences),
            lines: per(before.lines, after.lines),
            cached: per(before.cached, after.cached),
            streamed: per(before.streamed, after.streamed),
        }
    }
}

/// One operation.
#[derive(Serialize)]
struct Row {
    operation: &'static str,
    /// The most that it may take, in nanoseconds.
    target_ns: Option<f64>,
    reached: Reached,
    time: Spread,
}

/// A peer's times, in the order of [`Op::ALL`].
#[derive(Serialize)]
struct PeerRow {
    label: String,
    /// Each operation was made durable, as ours are.
    durable: bool,
    times: Vec<Spread>,
}

/// All of it.
#[derive(Serialize)]
pub struct Figures {
    ours: Vec<Row>,
    peers: Vec<PeerRow>,
    /// A system call that does nothing.
    system_call: Spread,
}

const fn target(op: Op) -> Option<f64> {
    match op {
        Op::Create | Op::Unlink | Op::Rename | Op::Append => Some(1000.0),
        Op::Overwrite => Some(500.0),
        Op::Read | Op::Readdir => None,
    }
}

fn reached() -> Vec<Reached> {
    progress("ours: fences, lines and bytes");
    let counted = Counted::new(memory(256 << 20).pmem());
    let mut world = World::new(&counted, ROUND);
    let each = |op| {
        let before = counted.counts();
        (0..ROUND).for_each(|i| world.run(op, i));
        Reached::new(before, counted.counts())
    };
    Op::ALL.map(each).into()
}

/// Runs the operations one kind after the other, in rounds of `batches`, each round on what `start` gives.
fn rounds<W, E>(
    label: &str,
    (rounds, batches): (usize, usize),
    start: impl Fn() -> Result<W, E>,
    run: impl Fn(&mut W, Op, usize) -> Result<(), E>,
) -> Result<Vec<Spread>, E> {
    let mut all = Op::ALL.map(|_| Times::default());
    for round in 1..=rounds {
        progress(&format!("{label}: round {round} of {rounds}"));
        let mut world = start()?;
        for (op, times) in Op::ALL.into_iter().zip(&mut all) {
            for first in (0..batches).map(|batch| batch * BATCH) {
                let mut each = first..first + BATCH;
                times.batch(BATCH, || each.try_for_each(|i| run(&mut world, op, i)))?;
            }
        }
    }
    Ok(all.iter().map(Times::spread).collect())
}

fn ours() -> Vec<Spread> {
    let bytes = memory(256 << 20);
    let start = || Ok::<_, std::convert::Infallible>(World::new(bytes.pmem(), ROUND));
    let run = |world: &mut World<_>, op, i| {
        world.run(op, i);
        Ok(())
    };
    let Ok(times) = rounds("ours", (ROUNDS, BATCHES), start, run);
    times
}

fn theirs(on: &PeerArg) -> anyhow::Result<PeerRow> {
    let much = if on.durable() {
        (1, 8)
    } else {
        (ROUNDS, BATCHES)
    };
    let times = rounds(&on.label, much, || Peer::new(on), Peer::run)?;
    Peer::remove(on)?;
    Ok(PeerRow {
        label: on.label.clone(),
        durable: on.durable(),
        times,
    })
}

/// A system call that does nothing.
fn nothing() -> Spread {
    let mut times = Times::default();
    for _ in 0..BATCHES * ROUNDS {
        let run = || {
            for _ in 0..BATCH {
                black_box(std::os::unix::process::parent_id());
            }
            Ok::<_, std::convert::Infallible>(())
        };
        let Ok(()) = times.batch(BATCH, run);
    }
    times.spread()
}

/// Counts, ours, then each peer.
pub fn measure(peers: &[PeerArg]) -> anyhow::Result<Figures> {
    let reached = reached().into_iter();
    let rows = Op::ALL.into_iter().zip(reached.zip(ours()));
    let row = |(op, (reached, time)): (Op, _)| Row {
        operation: op.name(),
        target_ns: target(op),
        reached,
        time,
    };
    Ok(Figures {
        ours: rows.map(row).collect(),
        system_call: nothing(),
        peers: peers.iter().map(theirs).collect::<Result<_, _>>()?,
    })
}

impl Figures {
    /// The tables.
    pub fn print(&self) {
        self.print_ours();
        self.print_peers();
    }

    fn print_ours(&self) {
        let columns = [
            "operation",
            "fences",
            "lines",
            "bytes cached",
            "bytes past caches",
            "median (fast)",
            "target",
        ];
        let cells = |row: &Row| {
            let target = row
                .target_ns
                .map_or(String::new(), |ns| format!("≤ {}", units::time(ns)));
            let reached = row.reached;
            vec![
                row.operation.into(),
                format!("{:.2}", reached.fences),
                format!("{:.1}", reached.lines),
                format!("{:.0}", reached.cached),
                format!("{:.0}", reached.streamed),
                units::spread(&row.time),
                target,
            ]
        };
        let heading = format!(
            "Ours, durable on return; {ROUNDS} rounds of {ROUND} operations, in batches of {BATCH}: the median batch (the fastest tenth)"
        );
        units::table(&heading, &columns, self.ours.iter().map(cells).collect());
    }

    fn print_peers(&self) {
        let mut columns = vec!["operation", "system calls", "ours, a call"];
        columns.extend(self.peers.iter().map(|peer| peer.label.as_str()));
        let row = |(at, op): (usize, Op)| {
            let calls = match Peer::calls(op) {
                0 => "1 for many".into(),
                n => n.to_string(),
            };
            let mut cells = vec![op.name().into(), calls, units::spread(&self.ours[at].time)];
            cells.extend(self.peers.iter().map(|peer| units::spread(&peer.times[at])));
            cells
        };
        let rows = Op::ALL.into_iter().enumerate().map(row).collect();
        let heading = format!(
            "Others, through system calls, of which one that does nothing takes {}; ours is a library call and durable, theirs only with +fsync",
            units::spread(&self.system_call)
        );
        units::table(&heading, &columns, rows);
    }
}
