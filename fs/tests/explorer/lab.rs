//! One worker: runs a workload, crashes it at every point of its last operation, and judges each state.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use fs::commit::{Media, recover};
use fs::layout::Geometry;
use fs::{Backing, Fs, fsck};

use super::act::Act;
use super::figures::Figures;
use super::flight::Flight;
use super::region::{Event, Region, What};
use super::states::{CAP, Depth, company, parts, subsets};
use super::tree::Tree;
use super::worlds::World;
use crate::common::model::Model;
use crate::common::{UUID, backing};

/// One known image of so many is mounted and walked again.
pub const TRUST: u64 = 509;
/// One walked image of so many is checked by fsck.
const FSCK: u64 = 6;
/// One walked image of so many is written to.
const WRITE: u64 = 12;
/// One state within an operation of so many is crashed again in its recovery, unless the plan says otherwise.
pub const TORN: u64 = 307;
/// Words of a quarter of a block.
const QUARTER: u32 = 128;
/// Images remembered; beyond, the memory begins anew.
const REMEMBER: usize = 1 << 20;

/// What a worker does besides crashing the operations.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub depth: Depth,
    /// How often a crash is followed by one during the recovery from it: 0 to 2.
    pub recovery: u8,
    /// Then one state within an operation of so many is crashed in its recovery too, once.
    pub torn: u64,
    /// Each state recovers, does one more operation, and crashes in that.
    pub more: bool,
}

/// A hash for keys that are hashes.
#[derive(Default)]
pub struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _bytes: &[u8]) {}
    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

type Keys = HashSet<u64, BuildHasherDefault<Same>>;
type Memory<V> = HashMap<u64, V, BuildHasherDefault<Same>>;

/// What a crash may leave.
pub struct Allowed {
    pub before: Arc<Tree>,
    pub after: Arc<Tree>,
    prints: [u64; 2],
    /// The operation changes content piece by piece.
    data: bool,
    /// Fingerprints of mixtures that were found and are allowed.
    mixtures: Keys,
    /// States that were looked at.
    seen: Keys,
    /// For messages.
    pub what: String,
}

impl Allowed {
    pub fn new(before: &Arc<Tree>, after: &Arc<Tree>, data: bool, what: String) -> Self {
        Self {
            before: before.clone(),
            after: after.clone(),
            prints: [before.fingerprint(), after.fingerprint()],
            data,
            mixtures: Keys::default(),
            seen: Keys::default(),
            what,
        }
    }

    /// The same, of states not looked at yet.
    pub fn again(&self, what: String) -> Self {
        Self::new(&self.before, &self.after, self.data, what)
    }

    /// Only that one tree.
    pub fn only(tree: &Arc<Tree>, what: String) -> Self {
        Self::new(tree, tree, false, what)
    }
}

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// The time is the number of the operation.
pub fn now() -> u64 {
    NOW.get()
}

/// What is done with a state that was found good, while it is in the region; whether all its units arrived whole or not at all.
pub type Each<'a> = &'a mut dyn FnMut(&mut Lab, &mut Allowed, bool);

/// A file system in use; for a moment none, while it is mounted again.
pub struct Live(Option<Arc<Fs<Arc<Region>>>>);

impl Deref for Live {
    type Target = Fs<Arc<Region>>;

    fn deref(&self) -> &Self::Target {
        self.0.as_ref().expect("mounted")
    }
}

/// One operation as it was run.
pub struct Stage {
    pub events: Vec<Event>,
    pub before: Arc<Tree>,
    pub after: Arc<Tree>,
}

/// The worker.
pub struct Lab {
    pub world: Arc<World>,
    pub region: Arc<Region>,
    pub backing: Backing,
    pub plan: Plan,
    geometry: Geometry,
    /// Image hash → fingerprint of what was walked.
    known: Memory<u64>,
    pub figures: Figures,
    /// The first violation.
    pub found: Option<String>,
    number: u64,
}

impl Lab {
    pub fn new(world: &Arc<World>, plan: Plan) -> Self {
        let backing = backing(world.base.len() as u64 * 8);
        let ring = 3 * 512..(world.geometry.inode_block() * 512) as usize;
        Self {
            region: Arc::new(Region::new(&world.base, ring)),
            backing,
            plan,
            geometry: world.geometry,
            known: Memory::default(),
            figures: Figures::default(),
            found: None,
            number: 0,
            world: world.clone(),
        }
    }

    /// Runs a workload and explores the crash points of its last operation.
    pub fn run(&mut self, sequence: &[usize]) {
        let world = self.world.clone();
        let acts: Vec<&Act> = sequence.iter().map(|i| &world.acts[*i]).collect();
        let what = format!("{acts:?}");
        self.run_acts(&acts, &what);
    }

    /// The same, of operations by themselves.
    pub fn run_acts(&mut self, acts: &[&Act], what: &str) {
        self.figures.workloads += 1;
        let Some((earlier, stage)) = self.live(acts, what) else {
            return;
        };
        let data = acts.last().expect("an operation").is_data();
        let mut flight = Flight::default();
        for event in earlier {
            flight.apply(event, &self.region);
        }
        self.stage(&mut flight, &stage, data, what);
        self.region.undo_to(0);
    }

    /// The events of the last of these operations.
    pub fn last_events(&mut self, acts: &[&Act]) -> Option<Vec<Event>> {
        let (_, stage) = self.live(acts, "events")?;
        Some(stage.events)
    }

    /// Does all operations, alternately on two CPUs, and takes it back; the events of the last are kept apart.
    fn live(&mut self, acts: &[&Act], what: &str) -> Option<(Vec<Event>, Stage)> {
        let region = self.region.clone();
        region.on_cpu(0);
        region.record();
        let mut fs = self.mount_live();
        let mut model = self.world.model.clone();
        let (last, first) = acts.split_last()?;
        for (step, act) in first.iter().enumerate() {
            self.act(&mut fs, &mut model, act, step, what);
        }
        self.needs(&mut fs, &mut model, last, first.len(), what);
        let earlier = region.take_events();
        let before = Arc::new(self.walk(&fs, what));
        self.act_alone(&mut fs, &mut model, last, first.len(), what);
        let events = region.stop();
        let after = Arc::new(self.walk(&fs, what));
        self.same_as_model(&after, &model, what);
        drop(fs);
        region.undo_to(0);
        Some((
            earlier,
            Stage {
                events,
                before,
                after,
            },
        ))
    }

    fn mount_live(&self) -> Live {
        let fs = Fs::mount(self.region.clone(), self.backing.clone()).expect("a sound base");
        fs.set_clock(now);
        Live(Some(fs))
    }

    fn act(&mut self, fs: &mut Live, model: &mut Model, act: &Act, step: usize, what: &str) {
        self.needs(fs, model, act, step, what);
        self.act_alone(fs, model, act, step, what);
    }

    /// What the operation depends on comes to be first.
    fn needs(&mut self, fs: &mut Live, model: &mut Model, act: &Act, step: usize, what: &str) {
        for need in self.world.needs(model, act) {
            self.act_alone(fs, model, &need, step, what);
        }
    }

    fn act_alone(&mut self, fs: &mut Live, model: &mut Model, act: &Act, step: usize, what: &str) {
        self.region.on_cpu((step % 2) as u8);
        NOW.set(1000 + step as u64);
        let done = match act {
            Act::Remount => self.remount(fs),
            _ => act.run(fs),
        };
        let expected = act.model(model);
        if done != expected {
            self.violation(&format!(
                "{what}: {act:?} ended with {done}, the model with {expected}"
            ));
        }
    }

    /// Unmounts and mounts. The old one is gone before the new one comes.
    fn remount(&self, fs: &mut Live) -> bool {
        let old = fs.0.take().expect("mounted");
        let gone = old.unmount().is_ok();
        *fs = self.mount_live();
        gone
    }

    fn walk(&mut self, fs: &Fs<Arc<Region>>, what: &str) -> Tree {
        Tree::walk(fs).unwrap_or_else(|error| {
            self.violation(&format!("{what}, no crash: {error}"));
            Tree::default()
        })
    }

    fn same_as_model(&mut self, tree: &Tree, model: &Model, what: &str) {
        let expected = model.snapshot();
        let same = tree.0.len() == expected.len()
            && tree.0.iter().zip(&expected).all(|((a, node), (b, entry))| {
                a == b
                    && node.kind == entry.kind
                    && node.mode & 0o7777 == entry.mode
                    && node.nlink == entry.nlink
                    && node.owner == (entry.uid, entry.gid, entry.rdev)
                    && node.data == entry.data
            });
        if !same {
            self.violation(&format!(
                "{what}, no crash:\nfound {tree:#?}\nmodel {expected:#?}"
            ));
        }
    }

    /// Explores the crash points of one operation; `flight`: what the ones before left.
    fn stage(&mut self, flight: &mut Flight, stage: &Stage, data: bool, what: &str) {
        let mut allowed = Allowed::new(&stage.before, &stage.after, data, what.into());
        let Plan {
            depth,
            recovery,
            torn,
            more,
        } = self.plan;
        let each: Each<'_> = &mut |lab, allowed, whole| {
            lab.figures.states += 1;
            if more && whole {
                lab.one_more(allowed);
            }
            if recovery > 0 && lab.number.is_multiple_of(torn) {
                lab.crash_unfinished(allowed);
            }
        };
        self.events(flight, &stage.events, &mut allowed, depth, each);
        let fences = stage.events.iter().filter(|e| e.what == What::Fence);
        self.figures.fences = self.figures.fences.max(fences.count() as u64);
        // What returned is durable.
        let mut done = Allowed::only(&stage.after, format!("{what}, returned"));
        let each: Each<'_> = &mut |lab, allowed, whole| {
            lab.figures.states += 1;
            if whole {
                lab.crash_in_recovery(recovery, allowed);
            }
        };
        self.at_fence(flight, &mut done, depth.min(Depth::Normal), each);
    }

    /// Explores events. `each` is called for each state that was judged and found good, while it is in the region.
    pub fn events(
        &mut self,
        flight: &mut Flight,
        events: &[Event],
        allowed: &mut Allowed,
        depth: Depth,
        each: Each<'_>,
    ) {
        for event in events {
            self.figures.points += 1;
            if event.what == What::Fence {
                self.at_fence(flight, allowed, depth, each);
            }
            let region = self.region.clone();
            flight.apply(*event, &region);
            match event.what {
                What::Store(at, _) => self.at_store(flight, at / 8, allowed, depth, each),
                // Past the caches nothing keeps order: a point at each quarter of a block.
                What::Nt(at, _) if at % QUARTER == QUARTER - 1 => {
                    self.at_store(flight, at / 8, allowed, Depth::Thin, each);
                }
                _ => {}
            }
        }
    }

    /// The states that this very store makes possible: its line as it is now, with any of the others.
    fn at_store(
        &mut self,
        flight: &Flight,
        line: u32,
        allowed: &mut Allowed,
        depth: Depth,
        each: Each<'_>,
    ) {
        if depth == Depth::Bare {
            return;
        }
        let units = flight.units(&self.region, CAP);
        let here = |unit: &super::flight::Unit| {
            unit.line == line || unit.order.is_empty() && unit.words.iter().any(|w| w.0 / 8 == line)
        };
        let Some(index) = units.iter().position(here) else {
            return;
        };
        let joined = units[index].order.is_empty();
        if joined && line % (QUARTER / 8) != QUARTER / 8 - 1 {
            return;
        }
        let masks = if depth == Depth::Thin || joined {
            vec![u64::MAX >> (64 - units.len().min(64)), 1 << index]
        } else {
            self.masks(units.len(), 1 << index)
        };
        for mask in masks {
            self.state(&units, mask, &[], allowed, each);
        }
    }

    fn masks(&mut self, n: usize, must: u64) -> Vec<u64> {
        let (masks, capped) = subsets(n, must, self.number);
        self.figures.capped += u64::from(capped);
        masks
    }

    /// All that a crash right now may leave.
    pub fn at_fence(
        &mut self,
        flight: &Flight,
        allowed: &mut Allowed,
        depth: Depth,
        each: Each<'_>,
    ) {
        let units = flight.units(&self.region, CAP);
        self.figures.most = self.figures.most.max(units.len() as u64);
        for mask in self.masks(units.len(), 0) {
            self.state(&units, mask, &[], allowed, each);
        }
        if depth == Depth::Bare {
            return;
        }
        for (index, unit) in units.iter().enumerate().take(64) {
            for part in parts(unit) {
                for mask in company(index, units.len(), depth) {
                    self.state(&units, mask, &part, allowed, each);
                }
            }
        }
    }

    /// Puts a state into the region, judges it, takes it back.
    fn state(
        &mut self,
        units: &[super::flight::Unit],
        mask: u64,
        part: &[(u32, u64)],
        allowed: &mut Allowed,
        each: Each<'_>,
    ) {
        let mark = self.region.mark();
        let chosen = units.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1);
        let words = chosen.flat_map(|(_, unit)| &unit.words).chain(part);
        for (at, value) in words {
            self.region.put(*at as usize, *value);
        }
        if allowed.seen.insert(self.region.all_hash()) && self.judge(allowed) {
            each(self, allowed, part.is_empty());
        }
        self.region.undo_to(mark);
    }

    /// Whether the state in the region is one of the allowed.
    fn judge(&mut self, allowed: &mut Allowed) -> bool {
        self.number += 1;
        let mark = self.region.mark();
        let recovered = recover(&Media::new(&*self.region), &self.geometry, &UUID);
        let key = self.region.image_hash();
        self.region.undo_to(mark);
        if let Err(error) = recovered {
            self.violation(&format!("{}: {error}", allowed.what));
            return false;
        }
        let known = self.known.get(&key).copied();
        let trusted = !self.number.is_multiple_of(TRUST);
        let (print, tree) = match known {
            Some(print) if trusted => (print, None),
            _ => match self.look(key) {
                Ok(tree) => (tree.fingerprint(), Some(tree)),
                Err(error) => {
                    self.violation(&format!("{}: {error}", allowed.what));
                    return false;
                }
            },
        };
        self.remember(key, print, known, allowed);
        if allowed.prints.contains(&print) || allowed.mixtures.contains(&print) {
            return true;
        }
        self.judge_mixture(print, tree, allowed)
    }

    fn remember(&mut self, key: u64, print: u64, known: Option<u64>, allowed: &Allowed) {
        if known.is_some_and(|known| known != print) {
            let what = &allowed.what;
            self.violation(&format!("{what}: one image was found to be two trees"));
        }
        if self.known.len() >= REMEMBER {
            self.known.clear();
        }
        self.known.insert(key, print);
        self.figures.trusted += u64::from(known.is_some() && self.number.is_multiple_of(TRUST));
    }

    fn judge_mixture(&mut self, print: u64, tree: Option<Tree>, allowed: &mut Allowed) -> bool {
        let tree = match tree.map_or_else(|| self.look(1), Ok) {
            Ok(tree) => tree,
            Err(error) => {
                self.violation(&format!("{}: {error}", allowed.what));
                return false;
            }
        };
        if allowed.data && tree.is_mixture(&allowed.before, &allowed.after) {
            allowed.mixtures.insert(print);
            return true;
        }
        let (before, after, what) = (&allowed.before, &allowed.after, &allowed.what);
        self.violation(&format!(
            "{what}:\nbefore {before:#?}\nafter {after:#?}\nfound {tree:#?}"
        ));
        false
    }

    /// Mounts the state, walks it; checks it and writes to it if its number says so. Takes all back.
    fn look(&mut self, key: u64) -> Result<Tree, String> {
        self.figures.walks += 1;
        let mark = self.region.mark();
        let looked = self.look_inside(key);
        self.region.undo_to(mark);
        looked
    }

    fn look_inside(&mut self, key: u64) -> Result<Tree, String> {
        if key.is_multiple_of(FSCK) {
            self.figures.checked += 1;
            let report = fsck(&*self.region);
            if !report.is_clean() {
                return Err(format!("fsck: {report}"));
            }
        }
        let mounted = Fs::mount(self.region.clone(), self.backing.clone());
        let fs = mounted.map_err(|error| error.to_string())?;
        let tree = Tree::walk(&fs)?;
        if key.is_multiple_of(WRITE) {
            self.figures.written += 1;
            still_works(&fs)?;
        }
        Ok(tree)
    }

    pub fn violation(&mut self, text: &str) {
        self.figures.violations += 1;
        self.found.get_or_insert_with(|| text.to_string());
    }
}

/// The file system takes changes, and keeps them.
fn still_works(fs: &Fs<Arc<Region>>) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("after the mount: {what}"));
    let Ok(dir) = fs.mkdir("/after the crash", 0o755) else {
        return wrong("no directory can be made");
    };
    let Ok(f) = fs.create("/after the crash/f", 0o644) else {
        return wrong("no file can be made");
    };
    if fs.write(&f, 100, &[0x77; 5000]).is_err() {
        return wrong("no write");
    }
    let mut buf = [1; 5100];
    if fs.read(&f, 0, &mut buf) != Ok(5100) || buf[..100] != [0; 100] || buf[100..] != [0x77; 5000]
    {
        return wrong("what was written is not what is read");
    }
    drop((f, dir));
    if fs.unlink("/after the crash/f").is_err() || fs.rmdir("/after the crash").is_err() {
        return wrong("nothing can be removed");
    }
    Tree::walk(fs).map(drop)
}
