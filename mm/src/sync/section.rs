//! Sections with interrupts off, where there are no interrupts: on the host and in the models.
//!
//! On the machine, an interrupt that every CPU answers waits for all sections under way: [`crate::tlb::Tlb`] promises that.
//! Here each section is counted, and [`wait_for_sections`] waits for the counts.
//!
//! | section | waiter |
//! |---|---|
//! | 1. reads the side in use, adds 1 to its count (AcqRel) | a. changes the side in use |
//! | 2. ... | b. reads the count of the side left by a read-modify-write (AcqRel) until it is 0 |
//! | 3. subtracts 1 (Release) | c. the same for the other side |
//!
//! A count has one order of changes. If 1 comes before b in it, b sees the section and waits until 3, and what the section did
//! happens before what the waiter does next. If 1 comes after b, it reads what b left, and what the waiter did before
//! happens before the section: it is a new one. The two sides only keep new sections from holding a waiter for ever. Both are
//! waited for, so it does not matter on which a section counted itself.

use super::atomic::{AtomicU64, Ordering};
use super::runtime::runtime;

static SIDE: AtomicU64 = AtomicU64::new(0);
static UNDER_WAY: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// A section under way; it ends with this value.
pub(super) struct Section {
    side: usize,
}

impl Section {
    pub(super) fn begin() -> Self {
        // Relaxed: either side will do.
        let side = (SIDE.load(Ordering::Relaxed) & 1) as usize;
        // AcqRel: partner is the read-modify-write in `wait_for`, whichever comes first.
        UNDER_WAY[side].fetch_add(1, Ordering::AcqRel);
        runtime().held().count_section(1);
        Self { side }
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        runtime().held().count_section(-1);
        // Release: partner is the Acquire half in `wait_for`.
        UNDER_WAY[self.side].fetch_sub(1, Ordering::Release);
    }
}

/// Whether the calling thread is inside a section with interrupts off.
pub fn in_section() -> bool {
    runtime().held().in_section()
}

/// Returns when every section with interrupts off (`irq_off`) that was under way at the call has ended. Debug builds panic
/// when the caller is inside one: it would wait for itself.
#[track_caller]
pub fn wait_for_sections() {
    debug_assert!(
        !in_section(),
        "waiting for sections with interrupts off from inside one"
    );
    for _ in 0..2 {
        // Relaxed: either side will do.
        let left = SIDE.fetch_xor(1, Ordering::Relaxed) & 1;
        wait_for(&UNDER_WAY[left as usize]);
    }
}

fn wait_for(count: &AtomicU64) {
    // A read-modify-write, so that it has a place in the order of the count's changes (module head).
    while count.fetch_add(0, Ordering::AcqRel) != 0 {
        relax();
    }
}

fn relax() {
    #[cfg(not(any(loom, shuttle)))]
    std::thread::yield_now();
    #[cfg(any(loom, shuttle))]
    super::model::yield_now();
}
