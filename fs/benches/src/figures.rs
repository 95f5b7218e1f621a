//! Prints what the file system costs on this machine, and what others cost through system calls.
//!
//! `figures [LABEL=FOLDER]...`: each folder is a file system to compare with; a label that ends in `+sync` is made durable after each
//! operation, as ours is. Figures to compare are taken on a machine that does nothing else; the table says how far they spread.

use std::fs::{self as host, File, OpenOptions};
use std::hint::black_box;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use fs_bench::{Bytes, Counted, Counts, Op, World, memory, world};

/// Operations of one kind in a row.
const ROUND: usize = 20_000;
/// Rounds; the table shows the median, and the best.
const ROUNDS: usize = 7;
const MIB: usize = 1 << 20;
/// Inodes of the mount that is timed.
const MANY: usize = 1_000_000;

/// Nanoseconds for each operation, of some rounds.
struct Times(Vec<f64>);

impl Times {
    fn add(&mut self, since: Instant, n: usize) {
        self.0.push(since.elapsed().as_nanos() as f64 / n as f64);
    }

    fn show(&self) -> String {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        format!("{:.0} ({:.0})", sorted[sorted.len() / 2], sorted[0])
    }
}

fn times() -> Vec<Times> {
    Op::ALL.map(|_| Times(Vec::new())).into()
}

/// Ours: a new file system each round.
fn ours() -> (Vec<Times>, Vec<Counts>) {
    let bytes = memory(256 * MIB);
    let mut all = times();
    for _ in 0..ROUNDS {
        let mut world = World::new(bytes.pmem(), ROUND);
        for (op, times) in Op::ALL.into_iter().zip(&mut all) {
            let start = Instant::now();
            (0..ROUND).for_each(|i| world.run(op, i));
            times.add(start, ROUND);
        }
    }
    let counted = Counted::new(bytes.pmem());
    let mut world = World::new(&counted, ROUND);
    let counts = Op::ALL.map(|op| {
        let before = counted.counts();
        (0..ROUND).for_each(|i| world.run(op, i));
        let after = counted.counts();
        Counts {
            fences: after.fences - before.fences,
            lines: after.lines - before.lines,
            cached: after.cached - before.cached,
            streamed: after.streamed - before.streamed,
        }
    });
    (all, counts.into())
}

/// A folder of another file system.
struct Peer {
    folder: PathBuf,
    sync: bool,
    file: File,
    data: Vec<u8>,
}

impl Peer {
    fn new(folder: &Path, sync: bool) -> std::io::Result<Self> {
        let folder = folder.join("bench");
        drop(host::remove_dir_all(&folder));
        host::create_dir(&folder)?;
        let mut options = OpenOptions::new();
        options.create_new(true).read(true).write(true);
        let file = options.open(folder.join("content"))?;
        let data = vec![0x5a; world::PAGE];
        Ok(Self {
            folder,
            sync,
            file,
            data,
        })
    }

    fn path(&self, prefix: u8, i: usize) -> PathBuf {
        let name = world::NameOf::new(prefix, i);
        self.folder.join(&name.path()[1..])
    }

    /// Makes a change of names durable.
    fn settle(&self) -> std::io::Result<()> {
        if self.sync {
            File::open(&self.folder)?.sync_all()?;
        }
        Ok(())
    }

    fn run(&mut self, op: Op, i: usize) -> std::io::Result<()> {
        match op {
            Op::Create => drop(File::create_new(self.path(b'f', i))?),
            Op::Rename => host::rename(self.path(b'f', i), self.path(b'g', i))?,
            Op::Unlink => host::remove_file(self.path(b'g', i))?,
            Op::Append | Op::Overwrite => {
                if i == 0 {
                    self.file.seek(SeekFrom::Start(0))?;
                }
                self.file.write_all(&self.data)?;
                return if self.sync {
                    self.file.sync_data()
                } else {
                    Ok(())
                };
            }
            Op::Read => {
                if i == 0 {
                    self.file.seek(SeekFrom::Start(0))?;
                }
                return self.file.read_exact(&mut self.data);
            }
            Op::Readdir => return Ok(()),
        }
        self.settle()
    }

    fn list(&self) -> std::io::Result<usize> {
        Ok(host::read_dir(&self.folder)?.flatten().count())
    }
}

fn peer(folder: &Path, sync: bool) -> std::io::Result<Vec<Times>> {
    let mut all = times();
    let (rounds, round) = if sync {
        (3, ROUND / 10)
    } else {
        (ROUNDS, ROUND)
    };
    for _ in 0..rounds {
        let mut peer = Peer::new(folder, sync)?;
        for (op, times) in Op::ALL.into_iter().zip(&mut all) {
            let start = Instant::now();
            if op == Op::Readdir {
                black_box(peer.list()?);
            }
            for i in 0..round {
                peer.run(op, i)?;
            }
            times.add(start, round);
        }
    }
    host::remove_dir_all(folder.join("bench"))?;
    Ok(all)
}

/// A system call that does nothing.
fn nothing() -> Times {
    let mut times = Times(Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        (0..ROUND).for_each(|_| {
            black_box(std::os::unix::process::parent_id());
        });
        times.add(start, ROUND);
    }
    times
}

fn operations(peers: &[(String, Vec<Times>)]) {
    let (ours, counts) = ours();
    print!("| operation | fences | lines | stored | past the caches | ours");
    peers.iter().for_each(|(label, _)| print!(" | {label}"));
    println!(" |\n|{}", "---|".repeat(6 + peers.len()));
    for (i, op) in Op::ALL.into_iter().enumerate() {
        let per = |count: u64| count as f64 / ROUND as f64;
        let c = counts[i];
        print!(
            "| {} | {:.2} | {:.1} | {:.0} | {:.0} | {}",
            op.name(),
            per(c.fences),
            per(c.lines),
            per(c.cached),
            per(c.streamed),
            ours[i].show()
        );
        peers
            .iter()
            .for_each(|(_, times)| print!(" | {}", times[i].show()));
        println!(" |");
    }
    println!(
        "\nns for each operation: median of {ROUNDS} rounds of {ROUND} (best round); bytes and lines for each operation"
    );
    println!("a system call that does nothing: {} ns", nothing().show());
}

/// GB/s of `copy`, which copies `len` bytes to the place it is given.
fn bandwidth(len: usize, total: usize, mut copy: impl FnMut(usize)) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        (0..total / len).for_each(|i| copy(i * len));
        best = best.min(start.elapsed().as_secs_f64());
    }
    total as f64 / best / 1e9
}

fn copies() {
    let total = 128 * MIB;
    println!(
        "\n| bytes at once | write | movnti | 16-byte streams | memcpy | write against movnti |\n|{}",
        "---|".repeat(6)
    );
    for len in [4096, 65_536, MIB] {
        let raw: Bytes = memory(total);
        let data = vec![0x5a; len];
        let world = World::new(memory(total + 64 * MIB).pmem(), 16);
        let file = world
            .fs
            .create_sized("/big", 0o644, total as u64)
            .expect("room");
        let write = bandwidth(len, total, |at| {
            world.fs.write(&file, at as u64, &data).expect("write");
        });
        let movnti = bandwidth(len, total, |at| raw.movnti(at, &data));
        let stream = bandwidth(len, total, |at| raw.stream(at, &data));
        let memcpy = bandwidth(len, total, |at| raw.memcpy(at, &data));
        println!(
            "| {len} | {write:.2} | {movnti:.2} | {stream:.2} | {memcpy:.2} | {:.0} % |",
            100.0 * write / movnti
        );
    }
    println!(
        "\nGB/s, best of 5 passes over {} MiB; memcpy leaves the data in the caches and is durable at no time",
        total / MIB
    );
}

fn mount() {
    let bytes = memory(1024 * MIB);
    let len = bytes.len() as u64;
    let start = Instant::now();
    world::format(&bytes.pmem(), MANY as u32 + 16);
    let mkfs = start.elapsed();
    let mut world = World::new(bytes.pmem(), MANY);
    for i in 0..MANY - 2 {
        world.run(Op::Create, i);
        if i % 100_000 == 0 {
            world.fs.sync().expect("sync");
        }
    }
    drop(world);
    let mut times = Vec::new();
    for _ in 0..5 {
        let backing = world::backing(len);
        let start = Instant::now();
        let fs = fs::Fs::mount(bytes.pmem(), backing).expect("mount");
        times.push(start.elapsed().as_secs_f64() * 1e3);
        assert!(fs.mount_report().inodes as usize >= MANY - 1);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "\nmount at {MANY} inodes in use: {:.1} ms (best {:.1}); mkfs of the same region: {:.2} ms",
        times[2],
        times[0],
        mkfs.as_secs_f64() * 1e3
    );
}

fn main() -> std::io::Result<()> {
    let mut peers = Vec::new();
    for argument in std::env::args().skip(1) {
        let Some((label, folder)) = argument.split_once('=') else {
            eprintln!("usage: figures [LABEL=FOLDER]...");
            std::process::exit(2);
        };
        let times = peer(Path::new(folder), label.ends_with("+sync"))?;
        peers.push((label.to_owned(), times));
    }
    operations(&peers);
    copies();
    mount();
    Ok(())
}
