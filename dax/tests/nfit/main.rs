//! The NFIT parser and region discovery on good, bad and random tables.

mod encode;
mod random;

use dax::nfit::{self, Nfit, Piece as Kind, PlatformFlags, Reason, SpaKind};
use dax::region::{self, Discovery, Domain, Machine, ReadOnly};
use encode::{Piece, device, fix_checksum, raw_table, spa, table};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const RAM: std::ops::Range<u64> = 0..512 * MIB;
const MACHINE: Machine<'static> = Machine {
    taken: &[RAM],
    address_bits: 40,
};

fn parse(pieces: &[Piece]) -> Nfit {
    nfit::parse(&table(pieces)).expect("a sound table")
}

fn discover(pieces: &[Piece]) -> Discovery {
    region::discover(&[parse(pieces)], &MACHINE).expect("memory")
}

/// The one reason for which something was refused.
fn only_reason(nfit: &Nfit) -> Reason {
    assert_eq!(nfit.rejected.len(), 1, "{:?}", nfit.rejected);
    nfit.rejected[0].reason.clone()
}

/// The one reason for which a range was refused.
fn only_refusal(found: &Discovery) -> Reason {
    assert_eq!(found.rejected.len(), 1, "{:?}", found.rejected);
    found.rejected[0].1.reason.clone()
}

/// The table that QEMU 7.2 builds for two devices, one of them unarmed, and `nvdimm-persistence=mem-ctrl`.
fn qemu_like() -> Vec<Piece> {
    vec![
        spa(2, 4 * GIB, 254 * MIB),
        device(1, 2, 3, 0),
        Piece::Control {
            index: 3,
            serial: 0x12_3456,
        },
        spa(4, 4 * GIB + 254 * MIB, 128 * MIB),
        device(2, 4, 5, 8),
        Piece::Control {
            index: 5,
            serial: 0x12_3457,
        },
        Piece::Capabilities {
            highest: 1,
            bits: 2,
        },
    ]
}

#[test]
fn a_sound_table_yields_its_regions() {
    let nfit = parse(&qemu_like());
    assert_eq!(
        (nfit.spas.len(), nfit.devices.len(), nfit.controls.len()),
        (2, 2, 2)
    );
    assert_eq!(nfit.rejected, []);
    let found = region::discover(&[nfit], &MACHINE).expect("memory");
    assert_eq!(found.rejected, []);
    let [armed, unarmed] = found.regions.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(
        (armed.id, armed.base, armed.length),
        (0, 4 * GIB, 254 * MIB)
    );
    assert_eq!(
        (armed.armed(), armed.handle(), armed.serial()),
        (true, Some(1), Some(0x12_3456))
    );
    assert_eq!(armed.domain, Domain::MemoryController);
    assert_eq!((unarmed.id, unarmed.base), (1, 4 * GIB + 254 * MIB));
    assert_eq!(unarmed.read_only, Some(ReadOnly::NotArmed(2)));
    assert_eq!(
        (unarmed.lead_to(2 * MIB), unarmed.lead_to(128 * MIB)),
        (0, 2 * MIB)
    );
}

#[test]
fn a_table_of_other_kinds_yields_no_region_and_no_complaint() {
    let mut volatile = encode::Spa {
        index: 1,
        guid: encode::VOLATILE,
        base: 4 * GIB,
        length: GIB,
    };
    let first = Piece::Spa(volatile.clone());
    (volatile.index, volatile.guid) = (2, [7; 16]);
    let nfit = parse(&[first, Piece::Spa(volatile)]);
    let kinds: Vec<SpaKind> = nfit.spas.iter().map(|spa| spa.kind).collect();
    assert_eq!(kinds, [SpaKind::Volatile, SpaKind::Other([7; 16])]);
    assert_eq!(
        region::discover(&[nfit], &MACHINE).expect("memory"),
        Discovery::default()
    );
}

#[test]
fn a_table_that_cannot_be_trusted_is_refused_whole() {
    let sound = table(&qemu_like());
    let reason = |bytes: &[u8]| nfit::parse(bytes).expect_err("a bad table").reason;
    assert_eq!(reason(&[]), Reason::TooShort { have: 0, need: 40 });
    assert_eq!(
        reason(&sound[..39]),
        Reason::TooShort { have: 39, need: 40 }
    );
    let (have, says) = (sound.len() - 1, sound.len() as u32);
    assert_eq!(reason(&sound[..have]), Reason::TableLength { says, have });
    let mut bad = sound.clone();
    bad[100] ^= 1;
    assert!(matches!(reason(&bad), Reason::Checksum { .. }));
    bad.clone_from(&sound);
    bad[0] = b'X';
    assert_eq!(reason(&bad), Reason::Signature(*b"XFIT"));
    bad.clone_from(&sound);
    bad[4..8].copy_from_slice(&39_u32.to_le_bytes());
    let have = bad.len();
    assert_eq!(reason(&bad), Reason::TableLength { says: 39, have });
}

#[test]
fn bytes_after_the_stated_length_are_not_looked_at() {
    let mut bytes = table(&qemu_like());
    let expected = nfit::parse(&bytes);
    bytes.extend([0xFF; 100]);
    assert_eq!(nfit::parse(&bytes), expected);
}

/// Parses a sound SPA range, then these bytes, then another sound range.
fn between(bytes: &[u8]) -> Nfit {
    let body = [
        &spa(1, 4 * GIB, GIB).bytes(),
        bytes,
        &spa(2, 8 * GIB, GIB).bytes(),
    ]
    .concat();
    nfit::parse(&raw_table(&body)).expect("a sound table")
}

#[test]
fn a_length_that_hides_the_next_piece_ends_the_walk() {
    let nfit = between(&[1, 0, 0, 0]);
    assert_eq!(only_reason(&nfit), Reason::ShortLength { says: 0 });
    assert_eq!(nfit.rejected[0].offset, 40 + 56);
    assert_eq!(nfit.spas.len(), 1);
    assert_eq!(
        only_reason(&between(&[9, 9, 3, 0])),
        Reason::ShortLength { says: 3 }
    );
    let nfit = between(&[1, 0, 61, 0]);
    assert_eq!(only_reason(&nfit), Reason::Overrun { says: 61, left: 60 });
    assert_eq!(nfit.spas.len(), 1);
}

#[test]
fn stray_bytes_at_the_end_are_refused() {
    let body = [&spa(1, 4 * GIB, GIB).bytes(), [7, 0, 16].as_slice()].concat();
    let nfit = nfit::parse(&raw_table(&body)).expect("a sound table");
    assert_eq!(only_reason(&nfit), Reason::Truncated { left: 3 });
    assert_eq!(nfit.spas.len(), 1);
}

#[test]
fn a_piece_of_the_wrong_size_is_refused_alone() {
    let sizes = [
        (0_u16, 52, 56),
        (0, 60, 56),
        (1, 44, 48),
        (1, 52, 48),
        (2, 8, 16),
        (4, 28, 32),
        (4, 40, 80),
        (6, 12, 16),
        (7, 20, 16),
    ];
    for (kind, is, expected) in sizes {
        let mut piece = vec![0; is];
        piece[..2].copy_from_slice(&kind.to_le_bytes());
        piece[2..4].copy_from_slice(&(is as u16).to_le_bytes());
        let nfit = between(&piece);
        assert_eq!(
            only_reason(&nfit),
            Reason::Size { is, expected },
            "type {kind}"
        );
        assert_eq!(nfit.spas.len(), 2);
    }
}

#[test]
fn a_count_must_agree_with_the_length() {
    let mut hints = Piece::Hints {
        handle: 1,
        addresses: vec![8; 3],
    }
    .bytes();
    hints[8] = 2;
    assert_eq!(
        only_reason(&between(&hints)),
        Reason::Size {
            is: 40,
            expected: 32
        }
    );
    let mut interleave = Piece::Interleave { index: 1, lines: 2 }.bytes();
    interleave[8..12].copy_from_slice(&0x4000_0002_u32.to_le_bytes());
    let expected = 16 + 4 * 0x4000_0002;
    assert_eq!(
        only_reason(&between(&interleave)),
        Reason::Size { is: 24, expected }
    );
}

#[test]
fn longer_ranges_and_shorter_control_regions_of_the_specification_are_taken() {
    let mut with_cookie = spa(3, 12 * GIB, GIB).bytes();
    with_cookie.extend([0; 8]);
    with_cookie[2] = 64;
    let mut short = Piece::Control {
        index: 7,
        serial: 9,
    }
    .bytes();
    short.truncate(32);
    short[2] = 32;
    let nfit = between(&[with_cookie, short].concat());
    assert_eq!(nfit.rejected, []);
    assert_eq!((nfit.spas.len(), nfit.controls[0].serial), (3, 9));
}

#[test]
fn unknown_types_are_skipped_by_length() {
    let nfit = between(
        &Piece::Unknown {
            kind: 99,
            body: vec![0xEE; 13],
        }
        .bytes(),
    );
    assert_eq!((nfit.spas.len(), nfit.skipped), (2, 1));
    assert_eq!(nfit.rejected, []);
}

#[test]
fn of_two_pieces_with_one_number_the_first_is_kept() {
    let twice = |piece: Piece| {
        only_reason(&parse(&[
            spa(1, 4 * GIB, GIB),
            device(0x11, 1, 0, 0),
            piece.clone(),
            piece,
        ]))
    };
    assert_eq!(
        twice(Piece::Control {
            index: 3,
            serial: 1
        }),
        Reason::Duplicate(3)
    );
    assert_eq!(
        twice(Piece::Interleave { index: 4, lines: 1 }),
        Reason::Duplicate(4)
    );
    assert_eq!(
        twice(Piece::Hints {
            handle: 0x11,
            addresses: vec![8]
        }),
        Reason::Duplicate(0x11)
    );
    assert_eq!(
        twice(Piece::Capabilities {
            highest: 0,
            bits: 1
        }),
        Reason::Duplicate(0)
    );
    assert_eq!(twice(device(0x12, 1, 0, 0)), Reason::Duplicate(0x12));
    let nfit = parse(&[spa(1, 4 * GIB, GIB), spa(1, 8 * GIB, GIB)]);
    assert_eq!(only_reason(&nfit), Reason::Duplicate(1));
    assert_eq!(nfit.spas[0].base, 4 * GIB);
    assert_eq!(nfit.rejected[0].offset, 40 + 56);
}

#[test]
fn index_zero_is_reserved() {
    assert_eq!(
        only_reason(&parse(&[spa(0, 4 * GIB, GIB)])),
        Reason::ReservedIndex
    );
}

#[test]
fn dangling_references_are_refused_in_cascade() {
    let missing = |to, index| Reason::Dangling { to, index };
    let one = |piece| only_reason(&parse(&[spa(1, 4 * GIB, GIB), piece]));
    assert_eq!(one(device(5, 2, 0, 0)), missing(Kind::Spa, 2));
    assert_eq!(one(device(5, 1, 9, 0)), missing(Kind::ControlRegion, 9));
    let interleaved = encode::Device {
        handle: 5,
        spa: 1,
        interleave: 8,
        ..Default::default()
    };
    assert_eq!(
        one(Piece::Device(interleaved)),
        missing(Kind::Interleave, 8)
    );
    assert_eq!(
        one(Piece::Hints {
            handle: 5,
            addresses: vec![]
        }),
        missing(Kind::MemoryDevice, 5)
    );
    let nfit = parse(&[
        device(5, 2, 0, 0),
        Piece::Hints {
            handle: 5,
            addresses: vec![8],
        },
    ]);
    let reasons: Vec<Reason> = nfit
        .rejected
        .iter()
        .map(|rejected| rejected.reason.clone())
        .collect();
    assert_eq!(
        reasons,
        [missing(Kind::Spa, 2), missing(Kind::MemoryDevice, 5)]
    );
}

#[test]
fn hostile_counts_are_capped_and_counted() {
    let ranges: Vec<Piece> = (1..=1000)
        .map(|i| spa(i, u64::from(i) << 32, GIB))
        .collect();
    let nfit = parse(&ranges);
    assert_eq!(nfit.spas.len(), nfit::MAX_PIECES);
    assert_eq!(nfit.rejected.len(), nfit::MAX_REJECTED);
    assert_eq!(
        nfit.unlisted as usize,
        1000 - nfit::MAX_PIECES - nfit::MAX_REJECTED
    );
    let found = region::discover(
        &[nfit],
        &Machine {
            taken: &[],
            address_bits: 52,
        },
    )
    .expect("memory");
    assert_eq!(found.regions.len(), region::MAX_REGIONS);
    assert_eq!(
        found.rejected[0].1.reason,
        Reason::TooMany(region::MAX_REGIONS)
    );
}

#[test]
fn a_bad_range_is_refused_and_the_rest_goes_on() {
    let refused = |base, length| {
        let found = discover(&[spa(1, base, length), spa(2, 8 * GIB, GIB)]);
        assert_eq!(found.regions.len(), 1);
        only_refusal(&found)
    };
    assert_eq!(refused(4 * GIB, 0), Reason::Empty);
    let next_2m = 4 * GIB + 2 * MIB;
    let (base, length) = (4 * GIB + 2048, GIB);
    assert_eq!(
        refused(base, length),
        Reason::Misaligned {
            base,
            length,
            next_2m
        }
    );
    let (base, length) = (4 * GIB, GIB + 1);
    assert_eq!(
        refused(base, length),
        Reason::Misaligned {
            base,
            length,
            next_2m: base
        }
    );
    let last = (1 << 40) - 1;
    for (base, length) in [
        (u64::MAX - 4095, 8192),
        (1 << 40, 4096),
        ((1 << 40) - 4096, 8192),
        (4096, u64::MAX),
    ] {
        assert_eq!(
            refused(base, length),
            Reason::Unreachable { base, length, last }
        );
    }
    assert_eq!(refused(511 * MIB, 2 * MIB), Reason::Taken(RAM));
}

#[test]
fn ranges_that_only_touch_are_taken() {
    let found = discover(&[
        spa(1, RAM.end, GIB),
        spa(2, RAM.end + GIB, GIB),
        spa(3, (1 << 40) - 4096, 4096),
    ]);
    assert_eq!((found.regions.len(), found.rejected.len()), (3, 0));
}

#[test]
fn of_overlapping_ranges_the_earlier_is_kept_also_across_tables() {
    let range = 4 * GIB..5 * GIB;
    let overlap = Reason::Overlap { region: 0, range };
    let found = discover(&[
        spa(1, 4 * GIB, GIB),
        spa(2, 4 * GIB + 4096, 4096),
        spa(3, 5 * GIB, 4096),
    ]);
    assert_eq!(only_refusal(&found), overlap);
    assert_eq!(found.regions.len(), 2);
    let tables = [
        parse(&[spa(1, 4 * GIB, GIB)]),
        parse(&[spa(1, 3 * GIB, 2 * GIB)]),
    ];
    let found = region::discover(&tables, &MACHINE).expect("memory");
    assert_eq!(only_refusal(&found), overlap);
    assert_eq!(
        found.rejected[0].0, 1,
        "the second table's range is refused"
    );
}

#[test]
fn a_range_whose_device_is_not_mapped_is_refused() {
    let found = discover(&[
        spa(1, 4 * GIB, GIB),
        device(1, 1, 0, 0),
        device(2, 1, 0, 1 << 6),
    ]);
    assert_eq!(only_refusal(&found), Reason::NotMapped { handle: 2 });
}

#[test]
fn a_region_may_be_written_only_when_every_device_is_armed() {
    let read_only = |pieces: &[Piece]| discover(pieces).regions[0].read_only;
    let range = spa(1, 4 * GIB, GIB);
    assert_eq!(
        read_only(std::slice::from_ref(&range)),
        Some(ReadOnly::NoDevice)
    );
    assert_eq!(read_only(&[range.clone(), device(1, 1, 0, 0b1_0111)]), None);
    assert_eq!(
        read_only(&[range.clone(), device(1, 1, 0, 0), device(2, 1, 0, 8)]),
        Some(ReadOnly::NotArmed(2))
    );
    assert_eq!(
        read_only(&[range, device(1, 1, 7, 0)]),
        Some(ReadOnly::NoDevice),
        "a refused device vouches for nothing"
    );
}

#[test]
fn the_highest_valid_capability_masks_the_rest() {
    let valid = |highest, bits| {
        parse(&[Piece::Capabilities { highest, bits }])
            .capabilities
            .expect("some")
            .valid()
    };
    assert_eq!(valid(0, 0b111), PlatformFlags::CPU_CACHE);
    assert_eq!(valid(1, 0b110), PlatformFlags::MEMORY_CONTROLLER);
    assert_eq!(valid(31, u32::MAX).bits(), u32::MAX);
    assert_eq!(valid(30, u32::MAX).bits(), u32::MAX >> 1);
    assert_eq!(valid(255, 0b101).bits(), 0b101);
}

#[test]
fn the_domain_follows_capabilities_then_hints() {
    let domain = |more: &[Piece]| {
        let pieces = [&[spa(1, 4 * GIB, GIB), device(1, 1, 0, 0)], more].concat();
        let region = discover(&pieces).regions.remove(0);
        (region.domain, region.devices[0].hint, region.read_only)
    };
    let hints = |address| Piece::Hints {
        handle: 1,
        addresses: vec![address],
    };
    let capabilities = |highest, bits| Piece::Capabilities { highest, bits };
    let hint = 3 * GIB;
    assert_eq!(domain(&[]), (Domain::Assumed, None, None));
    assert_eq!(
        domain(&[capabilities(1, 3)]),
        (Domain::CpuCache, None, None)
    );
    assert_eq!(
        domain(&[capabilities(1, 2), hints(hint)]),
        (Domain::MemoryController, None, None)
    );
    assert_eq!(
        domain(&[capabilities(0, 2), hints(hint)]),
        (Domain::FlushHints, Some(hint), None)
    );
    assert_eq!(
        domain(&[hints(hint)]),
        (Domain::FlushHints, Some(hint), None)
    );
    for bad in [hint + 4, RAM.end - 8, 4 * GIB, u64::MAX - 7] {
        assert_eq!(
            domain(&[hints(bad)]),
            (Domain::FlushHints, None, Some(ReadOnly::NoHint(1)))
        );
    }
}

#[test]
fn every_refusal_says_where_and_what_to_do() {
    let nfit = parse(&[spa(1, 4 * GIB, GIB), spa(1, 8 * GIB, GIB)]);
    let text = nfit.rejected[0].to_string();
    assert_eq!(
        text,
        "SPA range at byte 0x60: 0x1 is taken by an earlier one, which is kept (number them apart)"
    );
    let mut bytes = table(&qemu_like());
    bytes[50] ^= 0x10;
    let text = nfit::parse(&bytes).expect_err("a bad table").to_string();
    assert!(
        text.starts_with("table at byte 0x0: checksum: ") && text.ends_with("(correct the table)"),
        "{text}"
    );
    bytes[50] ^= 0x10;
    fix_checksum(&mut bytes);
    assert!(nfit::parse(&bytes).is_ok());
}

#[test]
fn the_seeds_of_the_fuzzer_are_sound() {
    for seed in [
        include_bytes!("../../fuzz/corpus/nfit/seed-qemu").as_slice(),
        include_bytes!("../../fuzz/corpus/nfit/seed-every-kind"),
    ] {
        let nfit = nfit::parse(seed).expect("a sound table");
        assert_eq!(nfit.rejected, []);
        assert!(!nfit.spas.is_empty() && !nfit.devices.is_empty());
    }
}
