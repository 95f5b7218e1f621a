//! One operation of a workload: those of the model, and what goes past the file system's calls.

use std::sync::Arc;

use dax::pmem::Pmem;
use fs::Fs;
use mm::aspace::Access;

use super::region::Region;
use crate::common::model::{Model, Op, pattern};
use crate::common::process::Process;

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Through a call.
    Op(Op),
    /// Stores through a mapping, then msync: path, offset, bytes, what they look like.
    Map(String, u64, u64, u8),
    /// Unmounts and mounts.
    Remount,
    /// Makes all durable, and free what nobody holds.
    Sync,
}

impl From<Op> for Act {
    fn from(op: Op) -> Self {
        Self::Op(op)
    }
}

impl Act {
    /// Whether a crash may leave a mixture of old and new content.
    pub fn is_data(&self) -> bool {
        match self {
            Self::Op(op) => op.is_data(),
            Self::Map(..) => true,
            Self::Remount | Self::Sync => false,
        }
    }

    /// Does it. True: it went well.
    pub fn run(&self, fs: &Fs<Arc<Region>>) -> bool {
        match self {
            Self::Op(op) => op.run(fs),
            Self::Map(path, off, len, seed) => map(fs, path, *off, *len, *seed).is_some(),
            Self::Sync => {
                fs.settle();
                fs.sync().is_ok()
            }
            // By the worker, who owns it.
            Self::Remount => true,
        }
    }

    /// Does it in the model.
    pub fn model(&self, model: &mut Model) -> bool {
        match self {
            Self::Op(op) => model.run(op),
            Self::Map(path, off, len, seed) => {
                // What is stored behind the end, in the last page, is nobody's.
                let seen = model.size(path).and_then(|size| visible(size, *off, *len));
                seen.is_some_and(|n| model.run(&Op::Write(path.clone(), *off, n, *seed)))
            }
            Self::Remount | Self::Sync => true,
        }
    }
}

/// How many of the bytes `off..off + len` a file of `size` bytes shows, if all of them can be mapped.
fn visible(size: u64, off: u64, len: u64) -> Option<u64> {
    let mapped = size.next_multiple_of(4096);
    (off + len <= mapped && off <= size).then(|| len.min(size - off))
}

/// Stores to pages of a mapping, each after its fault, and msync.
fn map(fs: &Fs<Arc<Region>>, path: &str, off: u64, len: u64, seed: u8) -> Option<()> {
    let file = fs.open(path).ok()?;
    visible(file.stat().size, off, len)?;
    let process = Process::new(&file, (off + len).div_ceil(4096));
    let base = fs.pgmap().range().start().get();
    let data = pattern(len, seed);
    let mut done = 0;
    while done < len {
        let at = off + done;
        let n = (4096 - at % 4096).min(len - done);
        let pfn = process.touch(at / 4096, Access::Write).ok()?;
        let place = (pfn.get() - base) * 4096 + at % 4096;
        fs.pmem()
            .store(place, &data[done as usize..(done + n) as usize]);
        done += n;
    }
    process.space.unmap(process.at).ok()?;
    file.msync(off, len).ok()?;
    Some(())
}
