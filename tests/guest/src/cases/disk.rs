//! Transfers between a disk and pinned pages. The disk is the driver's scratch disk; what a case writes, it writes behind
//! [`SCRATCH`], and no case counts on what is there.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use fs::Fill;
use kernel::fault;
use kernel::thread;
use kernel::uaccess;
use kernel::virtio::blk::{Direction, Disk, Request, SubmitError, all};
use mm::addr::PAGE_SIZE;
use mm::gup::{PinnedPages, pin_user_pages};
use mm::sync::Wait;
use protocol::pattern;

use super::fixture::{File, Map, Mounted, fresh};
use crate::case;

const SECTOR: u64 = 512;
/// The first sector that cases write to.
const SCRATCH: u64 = 16384;

fn disk() -> &'static Arc<Disk> {
    all().first().expect("the machine has a disk")
}

fn pinned(map: &Map, pages: u64) -> PinnedPages {
    pin_user_pages(fault::space(), map.at(0), pages as usize, true).expect("a pin")
}

fn start(
    direction: Direction,
    sector: u64,
    pages: PinnedPages,
    offset: u64,
    len: u64,
) -> Result<Request, SubmitError> {
    disk().transfer(direction, sector, pages, offset, len, Box::new(|_| ()))
}

fn finish(request: &Request) {
    let ended = request
        .wait(&Wait::for_us(5_000_000))
        .expect("it ends in time");
    assert_eq!(ended, Ok(()));
}

fn bytes(map: &Map, offset: u64, len: u64) -> Vec<u8> {
    let mut bytes = alloc::vec![0; len as usize];
    uaccess::copy_in(&mut bytes, map.at(offset)).expect("it is mapped");
    bytes
}

/// Two files whose blocks alternate.
fn braided(fs: &Mounted, pages: u64) -> [File; 2] {
    let files = ["/a", "/b"].map(|path| fs.create(path, 0o644).expect("create"));
    for page in 0..pages {
        for file in &files {
            fs.fallocate(file, page * PAGE_SIZE, PAGE_SIZE, Fill::Zeroed)
                .expect("space");
        }
    }
    files
}

case! {
    fn a_read_lands_byte_for_byte_and_nowhere_else() {
        let fs = fresh();
        let file = fs.file("/f", 24, 0xee);
        let map = Map::new(&file, 24);
        let len = 22 * PAGE_SIZE + 3 * SECTOR;
        finish(&start(Direction::Read, 100, pinned(&map, 24), SECTOR, len).expect("accepted"));
        assert_eq!(pattern::first_difference(100 * SECTOR, &bytes(&map, SECTOR, len)), None);
        assert_eq!(bytes(&map, 0, SECTOR), [0xee; SECTOR as usize]);
        let rest = bytes(&map, SECTOR + len, 24 * PAGE_SIZE - SECTOR - len);
        assert!(rest.iter().all(|b| *b == 0xee));
    }
}

case! {
    /// More pieces than a chain has room for, none of them next to another.
    fn pages_that_are_not_contiguous_get_their_own_parts() {
        let fs = fresh();
        let files = braided(&fs, 40);
        let map = Map::new(&files[0], 40);
        let pages = pinned(&map, 40);
        let pieces = pages.segments().count();
        assert!(pieces > 14, "{pieces} pieces: the file is not fragmented");
        finish(&start(Direction::Read, 8, pages, 0, 40 * PAGE_SIZE).expect("accepted"));
        assert_eq!(pattern::first_difference(8 * SECTOR, &bytes(&map, 0, 40 * PAGE_SIZE)), None);
        assert!(fs.content("/b").iter().all(|b| *b == 0), "the other file's blocks lie between");
    }
}

case! {
    fn what_is_written_to_the_disk_is_read_back() {
        let fs = fresh();
        let (from, to) = (fs.file("/from", 8, 0x5a), fs.file("/to", 8, 0));
        let (from, to) = (Map::new(&from, 8), Map::new(&to, 8));
        uaccess::fill(from.at(PAGE_SIZE), 0xa5, PAGE_SIZE as usize).expect("it is mapped");
        finish(&start(Direction::Write, SCRATCH, pinned(&from, 8), 0, 8 * PAGE_SIZE).expect("accepted"));
        finish(&start(Direction::Read, SCRATCH, pinned(&to, 8), 0, 8 * PAGE_SIZE).expect("accepted"));
        assert_eq!(bytes(&from, 0, 8 * PAGE_SIZE), bytes(&to, 0, 8 * PAGE_SIZE));
    }
}

case! {
    /// Many more than the queue holds at a time; each gets its own data.
    fn many_transfers_at_once_do_not_mix() {
        let fs = fresh();
        let files: Vec<File> = (0..32).map(|n| fs.file(&super::fixture::numbered(n), 2, 0)).collect();
        let maps: Vec<Map> = files.iter().map(|f| Map::new(f, 2)).collect();
        let sector = |n: usize| 64 + 40 * n as u64;
        let begin = |(n, map)| start(Direction::Read, sector(n), pinned(map, 2), 0, 2 * PAGE_SIZE);
        let requests: Vec<Request> = maps.iter().enumerate().map(|p| begin(p).expect("accepted")).collect();
        requests.iter().for_each(finish);
        for (n, map) in maps.iter().enumerate() {
            let data = bytes(map, 0, 2 * PAGE_SIZE);
            assert_eq!(pattern::first_difference(sector(n) * SECTOR, &data), None, "transfer {n}");
        }
    }
}

case! {
    /// Whoever is told of the end finds the pages unpinned.
    fn the_pages_are_unpinned_before_the_end_is_told() {
        let fs = fresh();
        let file = fs.file("/f", 16, 0);
        let map = Map::new(&file, 16);
        let found = Arc::new(AtomicU64::new(u64::MAX));
        let (theirs, pgmap) = (found.clone(), fs.pgmap().clone());
        let look = move |_| theirs.store(pgmap.stats().pinned, Ordering::Release);
        let pages = pinned(&map, 16);
        assert_eq!(fs.pgmap().stats().pinned, 16);
        let request = disk().transfer(Direction::Read, 0, pages, 0, 16 * PAGE_SIZE, Box::new(look)).expect("accepted");
        finish(&request);
        while found.load(Ordering::Acquire) == u64::MAX {
            thread::yield_now();
        }
        assert_eq!(found.load(Ordering::Acquire), 0);
    }
}

case! {
    fn a_transfer_that_is_refused_says_why_and_unpins() {
        let fs = fresh();
        let file = fs.file("/f", 2, 0);
        let map = Map::new(&file, 2);
        let sectors = disk().sectors();
        let refused = |sector, offset, len| start(Direction::Read, sector, pinned(&map, 2), offset, len).err();
        assert_eq!(refused(0, 7, SECTOR), Some(SubmitError::Unaligned { offset: 7, len: SECTOR }));
        assert_eq!(refused(0, 0, 0), Some(SubmitError::Unaligned { offset: 0, len: 0 }));
        assert_eq!(refused(sectors - 1, 0, 2 * SECTOR), Some(SubmitError::PastEndOfDisk { sectors }));
        assert_eq!(refused(u64::MAX, 0, SECTOR), Some(SubmitError::PastEndOfDisk { sectors }));
        assert_eq!(refused(0, SECTOR, 2 * PAGE_SIZE), Some(SubmitError::PastEndOfPages { bytes: 2 * PAGE_SIZE }));
        assert_eq!(fs.pgmap().stats().pinned, 0);
    }
}
