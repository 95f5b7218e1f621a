//! All sequences of operations up to a length; after every step of each operation, every crash.

use std::collections::HashSet;

use super::memory::{Image, Tearing};
use super::protocol::{Model, OPS, Op, Setup, View, recover, view};

/// How far to go.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub setup: Setup,
    pub tearing: Tearing,
    /// Operations of a sequence.
    pub depth: usize,
    /// Crash every recovery too.
    pub recovery: bool,
    /// After each first crash go on with sequences of that many operations, and crash those.
    pub again: usize,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    pub sequences: u64,
    pub states: u64,
    /// States of crashes in recovery.
    pub recoveries: u64,
    /// Different states from which was gone on, and the states of the crashes after that.
    pub reboots: u64,
    pub second: u64,
    /// The first sequence with a wrong state, and what was wrong.
    pub wrong: Option<(Vec<Op>, String)>,
}

struct Search {
    bounds: Bounds,
    found: Found,
    path: Vec<Op>,
    /// Images from which was gone on.
    rebooted: HashSet<Image>,
    /// It goes on after a first crash.
    second: bool,
}

/// Explores; ends at the first wrong state.
pub fn explore(bounds: Bounds) -> Found {
    let mut search = Search {
        bounds,
        found: Found::default(),
        path: Vec::new(),
        rebooted: HashSet::new(),
        second: false,
    };
    let model = Model::boot(bounds.setup, &bounds.setup.empty());
    search.sequences(&model, bounds.depth, 0);
    search.found
}

impl Search {
    fn sequences(&mut self, model: &Model, left: usize, number: u64) {
        if left == 0 || self.found.wrong.is_some() {
            return;
        }
        for op in OPS {
            let mut next = model.clone();
            let before = next.view;
            let Some(after) = next.run(op, number + 1) else {
                continue;
            };
            self.path.push(op);
            self.operation(&next, before, after);
            self.found.sequences += 1;
            next.view = after;
            self.sequences(&next, left - 1, number + 1);
            if self.found.wrong.is_some() {
                return;
            }
            self.path.pop();
        }
    }

    fn operation(&mut self, model: &Model, before: View, after: View) {
        let mut images = HashSet::new();
        let tearing = self.bounds.tearing;
        for step in &model.steps {
            step.crash(tearing, &mut |image| {
                if images.insert(image.clone()) {
                    self.judge(image, &[before, after]);
                }
            });
        }
        // What returned is durable.
        if let Some(last) = model.steps.last() {
            last.crash(tearing, &mut |image| self.judge(image, &[after]));
        }
        if !self.second && self.bounds.again > 0 {
            images.into_iter().for_each(|image| self.go_on(image));
        }
    }

    fn judge(&mut self, image: &Image, allowed: &[View]) {
        let count = if self.second {
            &mut self.found.second
        } else {
            &mut self.found.states
        };
        *count += 1;
        let (recovered, stores) = recover(&self.bounds.setup, image);
        let seen = view(&recovered);
        if !allowed.contains(&seen) {
            self.wrong(format!("{seen:?}, allowed are {allowed:?}"));
        }
        if self.bounds.recovery && !stores.is_empty() {
            self.crash_in_recovery(image, &stores, seen);
        }
    }

    fn wrong(&mut self, what: String) {
        let path = self.path.clone();
        self.found.wrong.get_or_insert((path, what));
    }

    /// Each cell that recovery stores to has any of its values.
    fn crash_in_recovery(&mut self, image: &Image, stores: &[(usize, u64)], expected: View) {
        let mut memory = super::memory::Memory::new(image.clone());
        for (cell, value) in stores {
            memory.store(*cell, 0, *value);
        }
        memory.crash(self.bounds.tearing, &mut |image| {
            self.found.recoveries += 1;
            let seen = view(&recover(&self.bounds.setup, image).0);
            if seen != expected {
                self.wrong(format!("a recovery cut off: {seen:?}, not {expected:?}"));
            }
        });
    }

    /// Recovers an image and goes on from there.
    fn go_on(&mut self, image: Image) {
        if self.found.wrong.is_some() || self.rebooted.contains(&image) {
            return;
        }
        self.found.reboots += 1;
        let model = Model::boot(self.bounds.setup, &image);
        self.rebooted.insert(image);
        self.second = true;
        self.sequences(&model, self.bounds.again, 100);
        self.second = false;
    }
}
