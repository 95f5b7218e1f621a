//! Mapped and heap-backed regions against a plain byte vector.

#![expect(
    unsafe_code,
    reason = "makes a region from raw memory, as a mapping would"
)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dax::pmem::{FlushOp, MappedPmem, MediaError, Persistence, Pmem, RamPmem, StreamOp};
use proptest::prelude::*;

const LEN: usize = 512;
const DOMAIN: Persistence = Persistence::MemoryController(FlushOp::Clflush);

/// Zeroed, page-aligned memory with a guard line of 0xA5 on both sides of the region.
struct Arena(NonNull<u8>);

impl Arena {
    const GUARD: usize = 64;
    const LAYOUT: Layout = match Layout::from_size_align(LEN + 2 * Self::GUARD, 4096) {
        Ok(layout) => layout,
        Err(_) => panic!(),
    };

    fn new() -> Self {
        // SAFETY: the size is not zero; the writes stay within it.
        unsafe {
            let start = alloc_zeroed(Self::LAYOUT);
            start.write_bytes(0xA5, Self::GUARD);
            start.add(Self::GUARD + LEN).write_bytes(0xA5, Self::GUARD);
            Self(NonNull::new(start).expect("memory"))
        }
    }

    fn pmem(&self, domain: Persistence) -> MappedPmem {
        // SAFETY: the arena outlives the region in each test, and only the region touches these bytes meanwhile.
        unsafe { MappedPmem::new(self.0.add(Self::GUARD), LEN as u64, domain) }
    }

    fn guards_intact(&self) -> bool {
        // SAFETY: no store runs while the slices live.
        let (low, high) = unsafe {
            let start = self.0.as_ptr();
            (
                std::slice::from_raw_parts(start, Self::GUARD),
                std::slice::from_raw_parts(start.add(Self::GUARD + LEN), Self::GUARD),
            )
        };
        low.iter().chain(high).all(|byte| *byte == 0xA5)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.0.as_ptr(), Self::LAYOUT) }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Store64(u64, u64),
    Store(u64, Vec<u8>),
    CopyNt(u64, Vec<u8>),
    ZeroNt(u64, u64),
    Flush(u64, u64),
    Fence,
}

fn range() -> impl Strategy<Value = (u64, u64)> {
    (0..=LEN as u64).prop_flat_map(|start| (Just(start), 0..=LEN as u64 - start))
}

fn data() -> impl Strategy<Value = (u64, Vec<u8>)> {
    range().prop_flat_map(|(start, len)| {
        (
            Just(start),
            prop::collection::vec(any::<u8>(), len as usize),
        )
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..LEN as u64 / 8, any::<u64>()).prop_map(|(word, value)| Op::Store64(word * 8, value)),
        data().prop_map(|(at, bytes)| Op::Store(at, bytes)),
        data().prop_map(|(at, bytes)| Op::CopyNt(at, bytes)),
        range().prop_map(|(at, len)| Op::ZeroNt(at, len)),
        range().prop_map(|(at, len)| Op::Flush(at, len)),
        Just(Op::Fence),
    ]
}

fn apply(pmem: &impl Pmem, op: &Op) {
    match op {
        Op::Store64(at, value) => pmem.store64(*at, *value),
        Op::Store(at, bytes) => pmem.store(*at, bytes),
        Op::CopyNt(at, bytes) => pmem.copy_nt(*at, bytes),
        Op::ZeroNt(at, len) => pmem.zero_nt(*at, *len),
        Op::Flush(at, len) => pmem.flush(*at, *len),
        Op::Fence => pmem.fence(),
    }
}

fn apply_to_model(model: &mut [u8], op: &Op) {
    match op {
        Op::Store64(at, value) => model[*at as usize..][..8].copy_from_slice(&value.to_le_bytes()),
        Op::Store(at, bytes) | Op::CopyNt(at, bytes) => {
            model[*at as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        Op::ZeroNt(at, len) => model[*at as usize..][..*len as usize].fill(0),
        Op::Flush(..) | Op::Fence => {}
    }
}

fn contents(pmem: &impl Pmem) -> Vec<u8> {
    let mut bytes = vec![0; pmem.len() as usize];
    pmem.read(0, &mut bytes).expect("no bad range");
    bytes
}

/// Every write-back instruction that this CPU has, and none.
fn domains() -> impl Iterator<Item = Persistence> {
    let best = FlushOp::of_this_cpu();
    let usable = FlushOp::ALL.into_iter().skip_while(move |op| *op != best);
    usable
        .map(Persistence::MemoryController)
        .chain([Persistence::CpuCache])
}

/// Every instruction of this CPU that stores past the caches.
fn streams() -> impl Iterator<Item = StreamOp> {
    let best = StreamOp::of_this_cpu();
    StreamOp::ALL.into_iter().skip_while(move |op| *op != best)
}

/// Every way to make stores durable that this CPU has.
fn ways() -> impl Iterator<Item = (Persistence, StreamOp)> {
    domains().flat_map(|domain| streams().map(move |stream| (domain, stream)))
}

proptest! {
    #[test]
    fn regions_hold_what_a_byte_vector_holds(ops in prop::collection::vec(op(), 1..20), part in range()) {
        let mut model = vec![0; LEN];
        ops.iter().for_each(|op| apply_to_model(&mut model, op));
        let expected = &model[part.0 as usize..][..part.1 as usize];

        let ram = Arc::new(RamPmem::new(LEN as u64).expect("memory"));
        ops.iter().for_each(|op| apply(&ram, op));
        prop_assert_eq!(contents(&ram), model.clone());
        let mut bytes = vec![0; expected.len()];
        ram.read(part.0, &mut bytes).expect("no bad range");
        prop_assert_eq!(&bytes, expected);

        for (domain, stream) in ways() {
            let arena = Arena::new();
            // SAFETY: the CPU has each of `streams`.
            let mapped = unsafe { arena.pmem(domain).with_stream(stream) };
            ops.iter().for_each(|op| apply(&&mapped, op));
            prop_assert_eq!(contents(&mapped), model.clone());
            mapped.read(part.0, &mut bytes).expect("no bad range");
            prop_assert_eq!(&bytes, expected);
            prop_assert!(arena.guards_intact());
        }
    }

    #[test]
    fn a_read_fails_exactly_when_it_touches_bad_bytes(bad in range(), healed in range(), read in range()) {
        let ram = RamPmem::new(LEN as u64).expect("memory");
        ram.poison(bad.0..bad.0 + bad.1).expect("room");
        ram.unpoison(&(healed.0..healed.0 + healed.1)).expect("room");
        let within = |(start, len): (u64, u64), at: u64| at >= start && at - start < len;
        let first = (read.0..read.0 + read.1).find(|at| within(bad, *at) && !within(healed, *at));
        let result = ram.read(read.0, &mut vec![0; read.1 as usize]);
        prop_assert_eq!(result.err().map(|e: MediaError| e.offset), first);
    }
}

#[test]
fn a_word_load_sees_poison_and_little_endian_bytes() {
    let arena = Arena::new();
    let mapped = arena.pmem(DOMAIN);
    mapped.store(8, &[1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(mapped.load64(8), Ok(0x0807_0605_0403_0201));
    mapped.mark_bad(12..20).expect("room");
    assert_eq!(mapped.load64(8), Err(MediaError { offset: 12, len: 4 }));
    assert_eq!(mapped.load64(16), Err(MediaError { offset: 16, len: 4 }));
    assert_eq!(mapped.load64(24), Ok(0));
    let words = |off| {
        let mut words = [7; 3];
        mapped.load_words(off, &mut words).map(|()| words)
    };
    assert_eq!(words(0), Err(MediaError { offset: 12, len: 8 }));
    assert_eq!(words(24), Ok([0; 3]));
    mapped.clear_bad(&(8..24)).expect("room");
    assert_eq!(mapped.load64(16), Ok(0));
    assert_eq!(words(0), Ok([0, 0x0807_0605_0403_0201, 0]));
}

/// Runs `access` on a fresh mapped region and on a heap region of the same length; both must panic.
fn both_panic(access: impl Fn(&dyn Pmem)) {
    let arena = Arena::new();
    let regions: [&dyn Pmem; 2] = [
        &arena.pmem(DOMAIN),
        &RamPmem::new(LEN as u64).expect("memory"),
    ];
    for region in regions {
        let access = std::panic::AssertUnwindSafe(|| access(region));
        assert!(std::panic::catch_unwind(access).is_err());
    }
}

#[test]
fn an_access_outside_the_region_panics() {
    let end = LEN as u64;
    both_panic(|p| p.store64(end, 1));
    both_panic(|p| p.store(end - 1, &[0; 2]));
    both_panic(|p| p.copy_nt(end - 1, &[0; 2]));
    both_panic(|p| p.zero_nt(u64::MAX, 2));
    both_panic(|p| p.flush(0, end + 1));
    both_panic(|p| {
        let _ = p.load64(end);
    });
    both_panic(|p| {
        let _ = p.load_words(end - 8, &mut [0; 2]);
    });
    both_panic(|p| {
        let _ = p.read(u64::MAX, &mut [0; 2]);
    });
}

#[test]
fn a_misaligned_word_panics() {
    both_panic(|p| p.store64(4, 1));
    both_panic(|p| {
        let _ = p.load64(4);
    });
}

#[test]
#[should_panic(expected = "read-only")]
fn a_store_to_a_read_only_region_panics() {
    let arena = Arena::new();
    arena.pmem(DOMAIN).read_only().store(0, &[1]);
}

#[test]
fn a_fence_writes_every_flush_hint() {
    let (arena, words) = (Arena::new(), [const { AtomicU64::new(0) }; 2]);
    let hints = words
        .iter()
        .map(|word| NonNull::new(word.as_ptr()).expect("a reference"))
        .collect();
    // SAFETY: the words outlive the region and take any value.
    let mapped = unsafe { arena.pmem(DOMAIN).with_flush_hints(hints) };
    mapped.store64(0, 1);
    mapped.flush(0, 8);
    assert_eq!(words[1].load(Ordering::Relaxed), 0, "only the fence drains");
    mapped.fence();
    assert!(words.iter().all(|word| word.load(Ordering::Relaxed) == 1));
}

#[test]
fn the_best_instruction_is_chosen_by_cpuid_bits() {
    assert_eq!(FlushOp::from_leaf7_ebx(0), FlushOp::Clflush);
    assert_eq!(FlushOp::from_leaf7_ebx(1 << 23), FlushOp::ClflushOpt);
    assert_eq!(FlushOp::from_leaf7_ebx(1 << 24), FlushOp::Clwb);
    assert_eq!(FlushOp::from_leaf7_ebx(u32::MAX), FlushOp::Clwb);
}

#[test]
fn lines_are_stored_past_the_caches_at_once_where_the_cpu_can() {
    assert_eq!(StreamOp::from_leaf7_ecx(0), StreamOp::Movnti);
    assert_eq!(StreamOp::from_leaf7_ecx(!(1 << 28)), StreamOp::Movnti);
    assert_eq!(StreamOp::from_leaf7_ecx(1 << 28), StreamOp::Movdir64b);
    assert_eq!(StreamOp::from_leaf7_ecx(u32::MAX), StreamOp::Movdir64b);
}
