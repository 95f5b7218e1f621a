//! A region as large as the format allows, whose pages exist when something is stored in them.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dax::pmem::{MediaError, Pmem};

const PAGE: u64 = 4096;

/// The region; it counts fences and what is stored past the caches.
pub struct Sparse {
    len: u64,
    pages: Mutex<HashMap<u64, Box<[u8; PAGE as usize]>>>,
    pub fences: AtomicU64,
    pub streamed: AtomicU64,
}

impl Sparse {
    pub fn new(len: u64) -> Self {
        Self {
            len,
            pages: Mutex::default(),
            fences: AtomicU64::new(0),
            streamed: AtomicU64::new(0),
        }
    }

    /// Pages that exist.
    pub fn pages(&self) -> usize {
        self.pages.lock().expect("sound").len()
    }

    /// Calls `each` with the place in the buffer, the page and the place in it, for each page of a range.
    fn pieces(&self, off: u64, len: u64, mut each: impl FnMut(u64, u64, u64, u64)) {
        assert!(off + len <= self.len, "{len} bytes at {off:#x}");
        let mut at = off;
        while at < off + len {
            let n = (PAGE - at % PAGE).min(off + len - at);
            each(at - off, at / PAGE, at % PAGE, n);
            at += n;
        }
    }
}

impl Pmem for Sparse {
    fn len(&self) -> u64 {
        self.len
    }
    fn writable(&self) -> bool {
        true
    }
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<(), MediaError> {
        let pages = self.pages.lock().expect("sound");
        self.pieces(off, buf.len() as u64, |place, page, within, n| {
            let to = &mut buf[place as usize..][..n as usize];
            match pages.get(&page) {
                Some(bytes) => to.copy_from_slice(&bytes[within as usize..][..n as usize]),
                None => to.fill(0),
            }
        });
        Ok(())
    }
    fn load64(&self, off: u64) -> Result<u64, MediaError> {
        let mut word = [0; 8];
        self.read(off, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }
    fn store64(&self, off: u64, v: u64) {
        self.store(off, &v.to_le_bytes());
    }
    fn store(&self, off: u64, data: &[u8]) {
        let mut pages = self.pages.lock().expect("sound");
        self.pieces(off, data.len() as u64, |place, page, within, n| {
            let bytes = pages
                .entry(page)
                .or_insert_with(|| Box::new([0; PAGE as usize]));
            bytes[within as usize..][..n as usize]
                .copy_from_slice(&data[place as usize..][..n as usize]);
        });
    }
    fn copy_nt(&self, off: u64, data: &[u8]) {
        self.streamed.fetch_add(data.len() as u64, Relaxed);
        self.store(off, data);
    }
    fn zero_nt(&self, off: u64, len: u64) {
        self.streamed.fetch_add(len, Relaxed);
        let mut pages = self.pages.lock().expect("sound");
        self.pieces(off, len, |_, page, within, n| {
            if n == PAGE {
                pages.remove(&page);
            } else if let Some(bytes) = pages.get_mut(&page) {
                bytes[within as usize..][..n as usize].fill(0);
            }
        });
    }
    fn flush(&self, _off: u64, _len: u64) {}
    fn fence(&self) {
        self.fences.fetch_add(1, Relaxed);
    }
}
