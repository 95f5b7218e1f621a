//! Where a file of the image has content, and where it has none.

use fs::extents::Spot;
use fs::{BLOCK_SIZE, Inode};

use dax::pmem::Pmem;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// Content.
    Data,
    /// A hole, or storage that was never written; the end of the file is one.
    Hole,
}

/// The first offset from `off` on at which there is what `what` says; `None` behind the end, and when no more content comes.
pub fn seek<P: Pmem>(file: &Inode<P>, off: u64, what: Seek) -> Option<u64> {
    let size = file.stat().size;
    let mut at = off;
    while at < size {
        let (content, end) = match file.spot(at / BLOCK_SIZE) {
            Spot::Extent(extent) => (!extent.unwritten, extent.end()),
            Spot::HoleUntil(end) => (false, end),
        };
        if content == (what == Seek::Data) {
            return Some(at);
        }
        at = end.saturating_mul(BLOCK_SIZE);
    }
    (what == Seek::Hole && off < size).then_some(size)
}

/// The next piece of content from `off` on: its start and its end.
pub fn next_data<P: Pmem>(file: &Inode<P>, off: u64) -> Option<(u64, u64)> {
    let start = seek(file, off, Seek::Data)?;
    Some((start, seek(file, start, Seek::Hole)?))
}
