//! An allocator that grows old: filled, half emptied, then files come and go at random for many times its size.
//!
//! The sizes are those of a usual file system: most files are small, most bytes are in few large ones. Half of the files are written at
//! once, half grow by 64 KiB.

use super::{Allocator, Free, Goal, Need};
use crate::commit::{Fresh, Run};

/// Blocks of the region: 16 GiB.
const BLOCKS: u64 = 16 << 18;

/// A sequence of numbers that is always the same.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    /// Blocks of a file: 55 % up to 16 KiB, 30 % up to 256 KiB, 12 % up to 4 MiB, 3 % up to 128 MiB; small ones are likelier in each.
    fn size(&mut self) -> u64 {
        let most = match self.below(100) {
            0..55 => 4,
            55..85 => 64,
            85..97 => 1024,
            _ => 32_768,
        };
        1 + self.below(most).min(self.below(most))
    }
}

struct Disk {
    space: Allocator,
    files: Vec<Vec<Fresh>>,
    numbers: Numbers,
    used: u64,
    /// Blocks that were allocated in all.
    turned: u64,
}

impl Disk {
    fn new() -> Self {
        let mut space = Allocator::new(0);
        let (block, len) = (512, BLOCKS);
        space.give(Free::derived(Run { block, len }));
        Self {
            space,
            files: Vec::new(),
            numbers: Numbers(7),
            used: 0,
            turned: 0,
        }
    }

    fn create(&mut self) -> bool {
        let size = self.numbers.size();
        let step = if self.numbers.below(2) == 0 { size } else { 16 };
        let mut file: Vec<Fresh> = Vec::new();
        let mut at = 0;
        while at < size {
            let total = step.min(size - at);
            let goal = Goal {
                file_block: at,
                after: file.last().map(|fresh| fresh.run().end()),
                total,
            };
            let Some(fresh) = self.space.take(total.min(512), goal, Need::ToKeep) else {
                break;
            };
            at += fresh.run().len;
            file.push(fresh);
        }
        self.used += at;
        self.turned += at;
        self.files.push(file);
        at == size
    }

    fn delete(&mut self) {
        let at = self.numbers.below(self.files.len() as u64);
        for fresh in self.files.swap_remove(at as usize) {
            self.used -= fresh.run().len;
            self.space.give(Free::unpublished(fresh));
        }
    }

    /// Of the extents of files of 2 MiB and more, how many blocks lie in whole aligned 2 MiB, in percent.
    fn large_aligned(&self) -> u64 {
        let (mut aligned, mut all) = (0, 0);
        for file in &self.files {
            let blocks: u64 = file.iter().map(|fresh| fresh.run().len).sum();
            if blocks >= 512 {
                all += blocks / 512;
                aligned += huge(file);
            }
        }
        100 * aligned / all.max(1)
    }
}

/// How often a large page can map 2 MiB of a file: contiguous, and of one colour.
fn huge(file: &[Fresh]) -> u64 {
    let (mut found, mut at) = (0, 0);
    let mut runs = file.iter().map(Fresh::run).peekable();
    while let Some(mut run) = runs.next() {
        while let Some(next) = runs.next_if(|next| next.block == run.end()) {
            run.len += next.len;
        }
        let end = at + run.len;
        if run.block % 512 == at % 512 {
            found += (end / 512).saturating_sub(at.div_ceil(512));
        }
        at = end;
    }
    found
}

#[test]
fn free_space_stays_in_large_pieces_as_the_disk_grows_old() {
    let mut disk = Disk::new();
    while disk.used < BLOCKS * 95 / 100 && disk.create() {}
    while disk.used > BLOCKS / 2 {
        disk.delete();
    }
    let emptied = disk.space.stats().aligned_percent();
    let until = disk.turned + 10 * BLOCKS;
    while disk.turned < until {
        while disk.used > BLOCKS / 2 {
            disk.delete();
        }
        disk.create();
    }
    while disk.used > BLOCKS / 2 {
        disk.delete();
    }
    let stats = disk.space.stats();
    let (aged, large) = (stats.aligned_percent(), disk.large_aligned());
    println!(
        "free in whole 2 MiB: {emptied} % when half emptied, {aged} % after ten turnovers; {large} % of large files"
    );
    assert!(aged >= 90, "{aged} %: {stats:?}");
    // Those that grow by small steps begin wherever there is room.
    assert!(large >= 50, "{large} % of large files are in large pieces");
}
