use std::collections::BTreeMap;
use std::sync::Arc;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::fake::HeapTables;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
const RW: MapFlags = MapFlags::WRITABLE.union(MapFlags::NO_EXECUTE);

fn table(mem: Arc<HeapTables>) -> PageTable<Arc<HeapTables>> {
    PageTable::new(mem).unwrap()
}

fn va(at: u64) -> VirtAddr {
    VirtAddr::new(at)
}

fn phys(at: u64) -> PhysAddr {
    PhysAddr::new(at)
}

#[test]
fn an_empty_table_maps_nothing() {
    let t = table(HeapTables::new());
    assert!(t.walk(va(0)).is_none());
    assert!(t.walk(va(0xffff_ffff_ffff_f000)).is_none());
    assert!(t.unmap(va(0x1000)).is_none());
}

#[test]
fn each_size_is_found_at_every_address_inside() {
    let t = table(HeapTables::with_largest(PageSize::Size1G));
    for (i, size) in PageSize::ALL.into_iter().enumerate() {
        let (at, to) = (va((i as u64 + 1) * 512 * GIB), phys((i as u64 + 1) * GIB));
        t.map(at, to, size, RW).unwrap();
        for offset in [0, size.bytes() / 2, size.bytes() - 1] {
            let leaf = t.walk(at + offset).unwrap();
            assert_eq!(
                (leaf.size, leaf.pfn_at(at + offset)),
                (size, Pfn::from_phys(to + offset))
            );
            assert_eq!(leaf.entry.flags(), RW);
        }
        assert!(t.walk(at + size.bytes()).is_none());
    }
}

#[test]
fn entries_have_the_bits_that_the_processor_defines() {
    let small = Entry::leaf(phys(0x1234_5000), PageSize::Size4K, RW | MapFlags::USER);
    assert_eq!(small.bits(), (1 << 63) | 0x1234_5000 | 0b110_0111);
    let large = Entry::leaf(phys(0x4020_0000), PageSize::Size2M, MapFlags::DEVICE);
    assert_eq!(large.bits(), (1 << 63) | 0x4020_0000 | 0b1111_1001);
}

#[test]
fn what_is_mapped_is_not_mapped_again() {
    let t = table(HeapTables::new());
    let taken = |at| Err(MapPageError::AlreadyMapped { at: va(at) });
    t.map(va(0x1000), phys(0), PageSize::Size4K, RW).unwrap();
    assert_eq!(
        t.map(va(0x1000), phys(0x1000), PageSize::Size4K, RW),
        taken(0x1000)
    );
    assert_eq!(t.map(va(0), phys(0), PageSize::Size2M, RW), taken(0));
    t.map(va(2 * MIB), phys(0), PageSize::Size2M, RW).unwrap();
    assert_eq!(
        t.map(va(2 * MIB + 0x1000), phys(0), PageSize::Size4K, RW),
        taken(2 * MIB + 0x1000)
    );
    assert_eq!(t.walk(va(0x1000)).unwrap().pfn_at(va(0x1000)).get(), 0);
}

#[test]
fn misaligned_and_wrapping_requests_are_refused() {
    let t = table(HeapTables::new());
    let refused = |r: Result<(), MapPageError>| {
        assert!(matches!(r, Err(MapPageError::NotAligned { .. })), "{r:?}")
    };
    refused(t.map(va(0x1000), phys(0), PageSize::Size2M, RW));
    refused(t.map(va(0), phys(0x1000), PageSize::Size2M, RW));
    refused(t.map_range(va(0x800), phys(0), 0x1000, RW));
    refused(t.map_range(va(0), phys(0), 0x1800, RW));
    refused(t.map_range(va(0x7fff_ffff_f000), phys(0), 0x2000, RW));
    refused(t.map_range(va(0xffff_ffff_ffff_f000), phys(0), 0x2000, RW));
    refused(t.map_range(va(0), phys((1 << 52) - 0x1000), 0x2000, RW));
    assert_eq!(t.mem().live(), 1, "nothing was added");
}

#[test]
fn the_last_page_of_the_address_space_can_be_mapped() {
    let t = table(HeapTables::new());
    t.map_range(va(0xffff_ffff_ffff_e000), phys(0x8000), 0x2000, RW)
        .unwrap();
    assert_eq!(
        t.walk(va(0xffff_ffff_ffff_ffff))
            .unwrap()
            .pfn_at(va(0xffff_ffff_ffff_ffff))
            .get(),
        9
    );
}

fn sizes(t: &PageTable<Arc<HeapTables>>, from: u64, len: u64) -> Vec<PageSize> {
    let (mut at, mut found) = (from, Vec::new());
    while at < from + len {
        let leaf = t.walk(va(at)).unwrap();
        assert_eq!(
            leaf.pfn_at(va(at)).phys().as_u64(),
            at - from + (from & (2 * MIB - 1))
        );
        found.push(leaf.size);
        at += leaf.size.bytes();
    }
    found
}

#[test]
fn map_range_takes_the_largest_page_that_fits() {
    let t = table(HeapTables::with_largest(PageSize::Size1G));
    let from = 2 * GIB - 2 * MIB - 0x1000;
    t.map_range(va(from), phys(2 * MIB - 0x1000), 2 * MIB + 0x3000, RW)
        .unwrap();
    use PageSize::{Size1G, Size2M, Size4K};
    assert_eq!(
        sizes(&t, from, 2 * MIB + 0x3000),
        [Size4K, Size2M, Size4K, Size4K]
    );
    t.map_range(va(8 * GIB), phys(0), GIB + 2 * MIB, RW)
        .unwrap();
    assert_eq!(sizes(&t, 8 * GIB, GIB + 2 * MIB), [Size1G, Size2M]);
}

#[test]
fn map_range_uses_no_page_that_the_cpu_lacks() {
    let t = table(HeapTables::new());
    t.map_range(va(0), phys(0), GIB, RW).unwrap();
    assert_eq!(sizes(&t, 0, GIB), [PageSize::Size2M; 512]);
}

#[test]
fn out_of_memory_says_how_far_it_came() {
    let t = table(HeapTables::with_limit(4));
    let end = MapPageError::OutOfMemory { at: va(2 * MIB) };
    assert_eq!(
        t.map_range(va(2 * MIB - 0x1000), phys(0), 0x2000, RW),
        Err(end)
    );
    assert!(t.walk(va(2 * MIB - 0x1000)).is_some());
    assert!(t.walk(va(2 * MIB)).is_none());
}

#[test]
fn protect_changes_the_flags_and_nothing_else() {
    let t = table(HeapTables::new());
    t.map(va(2 * MIB), phys(4 * MIB), PageSize::Size2M, RW)
        .unwrap();
    assert_eq!(
        t.protect(va(3 * MIB), MapFlags::USER),
        Some(PageSize::Size2M)
    );
    let leaf = t.walk(va(2 * MIB)).unwrap();
    assert_eq!(
        (leaf.entry.flags(), leaf.entry.pfn(leaf.size)),
        (MapFlags::USER, Pfn::from_phys(phys(4 * MIB)))
    );
    assert_eq!(t.protect(va(0), RW), None);
}

/// What the entries above the leaf permit, together.
fn parents_permit_user(t: &PageTable<Arc<HeapTables>>, at: VirtAddr, leaf_level: u8) -> bool {
    let mut table = t.root();
    (leaf_level + 1..LEVELS).rev().all(|level| {
        let entry = Entry::from_bits(t.slot(table, at, level).load(Ordering::Relaxed));
        table = entry.pfn(PageSize::Size4K);
        entry.flags().contains(MapFlags::USER)
    })
}

#[test]
fn parents_permit_ring_3_exactly_when_a_leaf_below_does() {
    let t = table(HeapTables::new());
    t.map(va(0), phys(0), PageSize::Size4K, RW).unwrap();
    assert!(!parents_permit_user(&t, va(0), 0));
    t.map(va(0x1000), phys(0), PageSize::Size4K, RW | MapFlags::USER)
        .unwrap();
    assert!(parents_permit_user(&t, va(0), 0));
    t.map(va(512 * GIB), phys(0), PageSize::Size4K, RW).unwrap();
    assert_eq!(
        t.protect(va(512 * GIB), MapFlags::USER),
        Some(PageSize::Size4K)
    );
    assert!(parents_permit_user(&t, va(512 * GIB), 0));
}

#[test]
fn only_empty_tables_are_detached() {
    let t = table(HeapTables::new());
    t.map(va(0), phys(0), PageSize::Size4K, RW).unwrap();
    // SAFETY: one thread, and no TLB.
    let detach = |at, level| unsafe { t.detach_empty(va(at), level) };
    assert_eq!(detach(0, 0), Ok(None));
    assert_eq!(detach(2 * MIB, 0), Err(2 * MIB));
    assert_eq!(detach(512 * GIB, 0), Err(512 * GIB));
    assert!(t.unmap(va(0)).is_some());
    for level in 0..LEVELS - 1 {
        let table = detach(0, level).unwrap().expect("empty now");
        // SAFETY: detached, and nobody walks.
        unsafe { t.mem().free_table(table) };
    }
    assert_eq!(t.mem().live(), 1);
}

#[test]
fn cpus_that_map_at_once_share_the_tables() {
    let t = table(HeapTables::new());
    std::thread::scope(|s| {
        for cpu in 0..4 {
            let t = &t;
            s.spawn(move || {
                for page in (cpu..512).step_by(4) {
                    t.map(va(page << 12), phys(page << 12), PageSize::Size4K, RW)
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(t.mem().live(), 4);
    assert!(
        (0..512).all(|page| t.walk(va(page << 12)).unwrap().pfn_at(va(page << 12)).get() == page)
    );
}

/// A mapping as the model knows it: size, first frame, flags.
type Known = (PageSize, Pfn, MapFlags);

/// The model: what each first address maps. Answers a lookup by searching, not by walking.
#[derive(Default)]
struct Model(BTreeMap<u64, Known>);

impl Model {
    fn find(&self, at: u64) -> Option<(u64, Known)> {
        let (&start, &known) = self.0.range(..=at).next_back()?;
        (at < start + known.0.bytes()).then_some((start, known))
    }

    fn is_free(&self, at: u64, size: PageSize) -> bool {
        self.find(at).is_none() && self.0.range(at..at + size.bytes()).next().is_none()
    }
}

#[derive(Clone, Debug)]
enum Op {
    Map(u64, u64, PageSize, MapFlags),
    Unmap(u64),
    Protect(u64, MapFlags),
}

fn any_op() -> impl Strategy<Value = Op> {
    let place = || {
        (0_u64..4, 0_u64..4, 0_u64..4, 0_u64..4)
            .prop_map(|(a, b, c, d)| a << 39 | b << 30 | c << 21 | d << 12)
    };
    let flags = prop_oneof![Just(RW), Just(MapFlags::USER), Just(MapFlags::UNCOUNTED)];
    let size = prop_oneof![4 => Just(PageSize::Size4K), 2 => Just(PageSize::Size2M), 1 => Just(PageSize::Size1G)];
    prop_oneof![
        4 => (place(), 0_u64..64, size, flags.clone())
            .prop_map(|(a, p, s, f)| Op::Map(a & !(s.bytes() - 1), p * s.bytes(), s, f)),
        2 => place().prop_map(Op::Unmap),
        1 => (place(), flags).prop_map(|(a, f)| Op::Protect(a, f)),
    ]
}

/// Does the operation to both, and checks that both answer alike.
fn apply(t: &PageTable<Arc<HeapTables>>, model: &mut Model, op: &Op) -> Result<(), TestCaseError> {
    match *op {
        Op::Map(at, to, size, flags) => {
            let done = t.map(va(at), phys(to), size, flags).is_ok();
            // Empty tables stay, so a large page may be refused where the model has room; never the reverse.
            prop_assert!(!done || model.is_free(at, size));
            prop_assert!(done || size != PageSize::Size4K || !model.is_free(at, size));
            if done {
                model.0.insert(at, (size, Pfn::from_phys(phys(to)), flags));
            }
        }
        Op::Unmap(at) => {
            let known = model.find(at);
            known.map(|(start, _)| model.0.remove(&start));
            let seen = t.unmap(va(at)).map(|(e, s)| (s, e.pfn(s), e.flags()));
            prop_assert_eq!(seen, known.map(|(_, k)| k));
        }
        Op::Protect(at, flags) => {
            let known = model.find(at);
            prop_assert_eq!(t.protect(va(at), flags), known.map(|(_, k)| k.0));
            if let Some((start, (size, pfn, _))) = known {
                model.0.insert(start, (size, pfn, flags));
            }
        }
    }
    Ok(())
}

fn config() -> ProptestConfig {
    let cases = if cfg!(miri) { 4 } else { 256 };
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_history_agrees_with_a_map(
        ops in prop::collection::vec(any_op(), 1..120),
        probes in prop::collection::vec(any_op(), 20),
    ) {
        let (t, mut model) = (table(HeapTables::with_largest(PageSize::Size1G)), Model::default());
        for op in &ops {
            apply(&t, &mut model, op)?;
        }
        for op in ops.iter().chain(&probes) {
            let (Op::Map(at, ..) | Op::Unmap(at) | Op::Protect(at, _)) = *op;
            let seen = t.walk(va(at)).map(|l| (l.size, l.entry.pfn(l.size), l.entry.flags()));
            prop_assert_eq!(seen, model.find(at).map(|(_, k)| k));
        }
    }
}
