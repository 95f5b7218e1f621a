//! Benchmarks: what one operation costs, in instructions where the machine counts them, else in time.
//!
//! Each benchmark is a function in [`BENCHES`] that makes its own ground, measures with [`Bed::measure`] or the counter itself, and
//! cleans up. It runs once to warm up (metadata populated, tables and heap grown), then once where instructions are counted, and five
//! times where it is time: the best and the worst are shown. What the clock's two readings cost is measured once and taken off.
//!
//! How QEMU counts instructions, and what the figures were: `docs/figures.md`.

mod bed;
mod clock;
mod cuts;
mod error;
mod faults;
mod files;
mod heap;
mod life;
mod maps;
mod pins;
mod sample;
mod team;
mod threads;

use alloc::string::String;
use alloc::sync::Arc;

use self::bed::{Bed, Grain, Gup};
use self::clock::{Clock, Unit};
pub use self::error::{BenchError, NoSuchBench};
use self::faults::Touch;
use self::sample::{Figure, Sample};
use crate::cpu;
use crate::machine::Fs;
use crate::shell::{CommandError, On, Out};
use mm::pgmap::{Counted, Sweep};

/// One benchmark.
pub struct Bench {
    /// Its name, from the general to the particular.
    pub name: &'static str,
    /// What one operation is.
    pub unit: &'static str,
    /// CPUs that it needs; with fewer it is left out.
    pub cpus: usize,
    run: fn(&Bed) -> Result<Sample, BenchError>,
}

const fn bench(
    name: &'static str,
    unit: &'static str,
    run: fn(&Bed) -> Result<Sample, BenchError>,
) -> Bench {
    smp(name, unit, 1, run)
}

const fn smp(
    name: &'static str,
    unit: &'static str,
    cpus: usize,
    run: fn(&Bed) -> Result<Sample, BenchError>,
) -> Bench {
    Bench {
        name,
        unit,
        cpus,
        run,
    }
}

use Grain::{Large, Small};

/// All of them, in the order in which they run.
pub const BENCHES: &[Bench] = &[
    bench("touch.mapped", "touch", faults::touch_mapped),
    bench("fault.read.4k.first", "fault", |b| {
        faults::first(b, Small, Touch::Load)
    }),
    bench("fault.read.4k.again", "fault", |b| {
        faults::again(b, Small, Touch::Load)
    }),
    bench("fault.write.4k.first", "fault", |b| {
        faults::first(b, Small, Touch::Store)
    }),
    bench("fault.write.4k.again", "fault", |b| {
        faults::again(b, Small, Touch::Store)
    }),
    bench("fault.upgrade.4k", "fault", |b| faults::upgrade(b, Small)),
    bench("fault.read.2m.first", "fault", |b| {
        faults::first(b, Large, Touch::Load)
    }),
    bench("fault.write.2m.first", "fault", |b| {
        faults::first(b, Large, Touch::Store)
    }),
    bench("fault.write.2m.again", "fault", |b| {
        faults::again(b, Large, Touch::Store)
    }),
    bench("gup.fast.4k.x1", "page", |b| {
        pins::pin(b, Gup::Fast, Small, 1)
    }),
    bench("gup.fast.4k.x16", "page", |b| {
        pins::pin(b, Gup::Fast, Small, 16)
    }),
    bench("gup.fast.4k.x64", "page", |b| {
        pins::pin(b, Gup::Fast, Small, 64)
    }),
    bench("gup.fast.4k.x256", "page", |b| {
        pins::pin(b, Gup::Fast, Small, 256)
    }),
    bench("gup.fast.4k.x512", "page", |b| {
        pins::pin(b, Gup::Fast, Small, 512)
    }),
    bench("gup.fast.2m.x512", "folio", |b| {
        pins::pin(b, Gup::Fast, Large, 512)
    }),
    bench("gup.slow.4k.x1", "page", |b| {
        pins::pin(b, Gup::Slow, Small, 1)
    }),
    bench("gup.slow.4k.x16", "page", |b| {
        pins::pin(b, Gup::Slow, Small, 16)
    }),
    bench("gup.slow.4k.x64", "page", |b| {
        pins::pin(b, Gup::Slow, Small, 64)
    }),
    bench("gup.slow.4k.x512", "page", |b| {
        pins::pin(b, Gup::Slow, Small, 512)
    }),
    bench("gup.slow.2m.x512", "folio", |b| {
        pins::pin(b, Gup::Slow, Large, 512)
    }),
    bench("unpin.4k.x1", "page", |b| pins::unpin(b, Small, 1)),
    bench("unpin.4k.x16", "page", |b| pins::unpin(b, Small, 16)),
    bench("unpin.4k.x64", "page", |b| pins::unpin(b, Small, 64)),
    bench("unpin.4k.x512", "page", |b| pins::unpin(b, Small, 512)),
    bench("unpin.2m.x512", "folio", |b| pins::unpin(b, Large, 512)),
    bench("zap.4k", "page", |b| cuts::zap(b, Small)),
    bench("zap.2m", "folio", |b| cuts::zap(b, Large)),
    bench("munmap.4k", "page", |b| cuts::munmap(b, Small)),
    bench("munmap.2m", "folio", |b| cuts::munmap(b, Large)),
    bench("break.never_mapped", "page", |b| {
        cuts::break_layouts(b, cuts::never_mapped)
    }),
    bench("break.was_mapped.4k", "page", |b| {
        cuts::break_layouts(b, cuts::was_mapped)
    }),
    bench("break.mapped.4k", "page", |b| {
        cuts::break_layouts(b, cuts::mapped_small)
    }),
    bench("break.mapped.2m", "page", |b| {
        cuts::break_layouts(b, cuts::mapped_large)
    }),
    bench("truncate.never_mapped", "page", |b| {
        cuts::truncate(b, cuts::never_mapped)
    }),
    bench("truncate.was_mapped.4k", "page", |b| {
        cuts::truncate(b, cuts::was_mapped)
    }),
    bench("truncate.mapped.4k", "page", |b| {
        cuts::truncate(b, cuts::mapped_small)
    }),
    bench("truncate.mapped.2m", "page", |b| {
        cuts::truncate(b, cuts::mapped_large)
    }),
    bench("life.sweep.get", "get", life::get::<Sweep>),
    bench("life.counted.get", "get", life::get::<Counted>),
    bench("life.sweep.put", "put", life::put::<Sweep>),
    bench("life.counted.put", "put", life::put::<Counted>),
    bench("life.sweep.remove", "page", life::remove::<Sweep>),
    bench("life.counted.remove", "page", life::remove::<Counted>),
    bench("pgmap.new.1g", "pgmap", |b| life::bring_up(b, 1)),
    bench("pgmap.new.512g", "pgmap", |b| life::bring_up(b, 512)),
    bench("mmap.with.0", "mmap", |b| maps::mmap(b, 0)),
    bench("mmap.with.1000", "mmap", |b| maps::mmap(b, 1_000)),
    bench("mmap.with.10000", "mmap", |b| maps::mmap(b, 10_000)),
    bench("munmap.with.0", "munmap", |b| maps::munmap(b, 0)),
    bench("munmap.with.1000", "munmap", |b| maps::munmap(b, 1_000)),
    bench("munmap.with.10000", "munmap", |b| maps::munmap(b, 10_000)),
    bench("heap.with.0", "pair", |b| heap::pairs(b, 0)),
    bench("heap.with.10000", "pair", |b| heap::pairs(b, 10_000)),
    bench("heap.with.10000.holes", "pair", |b| {
        heap::pairs_among_holes(b, 10_000)
    }),
    bench("switch.yield", "switch", threads::yields),
    bench("switch.park_unpark.one_cpu", "switch", threads::park_unpark),
    smp("fault.read.4k.cpus1", "fault", 1, |b| {
        team::faults(b, Small, Touch::Load, 1)
    }),
    smp("fault.read.4k.cpus2", "fault", 2, |b| {
        team::faults(b, Small, Touch::Load, 2)
    }),
    smp("fault.read.4k.cpus4", "fault", 4, |b| {
        team::faults(b, Small, Touch::Load, 4)
    }),
    smp("fault.write.4k.cpus1", "fault", 1, |b| {
        team::faults(b, Small, Touch::Store, 1)
    }),
    smp("fault.write.4k.cpus2", "fault", 2, |b| {
        team::faults(b, Small, Touch::Store, 2)
    }),
    smp("fault.write.4k.cpus4", "fault", 4, |b| {
        team::faults(b, Small, Touch::Store, 4)
    }),
    smp("fault.write.2m.cpus1", "fault", 1, |b| {
        team::faults(b, Large, Touch::Store, 1)
    }),
    smp("fault.write.2m.cpus2", "fault", 2, |b| {
        team::faults(b, Large, Touch::Store, 2)
    }),
    smp("fault.write.2m.cpus4", "fault", 4, |b| {
        team::faults(b, Large, Touch::Store, 4)
    }),
    smp("life.sweep.get_put.cpus1", "pair", 1, |b| {
        team::life::<Sweep>(b, 1)
    }),
    smp("life.sweep.get_put.cpus2", "pair", 2, |b| {
        team::life::<Sweep>(b, 2)
    }),
    smp("life.sweep.get_put.cpus4", "pair", 4, |b| {
        team::life::<Sweep>(b, 4)
    }),
    smp("life.counted.get_put.cpus1", "pair", 1, |b| {
        team::life::<Counted>(b, 1)
    }),
    smp("life.counted.get_put.cpus2", "pair", 2, |b| {
        team::life::<Counted>(b, 2)
    }),
    smp("life.counted.get_put.cpus4", "pair", 4, |b| {
        team::life::<Counted>(b, 4)
    }),
    smp("shootdown.cpus1", "flush", 1, |b| team::shootdown(b, 1)),
    smp("shootdown.cpus2", "flush", 2, |b| team::shootdown(b, 2)),
    smp("shootdown.cpus4", "flush", 4, |b| team::shootdown(b, 4)),
    smp(
        "switch.park_unpark.across",
        "switch",
        2,
        threads::park_unpark_across,
    ),
    bench("file.read.4k", "read", |b| files::read(b, 4 << 10)),
    bench("file.read.1m", "read", |b| files::read(b, 1 << 20)),
    bench("file.overwrite.4k", "write", |b| {
        files::overwrite(b, 4 << 10)
    }),
    bench("file.overwrite.1m", "write", |b| {
        files::overwrite(b, 1 << 20)
    }),
    bench("file.append.4k", "write", |b| files::append(b, 4 << 10)),
    bench("file.append.1m", "write", |b| files::append(b, 1 << 20)),
    bench("file.create_unlink", "file", files::create_unlink),
];

/// The benchmarks whose names contain one of the parts of `filter`, which commas separate.
pub fn matching(filter: &str) -> impl Iterator<Item = &'static Bench> {
    BENCHES
        .iter()
        .filter(move |b| filter.split(',').any(|part| b.name.contains(part)))
}

/// Runs the benchmarks that match `filter`, and reports each as soon as it is done.
///
/// # Errors
/// No name contains it; or a benchmark failed, after which none runs.
pub fn run(fs: Arc<Fs>, filter: &str, out: &Out) -> Result<(), CommandError> {
    let bed = Bed {
        fs,
        clock: Clock::new(),
    };
    let mut wanted = matching(filter).peekable();
    wanted.peek().ok_or(NoSuchBench).on(|| filter)?;
    out.heading(&protocol::bench::head());
    let mut possible = wanted.filter(|b| b.cpus <= cpu::online());
    possible.try_for_each(|bench| report(bench, &bed, out))
}

fn report(bench: &Bench, bed: &Bed, out: &Out) -> Result<(), CommandError> {
    let figure = figure(bench, bed).on(|| String::from(bench.name))?;
    let fields = figure.fields(bench.name, bench.unit, bed.clock.unit);
    let row = sample::row(&fields);
    out.say(fields, format_args!("{row}"));
    Ok(())
}

/// One run more than this warms up; instructions need no second opinion.
const fn runs(unit: Unit) -> usize {
    match unit {
        Unit::Instructions => 1,
        Unit::Time => 5,
    }
}

fn figure(bench: &Bench, bed: &Bed) -> Result<Figure, BenchError> {
    (bench.run)(bed)?;
    let first = Figure::of((bench.run)(bed)?);
    (1..runs(bed.clock.unit)).try_fold(first, |figure, _| Ok(figure.with((bench.run)(bed)?)))
}
