//! A file's extents in memory: sorted, never overlapping, joined where they touch.
//!
//! Every change makes a new map and leaves the old one alone, so that an operation can be prepared, refused or committed without
//! undoing anything.

use alloc::vec::Vec;

use mm::mem::OutOfMemory;

use crate::commit::Run;
use crate::layout::Extent;

/// The extents of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtentMap {
    list: Vec<Extent>,
}

/// What is at a block of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spot {
    /// Nothing, up to (not including) this block.
    HoleUntil(u64),
    /// Storage, from the block asked for to the end of its extent.
    Extent(Extent),
}

/// The block at which two extents overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap(pub u64);

impl ExtentMap {
    /// No extents.
    #[must_use]
    pub const fn new() -> Self {
        Self { list: Vec::new() }
    }

    /// Sorts what was read; refuses extents that overlap. Does not join: the map mirrors the media.
    pub fn from_unsorted(mut list: Vec<Extent>) -> Result<Self, Overlap> {
        list.sort_unstable_by_key(|extent| extent.file);
        for pair in list.windows(2) {
            if pair[0].end() > pair[1].file {
                return Err(Overlap(pair[1].file));
            }
        }
        Ok(Self { list })
    }

    /// A map of extents that are sorted and do not overlap.
    #[must_use]
    pub(crate) const fn from_sorted(list: Vec<Extent>) -> Self {
        Self { list }
    }

    /// All extents in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Extent] {
        &self.list
    }

    /// Blocks that the file has storage for.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.list.iter().map(|extent| extent.len).sum()
    }

    /// What is at `block`.
    #[must_use]
    pub fn at(&self, block: u64) -> Spot {
        let next = self.list.partition_point(|extent| extent.end() <= block);
        match self.list.get(next) {
            Some(extent) if extent.file <= block => {
                Spot::Extent(extent.clip(block, extent.end()).unwrap_or(*extent))
            }
            Some(extent) => Spot::HoleUntil(extent.file),
            None => Spot::HoleUntil(u64::MAX),
        }
    }

    /// The extent that ends at or before `block`, if any.
    #[must_use]
    pub fn before(&self, block: u64) -> Option<Extent> {
        let next = self.list.partition_point(|extent| extent.end() <= block);
        next.checked_sub(1).map(|index| self.list[index])
    }

    /// The same map with `new` in place of whatever its blocks had, and what they had. Joins at both ends.
    pub fn with(&self, new: Extent) -> Result<(Self, Vec<Run>), OutOfMemory> {
        let (mut map, cut) = self.without(new.file, new.end(), 1)?;
        let mut at = map.list.partition_point(|extent| extent.file < new.file);
        map.list.insert(at, new);
        map.join(at);
        if at > 0 {
            at -= 1;
            map.join(at);
        }
        Ok((map, cut))
    }

    /// Joins the extent at `at` with the next one if they touch.
    fn join(&mut self, at: usize) {
        if let [first, second, ..] = &mut self.list[at..]
            && first.joins(second)
        {
            first.len += second.len;
            self.list.remove(at + 1);
        }
    }

    /// The same map without storage for blocks `start..end`, and the runs that go.
    pub fn cut(&self, start: u64, end: u64) -> Result<(Self, Vec<Run>), OutOfMemory> {
        self.without(start, end, 0)
    }

    fn without(&self, start: u64, end: u64, spare: usize) -> Result<(Self, Vec<Run>), OutOfMemory> {
        let mut list = Vec::new();
        let mut gone = Vec::new();
        let from = self.list.partition_point(|extent| extent.end() <= start);
        let to = self
            .list
            .partition_point(|extent| extent.file < end)
            .max(from);
        list.try_reserve(self.list.len() + 1 + spare)
            .map_err(|_| OutOfMemory)?;
        gone.try_reserve(to - from).map_err(|_| OutOfMemory)?;
        list.extend_from_slice(&self.list[..from]);
        for extent in &self.list[from..to] {
            list.extend(extent.clip(0, start));
            list.extend(extent.clip(end, u64::MAX));
            gone.extend(extent.clip(start, end).map(|e| Run {
                block: e.phys,
                len: e.len,
            }));
        }
        list.extend_from_slice(&self.list[to..]);
        Ok((Self { list }, gone))
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Block by block.
    fn flat(map: &ExtentMap) -> BTreeMap<u64, (u64, bool)> {
        let each = |e: &Extent| {
            let e = *e;
            (0..e.len).map(move |i| (e.file + i, (e.phys + i, e.unwritten)))
        };
        map.list.iter().flat_map(each).collect()
    }

    proptest! {
        #[test]
        fn behaves_as_a_map_of_blocks(
            steps in prop::collection::vec((any::<bool>(), 0u64..60, 1u64..20, any::<bool>(), 0u64..3), 1..60),
        ) {
            let mut map = ExtentMap::new();
            let mut model = BTreeMap::new();
            for (insert, file, len, unwritten, shift) in steps {
                let gone: Vec<u64> = (file..file + len).filter_map(|b| model.remove(&b)).map(|(p, _)| p).collect();
                let (next, cut) = if insert {
                    let new = Extent { file, phys: 1000 * shift + file, len, unwritten };
                    model.extend((0..len).map(|i| (file + i, (new.phys + i, unwritten))));
                    map.with(new)
                } else {
                    map.cut(file, file + len)
                }.expect("memory");
                let cut: Vec<u64> = cut.iter().flat_map(|r| r.block..r.end()).collect();
                prop_assert_eq!(cut, gone);
                prop_assert_eq!(&flat(&next), &model);
                prop_assert!(next.list.windows(2).all(|p| p[0].end() <= p[1].file));
                map = next;
                for block in 0..90 {
                    match map.at(block) {
                        Spot::Extent(e) => prop_assert_eq!(model.get(&block), Some(&(e.phys, e.unwritten))),
                        Spot::HoleUntil(end) => prop_assert!(model.range(block..end).next().is_none()),
                    }
                }
            }
        }

        #[test]
        fn adjacent_pieces_are_one(order in Just((0u64..12).collect::<Vec<_>>()).prop_shuffle()) {
            let mut map = ExtentMap::new();
            for i in order {
                let piece = Extent { file: i * 4, phys: 500 + i * 4, len: 4, unwritten: false };
                map = map.with(piece).expect("memory").0;
            }
            prop_assert_eq!(map.as_slice(), &[Extent { file: 0, phys: 500, len: 48, unwritten: false }]);
        }
    }
}
