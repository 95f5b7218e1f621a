//! Tables from outside: parsing and discovery neither panic nor yield regions that overlap.
//!
//! The input is a table as it is; then also with its length and checksum made right, so that the fuzzer need not guess
//! them to reach the pieces.

#![no_main]

use std::ops::Range;

use dax::nfit::{self, Nfit};
use dax::region::{self, Machine, Region};
use libfuzzer_sys::fuzz_target;

const RAM: [Range<u64>; 2] = [0..0x2000_0000, 0xFEC0_0000..0x1_0000_0000];

fuzz_target!(|bytes: &[u8]| {
    if let Ok(nfit) = nfit::parse(bytes) {
        check(nfit);
    }
    if let Ok(nfit) = nfit::parse(&sealed(bytes.to_vec())) {
        check(nfit);
    }
});

/// Makes signature, length and checksum right.
fn sealed(mut table: Vec<u8>) -> Vec<u8> {
    table.resize(table.len().max(40), 0);
    let length = table.len() as u32;
    table[..4].copy_from_slice(b"NFIT");
    table[4..8].copy_from_slice(&length.to_le_bytes());
    table[9] = 0;
    table[9] = table.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
    table
}

fn check(nfit: Nfit) {
    let machine = Machine {
        taken: &RAM,
        address_bits: 46,
    };
    for rejected in &nfit.rejected {
        assert!(!rejected.to_string().is_empty());
    }
    let found = region::discover(&[nfit], &machine).expect("memory");
    for (i, region) in found.regions.iter().enumerate() {
        let range = region.range();
        assert!(range.start < range.end && range.end <= 1 << 46);
        assert!((range.start | range.end).is_multiple_of(4096));
        let others = found.regions[..i].iter().map(Region::range);
        for other in others.chain(RAM) {
            assert!(range.end <= other.start || other.end <= range.start);
        }
    }
}
