//! Mapped files: real loads and stores, through real page tables, into the bytes of the file.

use kernel::mem;
use mm::addr::PAGE_SIZE;
use mm::aspace::FaultError;

use super::fixture::{Map, fresh};
use crate::case;

case! {
    fn what_is_stored_through_a_mapping_is_read_from_the_file() {
        let fs = fresh();
        let map = Map::new(&fs.file("/f", 3, 1), 3);
        map.store(0, 7).expect("a store");
        map.store(2 * PAGE_SIZE + 9, 8).expect("a store");
        let content = fs.content("/f");
        assert_eq!((content[0], content[1], content[2 * PAGE_SIZE as usize + 9]), (7, 1, 8));
    }
}

case! {
    fn what_is_written_to_the_file_is_loaded_through_a_mapping() {
        let fs = fresh();
        let file = fs.file("/f", 2, 1);
        let map = Map::new(&file, 2);
        assert_eq!(map.load(PAGE_SIZE), Ok(1));
        fs.write(&file, PAGE_SIZE, &[9]).expect("write");
        assert_eq!(map.load(PAGE_SIZE), Ok(9));
    }
}

case! {
    fn two_mappings_of_a_file_are_the_same_memory() {
        let fs = fresh();
        let file = fs.file("/f", 1, 1);
        let (one, other) = (Map::new(&file, 1), Map::new(&file, 1));
        one.store(5, 6).expect("a store");
        assert_eq!(other.load(5), Ok(6));
        let pfn = file.pfn(0).expect("storage");
        let folio = fs.pgmap().folio(pfn).expect("in use");
        assert_eq!((folio.counts().mapped, folio.counts().pinned), (2, 0));
    }
}

case! {
    /// A hole reads as zeroes without storage; a store gives it storage, and the load before it sees the store.
    fn a_hole_gets_storage_by_the_first_store() {
        let fs = fresh();
        let file = fs.create("/f", 0o644).expect("create");
        fs.write(&file, 2 * PAGE_SIZE, &[1]).expect("write");
        let map = Map::new(&file, 2);
        assert_eq!((map.load(100), file.pfn(0)), (Ok(0), None));
        map.store(100, 4).expect("a store");
        assert!(file.pfn(0).is_some());
        assert_eq!((map.load(100), map.load(101), map.load(PAGE_SIZE)), (Ok(4), Ok(0), Ok(0)));
    }
}

case! {
    fn an_access_behind_the_end_is_an_error() {
        let fs = fresh();
        let map = Map::new(&fs.file("/f", 1, 1), 4);
        assert_eq!(map.load(PAGE_SIZE - 1), Ok(1));
        assert_eq!(map.load(PAGE_SIZE), Err(FaultError::PastEof));
        assert_eq!(map.store(3 * PAGE_SIZE, 1), Err(FaultError::PastEof));
    }
}

case! {
    /// No frame for a page table: an error of the access, and nothing is left half done.
    fn out_of_memory_in_a_fault_is_an_error() {
        let fs = fresh();
        let map = Map::new(&fs.file("/f", 1, 3), 1);
        mem::inject_failures(u64::MAX);
        let refused = map.load(0);
        mem::inject_failures(0);
        assert_eq!(refused, Err(FaultError::OutOfMemory));
        assert_eq!(fs.pgmap().stats().mapped, 0);
        assert_eq!(map.load(0), Ok(3));
    }
}

case! {
    fn files_are_there_after_a_remount() {
        let fs = fresh();
        let map = Map::new(&fs.file("/f", 2, 1), 2);
        map.store(PAGE_SIZE, 77).expect("a store");
        drop(map);
        let fs = fs.remount();
        assert_eq!(fs.content("/f")[PAGE_SIZE as usize], 77);
    }
}

case! {
    /// Counts go up by mappings and come back to nothing: Mounted's drop checks the sum.
    fn an_unmapped_file_has_idle_pages() {
        let fs = fresh();
        let file = fs.file("/f", 1, 1);
        let map = Map::new(&file, 1);
        let before = fs.pgmap().stats().mapped;
        assert_eq!(map.load(0), Ok(1));
        assert_eq!(fs.pgmap().stats().mapped, before + 1);
        drop(map);
        assert_eq!(fs.pgmap().stats().mapped, before);
    }
}

case! {
    /// A translation that the CPU still remembers would serve the access without a fault, and nobody would have counted it. Loads
    /// first, over and over, so that the CPU does remember; on many pages, for it may forget some.
    fn after_a_zap_each_access_takes_a_new_fault() {
        const PAGES: u64 = 256;
        let fs = fresh();
        let file = fs.create_sized("/f", 0o644, PAGES * PAGE_SIZE).expect("create");
        let map = Map::new(&file, PAGES);
        for page in 0..PAGES {
            for _ in 0..3 {
                assert_eq!(map.load(page * PAGE_SIZE), Ok(0));
            }
            map.zap();
            assert_eq!(map.load(page * PAGE_SIZE), Ok(0));
            assert_eq!(fs.pgmap().stats().mapped, 1, "page {page} was reached by a stale translation");
            map.zap();
        }
    }
}
