//! The kernel's heap: a block taken and given back, with others around it.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::bed::Bed;
use super::error::BenchError;
use super::sample::Sample;
use mm::mem::{OutOfMemory, try_box};

const OPS: u64 = 1000;
/// A block of the size of small kernel objects.
type Block = [u64; 8];

fn blocks(n: usize) -> Result<Vec<Option<Box<Block>>>, BenchError> {
    let mut all = Vec::new();
    all.try_reserve_exact(n).map_err(|_| OutOfMemory)?;
    for _ in 0..n {
        all.push(Some(try_box([0; 8])?));
    }
    Ok(all)
}

fn pair() -> Result<(), BenchError> {
    let block = try_box::<Block>([0; 8])?;
    core::hint::black_box(&block);
    Ok(())
}

/// Takes and gives back a block while `others` are in use.
pub fn pairs(bed: &Bed, others: usize) -> Result<Sample, BenchError> {
    let _others = blocks(others)?;
    bed.measure(OPS, || (0..OPS).try_for_each(|_| pair()))
}

/// The same while every second of `others` has been given back, in the order of their addresses.
pub fn pairs_among_holes(bed: &Bed, others: usize) -> Result<Sample, BenchError> {
    let mut others = blocks(others)?;
    others.iter_mut().step_by(2).for_each(|b| *b = None);
    let larger = || try_box([0_u64; 32]).map(|b| drop(core::hint::black_box(b)));
    bed.measure(OPS, || (0..OPS).try_for_each(|_| Ok(larger()?)))
}
