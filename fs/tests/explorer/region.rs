//! A region of persistent memory that keeps notes, and whose stores can be taken back to any mark.
//!
//! One thread uses a region at a time; atomics stand in for cells, all relaxed.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};

use dax::pmem::{MediaError, Pmem};

use crate::common::words;

/// What was done to the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A cached store of one word: its number, its value.
    Store(u32, u64),
    /// A store of one word past the caches.
    Nt(u32, u64),
    /// Write-back of lines, first and last.
    Flush(u32, u32),
    /// A fence.
    Fence,
}

/// What was done, and by which CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub cpu: u8,
    pub what: What,
}

/// Stores that can be taken back, at most.
const UNDO: usize = 1 << 21;

/// The region.
pub struct Region {
    words: Vec<AtomicU64>,
    /// Place and old value of each store since the beginning.
    undo: Vec<[AtomicU64; 2]>,
    depth: AtomicUsize,
    /// Hash of all words, relative to the first image.
    all: AtomicU64,
    /// The same without the words of `ring`.
    image: AtomicU64,
    ring: Range<usize>,
    cpu: AtomicU8,
    recording: AtomicBool,
    events: Mutex<Vec<Event>>,
}

fn mix(at: usize, value: u64) -> u64 {
    let mut x = value ^ (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

impl Region {
    /// A region with that content; `ring`: the words of the record ring.
    pub fn new(words: &[u64], ring: Range<usize>) -> Self {
        let undo = words.len().saturating_mul(16).clamp(1 << 16, UNDO);
        Self {
            words: words.iter().map(|word| AtomicU64::new(*word)).collect(),
            undo: (0..undo).map(|_| Default::default()).collect(),
            depth: AtomicUsize::new(0),
            all: AtomicU64::new(0),
            image: AtomicU64::new(0),
            ring,
            cpu: AtomicU8::new(0),
            recording: AtomicBool::new(false),
            events: Mutex::default(),
        }
    }

    /// A word.
    pub fn get(&self, at: usize) -> u64 {
        self.words[at].load(Relaxed)
    }

    /// All words.
    pub fn copy(&self) -> Vec<u64> {
        self.words.iter().map(|word| word.load(Relaxed)).collect()
    }

    /// Stores a word, without a note.
    pub fn put(&self, at: usize, value: u64) {
        let old = self.get(at);
        if old == value {
            return;
        }
        let depth = self.depth.load(Relaxed);
        let [place, was] = &self.undo[depth];
        place.store(at as u64, Relaxed);
        was.store(old, Relaxed);
        self.depth.store(depth + 1, Relaxed);
        self.set(at, old, value);
    }

    fn set(&self, at: usize, old: u64, value: u64) {
        self.words[at].store(value, Relaxed);
        let change = mix(at, old) ^ mix(at, value);
        self.all.store(self.all.load(Relaxed) ^ change, Relaxed);
        if !self.ring.contains(&at) {
            self.image.store(self.image.load(Relaxed) ^ change, Relaxed);
        }
    }

    /// Where to go back to.
    pub fn mark(&self) -> usize {
        self.depth.load(Relaxed)
    }

    /// Takes back all stores since `mark`.
    pub fn undo_to(&self, mark: usize) {
        for depth in (mark..self.mark()).rev() {
            let [place, was] = &self.undo[depth];
            let at = place.load(Relaxed) as usize;
            self.set(at, self.get(at), was.load(Relaxed));
        }
        self.depth.store(mark, Relaxed);
    }

    /// Tells two contents apart.
    pub fn all_hash(&self) -> u64 {
        self.all.load(Relaxed)
    }

    /// Tells two contents apart, but for the record ring.
    pub fn image_hash(&self) -> u64 {
        self.image.load(Relaxed)
    }

    /// What follows is done by `cpu`.
    pub fn on_cpu(&self, cpu: u8) {
        self.cpu.store(cpu, Relaxed);
    }

    /// Begins to take notes.
    pub fn record(&self) {
        self.events.lock().expect("one thread").clear();
        self.recording.store(true, Relaxed);
    }

    /// The notes so far, taken out.
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().expect("one thread"))
    }

    /// Ends taking notes.
    pub fn stop(&self) -> Vec<Event> {
        self.recording.store(false, Relaxed);
        self.take_events()
    }

    fn note(&self, what: What) {
        if self.recording.load(Relaxed) {
            let cpu = self.cpu.load(Relaxed);
            let mut events = self.events.lock().expect("one thread");
            events.push(Event { cpu, what });
        }
    }

    fn store_word(&self, nt: bool, at: usize, value: u64) {
        self.put(at, value);
        let word = at as u32;
        self.note(if nt {
            What::Nt(word, value)
        } else {
            What::Store(word, value)
        });
    }

    /// Cuts a store of bytes into words, merging at the edges.
    fn store_bytes(&self, nt: bool, off: u64, data: &[u8]) {
        let put = |at, word| self.store_word(nt, at, word);
        words::store(off, data, |at| self.get(at), put);
    }
}

impl Pmem for Region {
    fn len(&self) -> u64 {
        self.words.len() as u64 * 8
    }
    fn writable(&self) -> bool {
        true
    }
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<(), MediaError> {
        words::read(off, buf, |at| self.get(at));
        Ok(())
    }
    fn load64(&self, off: u64) -> Result<u64, MediaError> {
        Ok(self.get(off as usize / 8))
    }
    fn store64(&self, off: u64, v: u64) {
        self.store_word(false, off as usize / 8, v);
    }
    fn store(&self, off: u64, data: &[u8]) {
        self.store_bytes(false, off, data);
    }
    fn copy_nt(&self, off: u64, data: &[u8]) {
        self.store_bytes(true, off, data);
    }
    fn zero_nt(&self, off: u64, len: u64) {
        self.store_bytes(true, off, &vec![0; len as usize]);
    }
    fn flush(&self, off: u64, len: u64) {
        if len > 0 {
            let (first, last) = (off / 64, (off + len - 1) / 64);
            self.note(What::Flush(first as u32, last as u32));
        }
    }
    fn fence(&self) {
        self.note(What::Fence);
    }
}
