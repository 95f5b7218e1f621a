//! The machine's memory as the boot path reports it: physical ranges, each with what it is for.

use arrayvec::ArrayVec;

/// The most ranges that a [`MemoryMap`] keeps. UEFI firmware reports about 100 before merging.
pub const MAX_RANGES: usize = 256;

const PAGE: u64 = 4096;

/// What a physical range holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RAM that nobody uses: the frame allocator's.
    Usable,
    /// RAM in use by the boot path (kernel image, boot loader's tables): never handed out.
    Boot,
    /// RAM that holds ACPI tables; read, never handed out.
    Acpi,
    /// Anything else: firmware, holes, devices, bad memory.
    Reserved,
}

impl Kind {
    /// Whether the range is RAM, whoever uses it.
    pub fn is_ram(self) -> bool {
        !matches!(self, Self::Reserved)
    }
}

/// A physical range in bytes, `start` inclusive, `end` exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// What the range holds.
    pub kind: Kind,
}

impl Range {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether the range has no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The machine's memory: sorted by the firmware or not, neighbours of one kind merged.
#[derive(Clone, Debug, Default)]
pub struct MemoryMap {
    ranges: ArrayVec<Range, MAX_RANGES>,
    dropped: usize,
}

impl MemoryMap {
    /// An empty map.
    pub const fn new() -> Self {
        Self {
            ranges: ArrayVec::new_const(),
            dropped: 0,
        }
    }

    /// Adds a range; one that continues the last of the same kind is merged with it, an empty one is ignored.
    ///
    /// A range that finds no room is dropped and counted in [`MemoryMap::dropped`]: memory unknown to the kernel is
    /// memory that it does not touch.
    pub fn push(&mut self, range: Range) {
        if range.is_empty() {
            return;
        }
        if let Some(last) = self.ranges.last_mut()
            && last.kind == range.kind
            && last.end == range.start
        {
            last.end = range.end;
        } else if self.ranges.try_push(range).is_err() {
            self.dropped += 1;
        }
    }

    /// All ranges, in the order in which the firmware gave them.
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// How many ranges did not fit.
    pub fn dropped(&self) -> usize {
        self.dropped
    }

    /// Bytes of RAM, used or not.
    pub fn ram_bytes(&self) -> u64 {
        self.ranges
            .iter()
            .filter(|r| r.kind.is_ram())
            .map(Range::len)
            .sum()
    }

    /// One past the last byte of RAM.
    pub fn ram_end(&self) -> u64 {
        self.ranges
            .iter()
            .filter(|r| r.kind.is_ram())
            .map(|r| r.end)
            .max()
            .unwrap_or(0)
    }
}

/// Calls `each` with the page-aligned parts of `range` that overlap none of `reserved`, lowest first.
///
/// `reserved` holds `(start, end)` pairs in bytes, in any order, overlapping or not.
pub fn free_parts(range: Range, reserved: &[(u64, u64)], mut each: impl FnMut(u64, u64)) {
    let page = PAGE;
    let mut at = range.start.next_multiple_of(page);
    let end = range.end & !(page - 1);
    while at < end {
        if let Some(&(_, past)) = reserved.iter().find(|&&(s, e)| s <= at && at < e) {
            at = past.next_multiple_of(page);
            continue;
        }
        let next = reserved
            .iter()
            .map(|&(s, _)| s & !(page - 1))
            .filter(|&s| s >= at)
            .min();
        let stop = next.unwrap_or(end).min(end);
        if stop > at {
            each(at, stop);
        }
        at = stop.max(at + page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usable(start: u64, end: u64) -> Range {
        Range {
            start,
            end,
            kind: Kind::Usable,
        }
    }

    fn parts(range: Range, reserved: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut got = Vec::new();
        free_parts(range, reserved, |s, e| got.push((s, e)));
        got
    }

    #[test]
    fn neighbours_of_one_kind_merge_and_empty_ranges_vanish() {
        let mut map = MemoryMap::new();
        map.push(usable(0, 0x1000));
        map.push(usable(0x1000, 0x3000));
        map.push(usable(0x3000, 0x3000));
        map.push(Range {
            start: 0x3000,
            end: 0x4000,
            kind: Kind::Acpi,
        });
        map.push(Range {
            start: 0x8000,
            end: 0x9000,
            kind: Kind::Reserved,
        });
        assert_eq!(map.ranges().len(), 3);
        assert_eq!(
            (map.ram_bytes(), map.ram_end(), map.dropped()),
            (0x4000, 0x4000, 0)
        );
    }

    #[test]
    fn a_range_too_many_is_counted_not_lost_in_silence() {
        let mut map = MemoryMap::new();
        for i in 0..MAX_RANGES as u64 + 3 {
            map.push(usable(i * 0x10000, i * 0x10000 + 0x1000));
        }
        assert_eq!((map.ranges().len(), map.dropped()), (MAX_RANGES, 3));
    }

    #[test]
    fn free_parts_skip_what_is_reserved_and_round_inwards() {
        assert_eq!(parts(usable(0x100, 0x5fff), &[]), [(0x1000, 0x5000)]);
        assert_eq!(
            parts(usable(0, 0x8000), &[(0x2000, 0x3000)]),
            [(0, 0x2000), (0x3000, 0x8000)]
        );
        assert_eq!(
            parts(usable(0, 0x8000), &[(0x2800, 0x2900)]),
            [(0, 0x2000), (0x3000, 0x8000)]
        );
        assert_eq!(
            parts(usable(0, 0x8000), &[(0x1000, 0x4000), (0x3000, 0x5000)]),
            [(0, 0x1000), (0x5000, 0x8000)]
        );
        assert_eq!(parts(usable(0x2000, 0x4000), &[(0, 0x10000)]), []);
        assert_eq!(parts(usable(0x1000, 0x1800), &[]), []);
    }
}
