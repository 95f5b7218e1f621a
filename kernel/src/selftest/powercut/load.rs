//! One thread of the load, on any memory.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use dax::layout::{BreakReport, How};
use dax::pmem::Pmem;
use fs::error::{
    ChangeError, CreateError, LookupError, RemoveError, RenameError, TruncateError, WriteError,
};
use fs::{Fs, Inode};
use mm::mem::OutOfMemory;
use thiserror::Error;

use super::plan::{Op, PIECE, Slot, content, lower_dir, name, thread_dir};

/// Why an operation failed; each should succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LoadError {
    /// A file was not found.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// No name was made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// Nothing was written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The file was not cut.
    #[error(transparent)]
    Truncate(#[from] TruncateError),
    /// Nothing was renamed.
    #[error(transparent)]
    Rename(#[from] RenameError),
    /// Nothing was removed.
    #[error(transparent)]
    Remove(#[from] RemoveError),
    /// The file was not made durable.
    #[error(transparent)]
    Fsync(#[from] ChangeError),
    /// No memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// Whose operations they are, and on which directory.
#[derive(Clone, Copy, Debug)]
pub struct Who {
    /// What plan and contents follow from.
    pub seed: u64,
    /// The directory.
    pub session: u32,
    /// The thread.
    pub thread: u8,
}

/// A thread of the load.
pub struct Load<P: Pmem> {
    fs: Arc<Fs<P>>,
    who: Who,
    data: Vec<u8>,
}

impl<P: Pmem> Load<P> {
    /// Makes the directories of the thread; that of the session is there.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn begin(fs: Arc<Fs<P>>, who: Who) -> Result<Self, LoadError> {
        let mut data = Vec::new();
        data.try_reserve_exact(PIECE as usize)
            .map_err(|_| OutOfMemory)?;
        data.resize(PIECE as usize, 0);
        fs.mkdir(&thread_dir(who.session, who.thread), 0o755)?;
        fs.mkdir(&lower_dir(who.session, who.thread), 0o755)?;
        Ok(Self { fs, who, data })
    }

    fn path(&self, slot: Slot) -> String {
        let Who {
            session, thread, ..
        } = self.who;
        format!("{}/{}", thread_dir(session, thread), name(slot))
    }

    fn open(&self, slot: Slot) -> Result<Arc<Inode<P>>, LookupError> {
        self.fs.open(&self.path(slot))
    }

    /// Does operation `number`.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn step(&mut self, number: u32, op: Op) -> Result<(), LoadError> {
        match op {
            Op::Create(slot) => drop(self.fs.create(&self.path(slot), 0o644)?),
            Op::Append { slot, at, len } | Op::Overwrite { slot, at, len } => {
                self.write(number, slot, at, len)?;
            }
            Op::Truncate(slot, len) => self.truncate(slot, len)?,
            Op::Rename(from, to) => self.fs.rename(&self.path(from), &self.path(to), true)?,
            Op::Unlink(slot) => self.fs.unlink(&self.path(slot))?,
            Op::Fsync(slot) => self.fs.fsync(&*self.open(slot)?)?,
        }
        Ok(())
    }

    fn write(&mut self, number: u32, slot: Slot, at: u32, len: u32) -> Result<(), LoadError> {
        let file = self.open(slot)?;
        let data = &mut self.data[..len as usize];
        content(self.who.seed, self.who.thread, number, at, data);
        Ok(self.fs.write(&file, at.into(), data)?)
    }

    fn truncate(&self, slot: Slot, len: u32) -> Result<(), LoadError> {
        let file = self.open(slot)?;
        let mut report = BreakReport::default();
        self.fs
            .truncate(&file, len.into(), How::NoWait, &mut report)?;
        Ok(())
    }
}
