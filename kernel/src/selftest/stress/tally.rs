//! What happened how often, what could have happened, and the verdict.

use core::sync::atomic::{AtomicU64, Ordering};

/// What a machine and a run must have for an event to be possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// A second CPU.
    Cpus,
    /// More than one address space.
    Spaces,
    /// A disk that can be written.
    Disk,
}

/// What a machine and a run have.
#[derive(Clone, Copy, Debug)]
pub struct Has {
    /// CPUs that run.
    pub cpus: usize,
    /// Address spaces.
    pub spaces: usize,
    /// A disk that can be written.
    pub disk: bool,
}

impl Has {
    /// Why an event that needs `needs` cannot happen here; `None` when it can.
    #[must_use]
    pub fn lacks(&self, needs: Needs) -> Option<&'static str> {
        let (has, lack) = match needs {
            Needs::Nothing => (true, ""),
            Needs::Cpus => (self.cpus > 1, "cannot happen on one CPU"),
            Needs::Spaces => (
                self.spaces > 1 && self.cpus > 1,
                "needs two CPUs and two address spaces",
            ),
            Needs::Disk => (self.disk, "needs a disk that can be written"),
        };
        (!has).then_some(lack)
    }
}

macro_rules! counts {
    ($($count:ident = $name:literal, $needs:ident;)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Count {
            $(#[doc = $name] $count,)*
        }

        impl Count {
            /// All, in the order of the report.
            pub const ALL: &'static [Count] = &[$(Count::$count,)*];

            /// Its name: a promise to programs.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Count::$count => $name,)*
                }
            }

            /// What it needs.
            #[must_use]
            pub const fn needs(self) -> Needs {
                match self {
                    $(Count::$count => Needs::$needs,)*
                }
            }
        }
    };
}

counts! {
    Loads = "loads", Nothing;
    Stores = "stores", Nothing;
    Faults4K = "faults_4k", Nothing;
    Faults2M = "faults_2m", Nothing;
    Watched = "watched_truncates", Nothing;
    FaultsDelayed = "faults_delayed", Nothing;
    PinsFast = "pins_fast", Nothing;
    PinsSlow = "pins_slow", Nothing;
    PinsHeld = "pins_checked", Nothing;
    SecondPins = "second_pins", Nothing;
    DmaReads = "dma_reads", Disk;
    DmaWrites = "dma_writes", Disk;
    Writes = "writes", Nothing;
    Reads = "reads", Nothing;
    Syncs = "syncs", Nothing;
    CutsAtOnce = "truncates_not_waited", Nothing;
    CutsWaited = "truncates_waited", Nothing;
    Punches = "punches", Nothing;
    WouldBlock = "would_block", Nothing;
    TimedOut = "timeouts", Nothing;
    Unlinks = "unlinks", Nothing;
    UnlinksPinned = "unlinks_of_pinned", Nothing;
    Orphans = "orphans_finished", Nothing;
    Evictions = "evictions", Nothing;
    Reused = "blocks_reused", Nothing;
    ReusedWaited = "reused_after_wait", Nothing;
    NoSpace = "no_space", Nothing;
    Removals = "removals", Nothing;
    Gone = "refused_by_removal", Nothing;
    Zaps = "zaps", Nothing;
    Flushes = "flushes", Nothing;
    Ipis = "shootdown_ipis", Cpus;
    Lazy = "lazy_flushes", Spaces;
    Steals = "steals", Cpus;
    Switches = "switches", Nothing;
}

/// Counters that all workers share.
pub struct Tally([AtomicU64; Count::ALL.len()]);

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

impl Tally {
    /// All 0.
    #[must_use]
    pub const fn new() -> Self {
        Tally([const { AtomicU64::new(0) }; Count::ALL.len()])
    }

    /// Counts one.
    pub fn one(&self, count: Count) {
        self.add(count, 1);
    }

    /// Counts `n`.
    pub fn add(&self, count: Count, n: u64) {
        // Relaxed, as below: numbers for a report that is made when the workers have ended.
        self.0[count as usize].fetch_add(n, Ordering::Relaxed);
    }

    /// Takes over what somebody else has counted.
    pub fn set(&self, count: Count, n: u64) {
        self.0[count as usize].store(n, Ordering::Relaxed);
    }

    /// How many.
    #[must_use]
    pub fn get(&self, count: Count) -> u64 {
        self.0[count as usize].load(Ordering::Relaxed)
    }

    /// What could have happened here and never did.
    pub fn missing(&self, has: Has) -> impl Iterator<Item = Count> + '_ {
        let zero = |c: &Count| self.get(*c) == 0;
        let all = Count::ALL.iter().copied();
        all.filter(zero)
            .filter(move |c| has.lacks(c.needs()).is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE_CPU: Has = Has {
        cpus: 1,
        spaces: 1,
        disk: false,
    };

    #[test]
    fn what_never_happened_is_missing_if_it_could_have() {
        let tally = Tally::new();
        for &count in Count::ALL {
            if count != Count::Ipis && count != Count::Loads {
                tally.add(count, 3);
            }
        }
        let missing = |has| tally.missing(has).collect::<Vec<_>>();
        assert_eq!(missing(ONE_CPU), [Count::Loads]);
        assert_eq!(
            missing(Has { cpus: 2, ..ONE_CPU }),
            [Count::Loads, Count::Ipis]
        );
        tally.one(Count::Loads);
        assert_eq!(tally.get(Count::Loads), 1);
        assert!(missing(ONE_CPU).is_empty());
    }

    #[test]
    fn each_lack_is_named() {
        let lack = |count: Count| ONE_CPU.lacks(count.needs());
        assert!(lack(Count::Ipis).is_some_and(|why| why.contains("one CPU")));
        assert!(lack(Count::Lazy).is_some_and(|why| why.contains("address spaces")));
        assert!(lack(Count::DmaReads).is_some_and(|why| why.contains("disk")));
        assert_eq!(lack(Count::Loads), None);
    }

    #[test]
    fn names_differ() {
        let mut names: Vec<_> = Count::ALL.iter().map(|c| c.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Count::ALL.len());
    }
}
