//! Which inodes of the table are in use.

use alloc::vec::Vec;

use mm::mem::OutOfMemory;

use crate::layout::Ino;

/// One bit for each initialised inode.
#[derive(Debug, Default)]
pub struct InodeMap {
    used: Vec<u64>,
    initialised: u32,
    in_use: u32,
    hint: usize,
}

impl InodeMap {
    /// Covers the first `initialised` inodes; entry 0 counts as used.
    pub fn new(initialised: u32) -> Result<Self, OutOfMemory> {
        let mut this = Self::default();
        this.grow(initialised)?;
        this.used[0] |= 1;
        Ok(this)
    }

    /// Covers more.
    pub fn grow(&mut self, initialised: u32) -> Result<(), OutOfMemory> {
        let words = initialised.div_ceil(64) as usize;
        let more = words.saturating_sub(self.used.len());
        self.used.try_reserve(more).map_err(|_| OutOfMemory)?;
        self.used.resize(words.max(self.used.len()), 0);
        self.initialised = initialised;
        Ok(())
    }

    /// Initialised inodes.
    #[must_use]
    pub const fn initialised(&self) -> u32 {
        self.initialised
    }

    /// Inodes in use.
    #[must_use]
    pub const fn in_use(&self) -> u32 {
        self.in_use
    }

    /// The lowest initialised inode that is not in use, near where the last one was.
    pub fn vacancy(&mut self) -> Option<Ino> {
        while self
            .used
            .get(self.hint)
            .is_some_and(|word| *word == u64::MAX)
        {
            self.hint += 1;
        }
        let word = self.used.get(self.hint)?;
        let ino = self.hint as u32 * 64 + word.trailing_ones();
        (ino < self.initialised).then_some(ino)
    }

    /// Marks one as used.
    pub fn set(&mut self, ino: Ino) {
        let word = &mut self.used[(ino / 64) as usize];
        self.in_use += u32::from(*word >> (ino % 64) & 1 == 0);
        *word |= 1 << (ino % 64);
    }

    /// Marks one as free.
    pub fn clear(&mut self, ino: Ino) {
        let at = (ino / 64) as usize;
        self.in_use -= (self.used[at] >> (ino % 64) & 1) as u32;
        self.used[at] &= !(1 << (ino % 64));
        self.hint = self.hint.min(at);
    }

    /// Whether one is in use; beyond the initialised part none is.
    #[must_use]
    pub fn is_set(&self, ino: Ino) -> bool {
        let word = self.used.get((ino / 64) as usize);
        ino != 0 && ino < self.initialised && word.is_some_and(|word| word >> (ino % 64) & 1 == 1)
    }
}
