//! How a device outlives its pages: the gate of a pgmap, and three policies for it.
//!
//! The invariant: *once a pgmap is dead, no page of it has a non-zero count, nor ever will*. A page leaves 0 in one place only,
//! [`LifePolicy::get`], and only that place asks whether the pgmap is alive.
//!
//! # Sweep
//! Nothing counts the pages that are in use; removal looks at them. The race is between a first mapping and the removal:
//!
//! | first mapping | removal |
//! |---|---|
//! | 1. count: 0 → a claim (SeqCst) | a. state: Live → Dying (SeqCst) |
//! | 2. read state (SeqCst) | b. unmap everything |
//! | 3. Live: claim → 1 mapping; Dying: claim → 0 | c. read each count once, wait while it is not 0 (SeqCst) |
//!
//! All four accesses are in the single order of SeqCst operations. If 2 reads Live it precedes a, so 1 precedes c: the sweep
//! sees the claim, or the reference that it became, and waits. If 1 comes after c, 2 comes after a and reads Dying, and no
//! reference is granted. A claim reads as count 0 and cannot be pinned, so a claim that fails after the sweep has passed was
//! never a reference, not even for a moment: the invariant holds exactly, not "up to an undo". One pass suffices, because a
//! page that the sweep saw at 0 can never leave 0 again.
//!
//! A second mapper that meets a claim does not wait for the first (who may be off the processor): it joins, raising the
//! number of claimants, then reads the state itself. Whoever read Live after joining grants the claim for all who have joined:
//! its own part kept the claim above 0 from before that read until the grant, so a sweep after the kill cannot have passed.
//! (Granting without having joined would be wrong: between the read and the grant the claim seen may have been withdrawn,
//! the sweep may have passed, and another claim, made after it, would be granted.) Whoever reads Dying withdraws its own part.
//!
//! # Counted
//! The gate counts the pages in use: raised before a page leaves 0 (which fails once the gate is Dying), lowered after it came
//! back. Dying and the count share one word, so "Dying and 0" is final, and implies that every page is idle.
//!
//! # Legacy
//! The historical mistake, kept for teaching and as a test of the tests: the device is held only by pins. A page that is
//! merely mapped does not hold it, and nobody asks whether it lives. The suite must catch it.

use crate::page::{Overflow, PinError, RefCount};
use crate::sync::atomic::{AtomicU64, Ordering};
use thiserror::Error;

/// Why a mapping was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GetError {
    /// The pgmap is being removed.
    #[error("the device is going away")]
    Dying,
    /// The mapped half of the count is full.
    #[error("too many mappings of one page")]
    Overflow,
}

impl From<Overflow> for GetError {
    fn from(_: Overflow) -> Self {
        Self::Overflow
    }
}

/// Where a pgmap is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Pages can be mapped and pinned.
    Live,
    /// Removal has begun: no page leaves count 0 any more.
    Dying,
    /// No page has a count, nor ever will.
    Dead,
}

const DYING: u64 = 1 << 63;
const DEAD: u64 = 1 << 62;
const HELD: u64 = DEAD - 1;

/// The state of a pgmap and, for policies that count, its own references: one word.
#[derive(Debug, Default)]
pub struct Gate(AtomicU64);

impl Gate {
    /// A live gate that nothing holds.
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Where the pgmap is in its life.
    pub fn state(&self) -> State {
        match self.load() {
            word if word & DEAD != 0 => State::Dead,
            word if word & DYING != 0 => State::Dying,
            _ => State::Live,
        }
    }

    /// References that the policy's pages or pins hold; always 0 under Sweep.
    pub fn held(&self) -> u64 {
        self.load() & HELD
    }

    /// SeqCst: second half of the store-load pair of a first mapping with `kill` (module head).
    fn load(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Begins the removal; it cannot be taken back.
    pub fn kill(&self) {
        // SeqCst: step a of the module head, pairs with `load` in a first mapping.
        self.0.fetch_or(DYING, Ordering::SeqCst);
    }

    /// Ends the removal: every page is idle.
    pub(crate) fn bury(&self) {
        // Release pairs with `load`: who sees Dead sees what the removal did before.
        self.0.fetch_or(DEAD, Ordering::Release);
    }

    /// Takes `n` references unless the gate is dying.
    fn try_hold(&self, n: u64) -> bool {
        let more = |word: u64| (word & DYING == 0).then_some(word + n);
        // Acquire pairs with the Release in `release`.
        self.0
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, more)
            .is_ok()
    }

    /// Drops `n` references; returns whether none is left and a removal waits for that.
    fn release(&self, n: u64) -> bool {
        // AcqRel: what was done under the reference happens before the removal that sees 0 (`load`).
        let before = self.0.fetch_sub(n, Ordering::AcqRel);
        debug_assert!(before & HELD >= n, "pgmap reference underflow");
        before == DYING | n
    }
}

/// How a pgmap knows that its pages are idle. Chosen by type; the policies not chosen cost nothing.
pub trait LifePolicy: Send + Sync + Sized + 'static {
    /// What the policy is called.
    const NAME: &'static str;
    /// Whether removal must look at the pages themselves.
    const SWEEPS: bool;

    /// Whether [`LifePolicy::idle`] does anything.
    const COUNTS_IDLE: bool = false;

    /// Adds one mapping: the only place that takes a count from 0, and the only one that asks whether the pgmap is alive.
    fn get(gate: &Gate, refs: &RefCount) -> Result<(), GetError>;

    /// A count came back to 0. Returns whether a removal may now have come to its end.
    fn idle(_gate: &Gate) -> bool {
        false
    }

    /// `n` pins are about to be taken.
    fn pin(_gate: &Gate, _n: u32) -> Result<(), PinError> {
        Ok(())
    }

    /// `n` pins have been dropped, or were not taken after all. Returns as [`LifePolicy::idle`].
    fn unpin(_gate: &Gate, _n: u32) -> bool {
        false
    }
}

/// Nothing in the hot path; removal looks once at every populated page.
#[derive(Debug)]
pub enum Sweep {}

impl LifePolicy for Sweep {
    const NAME: &'static str = "sweep";
    const SWEEPS: bool = true;

    fn get(gate: &Gate, refs: &RefCount) -> Result<(), GetError> {
        if gate.state() != State::Live {
            return Err(GetError::Dying);
        }
        if refs.get_or_claim()? {
            return Ok(());
        }
        // Steps 2 and 3 of the module head.
        let live = gate.state() == State::Live;
        if refs.settle(live) {
            Ok(())
        } else {
            Err(GetError::Dying)
        }
    }
}

/// The gate counts pages in use: taken on 0 → 1, dropped on 1 → 0.
#[derive(Debug)]
pub enum Counted {}

impl LifePolicy for Counted {
    const NAME: &'static str = "counted";
    const SWEEPS: bool = false;
    const COUNTS_IDLE: bool = true;

    fn get(gate: &Gate, refs: &RefCount) -> Result<(), GetError> {
        loop {
            if gate.state() != State::Live {
                return Err(GetError::Dying);
            }
            if refs.get_mapped()? {
                return Ok(());
            }
            if !gate.try_hold(1) {
                return Err(GetError::Dying);
            }
            if refs.first_mapped() {
                return Ok(());
            }
            gate.release(1);
        }
    }

    fn idle(gate: &Gate) -> bool {
        gate.release(1)
    }
}

/// The historical mistake: only pins hold the device, and a mapping asks nobody. For teaching and for testing the tests.
#[derive(Debug)]
pub enum Legacy {}

impl LifePolicy for Legacy {
    const NAME: &'static str = "legacy";
    const SWEEPS: bool = false;

    fn get(_gate: &Gate, refs: &RefCount) -> Result<(), GetError> {
        while !refs.get_mapped()? {
            if refs.first_mapped() {
                break;
            }
        }
        Ok(())
    }

    fn pin(gate: &Gate, n: u32) -> Result<(), PinError> {
        if gate.try_hold(u64::from(n)) {
            Ok(())
        } else {
            Err(PinError::Dying)
        }
    }

    fn unpin(gate: &Gate, n: u32) -> bool {
        gate.release(u64::from(n))
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
