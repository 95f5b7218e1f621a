//! A region whose stores can all be taken back, and which knows where they went.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dax::pmem::{MediaError, Pmem};

use super::words;

pub struct Undo {
    words: Vec<AtomicU64>,
    log: Mutex<Vec<(usize, u64)>>,
}

impl Undo {
    pub fn new(words: &[u64]) -> Self {
        Self {
            words: words.iter().map(|word| AtomicU64::new(*word)).collect(),
            log: Mutex::default(),
        }
    }

    /// Stores a word; `at` counts words.
    pub fn put(&self, at: usize, value: u64) {
        let old = self.words[at].swap(value, Relaxed);
        self.log.lock().expect("one thread").push((at, old));
    }

    /// Takes all stores back.
    pub fn undo(&self) {
        for (at, old) in self.log.lock().expect("one thread").drain(..).rev() {
            self.words[at].store(old, Relaxed);
        }
    }

    /// The words that were stored to.
    pub fn touched(&self) -> Vec<usize> {
        let log = self.log.lock().expect("one thread");
        log.iter().map(|(at, _)| *at).collect()
    }

    fn word(&self, at: usize) -> u64 {
        self.words[at].load(Relaxed)
    }
}

impl Pmem for Undo {
    fn len(&self) -> u64 {
        self.words.len() as u64 * 8
    }
    fn writable(&self) -> bool {
        true
    }
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<(), MediaError> {
        words::read(off, buf, |at| self.word(at));
        Ok(())
    }
    fn load64(&self, off: u64) -> Result<u64, MediaError> {
        Ok(self.word(off as usize / 8))
    }
    fn store64(&self, off: u64, v: u64) {
        self.put(off as usize / 8, v);
    }
    fn store(&self, off: u64, data: &[u8]) {
        words::store(off, data, |at| self.word(at), |at, word| self.put(at, word));
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
