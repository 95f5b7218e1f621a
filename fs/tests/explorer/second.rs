//! Crashes after a crash: during the recovery, and in one more operation after it.

use std::sync::Arc;

use fs::Fs;
use fs::commit::{Media, recover};

use super::flight::Flight;
use super::lab::{Allowed, Each, Lab, now};
use super::states::Depth;
use super::tree::Tree;
use super::worlds::followers;
use crate::common::UUID;

impl Lab {
    /// Crashes the recovery of a state after the return, `levels` deep: the end is always the same.
    pub fn crash_in_recovery(&mut self, levels: u8, allowed: &mut Allowed) {
        if levels > 0 {
            let level = usize::from(self.plan.recovery - levels);
            let what = format!("{}, crashed in recovery", allowed.what);
            let mut same = Allowed::only(&allowed.after, what);
            // Where it is done twice, the first time is the thorough one.
            let depth = if levels == 2 {
                Depth::Thin
            } else {
                Depth::Bare
            };
            self.crash_recovery(depth, &mut same, &mut |lab, allowed, whole| {
                lab.figures.again[level] += 1;
                if whole {
                    lab.crash_in_recovery(levels - 1, allowed);
                }
            });
        }
    }

    /// Crashes the recovery of a state within an operation: the end is what a crash there may leave, now one and now another if a torn
    /// record is just being overwritten.
    pub fn crash_unfinished(&mut self, allowed: &Allowed) {
        let mut both = allowed.again(format!("{}, crashed in recovery", allowed.what));
        self.crash_recovery(Depth::Thin, &mut both, &mut |lab, _, _| {
            lab.figures.again[0] += 1;
        });
    }

    /// Crashes the recovery of the state in the region at each of its points; `allowed` is what any later recovery may find.
    pub fn crash_recovery(&mut self, depth: Depth, allowed: &mut Allowed, each: Each<'_>) {
        let mark = self.region.mark();
        self.region.on_cpu(0);
        self.region.record();
        let _ = recover(&Media::new(&*self.region), &self.world.geometry, &UUID);
        let events = self.region.stop();
        self.region.undo_to(mark);
        let mut flight = Flight::default();
        self.events(&mut flight, &events, allowed, depth, each);
        self.region.undo_to(mark);
    }

    /// Recovers the state in the region, does one more operation, and crashes that.
    pub fn one_more(&mut self, allowed: &Allowed) {
        let mark = self.region.mark();
        self.region.on_cpu(0);
        self.region.record();
        let Ok(fs) = Fs::mount(self.region.clone(), self.backing.clone()) else {
            return self.violation(&format!("{}: does not mount twice", allowed.what));
        };
        fs.set_clock(now);
        let mount = self.region.take_events();
        let before = Arc::new(Tree::walk(&fs).unwrap_or_default());
        self.region.on_cpu(1);
        let act = followers(self.figures.states);
        let done = act.run(&fs);
        let events = self.region.stop();
        let after = Arc::new(Tree::walk(&fs).unwrap_or_default());
        drop(fs);
        self.region.undo_to(mark);
        let what = format!("{}, crash, {act:?} ({done}), crash", allowed.what);
        let mut flight = Flight::default();
        for event in mount {
            flight.apply(event, &self.region);
        }
        let mut both = Allowed::new(&before, &after, act.is_data(), what.clone());
        let mut count = |lab: &mut Self, _: &mut Allowed, _| lab.figures.more += 1;
        self.events(&mut flight, &events, &mut both, Depth::Bare, &mut count);
        let mut done = Allowed::only(&after, format!("{what}, returned"));
        self.at_fence(&flight, &mut done, Depth::Bare, &mut count);
        self.region.undo_to(mark);
    }
}
