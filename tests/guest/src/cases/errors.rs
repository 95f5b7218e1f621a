//! Media errors under real page tables.

use mm::addr::PAGE_SIZE;
use mm::aspace::FaultError;

use super::fixture::{Map, fresh};
use crate::case;

case! {
    /// The page is taken away, its neighbours stay; a write of the whole page brings it back, with what was written.
    fn a_mapped_page_that_goes_bad_is_an_error_until_it_is_written() {
        let fs = fresh();
        let file = fs.file("/f", 3, 5);
        let map = Map::new(&file, 3);
        for page in 0..3 {
            assert_eq!(map.load(page * PAGE_SIZE), Ok(5));
        }
        let at = fs.extents(&file).next().expect("storage").phys * PAGE_SIZE + PAGE_SIZE;
        fs.pmem().mark_bad(at..at + 64).expect("room in the list");
        assert_eq!(fs.lost(at..at + 64).unmapped, 1);
        assert_eq!(map.load(PAGE_SIZE), Err(FaultError::Io));
        assert_eq!(map.store(PAGE_SIZE + 100, 1), Err(FaultError::Io));
        assert_eq!((map.load(0), map.load(2 * PAGE_SIZE)), (Ok(5), Ok(5)));
        let mut byte = [0];
        assert!(fs.read(&file, PAGE_SIZE, &mut byte).is_err());
        fs.write(&file, PAGE_SIZE, &[6; PAGE_SIZE as usize]).expect("write");
        assert_eq!((map.load(PAGE_SIZE), map.load(2 * PAGE_SIZE - 1)), (Ok(6), Ok(6)));
    }
}
