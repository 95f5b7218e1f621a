//! Properties over random tables.

use dax::nfit::{self, MAX_PIECES, MAX_REJECTED, Nfit};
use dax::region::{self, Machine};
use proptest::prelude::*;
use proptest::sample::Index;

use super::encode::{self, FIXED, Piece, fix_checksum, raw_table, table};

/// Few enough values that numbers collide, references dangle and ranges overlap often.
fn number() -> impl Strategy<Value = u16> {
    0..6_u16
}

fn range() -> impl Strategy<Value = (u64, u64)> {
    let page = 0..24_u64;
    let plain = (page.clone(), page).prop_map(|(base, len)| (base << 12, len << 12));
    prop_oneof![4 => plain, 1 => any::<(u64, u64)>()]
}

fn piece() -> impl Strategy<Value = Piece> {
    let guid = prop_oneof![3 => Just(encode::PERSISTENT), 1 => Just(encode::VOLATILE), 1 => any::<[u8; 16]>()];
    let spa = (number(), guid, range()).prop_map(|(index, guid, (base, length))| {
        Piece::Spa(encode::Spa {
            index,
            guid,
            base,
            length,
        })
    });
    let device = (
        number(),
        number(),
        number(),
        number(),
        number(),
        any::<u16>(),
    )
        .prop_map(|(handle, region_id, spa, control, interleave, flags)| {
            Piece::Device(encode::Device {
                handle: handle.into(),
                region_id,
                spa,
                control,
                interleave,
                flags,
            })
        });
    let hints =
        (number(), prop::collection::vec(any::<u64>(), 0..6)).prop_map(|(handle, addresses)| {
            Piece::Hints {
                handle: handle.into(),
                addresses,
            }
        });
    prop_oneof![
        4 => spa,
        4 => device,
        2 => (number(), any::<u32>()).prop_map(|(index, serial)| Piece::Control { index, serial }),
        1 => (number(), 0..9_u32).prop_map(|(index, lines)| Piece::Interleave { index, lines }),
        1 => hints,
        1 => any::<(u8, u32)>().prop_map(|(highest, bits)| Piece::Capabilities { highest, bits }),
        1 => (8..=u16::MAX, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(kind, body)| Piece::Unknown { kind, body }),
    ]
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    prop::collection::vec(piece(), 0..24)
}

/// What `nfit::parse` and `region::discover` promise of whatever they return.
fn check(bytes: &[u8]) -> Result<Option<Nfit>, TestCaseError> {
    let Ok(nfit) = nfit::parse(bytes) else {
        return Ok(None);
    };
    check_numbers(&nfit)?;
    check_references(&nfit)?;
    let ram = [0x4000..0x8000, 1 << 40..u64::MAX];
    let machine = Machine {
        taken: &ram,
        address_bits: 46,
    };
    let tables = [nfit.clone(), nfit.clone()];
    let found = region::discover(&tables, &machine).expect("memory");
    for (i, region) in found.regions.iter().enumerate() {
        prop_assert_eq!(region.id as usize, i);
        prop_assert!(region.length > 0 && region.base % 4096 == 0 && region.length % 4096 == 0);
        prop_assert!(
            region
                .base
                .checked_add(region.length)
                .is_some_and(|end| end <= 1 << 46)
        );
        let others = found.regions[..i].iter().map(region::Region::range);
        for other in others.chain(ram.clone()) {
            prop_assert!(
                region.range().end <= other.start || other.end <= region.base,
                "{region:?} overlaps {other:?}"
            );
        }
    }
    Ok(Some(nfit))
}

fn check_numbers(nfit: &Nfit) -> Result<(), TestCaseError> {
    let numbers: [Vec<u16>; 3] = [
        nfit.spas.iter().map(|p| p.index).collect(),
        nfit.controls.iter().map(|p| p.index).collect(),
        nfit.interleaves.iter().map(|p| p.index).collect(),
    ];
    for mut list in numbers {
        let count = list.len();
        prop_assert!(count <= MAX_PIECES && !list.contains(&0));
        list.sort_unstable();
        list.dedup();
        prop_assert_eq!(list.len(), count);
    }
    prop_assert!(nfit.rejected.len() <= MAX_REJECTED);
    Ok(())
}

fn check_references(nfit: &Nfit) -> Result<(), TestCaseError> {
    for device in &nfit.devices {
        prop_assert!(device.spa_index == 0 || nfit.spa(device.spa_index).is_some());
        prop_assert!(device.control_index == 0 || nfit.control(device.control_index).is_some());
    }
    for hints in &nfit.hints {
        prop_assert!(
            nfit.devices
                .iter()
                .any(|device| device.handle == hints.handle)
        );
    }
    Ok(())
}

/// Every piece is found again or was refused; nothing is lost and nothing appears.
fn accounted_for(nfit: &Nfit) -> usize {
    let kept = nfit.spas.len()
        + nfit.devices.len()
        + nfit.controls.len()
        + nfit.interleaves.len()
        + nfit.hints.len();
    let capabilities = usize::from(nfit.capabilities.is_some());
    kept + capabilities + nfit.skipped as usize + nfit.rejected.len() + nfit.unlisted as usize
}

/// A change to the bytes of a table.
#[derive(Clone, Debug)]
enum Mutation {
    Set(Index, u8),
    Set16(Index, u16),
    Cut(Index),
    Remove(Index, u8),
    Insert(Index, Vec<u8>),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        any::<(Index, u8)>().prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (
            any::<Index>(),
            prop_oneof![Just(0), Just(u16::MAX), 0..100_u16]
        )
            .prop_map(|(at, v)| Mutation::Set16(at, v)),
        any::<Index>().prop_map(Mutation::Cut),
        any::<(Index, u8)>().prop_map(|(at, count)| Mutation::Remove(at, count)),
        (any::<Index>(), prop::collection::vec(any::<u8>(), 1..8))
            .prop_map(|(at, v)| Mutation::Insert(at, v)),
    ]
}

fn mutate(body: &mut Vec<u8>, mutation: &Mutation) {
    let places = body.len() + 1;
    let place = |at: &Index| at.index(places);
    match mutation {
        Mutation::Set(at, byte) => overwrite(body, place(at), &[*byte]),
        Mutation::Set16(at, value) => overwrite(body, place(at), &value.to_le_bytes()),
        Mutation::Cut(at) => body.truncate(place(at)),
        Mutation::Remove(at, count) => {
            let start = place(at);
            body.drain(start..body.len().min(start + usize::from(*count)));
        }
        Mutation::Insert(at, bytes) => {
            let start = place(at);
            body.splice(start..start, bytes.iter().copied());
        }
    }
}

fn overwrite(body: &mut [u8], at: usize, bytes: &[u8]) {
    let end = body.len().min(at + bytes.len());
    body[at..end].copy_from_slice(&bytes[..end - at]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        check(&bytes)?;
        prop_assert!(check(&raw_table(&bytes))?.is_some());
    }

    #[test]
    fn every_piece_of_a_table_is_kept_or_refused(pieces in pieces()) {
        let nfit = check(&table(&pieces))?.expect("a sound table");
        prop_assert_eq!(accounted_for(&nfit), pieces.len());
        let spas = pieces.iter().filter_map(|piece| match piece {
            Piece::Spa(spa) => Some((spa.index, spa.base, spa.length)),
            _ => None,
        });
        let mut expected: Vec<(u16, u64, u64)> = Vec::new();
        for spa in spas.filter(|spa| spa.0 != 0) {
            if !expected.iter().any(|(index, ..)| *index == spa.0) {
                expected.push(spa);
            }
        }
        let found: Vec<_> = nfit.spas.iter().map(|spa| (spa.index, spa.base, spa.length)).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn mutated_tables_keep_every_promise(pieces in pieces(), mutations in prop::collection::vec(mutation(), 1..6)) {
        let mut body = table(&pieces).split_off(FIXED);
        mutations.iter().for_each(|mutation| mutate(&mut body, mutation));
        check(&raw_table(&body))?;
    }

    #[test]
    fn one_flipped_bit_refuses_the_table(pieces in pieces(), at in any::<Index>(), bit in 0..8_u8) {
        let mut bytes = table(&pieces);
        let at = at.index(bytes.len());
        // A shorter length covers other bytes, which may add up to 0 by chance.
        prop_assume!(!(4..8).contains(&at));
        bytes[at] ^= 1 << bit;
        prop_assert!(nfit::parse(&bytes).is_err());
        fix_checksum(&mut bytes);
        check(&bytes)?;
    }
}
