//! The decision as a table; its effects on page tables, counts, owners and marks.

use super::*;
use crate::fake::{File, INODE, Process, zero_page};
use crate::xarray::{Mark, XArrayStats};
use mm::fake::HeapTables;
use mm::mem::inject;

fn pfn(n: u64) -> Pfn {
    Pfn::new(n).unwrap()
}

fn extent(first: u64, pages: u64, unwritten: bool) -> Block {
    Block::Extent {
        pfn: pfn(first),
        pages,
        unwritten,
    }
}

#[test]
fn decisions() {
    use Action::{Allocate, Insert, InsertZero, Map, MapZero, Replace, Smaller};
    let empty = |order| Entry::Empty { order };
    let zero = Entry::Zero { order: 0 };
    let page = Entry::Pfn {
        pfn: pfn(5),
        order: 0,
    };
    let (written, fresh) = (extent(0x200, 512, false), extent(0x200, 512, true));
    let (short, odd) = (extent(0x200, 511, false), extent(0x201, 600, false));
    // entry, block, what a load does, what a store does
    let table = [
        (page, Block::Hole, Map, Map),
        (page, written, Map, Map),
        (empty(0), Block::Hole, InsertZero, Allocate),
        (empty(0), fresh, InsertZero, Allocate),
        (empty(0), written, Insert(pfn(0x200)), Insert(pfn(0x200))),
        (empty(0), odd, Insert(pfn(0x201)), Insert(pfn(0x201))),
        (zero, Block::Hole, MapZero, Allocate),
        (zero, fresh, MapZero, Allocate),
        (zero, written, Replace(pfn(0x200)), Replace(pfn(0x200))),
        (empty(9), Block::Hole, Smaller, Smaller),
        (empty(9), fresh, Smaller, Allocate),
        (empty(9), written, Insert(pfn(0x200)), Insert(pfn(0x200))),
        (empty(9), short, Smaller, Smaller),
        (empty(9), odd, Smaller, Smaller),
        (empty(18), written, Smaller, Smaller),
    ];
    for (entry, block, load, store) in table {
        assert_eq!(
            decide(entry, block, false),
            load,
            "load from {entry:?}, {block:?}"
        );
        assert_eq!(
            decide(entry, block, true),
            store,
            "store to {entry:?}, {block:?}"
        );
    }
}

#[test]
fn a_hole_reads_as_the_zero_page_and_a_store_replaces_it_everywhere() {
    let file = File::holes(8);
    let (a, b) = (
        Process::new(&file, PageSize::Size4K),
        Process::new(&file, PageSize::Size4K),
    );
    assert_eq!((a.read(3), b.read(3)), (Ok(zero_page()), Ok(zero_page())));
    assert_eq!(
        file.mapping.load(3).unwrap().entry,
        Entry::Zero { order: 0 }
    );
    assert!(!a.space.translate(a.va(3)).unwrap().counted);

    let stored = a.write(3).unwrap();
    assert_eq!(stored, file.pfn(3));
    assert!(
        !b.tlb.reaches(zero_page(), 1),
        "another process still reads zeroes"
    );
    assert_eq!(b.read(3), Ok(stored));
    assert_eq!(file.count(3), (2, 0));
    assert!(file.mapping.pages.marked(3, Mark::Dirty));
}

/// Once there is storage a write(2) may fill it in place: it needs no fault, and does not look for zero pages.
#[test]
fn nobody_has_zeroes_mapped_once_there_is_storage() {
    for unwritten in [false, true] {
        let file = File::holes(8);
        if unwritten {
            file.store(3, true);
        }
        let (a, b) = (
            Process::new(&file, PageSize::Size4K),
            Process::new(&file, PageSize::Size4K),
        );
        assert_eq!(b.read(3), Ok(zero_page()));
        let (space, va, tlb) = (b.space.clone(), b.va(3), b.tlb.clone());
        let seen = alloc::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let count = seen.clone();
        file.observe(move |page| {
            assert_eq!(page, 3);
            assert!(
                space.translate(va).is_none(),
                "the zero page is still mapped"
            );
            assert!(!tlb.reaches(zero_page(), 1), "or still cached");
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(a.write(3), Ok(file.pfn(3)));
        assert_eq!(seen.load(std::sync::atomic::Ordering::Relaxed), 1);
        assert_eq!(b.read(3), Ok(file.pfn(3)));
    }
}

#[test]
fn an_entry_names_the_owner_of_its_page_and_a_load_is_not_dirty() {
    let file = File::full(8);
    let process = Process::new(&file, PageSize::Size4K);
    process.read(5).unwrap();
    let folio = file.mapping.pgmap().folio(file.pfn(5)).unwrap();
    assert_eq!(
        folio.owner(),
        Some(Owner {
            inode: INODE,
            index: 5
        })
    );
    assert!(!file.mapping.pages.marked(5, Mark::Dirty));
    assert!(!process.space.translate(process.va(5)).unwrap().writable);
    process.write(5).unwrap();
    assert!(file.mapping.pages.marked(5, Mark::Dirty));
    assert_eq!(file.count(5), (1, 0));
    process.unmap();
    assert_eq!(file.count(5), (0, 0));
    assert_eq!(
        folio.owner(),
        Some(Owner {
            inode: INODE,
            index: 5
        }),
        "the owner goes with the entry, not with the mapping"
    );
}

#[test]
fn unwritten_storage_reads_as_zeroes_until_it_is_written() {
    let file = File::holes(4);
    file.store(1, true);
    let process = Process::new(&file, PageSize::Size4K);
    assert_eq!(process.read(1), Ok(zero_page()));
    assert_eq!(process.write(1), Ok(file.pfn(1)));
    assert_eq!(process.read(1), Ok(file.pfn(1)));
}

#[test]
fn beyond_the_last_page_is_past_eof() {
    let file = File::full(4);
    let larger = Process::new(&file, PageSize::Size4K);
    let range = larger
        .space
        .map(file.clone(), 0, 8, mm::aspace::Prot::USER, PageSize::Size4K)
        .unwrap();
    let fault = |page: u64| {
        larger
            .space
            .handle_fault(range.start() + page * PAGE_SIZE, Access::Read)
    };
    assert_eq!((fault(3), fault(4)), (Ok(()), Err(FaultError::PastEof)));
    assert!(file.mapping.load(4).is_none());
}

#[test]
fn alignment_permitting_one_large_page_serves() {
    let file = File::full(1024 + 100);
    let process = Process::new(&file, PageSize::Size2M);
    process.write(600).unwrap();
    assert_eq!(
        process.space.translate(process.va(512)).unwrap().size,
        PageSize::Size2M
    );
    assert_eq!(
        file.mapping.load(700).unwrap().entry,
        Entry::Pfn {
            pfn: file.pfn(512),
            order: 9
        }
    );
    assert_eq!(file.count(900), (1, 0));
    // The file ends inside the third 2 MiB, though there is storage behind its end.
    (1124..1536).for_each(|page| file.store(page, false));
    let prot = mm::aspace::Prot::WRITE;
    let longer = process
        .space
        .map(file.clone(), 0, 1536, prot, PageSize::Size2M)
        .unwrap();
    let va = longer.start() + 1030 * PAGE_SIZE;
    process.space.handle_fault(va, Access::Write).unwrap();
    assert_eq!(process.space.translate(va).unwrap().size, PageSize::Size4K);
}

#[test]
fn small_pages_of_a_large_entry_count_on_its_folio() {
    let file = File::full(1024);
    let aligned = Process::new(&file, PageSize::Size2M);
    aligned.read(512).unwrap();
    let small = Process::with_tables(
        &file,
        PageSize::Size4K,
        HeapTables::with_largest(PageSize::Size4K),
    );
    assert_eq!(small.write(700), Ok(file.pfn(700)));
    assert_eq!(
        small.space.translate(small.va(700)).unwrap().size,
        PageSize::Size4K
    );
    assert_eq!(file.count(512), (2, 0));
    assert!(file.mapping.pages.marked(512, Mark::Dirty));
}

#[test]
fn a_small_entry_keeps_its_neighbours_small() {
    let file = File::full(1024);
    let small = Process::with_tables(
        &file,
        PageSize::Size4K,
        HeapTables::with_largest(PageSize::Size4K),
    );
    small.read(3).unwrap();
    let large = Process::new(&file, PageSize::Size2M);
    large.read(4).unwrap();
    assert_eq!(file.mapping.load(4).unwrap().entry.order(), 0);
    large.read(512).unwrap();
    assert_eq!(file.mapping.load(512).unwrap().entry.order(), 9);
}

#[test]
fn without_memory_for_a_page_table_nothing_is_half_done() {
    let file = File::full(8);
    let poor = Process::with_tables(&file, PageSize::Size4K, HeapTables::with_limit(2));
    assert_eq!(poor.write(2), Err(FaultError::OutOfMemory));
    assert_eq!(file.mapping.pages.stats(), XArrayStats::default());
    let owner = file
        .mapping
        .pgmap()
        .folio(file.pfn(2))
        .and_then(|f| f.owner());
    assert_eq!((owner, file.count(2)), (None, (0, 0)));
    assert_eq!(
        Process::new(&file, PageSize::Size4K).write(2),
        Ok(file.pfn(2))
    );
}

#[test]
fn without_memory_for_metadata_nothing_is_half_done() {
    let file = File::full(8);
    let process = Process::new(&file, PageSize::Size4K);
    inject::allocations(Some(0));
    let refused = process.write(2);
    inject::allocations(None);
    assert_eq!(refused, Err(FaultError::OutOfMemory));
    assert_eq!(file.mapping.pages.stats(), XArrayStats::default());
    assert_eq!(process.write(2), Ok(file.pfn(2)));
}
