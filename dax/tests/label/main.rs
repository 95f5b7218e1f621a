//! Label areas, and the namespaces that they make of a region.

mod encode;

use dax::label::{
    Cookie, IndexFault, LabelArea, LabelFault, Labels, MAX_LABELS, MAX_REJECTED, Mode,
    NamespaceFault, Namespaces, namespaces, set_cookie,
};
use dax::nfit::DeviceFlags;
use dax::region::{Device, Domain, Identity, Region};
use encode::{Label, Shape, area, index, seal_index};
use proptest::prelude::*;
use proptest::sample::Index as Place;

const MIB: u64 = 1 << 20;
/// Cookies of QEMU's devices in slots 0 and 1, as Linux computes them.
const QEMU_COOKIES: [u64; 2] = [0xba_9012_0012_b4dc, 0xba_901c_0012_b4dd];

fn region(ways: u32) -> Region {
    let device = |i: u32| Device {
        handle: i + 1,
        flags: DeviceFlags::empty(),
        region_offset: u64::from(i) * 4096,
        dpa: 0,
        identity: Some(Identity {
            serial: 0x12_3456 + i,
            vendor: 0x8086,
            manufacturing_location: 0,
            manufacturing_date: 0,
        }),
        hint: None,
    };
    Region {
        id: 0,
        table: 0,
        spa_index: 2,
        base: 4 << 30,
        length: u64::from(ways) * 254 * MIB,
        proximity: None,
        devices: (0..ways).map(device).collect(),
        domain: Domain::Assumed,
        read_only: None,
    }
}

fn parse(area: &[u8]) -> LabelArea {
    LabelArea::parse(area).expect("memory")
}

fn labels(area: &[u8]) -> Labels {
    match parse(area) {
        LabelArea::Labelled(labels) => labels,
        other => panic!("{other:?}"),
    }
}

fn divide(region: &Region, areas: &[LabelArea]) -> Namespaces {
    namespaces(region, areas).expect("memory")
}

/// Namespaces that these labels of version 1.2 make of a region of one device.
fn of_labels(list: &[Label]) -> Namespaces {
    divide(
        &region(1),
        &[parse(&area(Shape::V1_2, [(1, list), (2, list)]))],
    )
}

#[test]
fn cookies_are_those_of_linux() {
    let mut devices = region(1).devices;
    assert_eq!(set_cookie(&devices, Cookie::V1_2), Some(QEMU_COOKIES[0]));
    devices[0].identity.as_mut().expect("known").serial += 1;
    assert_eq!(set_cookie(&devices, Cookie::V1_2), Some(QEMU_COOKIES[1]));
    devices[0].identity = None;
    assert_eq!(set_cookie(&devices, Cookie::V1_2), None);
}

#[test]
fn a_cookie_does_not_depend_on_the_order_of_the_table() {
    let mut devices = region(3).devices;
    let expected = set_cookie(&devices, Cookie::V1_1);
    devices.reverse();
    assert_eq!(set_cookie(&devices, Cookie::V1_1), expected);
    assert_eq!(set_cookie(&region(17).devices, Cookie::V1_1), None);
}

#[test]
fn a_fresh_area_leaves_the_region_one_namespace() {
    assert_eq!(parse(&[0; 4096]), LabelArea::Fresh);
    assert_eq!(parse(&[]), LabelArea::Fresh);
    let found = divide(&region(1), &[LabelArea::Fresh]);
    assert_eq!(found.namespaces.len(), 1);
    assert_eq!(
        (found.namespaces[0].range.clone(), found.namespaces[0].mode),
        (0..254 * MIB, Mode::Raw)
    );
    assert_eq!(
        divide(&region(2), &[]),
        divide(&region(2), &[LabelArea::Fresh, LabelArea::Fresh])
    );
}

#[test]
fn labels_divide_the_region() {
    let mut second = Label::alone(7, QEMU_COOKIES[0], 100 * MIB, 154 * MIB);
    second.flags = 1;
    second.abstraction = [
        0xba, 0x00, 0x64, 0x26, 0x9f, 0xfb, 0x77, 0x46, 0xbc, 0xb0, 0x96, 0x8f, 0x11, 0xd0, 0xd2,
        0x25,
    ];
    let found = of_labels(&[Label::alone(0, QEMU_COOKIES[0], 0, 64 * MIB), second]);
    let [raw, fsdax] = found.namespaces.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(
        (raw.range.clone(), raw.mode, raw.read_only),
        (0..64 * MIB, Mode::Raw, false)
    );
    assert_eq!(
        (fsdax.range.clone(), fsdax.mode, fsdax.read_only),
        (100 * MIB..254 * MIB, Mode::Fsdax, true)
    );
    assert_eq!((fsdax.uuid, fsdax.name[0]), ([8; 16], b'n'));
}

#[test]
fn labels_of_version_1_1_are_read_too() {
    let cookie = set_cookie(&region(1).devices, Cookie::V1_1).expect("known");
    let mut label = Label::alone(1019, cookie, 0, MIB);
    label.flags = 4;
    let found = labels(&area(Shape::V1_1, [(3, &[label]), (2, &[])]));
    assert_eq!(
        (
            found.index.label_size,
            found.labels.len(),
            found.index.minor
        ),
        (128, 1, 1)
    );
    let found = divide(&region(1), &[LabelArea::Labelled(found)]);
    assert_eq!(found.namespaces[0].mode, Mode::Btt);
}

#[test]
fn initialised_labels_with_none_in_use_leave_no_namespace() {
    assert_eq!(of_labels(&[]), Namespaces::default());
}

#[test]
fn the_newer_index_block_counts() {
    let (old, new) = ([Label::alone(0, 1, 0, MIB)], [Label::alone(1, 1, 0, MIB)]);
    for (first, second, slot) in [
        (1, 2, 1),
        (2, 3, 1),
        (3, 1, 1),
        (2, 1, 0),
        (3, 2, 0),
        (1, 3, 0),
        (1, 1, 1),
        (3, 3, 1),
    ] {
        let found = labels(&area(Shape::V1_2, [(first, &old), (second, &new)]));
        let used: Vec<u32> = found.labels.iter().map(|label| label.slot).collect();
        assert_eq!(
            (used, found.other),
            (vec![slot], None),
            "sequence numbers {first}, {second}"
        );
    }
}

#[test]
fn a_cut_off_update_leaves_the_other_index_block() {
    let (old, new) = ([Label::alone(0, 1, 0, MIB)], [Label::alone(1, 1, 0, MIB)]);
    for (broken, slot) in [(0, 1), (1, 0)] {
        let mut bytes = area(
            Shape::V1_2,
            [(2 - broken as u32, &old), (1 + broken as u32, &new)],
        );
        bytes[broken * 256 + 200] ^= 1;
        let found = labels(&bytes);
        assert_eq!(found.labels[0].slot, slot);
        assert!(
            matches!(found.other, Some(IndexFault::Checksum { .. })),
            "{found:?}"
        );
    }
}

#[test]
fn an_area_without_a_sound_index_block_is_damaged_and_offers_nothing() {
    let mut bytes = vec![0; 1 << 17];
    bytes[5000] = 1;
    let found = parse(&bytes);
    assert_eq!(
        found,
        LabelArea::Damaged(IndexFault::Missing, IndexFault::Missing)
    );
    let found = divide(&region(1), &[found]);
    assert!(found.damaged && found.namespaces.is_empty());
    assert!(
        divide(&region(2), &[LabelArea::Fresh, parse(&bytes)])
            .namespaces
            .is_empty()
    );
}

/// The fault found in the first index block after a change to it, the checksum being made right again.
fn fault_after(change: impl Fn(&mut [u8])) -> IndexFault {
    let mut block = index(Shape::V1_2, 0, 1, &[]);
    change(&mut block);
    seal_index(&mut block);
    block.resize(Shape::V1_2.size, 0);
    match parse(&block) {
        LabelArea::Damaged(first, IndexFault::Missing) => first,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_field_of_an_index_block_is_checked() {
    let put = |at: usize, value: u64| {
        move |block: &mut [u8]| block[at..at + 8].copy_from_slice(&value.to_le_bytes())
    };
    assert_eq!(fault_after(|b| b[0] = b'X'), IndexFault::Missing);
    let version = |major, minor, size| IndexFault::Version { major, minor, size };
    assert_eq!(fault_after(|b| b[19] = 2), version(1, 2, 2));
    assert_eq!(fault_after(|b| b[19] = 0), version(1, 2, 0));
    assert_eq!(fault_after(|b| b[62] = 1), version(1, 1, 1));
    assert_eq!(fault_after(|b| b[60] = 2), version(2, 2, 1));
    assert_eq!(fault_after(|b| b[20] = 0), IndexFault::Sequence(0));
    assert_eq!(fault_after(|b| b[20] = 4), IndexFault::Sequence(4));
    assert_eq!(
        fault_after(put(24, 256)),
        IndexFault::Place {
            own: 256,
            other: 256
        }
    );
    assert_eq!(
        fault_after(put(40, 512)),
        IndexFault::Place { own: 0, other: 512 }
    );
    assert_eq!(
        fault_after(put(24, u64::MAX)),
        IndexFault::Place {
            own: u64::MAX,
            other: 256
        }
    );
    for size in [0, 128, 300, 1 << 18, u64::MAX] {
        assert_eq!(fault_after(put(32, size)), IndexFault::Size(size));
    }
    for offset in [511, u64::MAX, 513] {
        assert_eq!(
            fault_after(put(48, offset)),
            IndexFault::Slots { slots: 510, offset }
        );
    }
    let slots = |slots: u32| move |b: &mut [u8]| b[56..60].copy_from_slice(&slots.to_le_bytes());
    assert_eq!(
        fault_after(slots(511)),
        IndexFault::Slots {
            slots: 511,
            offset: 512
        }
    );
    assert_eq!(fault_after(slots(u32::MAX)), IndexFault::Size(256));
}

/// The faults of these labels.
fn faults(list: &[Label]) -> Vec<(u32, LabelFault)> {
    let found = labels(&area(Shape::V1_2, [(1, list), (2, list)]));
    found
        .rejected
        .iter()
        .map(|rejected| (rejected.slot, rejected.fault))
        .collect()
}

#[test]
fn each_field_of_a_label_is_checked() {
    let good = Label::alone(0, 1, 0, MIB);
    let with = |change: &dyn Fn(&mut Label)| {
        let mut label = Label::alone(3, 1, 2 * MIB, MIB);
        change(&mut label);
        faults(&[good.clone(), label])
    };
    assert_eq!(with(&|_| ()), []);
    let range = |dpa, raw_size| vec![(3, LabelFault::Range { dpa, raw_size })];
    assert_eq!(with(&|l| l.raw_size = 0), range(2 * MIB, 0));
    assert_eq!(with(&|l| l.dpa = u64::MAX), range(u64::MAX, MIB));
    assert_eq!(
        with(&|l| l.position = 1),
        [(
            3,
            LabelFault::Position {
                position: 1,
                labels: 1
            }
        )]
    );
    assert_eq!(with(&|l| l.dpa = MIB - 1), [(3, LabelFault::Overlap(0))]);
}

#[test]
fn a_label_in_another_slot_or_that_does_not_add_up_is_refused() {
    let list = [Label::alone(0, 1, 0, MIB), Label::alone(1, 1, MIB, MIB)];
    let mut bytes = area(Shape::V1_2, [(1, &list), (2, &list)]);
    bytes.copy_within(512..768, 768);
    bytes[512 + 130] ^= 1;
    let found = labels(&bytes);
    assert!(matches!(
        found.rejected[0].fault,
        LabelFault::Checksum { .. }
    ));
    assert_eq!(found.rejected[1].fault, LabelFault::Slot(0));
    assert!(found.labels.is_empty());
}

#[test]
fn hostile_counts_are_capped_and_counted() {
    let list: Vec<Label> = (0..510)
        .map(|slot| Label::alone(slot, 1, u64::from(slot) * MIB, MIB))
        .collect();
    let found = labels(&area(Shape::V1_2, [(1, &list), (2, &list)]));
    assert_eq!(
        (found.labels.len(), found.rejected.len()),
        (MAX_LABELS, MAX_REJECTED)
    );
    assert_eq!(found.unlisted as usize, 510 - MAX_LABELS - MAX_REJECTED);
}

#[test]
fn a_namespace_that_does_not_fit_the_region_is_refused() {
    let refused = |label: Label| {
        let found = of_labels(&[label, Label::alone(9, QEMU_COOKIES[0], 0, 4096)]);
        assert_eq!(found.namespaces.len(), 1);
        found.rejected
    };
    let cookie = QEMU_COOKIES[0];
    let (dpa, raw_size) = (253 * MIB, 2 * MIB);
    assert_eq!(
        refused(Label::alone(0, cookie, dpa, raw_size)),
        [(0, NamespaceFault::Outside { dpa, raw_size })]
    );
    let (start, end) = (4096, 8191);
    assert_eq!(
        refused(Label::alone(0, cookie, 4096, 4095)),
        [(0, NamespaceFault::Misaligned { start, end })]
    );
    let mut double = Label::alone(0, cookie, MIB, MIB);
    double.labels = 2;
    assert_eq!(
        refused(double),
        [(
            0,
            NamespaceFault::Count {
                labels: 2,
                devices: 1
            }
        )]
    );
}

#[test]
fn labels_of_another_set_are_left_alone() {
    let found = of_labels(&[Label::alone(0, QEMU_COOKIES[1], 0, MIB)]);
    assert_eq!(
        (found.foreign, found.namespaces.len(), found.rejected.len()),
        (1, 0, 0)
    );
}

#[test]
fn an_interleaved_namespace_needs_a_label_on_every_device() {
    let region = region(2);
    let cookie = set_cookie(&region.devices, Cookie::V1_2).expect("known");
    let label = |position, raw_size| {
        let mut label = Label::alone(0, cookie, 2 * MIB, raw_size);
        (label.labels, label.position) = (2, position);
        parse(&area(Shape::V1_2, [(1, &[label.clone()]), (2, &[label])]))
    };
    let found = divide(&region, &[label(0, MIB), label(1, MIB)]);
    assert_eq!(found.namespaces[0].range, 4 * MIB..6 * MIB);
    for other in [label(0, MIB), label(1, 2 * MIB), LabelArea::Fresh] {
        let found = divide(&region, &[label(0, MIB), other]);
        assert_eq!(found.rejected, [(0, NamespaceFault::Missing(2))]);
    }
    assert_eq!(
        divide(&region, &[label(0, MIB)]).rejected,
        [(0, NamespaceFault::Missing(2))]
    );
}

/// What parsing promises of whatever it returns.
fn check(area: &[u8]) -> Result<(), TestCaseError> {
    let parsed = parse(area);
    if let LabelArea::Labelled(found) = &parsed {
        prop_assert!(found.labels.len() <= MAX_LABELS);
        for (i, label) in found.labels.iter().enumerate() {
            prop_assert!(label.slot < found.index.slots && label.raw_size > 0);
            let apart = |other: &dax::label::Label| {
                other.range().end <= label.dpa || label.range().end <= other.dpa
            };
            prop_assert!(found.labels[..i].iter().all(apart));
        }
    }
    let region = region(1);
    let found = divide(&region, &[parsed]);
    for (i, namespace) in found.namespaces.iter().enumerate() {
        prop_assert!(
            namespace.range.start < namespace.range.end && namespace.range.end <= region.length
        );
        let apart = |other: &dax::label::Namespace| {
            other.range.end <= namespace.range.start || namespace.range.end <= other.range.start
        };
        prop_assert!(found.namespaces[..i].iter().all(apart));
    }
    Ok(())
}

/// A small area, so that mutations hit something.
const SMALL: Shape = Shape {
    size: 512 + 8 * 256,
    label_size: 256,
    index_size: 256,
    slots: 8,
};

fn some_labels() -> impl Strategy<Value = Vec<Label>> {
    let label = (0..16_u64, 1..4_u64, any::<u32>(), any::<u8>());
    prop::collection::vec(prop::option::of(label), SMALL.slots as usize).prop_map(|slots| {
        let used = slots
            .into_iter()
            .enumerate()
            .filter_map(|(slot, label)| Some((slot, label?)));
        let make = |(slot, (dpa, size, flags, mode)): (usize, (u64, u64, u32, u8))| {
            let mut label = Label::alone(slot as u32, QEMU_COOKIES[0], dpa << 12, size << 12);
            label.flags = flags;
            label.abstraction[0] = mode;
            label
        };
        used.map(make).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        check(&bytes)?;
    }

    #[test]
    fn labels_that_do_not_overlap_come_back(list in some_labels(), sequence in 1..=3_u32) {
        let bytes = area(SMALL, [(sequence, &list), (sequence % 3 + 1, &list)]);
        check(&bytes)?;
        let mut expected: Vec<&Label> = Vec::new();
        for label in &list {
            if expected.iter().all(|e| e.dpa + e.raw_size <= label.dpa || label.dpa + label.raw_size <= e.dpa) {
                expected.push(label);
            }
        }
        let found = labels(&bytes);
        let key = |l: &&Label| (l.slot, l.uuid, l.flags, l.dpa, l.raw_size, l.abstraction);
        let got: Vec<_> =
            found.labels.iter().map(|l| (l.slot, l.uuid, l.flags.bits(), l.dpa, l.raw_size, l.abstraction)).collect();
        prop_assert_eq!(got, expected.iter().map(key).collect::<Vec<_>>());
    }

    #[test]
    fn mutated_areas_keep_every_promise(
        list in some_labels(),
        changes in prop::collection::vec((any::<Place>(), any::<u8>()), 1..6),
        length in any::<Place>(),
        seal in any::<bool>(),
    ) {
        let mut bytes = area(SMALL, [(1, &list), (2, &list)]);
        for (place, byte) in &changes {
            // Mostly in the fields of the index blocks.
            let at = if byte % 4 == 0 { place.index(SMALL.size) } else { place.index(512) };
            bytes[at] = *byte;
        }
        if seal {
            seal_index(&mut bytes[..256]);
            seal_index(&mut bytes[256..512]);
        }
        check(&bytes)?;
        bytes.truncate(length.index(SMALL.size));
        check(&bytes)?;
    }

    #[test]
    fn one_flipped_bit_in_an_index_block_loses_no_label(list in some_labels(), bit in 0..8_u8, at in 0..512_usize) {
        let mut bytes = area(SMALL, [(1, &list), (2, &list)]);
        let expected = labels(&bytes).labels;
        bytes[at] ^= 1 << bit;
        // Which bits of the flags are set means nothing, but they are summed.
        let found = labels(&bytes);
        prop_assert!(found.other.is_some());
        prop_assert_eq!(found.labels, expected);
    }
}

#[test]
fn the_seeds_of_the_fuzzer_are_sound() {
    for seed in [
        include_bytes!("../../fuzz/corpus/label/seed-v1.1").as_slice(),
        include_bytes!("../../fuzz/corpus/label/seed-v1.2"),
    ] {
        let found = divide(&region(1), &[parse(seed)]);
        assert_eq!(
            (found.namespaces.len(), found.rejected.len(), found.foreign),
            (2, 0, 0)
        );
    }
}
