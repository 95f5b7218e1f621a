//! What was tried, in numbers.

use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

/// Counts of one worker, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Sequences of operations.
    pub workloads: u64,
    /// Stores, flushes and fences at which a crash was tried.
    pub points: u64,
    /// Crash states of the operations, each counted once for an operation.
    pub states: u64,
    /// States of crashes during the recovery of a final state, and during the recovery after that.
    pub again: [u64; 2],
    /// States of crashes of one more operation after a recovery.
    pub more: u64,
    /// Mounts and walks: images that were new to their worker.
    pub walks: u64,
    /// Of these, images that were known, walked again.
    pub trusted: u64,
    /// Images checked by fsck.
    pub checked: u64,
    /// States written to after their mount.
    pub written: u64,
    /// Points at which more than ten units were in flight.
    pub capped: u64,
    /// The most units in flight at a fence.
    pub most: u64,
    /// The most fences of an operation.
    pub fences: u64,
    /// States that should not be.
    pub violations: u64,
}

impl AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.workloads += other.workloads;
        self.points += other.points;
        self.states += other.states;
        self.again[0] += other.again[0];
        self.again[1] += other.again[1];
        self.more += other.more;
        self.walks += other.walks;
        self.trusted += other.trusted;
        self.checked += other.checked;
        self.written += other.written;
        self.capped += other.capped;
        self.most = self.most.max(other.most);
        self.fences = self.fences.max(other.fences);
        self.violations += other.violations;
    }
}

impl Figures {
    /// All states.
    pub const fn all(&self) -> u64 {
        self.states + self.again[0] + self.again[1] + self.more
    }

    /// One line, with the speed.
    pub fn line(&self, name: &str, time: Duration) -> String {
        let seconds = time.as_secs_f64().max(0.001);
        let speed = self.all() as f64 / seconds;
        format!("{name}: {self}; {seconds:.1} s, {speed:.0} states/s")
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} workloads, {} crash points, {} states, {} violations",
            self.workloads, self.points, self.states, self.violations
        )?;
        if self.again[0] > 0 {
            write!(f, ", {} in recovery", self.again[0])?;
        }
        if self.again[1] > 0 {
            write!(f, ", {} in the recovery after that", self.again[1])?;
        }
        if self.more > 0 {
            write!(f, ", {} one operation later", self.more)?;
        }
        write!(
            f,
            "; {} walked ({} known ones again), {} by fsck, {} written to; at most {} units in flight, cap hit {} times, at most {} fences",
            self.walks,
            self.trusted,
            self.checked,
            self.written,
            self.most,
            self.capped,
            self.fences
        )
    }
}
