//! Pinned pages, cut into what one descriptor can name.

use super::SubmitError;
use alloc::vec::Vec;
use mm::addr::PhysAddr;
use mm::gup::PinnedPages;
use mm::mem::OutOfMemory;

/// The longest piece, in bytes: descriptors count in 32 bits, and a page-aligned round number is kind to devices.
const PIECE: u64 = 1 << 20;

/// A piece of memory that is physically contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) base: PhysAddr,
    pub(super) len: u64,
}

/// Cuts `len` bytes from `offset` on out of pinned pages: contiguous pieces of at most [`PIECE`] bytes.
pub(super) fn cut(pages: &PinnedPages, offset: u64, len: u64) -> Result<Vec<Segment>, SubmitError> {
    let total: u64 = pages.segments().map(|(_, len)| len).sum();
    if offset.checked_add(len).is_none_or(|end| end > total) {
        return Err(SubmitError::PastEndOfPages { bytes: total });
    }
    let mut pieces = Vec::new();
    let (mut skip, mut left) = (offset, len);
    for (base, run) in pages.segments() {
        let start = skip.min(run);
        skip -= start;
        cut_run(&mut pieces, base + start, (run - start).min(left))?;
        left -= (run - start).min(left);
    }
    Ok(pieces)
}

fn cut_run(pieces: &mut Vec<Segment>, base: PhysAddr, len: u64) -> Result<(), OutOfMemory> {
    for at in (0..len).step_by(PIECE as usize) {
        pieces.try_reserve(1).map_err(|_| OutOfMemory)?;
        pieces.push(Segment {
            base: base + at,
            len: PIECE.min(len - at),
        });
    }
    Ok(())
}
