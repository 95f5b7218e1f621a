//! Reading and writing files by copy.

use super::bed::{Bed, data};
use super::error::BenchError;
use super::sample::Sample;
use mm::addr::PAGE_SIZE;

/// Bytes that a benchmark moves at most.
const BYTES: u64 = 16 << 20;
const MOST_OPS: u64 = 1024;

fn ops(size: usize) -> u64 {
    (BYTES / size as u64).min(MOST_OPS)
}

/// Reads a file from start to end, `size` bytes at a time.
pub fn read(bed: &Bed, size: usize) -> Result<Sample, BenchError> {
    let (ops, mut buffer) = (ops(size), data(size));
    let file = bed.file(ops * size as u64 / PAGE_SIZE)?;
    bed.measure(ops, || {
        (0..ops).try_for_each(|i| {
            bed.fs.read(file.inode(), i * size as u64, &mut buffer)?;
            Ok(())
        })
    })
}

/// Writes over a file from start to end, durably.
pub fn overwrite(bed: &Bed, size: usize) -> Result<Sample, BenchError> {
    let (ops, buffer) = (ops(size), data(size));
    let file = bed.file(ops * size as u64 / PAGE_SIZE)?;
    bed.measure(ops, || {
        (0..ops).try_for_each(|i| Ok(bed.fs.write(file.inode(), i * size as u64, &buffer)?))
    })
}

/// Writes at the end of a file, durably.
pub fn append(bed: &Bed, size: usize) -> Result<Sample, BenchError> {
    let (ops, buffer) = (ops(size), data(size));
    let file = bed.empty_file()?;
    bed.measure(ops, || {
        (0..ops).try_for_each(|i| Ok(bed.fs.write(file.inode(), i * size as u64, &buffer)?))
    })
}

/// Makes an empty file and removes it, durably.
pub fn create_unlink(bed: &Bed) -> Result<Sample, BenchError> {
    const OPS: u64 = 256;
    bed.measure(OPS, || {
        (0..OPS).try_for_each(|_| {
            drop(bed.fs.create("/bench-name", 0o644)?);
            Ok(bed.fs.unlink("/bench-name")?)
        })
    })
}
