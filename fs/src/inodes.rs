//! Which inodes of the table are in use. Finding a free one takes a few steps, however many there are ([`Bits`]).

use mm::mem::OutOfMemory;

use crate::bits::Bits;
use crate::layout::Ino;

/// The free ones among the initialised inodes. One bit each, and a little for the summary.
#[derive(Debug, Default)]
pub struct InodeMap {
    free: Bits,
    in_use: u32,
}

impl InodeMap {
    /// Covers the first `initialised` inodes, all free; entry 0 is never free.
    pub fn new(initialised: u32) -> Result<Self, OutOfMemory> {
        let mut this = Self::default();
        this.grow(initialised)?;
        this.free.put(0, false);
        Ok(this)
    }

    /// Covers more; the new ones are free.
    pub fn grow(&mut self, initialised: u32) -> Result<(), OutOfMemory> {
        self.free.grow(initialised as usize, true)
    }

    /// Initialised inodes.
    #[must_use]
    pub const fn initialised(&self) -> u32 {
        self.free.room() as u32
    }

    /// Inodes in use.
    #[must_use]
    pub const fn in_use(&self) -> u32 {
        self.in_use
    }

    /// The lowest initialised inode that is free.
    #[must_use]
    pub fn vacancy(&self) -> Option<Ino> {
        self.free.first().map(|ino| ino as Ino)
    }

    /// Marks one, which is initialised, as used.
    pub fn set(&mut self, ino: Ino) {
        self.in_use += u32::from(self.free.put(ino as usize, false));
    }

    /// Marks those of the inodes from 64 × `group` on as used for which `used` has a bit, the lowest bit first.
    pub fn set_group(&mut self, group: usize, used: u64) {
        self.in_use += self.free.remove_group(group, used);
    }

    /// Marks one as free.
    pub fn clear(&mut self, ino: Ino) {
        self.in_use -= u32::from(self.free.put(ino as usize, true));
    }

    /// Whether one is in use; beyond the initialised part none is.
    #[must_use]
    pub fn is_set(&self, ino: Ino) -> bool {
        ino != 0 && ino < self.initialised() && !self.free.contains(ino as usize)
    }
}
