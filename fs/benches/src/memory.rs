//! Host memory as a region of pmem, and the ways to fill memory that a copy is compared with.

#![expect(
    unsafe_code,
    reason = "gives raw memory out as pmem, and stores past the caches"
)]

use std::arch::asm;
use std::ptr::NonNull;
use std::sync::LazyLock;

use dax::pmem::{FlushOp, MappedPmem, Persistence, Pmem, StreamOp};
use memmap2::{MmapMut, MmapOptions};
use nix::sys::mman::{MmapAdvise, madvise};

/// Memory that stays until the process ends.
#[derive(Clone, Copy)]
pub struct Bytes {
    start: *mut u8,
    len: usize,
}

/// A large page of the machine.
const LARGE: usize = 2 << 20;

/// `len` bytes of memory, each page touched, until the process ends. By large pages, if the machine has them, as the kernel maps pmem.
///
/// # Panics
/// If the machine does not have the memory.
#[must_use]
pub fn memory(len: usize) -> Bytes {
    let bytes = untouched(len);
    for at in (0..len).step_by(4096) {
        // SAFETY: within the mapping, which nobody else knows of yet.
        unsafe { bytes.target(at, 1).write_volatile(0) };
    }
    bytes
}

/// `len` bytes of memory until the process ends, none of them touched: the machine need not have them all. By large pages, if the machine has
/// them.
///
/// # Panics
/// If there is no room for them.
#[must_use]
pub fn untouched(len: usize) -> Bytes {
    let options = MmapOptions::new()
        .len(len + LARGE)
        .no_reserve_swap()
        .clone();
    let map: &'static mut MmapMut = Box::leak(Box::new(options.map_anon().expect("room")));
    let skip = map.as_ptr().align_offset(LARGE);
    let start = map[skip..].as_mut_ptr();
    let bytes = Bytes { start, len };
    // Refused by a machine that has no large pages.
    let _ = bytes.advise(MmapAdvise::MADV_HUGEPAGE);
    bytes
}

/// Bytes of this process that the machine maps by large pages; 0 if it does not say.
#[must_use]
pub fn large_pages() -> u64 {
    let all = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = all
        .lines()
        .find_map(|line| line.strip_prefix("AnonHugePages:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(0) << 10
}

impl Bytes {
    /// The memory as a region, durable by what this CPU has best.
    #[must_use]
    pub fn pmem(self) -> MappedPmem {
        let domain = Persistence::MemoryController(FlushOp::of_this_cpu());
        let start = NonNull::new(self.start).expect("mapped");
        // SAFETY: mapped until the process ends, and reached only through this region or the functions below.
        unsafe { MappedPmem::new(start, self.len as u64, domain) }
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    fn target(self, at: usize, len: usize) -> *mut u8 {
        assert!(at <= self.len && len <= self.len - at, "outside the memory");
        // SAFETY: within the mapping, just checked.
        unsafe { self.start.add(at) }
    }

    /// Copies with the C library's memcpy: through the caches, durable at no time.
    pub fn memcpy(self, at: usize, data: &[u8]) {
        let to = self.target(at, data.len());
        // SAFETY: the target was checked, and `data` is not in it: nobody has a reference to this memory.
        unsafe { to.copy_from_nonoverlapping(data.as_ptr(), data.len()) };
    }

    /// Copies as [`Bytes::memcpy`], writes each line back, and fences. `at` and the length are multiples of 64.
    pub fn memcpy_write_back(self, at: usize, data: &[u8]) {
        self.memcpy(at, data);
        let region = self.pmem();
        region.flush(at as u64, data.len() as u64);
        region.fence();
    }

    /// Whether the CPU can store 64 bytes at once past the caches. Asked once: in a virtual machine CPUID takes longer than a copy.
    #[must_use]
    pub fn has_movdir64b() -> bool {
        static HAS: LazyLock<bool> =
            LazyLock::new(|| StreamOp::of_this_cpu() == StreamOp::Movdir64b);
        *HAS
    }

    /// Copies 64 bytes at a time past the caches, then fences. `at` and the length are multiples of 64.
    ///
    /// # Panics
    /// If the CPU cannot.
    pub fn movdir64b(self, at: usize, data: &[u8]) {
        assert!(Self::has_movdir64b());
        assert!(at.is_multiple_of(64) && data.len().is_multiple_of(64));
        let (mut to, mut from) = (self.target(at, data.len()), data.as_ptr());
        for _ in 0..data.len() / 64 {
            // SAFETY: the CPU has it; both ranges are valid for 64 bytes, and the target is aligned.
            unsafe {
                asm!("movdir64b {to}, [{from}]", to = in(reg) to, from = in(reg) from, options(nostack, preserves_flags));
                (to, from) = (to.add(64), from.add(64));
            }
        }
        // SAFETY: only orders.
        unsafe { std::arch::x86_64::_mm_sfence() };
    }

    /// Gives the memory back to the machine; it reads as zeroes afterwards.
    ///
    /// # Panics
    /// If the machine refuses.
    pub fn give_back(self) {
        self.advise(MmapAdvise::MADV_DONTNEED).expect("madvise");
    }

    fn advise(self, advice: MmapAdvise) -> nix::Result<()> {
        let start = NonNull::new(self.start.cast()).expect("mapped");
        // SAFETY: a private mapping of this process; nobody has a reference to it, and whoever reads it after it was given back finds zeroes.
        unsafe { madvise(start, self.len, advice) }
    }

    /// Copies with the widest stores past the caches that every x86_64 CPU has (16 bytes), then fences. `at` and the length are
    /// multiples of 64.
    pub fn movntdq(self, at: usize, data: &[u8]) {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
        assert!(at.is_multiple_of(64) && data.len().is_multiple_of(64));
        let to = self.target(at, data.len()).cast::<__m128i>();
        let from = data.as_ptr().cast::<__m128i>();
        for i in (0..data.len() / 16).step_by(4) {
            // SAFETY: aligned and within both ranges, which were checked.
            unsafe {
                let [a, b, c, d] = [0, 1, 2, 3].map(|j| _mm_loadu_si128(from.add(i + j)));
                _mm_stream_si128(to.add(i), a);
                _mm_stream_si128(to.add(i + 1), b);
                _mm_stream_si128(to.add(i + 2), c);
                _mm_stream_si128(to.add(i + 3), d);
            }
        }
        // SAFETY: only orders.
        unsafe { _mm_sfence() };
    }

    /// Copies by words with movnti, as a kernel without vector registers must, then fences. `at` and the length are multiples of 64.
    pub fn movnti(self, at: usize, data: &[u8]) {
        assert!(at.is_multiple_of(64) && data.len().is_multiple_of(64));
        let to = self.target(at, data.len());
        // SAFETY: both ranges are valid for `data.len()` bytes, a multiple of 64; the loop runs over exactly these.
        unsafe {
            asm!(
                "2:",
                "mov {a}, [{from} + {i}]",
                "mov {b}, [{from} + {i} + 8]",
                "movnti [{to} + {i}], {a}",
                "movnti [{to} + {i} + 8], {b}",
                "add {i}, 16",
                "cmp {i}, {len}",
                "jb 2b",
                "sfence",
                a = out(reg) _,
                b = out(reg) _,
                from = in(reg) data.as_ptr(),
                to = in(reg) to,
                i = inout(reg) 0_usize => _,
                len = in(reg) data.len(),
                options(nostack),
            );
        }
    }
}
