//! A region that may only be read.

use std::sync::Arc;

use dax::pmem::{MediaError, Pmem, RamPmem};

/// Stores to it are an error of the file system.
pub struct Unarmed(pub Arc<RamPmem>);

impl Pmem for Unarmed {
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn writable(&self) -> bool {
        false
    }
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<(), MediaError> {
        self.0.read(off, buf)
    }
    fn load64(&self, off: u64) -> Result<u64, MediaError> {
        self.0.load64(off)
    }
    fn store64(&self, off: u64, _: u64) {
        panic!("store to {off:#x}");
    }
    fn store(&self, off: u64, _: &[u8]) {
        panic!("store to {off:#x}");
    }
    fn copy_nt(&self, off: u64, _: &[u8]) {
        panic!("store to {off:#x}");
    }
    fn zero_nt(&self, off: u64, _: u64) {
        panic!("store to {off:#x}");
    }
    fn flush(&self, _: u64, _: u64) {}
    fn fence(&self) {}
}
