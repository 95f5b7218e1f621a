//! Making and removing mappings while others exist.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::bed::{Bed, File, Grain, View};
use super::error::BenchError;
use super::sample::Sample;
use mm::mem::OutOfMemory;

/// Mappings that are made or removed.
const OPS: u64 = 64;

/// Mappings of one page each, in a list with room for more.
fn views(file: &File<'_>, n: u64, room: u64) -> Result<Vec<View>, BenchError> {
    let mut views = Vec::new();
    views
        .try_reserve_exact((n + room) as usize)
        .map_err(|_| OutOfMemory)?;
    add(&mut views, file, n)?;
    Ok(views)
}

fn add(views: &mut Vec<View>, file: &File<'_>, n: u64) -> Result<(), BenchError> {
    let inode = Arc::clone(file.inode());
    for _ in 0..n {
        views.push(View::new(&inode, 1, Grain::Small)?);
    }
    Ok(())
}

/// Maps a page of a file that has `others` mappings already, in an address space that has no other.
pub fn mmap(bed: &Bed, others: u64) -> Result<Sample, BenchError> {
    let file = bed.file(2)?;
    let mut all = views(&file, others, OPS)?;
    let sample = bed.measure(OPS, || add(&mut all, &file, OPS));
    all.into_iter().rev().for_each(drop);
    sample
}

/// Unmaps a page, of which nothing was touched, of a file that has `others` mappings besides.
pub fn munmap(bed: &Bed, others: u64) -> Result<Sample, BenchError> {
    let file = bed.file(2)?;
    let mut all = views(&file, others + OPS, 0)?;
    let first = (others / 2) as usize;
    let sample = bed.measure(OPS, || {
        all[first..first + OPS as usize]
            .iter()
            .try_for_each(View::unmap)
    });
    while all.pop().is_some() {}
    sample
}
