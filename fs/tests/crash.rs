//! The file system is cut off at every store, flush and fence of an operation, in every state that the lines in flight allow; what the
//! next mount finds must be the tree before the operation or after it, and nothing else.
//!
//! The figures are printed with `--nocapture`. Three experiments: one operation (all crash points); two operations (the crash points of the
//! second, with what the first left in flight); long random sequences, so that the ring wraps. Of the states, some are
//! crashed again while they recover, and some get one more operation, which is crashed too.

mod common;

use std::sync::Arc;

use common::crash::{Event, Shadow, Trace};
use common::model::{Entry, Model, Op, Snapshot, snapshot};
use common::*;
use dax::pmem::{Pmem, RamPmem};
use fs::{Backing, Fs, fsck, mkfs};

/// Bytes of the test region.
const REGION: u64 = 512 << 10;
/// One state of so many is crashed again during its recovery.
const AGAIN: u64 = 401;
/// One state of so many gets one more operation, crashed too.
const MORE: u64 = 409;
/// One state of so many is checked by fsck.
const FSCK: u64 = 5;
/// One state of so many is written to.
const WRITE: u64 = 13;

/// What was tried.
#[derive(Debug, Default)]
struct Figures {
    workloads: u64,
    points: u64,
    states: u64,
    again: u64,
    capped: u64,
    most_fences: u64,
}

struct Explorer {
    backing: Backing,
    base: Vec<u64>,
    model: Model,
    figures: Figures,
}

/// What a crash may leave.
struct Allowed<'a> {
    before: &'a Snapshot,
    after: &'a Snapshot,
    /// The operation changes content in place.
    data: bool,
}

impl Allowed<'_> {
    fn admits(&self, got: &Snapshot) -> bool {
        got == self.before || got == self.after || (self.data && self.mixed(got))
    }

    /// An operation on content changes no name; each file is as before, or a mixture.
    fn mixed(&self, got: &Snapshot) -> bool {
        got.len() == self.before.len()
            && got.iter().all(|(path, found)| {
                let (before, after) = (self.before.get(path), self.after.get(path));
                before
                    .zip(after)
                    .is_some_and(|(a, b)| found == a || mixture(a, b, found))
            })
    }
}

/// Whether each aligned 8 bytes are old or new (zeroes behind an end), and the size lies between both.
fn mixture(a: &Entry, b: &Entry, got: &Entry) -> bool {
    let size = got.data.len();
    let word = |data: &[u8], at: usize| -> [u8; 8] {
        let byte = |i: usize| data.get(at + i).filter(|_| at + i < size);
        std::array::from_fn(|i| byte(i).copied().unwrap_or(0))
    };
    let same = |at: usize| {
        let found = word(&got.data, at);
        found == word(&a.data, at) || found == word(&b.data, at)
    };
    let sizes = a.data.len()..=b.data.len().max(a.data.len());
    sizes.contains(&size) && got.nlink == a.nlink && (0..size).step_by(8).all(same)
}

fn setup() -> Vec<Op> {
    let s = String::from;
    vec![
        Op::Mkdir(s("/A")),
        Op::Mkdir(s("/B")),
        Op::Create(s("/A/foo")),
        Op::Write(s("/A/foo"), 0, 9000, 1),
        Op::Create(s("/bar")),
        Op::Write(s("/bar"), 0, 700, 2),
        Op::Mkdir(s("/A/sub")),
        Op::Link(s("/bar"), s("/A/bar2")),
        // Directories that were used have blocks to lose.
        Op::Create(s("/A/sub/x")),
        Op::Unlink(s("/A/sub/x")),
        Op::Create(s("/B/x")),
        Op::Unlink(s("/B/x")),
    ]
}

impl Explorer {
    fn new() -> Self {
        let ram = Arc::new(RamPmem::new(REGION).expect("memory"));
        mkfs(&ram, &options()).expect("mkfs");
        let backing = backing(REGION);
        let fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
        let mut model = Model::default();
        // Something that was freed, so that new blocks are not zero by chance.
        let dirt = Op::Write("/dirt".into(), 0, 200_000, 77);
        for op in [Op::Create("/dirt".into()), dirt, Op::Unlink("/dirt".into())]
            .iter()
            .chain(&setup())
        {
            assert!(op.run(&fs) && model.run(op), "{op:?}");
        }
        assert!(fs.unmount().is_ok());
        let base = (0..REGION / 8)
            .map(|word| ram.load64(word * 8).expect("heap"))
            .collect();
        Self {
            backing,
            base,
            model,
            figures: Figures::default(),
        }
    }

    /// Mounts a state, walks it, checks it. Returns what was found.
    fn look<P: Pmem>(&self, p: P) -> Result<(Arc<Fs<P>>, Snapshot), String> {
        let fs = Fs::mount(p, self.backing.clone()).map_err(|error| error.to_string())?;
        let found = snapshot(&fs)?;
        Ok((fs, found))
    }

    /// Explores the crash points of the last operation of `ops`.
    fn explore(&mut self, ops: &[Op]) {
        let (last, first) = ops.split_last().expect("an operation");
        let trace = Arc::new(Trace::new(&self.base));
        let fs = Fs::mount(trace.clone(), self.backing.clone()).expect("mount");
        let mut model = self.model.clone();
        for op in first {
            assert_eq!(op.run(&fs), model.run(op), "{ops:?}");
        }
        let mut shadow = Shadow::new(&self.base);
        for event in trace.events() {
            shadow.apply(event);
        }
        self.figures.workloads += 1;
        self.step(
            &fs,
            &trace,
            &mut shadow,
            &mut model,
            last,
            &format!("{ops:?}"),
        );
    }

    /// Does one more operation and explores its crash points.
    fn step(
        &mut self,
        fs: &Fs<Arc<Trace>>,
        trace: &Trace,
        shadow: &mut Shadow,
        model: &mut Model,
        op: &Op,
        what: &str,
    ) {
        let mark = trace.mark();
        let before = model.snapshot();
        assert_eq!(op.run(fs), model.run(op), "{what}");
        let after = model.snapshot();
        let allowed = Allowed {
            before: &before,
            after: &after,
            data: op.is_data(),
        };
        let events = &trace.events()[mark..];
        self.events(shadow, events, &allowed, what);
        // What returned is durable.
        let done = Allowed {
            before: &after,
            after: &after,
            data: false,
        };
        self.point(shadow, true, &done, &format!("{what}, returned"));
        self.figures.capped += std::mem::take(&mut shadow.capped);
        let fences = events
            .iter()
            .filter(|event| matches!(event, Event::Fence))
            .count();
        self.figures.most_fences = self.figures.most_fences.max(fences as u64);
    }

    fn events(&mut self, shadow: &mut Shadow, events: &[Event], allowed: &Allowed<'_>, what: &str) {
        for event in events {
            if matches!(event, Event::Fence) {
                self.point(shadow, true, allowed, what);
            }
            shadow.apply(*event);
            // Past the caches nothing keeps order: a point at the end of each line is as good as eight.
            let line_ends = |word: u32| word % 8 == 7;
            if matches!(event, Event::Store(..))
                || matches!(event, Event::Nt(at, _) if line_ends(*at))
            {
                self.point(shadow, false, allowed, what);
            }
        }
    }

    fn point(&mut self, shadow: &mut Shadow, full: bool, allowed: &Allowed<'_>, what: &str) {
        self.figures.points += 1;
        let mut states = 0;
        let (mut again, mut more) = (Vec::new(), Vec::new());
        let seen = self.figures.states;
        shadow.states(full, |arena| {
            states += 1;
            let number = seen + states;
            if number.is_multiple_of(AGAIN) {
                again.push(arena.copy());
            }
            if number.is_multiple_of(MORE) {
                more.push(arena.copy());
            }
            self.check(arena, allowed, number, what);
        });
        self.figures.states += states;
        for words in again {
            self.crash_in_recovery(&words, allowed, what);
        }
        for words in more {
            self.crash_after_recovery(&words, what);
        }
    }

    fn check<P: Pmem + Clone>(&self, p: &P, allowed: &Allowed<'_>, number: u64, what: &str) {
        let (fs, found) = self
            .look(p.clone())
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        if !allowed.admits(&found) {
            let (before, after) = (allowed.before, allowed.after);
            panic!("{what}:\nbefore {before:#?}\nafter {after:#?}\nfound {found:#?}");
        }
        if number.is_multiple_of(FSCK) {
            let report = fsck(p);
            assert!(report.is_clean(), "{what}: {report}");
        }
        if number.is_multiple_of(WRITE) {
            self.still_works(&fs, what);
        }
    }

    /// The file system takes writes, and keeps them.
    fn still_works<P: Pmem>(&self, fs: &Fs<P>, what: &str) {
        let Ok(f) = fs.create("/after the crash", 0o644) else {
            panic!("{what}: no file can be made");
        };
        fs.write(&f, 100, &[0x77; 5000]).expect("write");
        assert_eq!(content(fs, "/after the crash")[..100], [0; 100], "{what}");
        drop(f);
        fs.unlink("/after the crash").expect("unlink");
    }

    /// Crashes the mount of a state at each of its own crash points.
    fn crash_in_recovery(&mut self, words: &[u64], allowed: &Allowed<'_>, what: &str) {
        let trace = Arc::new(Trace::new(words));
        drop(Fs::mount(trace.clone(), self.backing.clone()).expect("mounted before"));
        let mut shadow = Shadow::new(words);
        for event in trace.events() {
            if matches!(event, Event::Fence) {
                self.states_again(
                    &mut shadow,
                    allowed,
                    &format!("{what}, crashed again in recovery"),
                );
            }
            shadow.apply(event);
        }
    }

    fn states_again(&mut self, shadow: &mut Shadow, allowed: &Allowed<'_>, what: &str) {
        let mut states = 0;
        shadow.states(true, |arena| {
            states += 1;
            self.check(arena, allowed, states, what);
        });
        self.figures.again += states;
    }

    /// Recovers a state, does one operation, and crashes that.
    fn crash_after_recovery(&mut self, words: &[u64], what: &str) {
        let trace = Arc::new(Trace::new(words));
        let (fs, before) = self.look(trace.clone()).expect("mounted before");
        let mut shadow = Shadow::new(words);
        for event in trace.events() {
            shadow.apply(event);
        }
        let mark = trace.mark();
        assert!(fs.mkdir("/more", 0o755).is_ok(), "{what}");
        let after = snapshot(&fs).expect("walk");
        let allowed = Allowed {
            before: &before,
            after: &after,
            data: false,
        };
        for event in &trace.events()[mark..] {
            if matches!(event, Event::Fence) {
                self.states_again(
                    &mut shadow,
                    &allowed,
                    &format!("{what}, crash, mkdir /more, crash"),
                );
            }
            shadow.apply(*event);
        }
        let done = Allowed {
            before: &after,
            after: &after,
            data: false,
        };
        self.states_again(
            &mut shadow,
            &done,
            &format!("{what}, crash, mkdir /more, returned, crash"),
        );
    }
}

/// Single operations: every kind, over the tree of `setup`.
fn singles() -> Vec<Op> {
    let s = String::from;
    let long = format!("/B/{}", "l".repeat(60));
    let longest = format!("/A/{}", "m".repeat(255));
    let mut ops = vec![
        Op::Create(s("/new")),
        Op::Create(s("/B/new")),
        Op::Create(s("/A/foo")),
        Op::Create(long.clone()),
        Op::Create(longest.clone()),
        Op::Mkdir(s("/B/dir")),
        Op::Mkdir(s("/A/sub/dir")),
        Op::Rmdir(s("/B")),
        Op::Rmdir(s("/A/sub")),
        Op::Rmdir(s("/A")),
        Op::Unlink(s("/bar")),
        Op::Unlink(s("/A/bar2")),
        Op::Unlink(s("/A/foo")),
        Op::Link(s("/A/foo"), s("/B/foo")),
        Op::Link(s("/bar"), s("/third")),
        Op::Link(s("/bar"), long.clone()),
        Op::Rename(s("/bar"), s("/baz"), true),
        Op::Rename(s("/bar"), s("/B/baz"), true),
        Op::Rename(s("/bar"), s("/A/foo"), true),
        Op::Rename(s("/A/foo"), s("/bar"), true),
        Op::Rename(s("/A/foo"), s("/bar"), false),
        Op::Rename(s("/bar"), s("/A/bar2"), true),
        Op::Rename(s("/A/foo"), s("/A/bar2"), true),
        Op::Rename(s("/B"), s("/A/sub"), true),
        Op::Rename(s("/A/sub"), s("/B"), true),
        Op::Rename(s("/A/sub"), s("/B/moved"), true),
        Op::Rename(s("/A"), s("/B/A"), true),
        Op::Rename(s("/A"), s("/A/sub/A"), true),
        Op::Rename(s("/bar"), long, true),
        Op::Rename(s("/B"), longest, true),
    ];
    for (off, len) in [
        (0, 8),
        (0, 4096),
        (4090, 12),
        (8999, 1),
        (9000, 100),
        (9001, 9000),
        (20_000, 5000),
        (0, 12_288),
        (100, 30_000),
    ] {
        ops.push(Op::Write(s("/A/foo"), off, len, 9));
    }
    for size in [0, 1, 4096, 5000, 8192, 9000, 12_288, 40_000] {
        ops.push(Op::Truncate(s("/A/foo"), size));
    }
    for (off, len) in [(0, 4096), (100, 50), (100, 8000), (4096, 100_000)] {
        ops.push(Op::Punch(s("/A/foo"), off, len));
    }
    for (off, len, zeroed) in [
        (0, 9000, true),
        (4096, 40_000, true),
        (4096, 40_000, false),
        (100_000, 5000, false),
    ] {
        ops.push(Op::Fallocate(s("/A/foo"), off, len, zeroed));
    }
    ops
}

#[test]
fn one_operation() {
    let mut explorer = Explorer::new();
    for op in singles() {
        explorer.explore(&[op]);
    }
    println!("one operation: {:?}", explorer.figures);
}

/// Pairs: each of these after each.
fn pair_ops() -> Vec<Op> {
    let s = String::from;
    vec![
        Op::Create(s("/new")),
        Op::Unlink(s("/A/foo")),
        Op::Unlink(s("/bar")),
        Op::Rename(s("/A/foo"), s("/bar"), true),
        Op::Rename(s("/A/sub"), s("/B"), true),
        Op::Mkdir(s("/B/dir")),
        Op::Rmdir(s("/A/sub")),
        Op::Link(s("/A/foo"), s("/new")),
        Op::Write(s("/A/foo"), 8999, 300, 5),
        Op::Write(s("/A/foo"), 20_000, 5000, 6),
        Op::Write(s("/new"), 0, 6000, 7),
        Op::Truncate(s("/A/foo"), 5000),
        Op::Truncate(s("/A/foo"), 0),
        Op::Truncate(s("/A/foo"), 30_000),
        Op::Punch(s("/A/foo"), 0, 5000),
        Op::Fallocate(s("/A/foo"), 4096, 20_000, false),
    ]
}

#[test]
fn two_operations() {
    let mut explorer = Explorer::new();
    for first in pair_ops() {
        for second in pair_ops() {
            explorer.explore(&[first.clone(), second]);
        }
    }
    println!("two operations: {:?}", explorer.figures);
}

#[test]
fn many_operations() {
    let mut explorer = Explorer::new();
    let ops = singles();
    for seed in 0..6u64 {
        let trace = Arc::new(Trace::new(&explorer.base));
        let fs = Fs::mount(trace.clone(), explorer.backing.clone()).expect("mount");
        let mut shadow = Shadow::new(&explorer.base);
        for event in trace.events() {
            shadow.apply(event);
        }
        let mut model = explorer.model.clone();
        let mut random = seed * 2 + 1;
        for step in 0..40 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let op = &ops[(random >> 33) as usize % ops.len()];
            let what = format!("seed {seed}, step {step}: {op:?}");
            explorer.step(&fs, &trace, &mut shadow, &mut model, op, &what);
        }
        explorer.figures.workloads += 1;
    }
    println!("many operations: {:?}", explorer.figures);
}
