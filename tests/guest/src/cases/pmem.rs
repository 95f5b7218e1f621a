//! Persistent memory as the machine's tables describe it.
//!
//! `tests/guest/nfit/faulty` and `checksum` are hand-made tables, for the default machine, whose NVDIMM of 1 GiB lies at 4 GiB. The
//! first describes two good ranges of it, the second one not armed, and one of each fault; the second has a wrong sum.

use dax::nfit::Reason;
use dax::pmem::Pmem;
use dax::region::{Domain, ReadOnly};
use kernel::nfit::{Origin, TableError};
use kernel::pmem;

use crate::case;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

case! {
    /// QEMU's table for the one NVDIMM of the default machine.
    fn the_nvdimm_is_found_and_comes_up() {
        let found = pmem::get();
        assert!(matches!(found.tables.origins[..], [Origin::Acpi(_)]));
        assert!(found.tables.refused.is_empty() && found.failed.is_empty());
        let [region] = &found.discovery.regions[..] else {
            panic!("{:?}", found.discovery);
        };
        assert_eq!((region.base, region.length, region.armed()), (4 * GIB, GIB, true));
        assert_eq!((region.handle(), region.serial(), region.domain), (Some(1), Some(0x12_3456), Domain::Assumed));
        let [device] = &found.devices[..] else {
            panic!("{} devices", found.devices.len());
        };
        assert_eq!((device.name, device.base.as_u64(), device.length), ("pmem0", 4 * GIB, GIB));
        assert_eq!(device.pages.pages(), GIB / 4096);
    }
}

case! {
    /// Stores by each way are read back, at both ends of the region.
    fn what_is_stored_is_read_back() {
        let memory = &pmem::get().devices[0].memory;
        assert!(memory.writable());
        for at in [0, memory.len() - 4096] {
            memory.store64(at, 0x0123_4567_89ab_cdef);
            memory.store(at + 61, b"across lines");
            memory.copy_nt(at + 1021, &[7; 70]);
            memory.zero_nt(at + 1050, 3);
            memory.flush(at, 128);
            memory.fence();
            let mut bytes = [0; 70];
            memory.read(at + 1021, &mut bytes).expect("sound media");
            let expected: [u8; 70] = core::array::from_fn(|i| if (29..32).contains(&i) { 0 } else { 7 });
            assert_eq!(bytes, expected);
            memory.read(at + 61, &mut bytes[..12]).expect("sound media");
            assert_eq!(&bytes[..12], b"across lines");
            assert_eq!(memory.load64(at), Ok(0x0123_4567_89ab_cdef));
        }
    }
}

case! {
    machine = "--no-pmem",
    /// No table, no complaint.
    fn a_machine_without_pmem_has_no_device() {
        let found = pmem::get();
        assert!(found.tables.nfits.is_empty() && found.tables.refused.is_empty());
        assert!(found.devices.is_empty() && found.failed.is_empty());
    }
}

case! {
    machine = "--pmem-size 512G --memory 128M",
    /// Metadata for 512 GiB would not fit this machine's RAM, were it made beforehand.
    fn a_region_of_512_gib_comes_up_in_128_mib_of_ram() {
        let device = &pmem::get().devices[0];
        assert_eq!(device.length, 512 * GIB);
        let stats = device.pgmap().expect("it is live").stats();
        assert_eq!(stats.pages, 512 * GIB / 4096);
        assert!(stats.metadata_bytes <= 8192, "{} bytes", stats.metadata_bytes);
        let end = device.length - 8;
        device.memory.store64(end, 42);
        assert_eq!(device.memory.load64(end), Ok(42));
    }
}

case! {
    machine = "--nfit tests/guest/nfit/faulty",
    /// The host's table replaces the firmware's; each bad piece is refused with its reason, and the good ones come up.
    fn bad_pieces_are_refused_one_by_one() {
        let found = pmem::get();
        let ([Origin::Host], [nfit]) = (&found.tables.origins[..], &found.tables.nfits[..]) else {
            panic!("{:?}", found.tables);
        };
        let reasons = nfit.rejected.iter().map(|r| &r.reason);
        assert!(reasons.clone().any(|r| *r == Reason::Duplicate(1)));
        assert!(reasons.clone().any(|r| matches!(r, Reason::Dangling { index: 99, .. })));
        assert!(reasons.clone().any(|r| matches!(r, Reason::Size { is: 24, expected: 56 })));
        assert!(reasons.clone().any(|r| *r == Reason::ShortLength { says: 0 }));
        assert_eq!((reasons.count(), nfit.skipped), (4, 1));
        let reasons = found.discovery.rejected.iter().map(|(_, r)| &r.reason);
        assert!(reasons.clone().any(|r| matches!(r, Reason::Overlap { region: 0, .. })));
        assert!(reasons.clone().any(|r| matches!(r, Reason::Taken(_))));
        assert!(reasons.clone().any(|r| *r == Reason::Empty));
        assert!(reasons.clone().any(|r| matches!(r, Reason::Misaligned { .. })));
        assert!(reasons.clone().any(|r| matches!(r, Reason::Unreachable { .. })));
        assert_eq!(reasons.count(), 5);
    }
}

case! {
    machine = "--nfit tests/guest/nfit/faulty",
    /// The two good ranges among the bad pieces.
    fn a_region_that_is_not_armed_is_for_reading_only() {
        let found = pmem::get();
        let [armed, unarmed] = &found.devices[..] else {
            panic!("{} devices", found.devices.len());
        };
        assert_eq!((armed.base.as_u64(), armed.length), (4 * GIB, 512 * MIB));
        assert_eq!((unarmed.base.as_u64(), unarmed.length), (4 * GIB + 512 * MIB, 256 * MIB));
        assert!(armed.memory.writable() && !unarmed.memory.writable());
        assert_eq!(found.discovery.regions[1].read_only, Some(ReadOnly::NotArmed(8)));
        assert_eq!(unarmed.memory.load64(0), Ok(0));
    }
}

case! {
    machine = "--nfit tests/guest/nfit/checksum",
    /// Not one piece of such a table can be trusted.
    fn a_table_with_a_wrong_checksum_is_refused_whole() {
        let found = pmem::get();
        let [(Origin::Host, TableError::Rejected(rejected))] = &found.tables.refused[..] else {
            panic!("{:?}", found.tables.refused);
        };
        assert!(matches!(rejected.reason, Reason::Checksum { .. }));
        assert!(found.tables.nfits.is_empty() && found.devices.is_empty());
    }
}
