//! What the CPUs count: interrupts between them, translations dropped, switches.
//!
//! Each counter is written by its own CPU and read by everybody, as a figure for the eye or for a benchmark that has made the machine
//! quiet: Relaxed everywhere.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::MAX_CPUS;

/// The counters of one CPU.
#[repr(align(128))]
pub struct Stats {
    ipis: AtomicU64,
    shootdowns: AtomicU64,
    pages: AtomicU64,
    full: AtomicU64,
    lazy: AtomicU64,
    steals: AtomicU64,
    switches: AtomicU64,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Interrupts sent from CPU to CPU.
    pub ipis_sent: u64,
    /// Rounds of such interrupts that asked others to drop translations or to pass a point of quiescence.
    pub shootdowns: u64,
    /// Pages whose translation was dropped one by one, counted on each CPU that did.
    pub pages_flushed: u64,
    /// Times that a CPU dropped all its translations at the request of a flush.
    pub full_flushes: u64,
    /// Idle CPUs that a flush did not interrupt.
    pub lazy_skipped: u64,
    /// Threads that an idle CPU took from another's queue.
    pub steals: u64,
    /// Switches from thread to thread, idle ones included.
    pub switches: u64,
}

static STATS: [Stats; MAX_CPUS] = [const {
    Stats {
        ipis: AtomicU64::new(0),
        shootdowns: AtomicU64::new(0),
        pages: AtomicU64::new(0),
        full: AtomicU64::new(0),
        lazy: AtomicU64::new(0),
        steals: AtomicU64::new(0),
        switches: AtomicU64::new(0),
    }
}; MAX_CPUS];

/// The counters of the CPU with `index`.
pub(crate) fn of(index: usize) -> &'static Stats {
    &STATS[index]
}

impl Stats {
    pub(crate) fn ipi(&self) {
        self.ipis.fetch_add(1, Relaxed);
    }

    pub(crate) fn shootdown(&self) {
        self.shootdowns.fetch_add(1, Relaxed);
    }

    pub(crate) fn pages(&self, count: u64) {
        self.pages.fetch_add(count, Relaxed);
    }

    pub(crate) fn full(&self) {
        self.full.fetch_add(1, Relaxed);
    }

    pub(crate) fn lazy(&self) {
        self.lazy.fetch_add(1, Relaxed);
    }

    pub(crate) fn steal(&self) {
        self.steals.fetch_add(1, Relaxed);
    }

    pub(crate) fn switch(&self) {
        self.switches.fetch_add(1, Relaxed);
    }

    /// The counts of this CPU.
    pub fn read(&self) -> Totals {
        Totals {
            ipis_sent: self.ipis.load(Relaxed),
            shootdowns: self.shootdowns.load(Relaxed),
            pages_flushed: self.pages.load(Relaxed),
            full_flushes: self.full.load(Relaxed),
            lazy_skipped: self.lazy.load(Relaxed),
            steals: self.steals.load(Relaxed),
            switches: self.switches.load(Relaxed),
        }
    }
}

/// The counts of all CPUs together.
pub fn totals() -> Totals {
    STATS
        .iter()
        .map(Stats::read)
        .fold(Totals::default(), |a, b| Totals {
            ipis_sent: a.ipis_sent + b.ipis_sent,
            shootdowns: a.shootdowns + b.shootdowns,
            pages_flushed: a.pages_flushed + b.pages_flushed,
            full_flushes: a.full_flushes + b.full_flushes,
            lazy_skipped: a.lazy_skipped + b.lazy_skipped,
            steals: a.steals + b.steals,
            switches: a.switches + b.switches,
        })
}
