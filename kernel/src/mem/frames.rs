//! The machine's page frames: a bump allocator while page tables are built, then `mm`'s buddy allocator for ever.
//!
//! The bump allocator takes from one usable range below 4 GiB, because only that much is mapped on every boot path. What
//! it has handed out, the kernel's image and the first MiB (firmware data, and later the start code of other CPUs) never
//! reach the buddy allocator.
#![expect(unsafe_code, reason = "makes the allocator's storage of raw frames")]

use core::slice;
use core::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;
use mm::addr::{PAGE_SIZE, Pfn, PfnRange, PhysAddr};
use mm::frame::{BuddyAllocator, FrameSource, MAX_RANGES};
use spin::Once;

use crate::boot::{BootInfo, PHYS_OFFSET};
use crate::lock::IrqLock;
use crate::memmap::{Kind, Range, free_parts};

const LOW_END: u64 = 1 << 20;
const MAPPED_END: u64 = 4 << 30;

/// The part of a range that is still free, in bytes.
struct Bump {
    start: u64,
    next: u64,
    end: u64,
}

static BUMP: IrqLock<Bump> = IrqLock::new(Bump {
    start: 0,
    next: 0,
    end: 0,
});
static BUDDY: Once<BuddyAllocator> = Once::new();

/// How many of the next allocations fail, for tests.
static FAILURES: AtomicU64 = AtomicU64::new(0);

/// The frames of the machine, as `mm` sees them.
pub struct Frames;

/// The one value of [`Frames`].
pub static FRAMES: Frames = Frames;

impl FrameSource for Frames {
    fn alloc(&self, order: u8) -> Option<Pfn> {
        alloc(order)
    }

    fn free(&self, pfn: Pfn, order: u8) {
        free(pfn, order);
    }
}

/// Lets the next `n` frame allocations fail: page tables, stacks, heap growth, whoever comes first. 0 ends it.
///
/// For tests of running out of memory.
pub fn inject_failures(n: u64) {
    // Relaxed: a test's own order of events suffices.
    FAILURES.store(n, Ordering::Relaxed);
}

fn injected() -> bool {
    // Relaxed, both: the counter stands for itself.
    FAILURES.load(Ordering::Relaxed) != 0
        && FAILURES
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            .is_ok()
}

/// 2^`order` frames, aligned to their number, contents undefined; `None` if there is no such block.
pub fn alloc(order: u8) -> Option<Pfn> {
    if injected() {
        return None;
    }
    match BUDDY.get() {
        Some(buddy) => buddy.alloc(order),
        None => bump(PAGE_SIZE << order).map(|at| Pfn::from_phys(PhysAddr::new(at))),
    }
}

/// Takes back what [`alloc`] gave.
pub fn free(pfn: Pfn, order: u8) {
    if let Some(buddy) = BUDDY.get() {
        buddy.free(pfn, order);
    }
}

/// One zeroed frame.
pub fn alloc_zeroed() -> Option<Pfn> {
    let pfn = alloc(0)?;
    // SAFETY: the frame is RAM, mapped at its place in the direct map, and ours.
    unsafe { ((PHYS_OFFSET + pfn.phys().as_u64()) as *mut [u64; 512]).write([0; 512]) };
    Some(pfn)
}

/// How many frames are managed.
pub fn total() -> u64 {
    BUDDY.get().map_or(0, BuddyAllocator::total_frames)
}

/// How many frames are free.
pub fn free_frames() -> u64 {
    BUDDY.get().map_or(0, BuddyAllocator::free_frames)
}

/// `size` bytes from the bump allocator, aligned to their size.
fn bump(size: u64) -> Option<u64> {
    let mut bump = BUMP.lock();
    let at = bump.next.next_multiple_of(size.next_power_of_two());
    let end = at.checked_add(size).filter(|&end| end <= bump.end)?;
    bump.next = end;
    Some(at)
}

/// Starts the bump allocator on the largest usable part below 4 GiB.
pub fn init_early(boot: &BootInfo) {
    let mut best = (0, 0);
    for range in usable(boot).filter(|r| r.start < MAPPED_END) {
        let low = Range {
            end: range.end.min(MAPPED_END),
            ..range
        };
        free_parts(low, &[(0, LOW_END), boot.image], |start, end| {
            if end - start > best.1 - best.0 {
                best = (start, end);
            }
        });
    }
    *BUMP.lock() = Bump {
        start: best.0,
        next: best.0,
        end: best.1,
    };
}

/// The highest `pages` pages of free RAM below 640 KiB, page 0 excepted: for the start code of other CPUs. They were never the
/// allocator's; the same pages at each call.
pub fn low_pages(pages: u64) -> Option<PhysAddr> {
    const END: u64 = 0xa_0000;
    let boot = crate::boot_info();
    let mut best = None;
    for range in usable(boot).filter(|r| r.start < END) {
        let end = range.end.min(END);
        free_parts(
            Range { end, ..range },
            &[(0, PAGE_SIZE), boot.image],
            |start, end| {
                if end - start >= pages * PAGE_SIZE {
                    best = best.max(Some(end - pages * PAGE_SIZE));
                }
            },
        );
    }
    best.map(PhysAddr::new)
}

fn usable(boot: &BootInfo) -> impl Iterator<Item = Range> + '_ {
    boot.memory
        .ranges()
        .iter()
        .copied()
        .filter(|r| r.kind == Kind::Usable)
}

/// Hands all free RAM to the buddy allocator. All of it is mapped by now.
///
/// # Panics
/// If the firmware's map leaves no RAM, or overlaps itself.
pub fn init(boot: &BootInfo) {
    let span = words_for(boot);
    let storage = bump((span as u64 * 8).next_multiple_of(PAGE_SIZE))
        .expect("RAM for the frame allocator's bitmaps");
    // SAFETY: the bump allocator has just given these bytes, RAM in the direct map, to nobody else.
    let storage = unsafe { slice::from_raw_parts_mut((PHYS_OFFSET + storage) as *mut u64, span) };
    let ranges = free_ranges(boot);
    let buddy = BuddyAllocator::new(&ranges, storage);
    BUDDY.call_once(|| buddy.expect("the firmware's memory map has RAM and no overlaps"));
}

/// Words of storage: measured before the storage itself is taken, so for a little more than needed.
fn words_for(boot: &BootInfo) -> usize {
    BuddyAllocator::words_needed(&free_ranges(boot))
}

fn free_ranges(boot: &BootInfo) -> ArrayVec<PfnRange, MAX_RANGES> {
    let taken = {
        let bump = BUMP.lock();
        (bump.start, bump.next)
    };
    let mut ranges = ArrayVec::new();
    for range in usable(boot) {
        free_parts(range, &[(0, LOW_END), boot.image, taken], |start, end| {
            add(&mut ranges, start, end)
        });
    }
    ranges
}

/// Adds a range; of too many, the smallest are left out.
fn add(ranges: &mut ArrayVec<PfnRange, MAX_RANGES>, start: u64, end: u64) {
    let pages = (end - start) / PAGE_SIZE;
    let Some(range) = PfnRange::new(Pfn::from_phys(PhysAddr::new(start)), pages) else {
        return;
    };
    if let Err(full) = ranges.try_push(range) {
        let smallest = ranges.iter_mut().min_by_key(|r| r.pages());
        if let Some(smallest) = smallest.filter(|s| s.pages() < pages) {
            *smallest = full.element();
        }
    }
}
