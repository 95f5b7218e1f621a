//! Pass 7: what stands behind the ends of files.
//!
//! Bytes behind the end in a file's last block are sound: a mapping may store there, and whoever moves the end outwards zeroes them
//! first. A written block that lies wholly behind the end is not zeroed by anybody, so it must be zero, or old bytes would show.

use dax::pmem::Pmem;

use super::{Check, Pass, Problem};
use crate::layout::{BLOCK_SIZE, Block, Extent, Ino, Kind};

impl<P: Pmem> Check<'_, P> {
    pub(super) fn ends(&mut self, ino: Ino) {
        if self.info(ino).is_none_or(|info| info.kind != Kind::File) {
            return;
        }
        let Ok(loaded) = self.ground.load(ino) else {
            return;
        };
        let size = loaded.inode.core.size;
        let (last, within) = (size / BLOCK_SIZE, size % BLOCK_SIZE);
        let first_beyond = size.div_ceil(BLOCK_SIZE);
        for extent in loaded.map.iter().filter(|extent| extent.end() > last) {
            if let Some(end) = extent
                .clip(last, last + 1)
                .filter(|e| within > 0 && !e.unwritten)
            {
                self.report.tails += u64::from(self.holds_bytes(end.phys, within));
            }
            if let Some(beyond) = extent.clip(first_beyond, u64::MAX) {
                self.beyond(ino, &beyond);
            }
        }
    }

    fn beyond(&mut self, ino: Ino, extent: &Extent) {
        self.report.beyond += extent.len;
        if extent.unwritten {
            return;
        }
        for at in 0..extent.len {
            if self.holds_bytes(extent.phys + at, 0) {
                let (block, offset) = (extent.file + at, (extent.phys + at) * BLOCK_SIZE);
                self.report
                    .add(Pass::Ends, Problem::OldBytes { ino, block, offset });
            }
        }
    }

    /// Whether a byte of `block` from `within` on is not zero. What cannot be read is content, and not looked into here.
    fn holds_bytes(&self, block: Block, within: u64) -> bool {
        let mut bytes = [0; 256];
        let (mut at, end) = (block * BLOCK_SIZE + within, (block + 1) * BLOCK_SIZE);
        while at < end {
            let n = (end - at).min(256) as usize;
            if self.ground.media.read(at, &mut bytes[..n]).is_ok()
                && bytes[..n].iter().any(|byte| *byte != 0)
            {
                return true;
            }
            at += n as u64;
        }
        false
    }
}
