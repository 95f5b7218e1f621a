use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn range(start: u64, pages: u64) -> PfnRange {
    PfnRange::new(Pfn::new(start).unwrap(), pages).unwrap()
}

fn allocator(ranges: &[PfnRange]) -> BuddyAllocator<Vec<u64>> {
    let storage = vec![u64::MAX; BuddyAllocator::words_needed(ranges)];
    BuddyAllocator::new(ranges, storage).unwrap()
}

#[test]
fn hands_out_every_frame_once_and_merges_back() {
    let a = allocator(&[range(3, 1021), range(2000, 5)]);
    assert_eq!((a.total_frames(), a.free_frames()), (1026, 1026));
    let mut out: Vec<_> = std::iter::from_fn(|| a.alloc(0)).collect();
    assert_eq!(a.free_frames(), 0);
    out.sort();
    out.dedup();
    assert_eq!(out.len(), 1026);
    for pfn in out {
        assert!(range(3, 1021).contains(pfn) || range(2000, 5).contains(pfn));
        a.free(pfn, 0);
    }
    // 3, 4..8, 8..16, … 512..1024 and 2000..2004, 2004: as large as alignment allows.
    let blocks: Vec<u64> = (0..=10).map(|o| a.free_blocks(o)).collect();
    assert_eq!(blocks, [2, 0, 2, 1, 1, 1, 1, 1, 1, 1, 0]);
}

#[test]
fn large_blocks_are_aligned() {
    let a = allocator(&[range(0x10FE00, 0x100000)]);
    let gig = a.alloc(18).unwrap();
    assert!(gig.is_aligned(PageSize::Size1G));
    let two = a.alloc(9).unwrap();
    assert!(two.is_aligned(PageSize::Size2M));
    assert_eq!(a.alloc(19), None);
    a.free(two, 9);
    a.free(gig, 18);
    assert_eq!(a.free_frames(), 0x100000);
}

#[test]
fn exhaustion_is_none() {
    let a = allocator(&[range(0, 4)]);
    assert!(a.alloc(2).is_some());
    assert_eq!(a.alloc(0), None);
}

#[test]
fn adjacent_ranges_merge() {
    let a = allocator(&[range(4, 4), range(0, 4)]);
    assert_eq!(a.free_blocks(3), 1);
    let all = a.alloc(3).unwrap();
    a.free(all, 3);
    assert_eq!(a.free_blocks(3), 1);
}

#[test]
fn bad_ranges_are_refused() {
    let new = |ranges: &[PfnRange], words| BuddyAllocator::new(ranges, vec![0; words]).map(drop);
    assert_eq!(new(&[], 10), Err(BuddyError::Empty));
    assert_eq!(
        new(&[range(0, 4), range(3, 4)], 99999),
        Err(BuddyError::Overlap(range(3, 4)))
    );
    let need = BuddyAllocator::words_needed(&[range(0, 4)]);
    assert_eq!(
        new(&[range(0, 4)], need - 1),
        Err(BuddyError::Storage {
            have: need - 1,
            need
        })
    );
    let many: Vec<_> = (0..65).map(|i| range(i * 2, 1)).collect();
    assert_eq!(new(&many, 99999), Err(BuddyError::TooMany));
}

/// Frees and expects the refusal that debug builds make a panic of; the allocator must be unchanged.
fn refuses(a: &BuddyAllocator<Vec<u64>>, pfn: u64, order: u8) {
    let before = a.free_frames();
    let freed = a.inner.lock().free(Pfn::new(pfn).unwrap(), order);
    assert!(!freed, "{pfn} order {order}");
    assert_eq!(a.free_frames(), before);
}

#[test]
fn double_and_foreign_frees_are_refused() {
    let a = allocator(&[range(8, 24)]);
    let block = a.alloc(3).unwrap();
    a.free(block, 3);
    refuses(&a, block.get(), 3);
    refuses(&a, block.get(), 0);
    refuses(&a, block.get() + 1, 0);
    refuses(&a, 4, 0);
    refuses(&a, 32, 0);
    refuses(&a, 24, 4);
    let one = a.alloc(0).unwrap();
    refuses(&a, one.get(), 1);
    refuses(&a, one.get(), 19);
    a.free(one, 0);
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "not out")]
fn double_free_panics_in_debug_builds() {
    let a = allocator(&[range(0, 8)]);
    let frame = a.alloc(0).unwrap();
    a.free(frame, 0);
    a.free(frame, 0);
}

#[test]
fn storage_is_a_quarter_byte_a_frame() {
    let frames = 16 << 18;
    let bytes = BuddyAllocator::words_needed(&[range(0, frames)]) as u64 * 8;
    assert!(
        bytes * 100 < frames * 26,
        "{bytes} bytes for {frames} frames"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 200 }))]
    /// Against a model: the set of blocks that are out never overlaps, stays in the ranges, and with the free frames makes up
    /// the total; at the end everything merges back.
    #[test]
    fn agrees_with_a_model(
        start in 0_u64..5000,
        pages in 1_u64..3000,
        gap in 1_u64..1000,
        ops in prop::collection::vec((any::<bool>(), 0_u8..8, any::<prop::sample::Index>()), 1..120),
    ) {
        let ranges = [range(start, pages), range(start + pages + gap, 77)];
        let a = allocator(&ranges);
        let pristine: Vec<u64> = (0..=MAX_ORDER).map(|o| a.free_blocks(o)).collect();
        let mut out = BTreeMap::<u64, u8>::new();
        for (take, order, pick) in ops {
            if take {
                let Some(pfn) = a.alloc(order) else { continue };
                let (at, n) = (pfn.get(), 1_u64 << order);
                prop_assert_eq!(at % n, 0);
                prop_assert!(ranges.iter().any(|r| r.contains_range(range(at, n))));
                let overlap = out.iter().any(|(&s, &o)| s < at + n && at < s + (1 << o));
                prop_assert!(!overlap);
                out.insert(at, order);
            } else if !out.is_empty() {
                let (&at, &order) = out.iter().nth(pick.index(out.len())).unwrap();
                out.remove(&at);
                a.free(Pfn::new(at).unwrap(), order);
            }
            let held: u64 = out.values().map(|o| 1_u64 << o).sum();
            prop_assert_eq!(a.free_frames() + held, a.total_frames());
        }
        for (at, order) in out {
            a.free(Pfn::new(at).unwrap(), order);
        }
        let after: Vec<u64> = (0..=MAX_ORDER).map(|o| a.free_blocks(o)).collect();
        prop_assert_eq!(after, pristine);
    }
}
