//! What gup did so far, counted per batch: the hot loops count nothing.

use crate::sync::atomic::{AtomicU64, Ordering};

/// Totals since the start, over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GupStats {
    /// Stretches of entries that were pinned without a lock, each under one table and with interrupts off once.
    pub fast_stretches: u64,
    /// Pages pinned by them.
    pub fast_pages: u64,
    /// Times the lock-free walk gave up and the locks were taken.
    pub slow: u64,
    /// Pages pinned under the lock.
    pub slow_pages: u64,
    /// Re-readings that found an entry, or the list of mappings, changed.
    pub reread_failures: u64,
    /// Pages whose pins were undone for that.
    pub undone_pages: u64,
}

/// One CPU's counters, on a cache line of their own.
#[repr(align(64))]
struct Counters([AtomicU64; 6]);

const SHARDS: usize = 16;

static COUNTERS: [Counters; SHARDS] =
    [const { Counters([const { AtomicU64::new(0) }; 6]) }; SHARDS];

/// Adds `n` and `m` to two of this CPU's counters.
fn add(what: usize, n: u64, also: usize, m: u64) {
    let mine = &COUNTERS[crate::sync::runtime().cpu() % SHARDS].0;
    // Relaxed, both: statistics.
    mine[what].fetch_add(n, Ordering::Relaxed);
    mine[also].fetch_add(m, Ordering::Relaxed);
}

pub(super) fn fast(pages: u64) {
    add(0, 1, 1, pages);
}

pub(super) fn slow() {
    add(2, 1, 3, 0);
}

pub(super) fn slow_pages(pages: u64) {
    add(2, 0, 3, pages);
}

pub(super) fn undone(pages: u64) {
    add(4, 1, 5, pages);
}

/// What gup did so far. Exact when nobody pins meanwhile.
pub fn stats() -> GupStats {
    let total = |what: usize| {
        // Relaxed: a statistic.
        let one = |c: &Counters| c.0[what].load(Ordering::Relaxed);
        COUNTERS.iter().map(one).sum()
    };
    GupStats {
        fast_stretches: total(0),
        fast_pages: total(1),
        slow: total(2),
        slow_pages: total(3),
        reread_failures: total(4),
        undone_pages: total(5),
    }
}
