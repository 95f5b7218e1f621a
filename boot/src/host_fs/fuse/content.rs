//! What is done with the content of a file.

use dax::layout::{BreakReport, How};
use fs::Fill;
use nix::errno::Errno;
use nix::fcntl::FallocateFlags;

use super::volume::{Answer, Volume, number};
use crate::host_fs::mounted::Node;

impl Volume {
    /// Reads at most `size` bytes.
    pub fn read(&self, node: &Node, off: u64, size: usize) -> Answer<Vec<u8>> {
        let there = node.stat().size.saturating_sub(off);
        let size = usize::try_from(there).map_or(size, |there| there.min(size));
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(size, 0);
        let n = self.fs.read(node, off, &mut bytes).map_err(number)?;
        bytes.truncate(n);
        Ok(bytes)
    }

    /// Makes the file `size` bytes long. Nobody maps pages here, so nobody is waited for.
    pub fn set_size(&self, node: &Node, size: u64) -> Answer<()> {
        let mut report = BreakReport::default();
        let done = self.fs.truncate(node, size, How::NoWait, &mut report);
        done.map(drop).map_err(number)
    }

    /// `fallocate`: plain, with the size kept, punching, zeroing, and zeroing with the size kept.
    pub fn allocate(&self, node: &Node, off: u64, len: u64, mode: i32) -> Answer<()> {
        const KEEP: FallocateFlags = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        const PUNCH: FallocateFlags = FallocateFlags::FALLOC_FL_PUNCH_HOLE.union(KEEP);
        const ZERO: FallocateFlags = FallocateFlags::FALLOC_FL_ZERO_RANGE;
        const ZERO_KEEP: FallocateFlags = ZERO.union(KEEP);
        match FallocateFlags::from_bits(mode).ok_or(Errno::EOPNOTSUPP)? {
            flags if flags.is_empty() => self.fill(node, off, len, Fill::Unwritten),
            KEEP => self.fill(node, off, len, Fill::KeepSize),
            PUNCH => self.punch(node, off, len),
            ZERO => self.zero(node, off, len, Fill::Unwritten),
            ZERO_KEEP => self.zero(node, off, len, Fill::KeepSize),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn fill(&self, node: &Node, off: u64, len: u64, fill: Fill) -> Answer<()> {
        self.fs.fallocate(node, off, len, fill).map_err(number)
    }

    fn zero(&self, node: &Node, off: u64, len: u64, fill: Fill) -> Answer<()> {
        let mut report = BreakReport::default();
        let done = self
            .fs
            .zero_range(node, off, len, fill, How::NoWait, &mut report);
        done.map(drop).map_err(number)
    }

    fn punch(&self, node: &Node, off: u64, len: u64) -> Answer<()> {
        let mut report = BreakReport::default();
        let done = self.fs.punch(node, off, len, How::NoWait, &mut report);
        done.map(drop).map_err(number)
    }
}
