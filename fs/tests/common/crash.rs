//! Crashes: a recorder for what a file system does to its region, and every state that a power failure could leave behind.
//!
//! [`Trace`] is a region that notes each store, flush and fence. [`Shadow`] replays the notes against a durable image: a store waits in
//! its line, a fence retires what was flushed before it. At any point the lines in flight may each have arrived or not:
//! [`Shadow::states`] enumerates all subsets (up to [`CAP`] units; beyond, all of at most two, and their complements), and tears each line after
//! each of its stores. A state is patched into an [`Arena`], looked at, and undone.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dax::pmem::{MediaError, Pmem};

/// Most units in flight whose subsets are all enumerated.
pub const CAP: usize = 10;

/// What the file system did.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A cached store of one word.
    Store(u32, u64),
    /// A store of one word past the caches.
    Nt(u32, u64),
    /// Write-back of lines.
    Flush(u32, u32),
    /// A fence.
    Fence,
}

/// Words that are stored to by `on`, for both regions below.
struct Words(Vec<AtomicU64>);

impl Words {
    fn of(words: &[u64]) -> Self {
        Self(words.iter().map(|word| AtomicU64::new(*word)).collect())
    }

    fn get(&self, at: usize) -> u64 {
        self.0[at].load(Relaxed)
    }

    fn copy(&self) -> Vec<u64> {
        self.0.iter().map(|word| word.load(Relaxed)).collect()
    }

    fn read(&self, off: u64, buf: &mut [u8]) {
        for (at, byte) in (off as usize..).zip(buf) {
            *byte = self.get(at / 8).to_le_bytes()[at % 8];
        }
    }

    /// Cuts a store of bytes into words, merging at the edges.
    fn split(&self, off: u64, data: &[u8], mut store: impl FnMut(usize, u64)) {
        let mut at = off as usize;
        let mut data = data;
        while !data.is_empty() {
            let (word, from) = (at / 8, at % 8);
            let n = (8 - from).min(data.len());
            let mut bytes = self.get(word).to_le_bytes();
            bytes[from..from + n].copy_from_slice(&data[..n]);
            store(word, u64::from_le_bytes(bytes));
            (at, data) = (at + n, &data[n..]);
        }
    }
}

/// A region that keeps notes.
pub struct Trace {
    words: Words,
    events: Mutex<Vec<Event>>,
}

impl Trace {
    pub fn new(words: &[u64]) -> Self {
        Self {
            words: Words::of(words),
            events: Mutex::default(),
        }
    }

    /// How many events so far.
    pub fn mark(&self) -> usize {
        self.events.lock().expect("one thread").len()
    }

    pub fn events(&self) -> Vec<Event> {
        self.events.lock().expect("one thread").clone()
    }

    pub fn copy(&self) -> Vec<u64> {
        self.words.copy()
    }

    fn note(&self, event: Event) {
        self.events.lock().expect("one thread").push(event);
    }

    fn put(&self, nt: bool, at: usize, value: u64) {
        self.words.0[at].store(value, Relaxed);
        let at = at as u32;
        self.note(if nt {
            Event::Nt(at, value)
        } else {
            Event::Store(at, value)
        });
    }
}

impl Pmem for Trace {
    fn len(&self) -> u64 {
        self.words.0.len() as u64 * 8
    }
    fn writable(&self) -> bool {
        true
    }
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<(), MediaError> {
        self.words.read(off, buf);
        Ok(())
    }
    fn load64(&self, off: u64) -> Result<u64, MediaError> {
        Ok(self.words.get(off as usize / 8))
    }
    fn store64(&self, off: u64, v: u64) {
        self.put(false, off as usize / 8, v);
    }
    fn store(&self, off: u64, data: &[u8]) {
        self.words
            .split(off, data, |at, value| self.put(false, at, value));
    }
    fn copy_nt(&self, off: u64, data: &[u8]) {
        self.words
            .split(off, data, |at, value| self.put(true, at, value));
    }
    fn zero_nt(&self, off: u64, len: u64) {
        self.copy_nt(off, &vec![0; len as usize]);
    }
    fn flush(&self, off: u64, len: u64) {
        if len > 0 {
            self.note(Event::Flush(
                (off / 64) as u32,
                ((off + len - 1) / 64) as u32,
            ));
        }
    }
    fn fence(&self) {
        self.note(Event::Fence);
    }
}

/// A region whose stores can all be taken back.
pub struct Arena {
    words: Words,
    undo: Mutex<Vec<(usize, u64)>>,
}

impl Arena {
    pub fn new(words: &[u64]) -> Self {
        Self {
            words: Words::of(words),
            undo: Mutex::default(),
        }
    }

    fn put(&self, at: usize, value: u64) {
        let old = self.words.0[at].swap(value, Relaxed);
        self.undo.lock().expect("one thread").push((at, old));
    }

    pub fn patch(&self, words: &[(u32, u64)]) {
        for (at, value) in words {
            self.put(*at as usize, *value);
        }
    }

    pub fn undo(&self) {
        for (at, old) in self.undo.lock().expect("one thread").drain(..).rev() {
            self.words.0[at].store(old, Relaxed);
        }
    }

    /// Makes what was patched last part of the base.
    fn keep(&self) {
        self.undo.lock().expect("one thread").clear();
    }

    pub fn copy(&self) -> Vec<u64> {
        self.words.copy()
    }
}

impl Pmem for Arena {
    fn len(&self) -> u64 {
        self.words.0.len() as u64 * 8
    }
    fn writable(&self) -> bool {
        true
    }
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<(), MediaError> {
        self.words.read(off, buf);
        Ok(())
    }
    fn load64(&self, off: u64) -> Result<u64, MediaError> {
        Ok(self.words.get(off as usize / 8))
    }
    fn store64(&self, off: u64, v: u64) {
        self.put(off as usize / 8, v);
    }
    fn store(&self, off: u64, data: &[u8]) {
        self.words.split(off, data, |at, value| self.put(at, value));
    }
    fn copy_nt(&self, off: u64, data: &[u8]) {
        self.store(off, data);
    }
    fn zero_nt(&self, off: u64, len: u64) {
        self.store(off, &vec![0; len as usize]);
    }
    fn flush(&self, _off: u64, _len: u64) {}
    fn fence(&self) {}
}

/// Stores to one line that may not have arrived.
#[derive(Default)]
struct Line {
    stores: Vec<(u32, u64)>,
    /// How many of them the next fence makes durable.
    flushed: usize,
    nt: bool,
}

/// Stores that arrive together or not (a line; or the lines of a block, when written past the caches), and the ways in which they
/// may arrive in part.
struct Unit {
    all: Vec<(u32, u64)>,
    parts: Vec<Vec<(u32, u64)>>,
}

/// The durable image, and what is in flight.
pub struct Shadow {
    pub arena: std::sync::Arc<Arena>,
    lines: BTreeMap<u32, Line>,
    seen: HashSet<u64>,
    /// Points at which not all subsets were tried.
    pub capped: u64,
}

impl Shadow {
    pub fn new(words: &[u64]) -> Self {
        Self {
            arena: std::sync::Arc::new(Arena::new(words)),
            lines: BTreeMap::new(),
            seen: HashSet::new(),
            capped: 0,
        }
    }

    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Store(at, value) => self.line(at).stores.push((at, value)),
            Event::Nt(at, value) => {
                let line = self.line(at);
                line.stores.push((at, value));
                line.nt = true;
                line.flushed = line.stores.len();
            }
            Event::Flush(first, last) => {
                for (_, line) in self.lines.range_mut(first..=last) {
                    line.flushed = line.stores.len();
                }
            }
            Event::Fence => self.fence(),
        }
    }

    fn line(&mut self, word: u32) -> &mut Line {
        self.lines.entry(word / 8).or_default()
    }

    fn fence(&mut self) {
        for line in self.lines.values_mut() {
            let stays = line.stores.split_off(line.flushed);
            self.arena.patch(&line.stores);
            *line = Line {
                stores: stays,
                flushed: 0,
                nt: line.nt,
            };
        }
        self.arena.keep();
        self.lines.retain(|_, line| !line.stores.is_empty());
        self.seen.clear();
    }

    fn units(&self) -> Vec<Unit> {
        let mut units = Vec::new();
        let mut blocks: BTreeMap<u32, Vec<&Line>> = BTreeMap::new();
        for (number, line) in &self.lines {
            if line.nt {
                blocks.entry(number / 64).or_default().push(line);
                continue;
            }
            let parts = (1..line.stores.len())
                .map(|n| line.stores[..n].to_vec())
                .collect();
            units.push(Unit {
                all: line.stores.clone(),
                parts,
            });
        }
        for lines in blocks.values() {
            let join = |lines: &[&Line]| {
                lines
                    .iter()
                    .flat_map(|l| l.stores.clone())
                    .collect::<Vec<_>>()
            };
            let (a, b) = lines.split_at(lines.len() / 2);
            let odd: Vec<_> = join(lines).into_iter().step_by(2).collect();
            units.push(Unit {
                all: join(lines),
                parts: vec![join(a), join(b), odd],
            });
        }
        units
    }

    /// The states in which a crash right now may leave the region, each once: `look` sees each patched into the arena. Not `full`: only
    /// the states that need this very point, not those that the next fence shows too.
    pub fn states(&mut self, full: bool, mut look: impl FnMut(&std::sync::Arc<Arena>)) {
        let units = self.units();
        let mut tried = Vec::new();
        if full {
            self.subsets(units.len(), &mut tried);
        } else {
            tried.push((1u64 << units.len()) - 1);
        }
        for subset in tried {
            let chosen = units
                .iter()
                .enumerate()
                .filter(|(i, _)| subset >> i & 1 == 1);
            self.look(
                chosen.flat_map(|(_, unit)| unit.all.clone()).collect(),
                &mut look,
            );
        }
        if full {
            self.torn(&units, &mut look);
        }
    }

    fn subsets(&mut self, n: usize, tried: &mut Vec<u64>) {
        if n <= CAP {
            tried.extend(0..1u64 << n);
            return;
        }
        self.capped += 1;
        let all = (1u64 << n) - 1;
        for a in 0..n {
            for b in a..n {
                let two = 1u64 << a | 1 << b;
                tried.extend([two, all ^ two, 1 << a, all ^ 1 << a]);
            }
        }
        tried.extend([0, all]);
    }

    /// One line arrived in part; the others not at all, wholly, or as far as they were written before it.
    fn torn(&mut self, units: &[Unit], look: &mut impl FnMut(&std::sync::Arc<Arena>)) {
        for (index, unit) in units.iter().enumerate() {
            for part in &unit.parts {
                for others in [&units[..0], units, &units[..index], &units[index + 1..]] {
                    let rest = others.iter().filter(|other| !std::ptr::eq(*other, unit));
                    let mut patch: Vec<_> = rest.flat_map(|other| other.all.clone()).collect();
                    patch.extend(part);
                    self.look(patch, look);
                }
            }
        }
    }

    fn look(&mut self, patch: Vec<(u32, u64)>, look: &mut impl FnMut(&std::sync::Arc<Arena>)) {
        let mut last: Vec<(u32, u64)> = patch
            .iter()
            .copied()
            .collect::<BTreeMap<_, _>>()
            .into_iter()
            .collect();
        last.retain(|(at, value)| self.arena.words.get(*at as usize) != *value);
        let mut hasher = DefaultHasher::new();
        last.hash(&mut hasher);
        if self.seen.insert(hasher.finish()) {
            self.arena.patch(&last);
            look(&self.arena);
            self.arena.undo();
        }
    }
}
