//! Label areas from outside: parsing and dividing a region neither panic nor yield namespaces that overlap.
//!
//! The input is an area as it is; then also with the checksums of two index blocks of 256 bytes made right.

#![no_main]

use dax::label::{LabelArea, namespaces};
use dax::nfit::DeviceFlags;
use dax::region::{Device, Domain, Identity, Region};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    let mut sealed = bytes.to_vec();
    sealed.chunks_exact_mut(256).take(2).for_each(seal);
    check(&sealed);
});

/// Makes an index block add up.
fn seal(block: &mut [u8]) {
    block[64..72].fill(0);
    let words = block
        .as_chunks()
        .0
        .iter()
        .map(|word| u32::from_le_bytes(*word));
    let (low, high) = words.fold((0_u32, 0_u32), |(low, high), word| {
        let low = low.wrapping_add(word);
        (low, high.wrapping_add(low))
    });
    block[64..68].copy_from_slice(&low.to_le_bytes());
    block[68..72].copy_from_slice(&high.to_le_bytes());
}

fn check(area: &[u8]) {
    let area = LabelArea::parse(area).expect("memory");
    let region = region();
    let found = namespaces(&region, &[area]).expect("memory");
    for (i, namespace) in found.namespaces.iter().enumerate() {
        let range = &namespace.range;
        assert!(range.start < range.end && range.end <= region.length);
        assert!((range.start | range.end).is_multiple_of(4096));
        for other in &found.namespaces[..i] {
            assert!(range.end <= other.range.start || other.range.end <= range.start);
        }
    }
}

/// QEMU's first device.
fn region() -> Region {
    let device = Device {
        handle: 1,
        flags: DeviceFlags::empty(),
        region_offset: 0,
        dpa: 0,
        identity: Some(Identity {
            serial: 0x12_3456,
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
        length: 254 << 20,
        proximity: None,
        devices: vec![device],
        domain: Domain::Assumed,
        read_only: None,
    }
}
