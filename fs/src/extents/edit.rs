//! A change of extents: which leaves go, and what comes in their place. What that means for the levels above: [`plan`](super::plan).

use alloc::vec::Vec;
use core::ops::Range;

use arrayvec::ArrayVec;
use mm::mem::OutOfMemory;

use super::{ExtentMap, Limits, try_copy, try_vec};
use crate::commit::Run;
use crate::layout::Extent;
use crate::space::Need;

/// New nodes of one level: at most two nodes full, and one entry more, in nodes of the soft limit.
pub(super) const PARTS: usize = 4;

/// A change of a map that is not applied: sound as long as the map has not changed.
#[derive(Debug)]
#[must_use = "commit it, or drop it"]
pub struct Edit {
    /// Leaves that go.
    pub(super) at: Range<usize>,
    /// The extents of the leaves that come.
    pub(super) new: ArrayVec<Vec<Extent>, PARTS>,
    /// Extents of the whole map afterwards.
    pub(super) extents: usize,
    /// Blocks of the whole map afterwards.
    pub(super) blocks: u64,
    /// Whether it only takes away.
    pub(super) cuts: bool,
}

impl Edit {
    /// Whether anything changes.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.cuts && self.at.start == self.at.end
    }

    /// What its nodes may be taken from.
    pub(crate) const fn need(&self) -> Need {
        if self.cuts {
            Need::ToFree
        } else {
            Need::ToKeep
        }
    }
}

impl ExtentMap {
    /// Puts `new` in place of whatever its blocks had: the change, and what they had. Joins at both ends.
    pub fn with(&self, new: Extent) -> Result<(Edit, Vec<Run>), OutOfMemory> {
        self.edit(new.file..new.end(), Some(new), &Limits::MEDIA)
    }

    /// Takes the storage of blocks `start..end` away: the change, and the runs that go.
    pub fn cut(&self, start: u64, end: u64) -> Result<(Edit, Vec<Run>), OutOfMemory> {
        self.edit(start..end, None, &Limits::MEDIA)
    }

    pub(super) fn edit(
        &self,
        range: Range<u64>,
        new: Option<Extent>,
        limits: &Limits,
    ) -> Result<(Edit, Vec<Run>), OutOfMemory> {
        let mut at = self.touched(&range, new.is_some());
        if range.is_empty() {
            at.end = at.start;
        }
        let gone = self.runs_within(&at, &range)?;
        let mut content = self.content(&at, &range, new)?;
        let freed: u64 = gone.iter().map(|run| run.len).sum();
        let was: usize = self.leaves[at.clone()].iter().map(|l| l.list.len()).sum();
        let extents = self.extents - was + content.len();
        let blocks = self.blocks - freed + new.map_or(0, |extent| extent.len);
        self.join_neighbour(&mut at, &mut content, limits)?;
        let appends = at.end == self.leaves.len()
            && new.is_some_and(|new| content.last().is_some_and(|last| last.end() == new.end()));
        let most = if new.is_some() {
            limits.soft
        } else {
            limits.node
        };
        let parts = Edit {
            at,
            new: chunks(content, most, appends)?,
            extents,
            blocks,
            cuts: new.is_none(),
        };
        Ok((parts, gone))
    }

    /// The leaves that must be written anew: those with extents in the range; where one is put in, also the one it goes to, and the one
    /// that begins where it ends.
    fn touched(&self, range: &Range<u64>, puts: bool) -> Range<usize> {
        let begun = self.leaves.partition_point(|l| l.first <= range.start);
        let mut start = begun.saturating_sub(1);
        let end = self
            .leaves
            .partition_point(|leaf| leaf.first < range.end || puts && leaf.first == range.end);
        let misses = |leaf: &super::Leaf| {
            let at = leaf.list.partition_point(|e| e.end() <= range.start);
            leaf.list.get(at).is_none_or(|e| e.file >= range.end)
        };
        if !puts && self.leaves.get(start).is_some_and(misses) {
            start += 1;
        }
        let least = if puts { start + 1 } else { start };
        start.min(self.leaves.len())..end.max(least).min(self.leaves.len())
    }

    /// The storage of the range.
    fn runs_within(&self, at: &Range<usize>, range: &Range<u64>) -> Result<Vec<Run>, OutOfMemory> {
        let mut gone = Vec::new();
        for leaf in &self.leaves[at.clone()] {
            let from = leaf.list.partition_point(|e| e.end() <= range.start);
            let to = leaf.list.partition_point(|e| e.file < range.end);
            let here = &leaf.list[from..to.max(from)];
            gone.try_reserve(here.len()).map_err(|_| OutOfMemory)?;
            let clipped = here.iter().filter_map(|e| e.clip(range.start, range.end));
            gone.extend(clipped.map(|e| Run {
                block: e.phys,
                len: e.len,
            }));
        }
        Ok(gone)
    }

    /// What the leaves `at` hold afterwards: what lies before the range, the new extent, what lies behind.
    fn content(
        &self,
        at: &Range<usize>,
        range: &Range<u64>,
        new: Option<Extent>,
    ) -> Result<Vec<Extent>, OutOfMemory> {
        let leaves = &self.leaves[at.clone()];
        let (first, last) = (leaves.first(), leaves.last());
        let before = first.map_or(&[][..], |leaf| {
            &leaf.list[..leaf.list.partition_point(|e| e.file < range.start)]
        });
        let after = last.map_or(&[][..], |leaf| {
            &leaf.list[leaf.list.partition_point(|e| e.end() <= range.end)..]
        });
        let mut list = try_vec(before.len() + 1 + after.len())?;
        list.extend_from_slice(before);
        if let Some(straddling) = list.last_mut() {
            straddling.len = straddling.len.min(range.start - straddling.file);
        }
        new.into_iter().for_each(|new| push_joined(&mut list, new));
        if let Some((next, rest)) = after.split_first() {
            let clipped = next.clip(range.end, u64::MAX);
            clipped.into_iter().for_each(|e| push_joined(&mut list, e));
            list.extend_from_slice(rest);
        }
        Ok(list)
    }

    /// A small leaf takes a neighbour in, if both fit.
    fn join_neighbour(
        &self,
        at: &mut Range<usize>,
        content: &mut Vec<Extent>,
        limits: &Limits,
    ) -> Result<(), OutOfMemory> {
        let len = |leaf: usize| self.leaves.get(leaf).map(|leaf| leaf.list.len());
        let (before, after) = (at.start.checked_sub(1).and_then(len), len(at.end));
        match joining(content.len(), before, after, limits) {
            Some(Side::Before) => {
                at.start -= 1;
                let mut list = try_copy(&self.leaves[at.start].list)?;
                append(&mut list, content)?;
                *content = list;
            }
            Some(Side::After) => {
                append(content, &self.leaves[at.end].list)?;
                at.end += 1;
            }
            None => {}
        }
        Ok(())
    }
}

/// A neighbour.
pub(super) enum Side {
    Before,
    After,
}

/// Which neighbour a node of `len` entries joins, given how many they have.
pub(super) fn joining(
    len: usize,
    before: Option<usize>,
    after: Option<usize>,
    limits: &Limits,
) -> Option<Side> {
    if len == 0 || len >= limits.small {
        return None;
    }
    let fits = |other: Option<usize>| other.is_some_and(|other| other + len <= limits.joined);
    if fits(before) {
        Some(Side::Before)
    } else {
        fits(after).then_some(Side::After)
    }
}

fn append<T: Copy>(list: &mut Vec<T>, more: &[T]) -> Result<(), OutOfMemory> {
    list.try_reserve_exact(more.len())
        .map_err(|_| OutOfMemory)?;
    list.extend_from_slice(more);
    Ok(())
}

/// Adds an extent, to the last one if it continues that.
fn push_joined(list: &mut Vec<Extent>, extent: Extent) {
    match list.last_mut() {
        Some(last) if last.joins(&extent) => last.len += extent.len,
        _ => list.push(extent),
    }
}

/// Cuts what is more than `most` into as few parts as possible: of equal size, or, where it grows at its end, all but the last full.
pub(super) fn chunks<T: Copy>(
    content: Vec<T>,
    most: usize,
    appends: bool,
) -> Result<ArrayVec<Vec<T>, PARTS>, OutOfMemory> {
    let mut parts = ArrayVec::new();
    if content.is_empty() {
        return Ok(parts);
    }
    if content.len() <= most {
        parts.push(content);
        return Ok(parts);
    }
    let equal = content.len().div_ceil(content.len().div_ceil(most));
    for part in content.chunks(if appends { most } else { equal }) {
        parts.push(try_copy(part)?);
    }
    Ok(parts)
}
