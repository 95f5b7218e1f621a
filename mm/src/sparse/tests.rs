use super::*;
use crate::addr::PageSize::{Size1G, Size2M, Size4K};
use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;
use std::thread;

const GIG: u64 = 1 << 18;
const ROOT: u64 = 8;
const NODES: u64 = (size_of::<Gig>() + size_of::<Block>() + size_of::<Leaf>()) as u64;

fn range(start: u64, pages: u64) -> PfnRange {
    PfnRange::new(Pfn::new(start).unwrap(), pages).unwrap()
}

fn pfn(n: u64) -> Pfn {
    Pfn::new(n).unwrap()
}

/// Counts what is out, and makes every two allocations of nodes meet before either returns.
struct Meeting {
    heap: HeapMeta,
    out: AtomicUsize,
    made: AtomicUsize,
    meet: Barrier,
}

impl Meeting {
    fn new() -> Arc<Self> {
        let (out, made) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self {
            heap: HeapMeta,
            out,
            made,
            meet: Barrier::new(2),
        })
    }
}

// SAFETY: passes everything on to HeapMeta.
unsafe impl MetaAlloc for Meeting {
    fn alloc_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, OutOfMemory> {
        let place = self.heap.alloc_zeroed(layout);
        self.out.fetch_add(layout.size(), Ordering::SeqCst);
        // The first allocation is the root's, made by one thread.
        if self.made.fetch_add(1, Ordering::SeqCst) > 0 {
            self.meet.wait();
        }
        place
    }

    unsafe fn free(&self, place: NonNull<u8>, layout: Layout) {
        self.out.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { self.heap.free(place, layout) }
    }
}

#[test]
fn racing_populators_agree_and_the_loser_frees() {
    let mem = Meeting::new();
    let map = SparseMap::new(range(0, GIG), mem.clone()).unwrap();
    let address = |page: &Page| ptr::from_ref(page).addr();
    thread::scope(|s| {
        let populate = || {
            map.populate(pfn(1234), Size4K)
                .unwrap()
                .map(address)
                .unwrap()
        };
        let both = [s.spawn(populate), s.spawn(populate)].map(|t| t.join().unwrap());
        assert_eq!(both[0], both[1]);
    });
    assert_eq!(
        mem.made.load(Ordering::SeqCst),
        1 + 2 * 3,
        "both threads made every node"
    );
    assert_eq!(
        (map.metadata_bytes(), map.populated_sections()),
        (ROOT + NODES, 3)
    );
    assert_eq!(mem.out.load(Ordering::SeqCst) as u64, map.metadata_bytes());
    drop(map);
    assert_eq!(mem.out.load(Ordering::SeqCst), 0);
}

#[test]
fn visits_ascend_clip_and_skip() {
    // 0x10FE00 is 2 MiB- but not 1 GiB-aligned, the end is neither.
    let map = SparseMap::new(range(0x10FE00, GIG + 3), Arc::new(HeapMeta)).unwrap();
    for p in [0x10FE00, 0x110000, 0x110001, 0x14FE02] {
        map.populate(pfn(p), Size4K).unwrap().unwrap();
    }
    let visit = |r: PfnRange, wanted: PageSize| {
        let mut seen = vec![];
        let _: ControlFlow<()> = map.visit(r, |pfn, size, _| {
            seen.extend((size == wanted).then_some(pfn.get()));
            ControlFlow::Continue(())
        });
        seen
    };
    assert_eq!(visit(map.range(), Size1G), [0x100000, 0x140000]);
    assert_eq!(visit(map.range(), Size2M), [0x10FE00, 0x110000, 0x14FE00]);
    let pages = visit(map.range(), Size4K);
    assert_eq!(pages.len(), 512 + 512 + 3);
    assert!(pages.is_sorted() && pages.iter().all(|&p| map.range().contains(pfn(p))));
    assert_eq!(
        visit(range(0x10FFFF, 3), Size4K),
        [0x10FFFF, 0x110000, 0x110001]
    );
    assert_eq!(visit(range(0x110200, 0x100), Size4K), []);
    assert_eq!(visit(range(0, 5), Size1G), []);
}

#[test]
fn every_page_has_its_own_metadata() {
    let map = SparseMap::new(range(GIG - 600, 1200), Arc::new(HeapMeta)).unwrap();
    for p in map.range().iter() {
        let page = map.populate(p, Size4K).unwrap().unwrap();
        assert!(page.owner().is_none() && page.refs().is_settled_idle());
        page.write(
            Some(crate::page::Owner {
                inode: 1,
                index: p.get(),
            }),
            0,
        );
    }
    for p in map.range().iter() {
        assert_eq!(map.head(p, Size4K).unwrap().owner().unwrap().index, p.get());
        assert_eq!(map.head(p, Size2M).unwrap().owner(), None);
    }
    assert!(map.populate(pfn(GIG - 601), Size4K).unwrap().is_none());
    assert!(map.head(pfn(GIG + 600), Size4K).is_none());
}

#[test]
fn the_root_spans_the_gibibytes_touched() {
    let root = |start, pages| {
        SparseMap::new(range(start, pages), Arc::new(HeapMeta))
            .unwrap()
            .metadata_bytes()
            / 8
    };
    assert_eq!(root(0, 1), 1);
    assert_eq!(root(GIG - 1, 2), 2);
    assert_eq!(root(0x10FE00, 512 * GIG), 513);
    assert_eq!(root(crate::addr::PFN_END - 1, 1), 1);
}

/// Memory for a `DeviceMeta`, as a device would give it: full of old bytes.
fn device(bytes: usize) -> Vec<u64> {
    vec![0xA5A5_A5A5_A5A5_A5A5; bytes / 8]
}

fn device_meta(memory: &mut [u64]) -> Arc<DeviceMeta> {
    let base = NonNull::new(memory.as_mut_ptr()).unwrap().cast();
    // SAFETY: the memory outlives the allocator in these tests and is not touched meanwhile.
    Arc::new(unsafe { DeviceMeta::new(base, size_of_val(memory)) })
}

#[test]
fn metadata_on_the_device() {
    let mut memory = device(64 << 10);
    let mem = device_meta(&mut memory);
    let left = mem.untouched_bytes();
    for _ in 0..2 {
        let map = SparseMap::new(range(0, 4 * GIG), mem.clone()).unwrap();
        let page = map.populate(pfn(GIG), Size4K).unwrap().unwrap();
        assert!(
            page.refs().is_settled_idle(),
            "old bytes on the device are not a count"
        );
        assert!(page.refs().first_mapped());
        map.populate(pfn(2 * GIG), Size1G).unwrap().unwrap();
    }
    // The second map lives in what the first gave back.
    let lines = |n: usize| n.next_multiple_of(64);
    let once = lines(32)
        + 2 * lines(size_of::<Gig>())
        + lines(size_of::<Block>())
        + lines(size_of::<Leaf>());
    assert_eq!(left - mem.untouched_bytes(), once);
}

#[test]
fn a_full_device_is_an_error() {
    let mut memory = device(8 << 10);
    let mem = device_meta(&mut memory);
    let map = SparseMap::new(range(0, GIG), mem.clone()).unwrap();
    assert!(map.populate(pfn(0), Size2M).unwrap().is_some());
    assert_eq!(map.populate(pfn(0), Size4K).err(), Some(OutOfMemory));
    assert!(SparseMap::new(range(0, 4096 * GIG), mem).is_err());
}
