//! Folios of 2 MiB and 1 GiB.

use super::*;

/// A file with one 2 MiB folio at its page 0, mapped so that it fits.
fn huge(w: &World, prot: Prot) -> (Arc<TestFile>, VaRange) {
    let file = TestFile::new(&w.pgmap, 0);
    file.add_block(0, w.pfn(0), PageSize::Size2M);
    let range = w
        .space
        .map(file.clone(), 0, PAGES_2M, prot, PageSize::Size2M)
        .unwrap();
    (file, range)
}

#[test]
fn a_large_folio_is_one_entry_and_one_reference() {
    let w = World::new();
    let (file, range) = huge(&w, RW);
    assert_eq!(
        w.tlb
            .access(&w.space, range.start() + 5 * PAGE_SIZE, Access::Read),
        Ok(w.pfn(5))
    );
    assert_eq!(
        w.space
            .translate(range.start())
            .map(|m| (m.size, m.writable)),
        Some((PageSize::Size2M, false))
    );
    w.touch(range, Access::Write);
    assert_eq!(
        (w.counts(0), file.state().faults.len()),
        (mapped(1), 2),
        "made writable in place"
    );
    w.space.zap(range.part(100, 1).unwrap());
    assert_eq!(
        (w.counts(0), w.space.translate(range.start())),
        (mapped(0), None),
        "large pages go whole"
    );
    w.assert_order_kept();
}

#[test]
fn a_large_folio_that_does_not_fit_is_mapped_page_by_page() {
    let w = World::new();
    let file = TestFile::new(&w.pgmap, 0);
    file.add_block(0, w.pfn(0), PageSize::Size2M);
    let crooked = w
        .space
        .map(file.clone(), 1, 3, RW, PageSize::Size2M)
        .unwrap();
    w.touch(crooked, Access::Write);
    assert_eq!(
        w.counts(0),
        mapped(3),
        "each entry holds one reference on the folio"
    );
    assert_eq!(
        w.space.translate(crooked.start()).map(|m| (m.size, m.pfn)),
        Some((PageSize::Size4K, w.pfn(1)))
    );
    w.space.unmap(crooked).unwrap();
    assert_eq!(w.counts(0), mapped(0));
    w.assert_order_kept();
}

#[test]
fn small_pages_that_stand_there_keep_a_large_one_out_until_they_go() {
    let w = World::new();
    let file = TestFile::new(&w.pgmap, 0);
    let range = w
        .space
        .map(file.clone(), 0, PAGES_2M, RW, PageSize::Size2M)
        .unwrap();
    w.touch(range.part(0, 2).unwrap(), Access::Read);
    file.add_block(0, w.pfn(0), PageSize::Size2M);
    w.tlb
        .access(&w.space, range.start(), Access::Write)
        .unwrap();
    assert_eq!(
        w.space.translate(range.start()).unwrap().size,
        PageSize::Size4K
    );
    w.space.zap(range);
    let tables = w.mem.live();
    w.tlb
        .access(&w.space, range.start(), Access::Write)
        .unwrap();
    assert_eq!(
        w.space.translate(range.start()).unwrap().size,
        PageSize::Size2M
    );
    assert_eq!(w.mem.live(), tables - 1, "the empty table made way");
    assert_eq!(w.counts(0), mapped(1));
    w.assert_order_kept();
}

#[test]
fn a_gigabyte_page_needs_a_cpu_that_has_them() {
    for (mem, expected) in [
        (HeapTables::new(), PageSize::Size4K),
        (HeapTables::with_largest(PageSize::Size1G), PageSize::Size1G),
    ] {
        let w = World::with(mem);
        let file = TestFile::new(&w.pgmap, 0);
        file.add_block(0, w.pfn(0), PageSize::Size1G);
        let range = w.space.map(file, 0, 1 << 18, RW, PageSize::Size1G).unwrap();
        w.tlb
            .access(&w.space, range.start() + (77 << 12), Access::Write)
            .unwrap();
        let seen = w.space.translate(range.start() + (77 << 12)).unwrap();
        assert_eq!((seen.size, seen.pfn), (expected, w.pfn(77)));
        drop(w.space);
        assert!(w.pgmap.folio(seen.pfn).is_none_or(|f| f.counts().is_idle()));
    }
}
