//! Stores past the caches: for bulk, which its writer will not soon read.
//!
//! They go through write-combining buffers, in no order, and are durable once the CPU that made them has fenced. A line that is stored whole need
//! not be read first, nor written back afterwards. Two instructions do this without a vector register, which the kernel must not touch:
//!
//! - `movnti` stores a word, and every x86_64 CPU has it. A line is eight stores, which the CPU gathers.
//! - `movdir64b` stores a line at once, from any address to a multiple of 64. It asks an eighth of the CPU's store slots, which shows where the
//!   other hyperthread of the core wants them too (figures: docs/figures-fs.md).
//!
//! Words before the first whole line of a range, and after the last, are always stored by `movnti`. (Intel, Software Developer's Manual, volume 2:
//! MOVNTI, MOVDIR64B; volume 1, section 10.4.6.2, on weakly ordered stores and `sfence`.)

#![expect(
    unsafe_code,
    reason = "stores to raw mapped memory by instructions that have no stable safe form"
)]

use core::arch::asm;

use super::{LINE, mapped};

/// The instruction that stores whole lines past the caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamOp {
    /// `movdir64b`: a line at once.
    Movdir64b,
    /// `movnti`: a word at a time; each x86_64 CPU has it.
    Movnti,
}

impl StreamOp {
    /// All instructions, best first.
    pub const ALL: [Self; 2] = [Self::Movdir64b, Self::Movnti];

    /// The best instruction by ECX of CPUID leaf 7, sub-leaf 0: bit 28 is `movdir64b`.
    #[must_use]
    pub const fn from_leaf7_ecx(ecx: u32) -> Self {
        match ecx & 1 << 28 {
            0 => Self::Movnti,
            _ => Self::Movdir64b,
        }
    }

    /// The best instruction of the CPU this runs on, by CPUID. In a virtual machine that costs a microsecond: ask once.
    #[must_use]
    pub fn of_this_cpu() -> Self {
        mapped::leaf7().map_or(Self::Movnti, |leaf| Self::from_leaf7_ecx(leaf.ecx))
    }
}

/// Words of a line.
const LINE_WORDS: usize = LINE as usize / 8;

/// Splits `words` words at `to` into words up to a line's start, whole lines, and the words left.
fn split(to: *mut u8, words: usize) -> (usize, usize, usize) {
    let first = words.min((to as usize).wrapping_neg() % LINE as usize / 8);
    let lines = (words - first) / LINE_WORDS;
    (first, lines, words - first - lines * LINE_WORDS)
}

/// Copies `words` words to pmem past the caches.
///
/// # Safety
/// `to` is a multiple of 8; both ranges are valid and do not overlap; the CPU has the instruction.
pub(super) unsafe fn copy(op: StreamOp, to: *mut u8, from: *const u8, words: usize) {
    let (first, lines, last) = split(to, words);
    let end = (first + lines * LINE_WORDS) * 8;
    // SAFETY: by the caller's promise, each for its part; after `first` words comes a line's start.
    unsafe {
        copy_words(to, from, first);
        match op {
            StreamOp::Movdir64b => copy_lines(to.add(first * 8), from.add(first * 8), lines),
            StreamOp::Movnti => copy_lines_by_words(to.add(first * 8), from.add(first * 8), lines),
        }
        copy_words(to.add(end), from.add(end), last);
    }
}

/// Zeroes `words` words of pmem past the caches.
///
/// # Safety
/// `to` is a multiple of 8 and the range is valid; the CPU has the instruction.
pub(super) unsafe fn zero(op: StreamOp, to: *mut u8, words: usize) {
    let (first, lines, last) = split(to, words);
    let end = (first + lines * LINE_WORDS) * 8;
    // SAFETY: by the caller's promise, each for its part; after `first` words comes a line's start.
    unsafe {
        (0..first).for_each(|i| store_word(to.add(i * 8), 0));
        match op {
            StreamOp::Movdir64b => zero_lines(to.add(first * 8), lines),
            StreamOp::Movnti => zero_lines_by_words(to.add(first * 8), lines),
        }
        (0..last).for_each(|i| store_word(to.add(end + i * 8), 0));
    }
}

/// Copies `words` words, one after the other.
///
/// # Safety
/// As [`copy`].
unsafe fn copy_words(to: *mut u8, from: *const u8, words: usize) {
    for i in 0..words {
        // SAFETY: by the caller's promise.
        unsafe {
            let word = from.add(i * 8).cast::<u64>().read_unaligned();
            store_word(to.add(i * 8), word);
        }
    }
}

/// Stores one word past the caches.
///
/// # Safety
/// `to` is a multiple of 8, and the word is valid.
unsafe fn store_word(to: *mut u8, word: u64) {
    // SAFETY: by the caller's promise.
    unsafe {
        asm!("movnti [{to}], {word}", to = in(reg) to, word = in(reg) word, options(nostack, preserves_flags));
    }
}

/// Copies `lines` lines, each at once.
///
/// # Safety
/// As [`copy`], and `to` is a multiple of [`LINE`], and the CPU has `movdir64b`.
unsafe fn copy_lines(to: *mut u8, from: *const u8, lines: usize) {
    if lines == 0 {
        return;
    }
    // SAFETY: by the caller's promise; the loop runs `lines` times.
    unsafe {
        asm!(
            "2:",
            "movdir64b {to}, [{from}]",
            "add {from}, 64",
            "add {to}, 64",
            "dec {lines}",
            "jnz 2b",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            lines = inout(reg) lines => _,
            options(nostack),
        );
    }
}

/// Copies `lines` lines, word by word.
///
/// # Safety
/// As [`copy`].
unsafe fn copy_lines_by_words(to: *mut u8, from: *const u8, lines: usize) {
    if lines == 0 {
        return;
    }
    // SAFETY: by the caller's promise; the loop runs `lines` times.
    unsafe {
        asm!(
            "2:",
            "mov {a}, [{from}]",
            "mov {b}, [{from} + 8]",
            "movnti [{to}], {a}",
            "movnti [{to} + 8], {b}",
            "mov {a}, [{from} + 16]",
            "mov {b}, [{from} + 24]",
            "movnti [{to} + 16], {a}",
            "movnti [{to} + 24], {b}",
            "mov {a}, [{from} + 32]",
            "mov {b}, [{from} + 40]",
            "movnti [{to} + 32], {a}",
            "movnti [{to} + 40], {b}",
            "mov {a}, [{from} + 48]",
            "mov {b}, [{from} + 56]",
            "movnti [{to} + 48], {a}",
            "movnti [{to} + 56], {b}",
            "add {from}, 64",
            "add {to}, 64",
            "dec {lines}",
            "jnz 2b",
            a = out(reg) _,
            b = out(reg) _,
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            lines = inout(reg) lines => _,
            options(nostack),
        );
    }
}

/// A line of zeroes, the source of [`zero_lines`].
#[repr(align(64))]
struct ZeroLine([u64; LINE_WORDS]);

static ZERO_LINE: ZeroLine = ZeroLine([0; LINE_WORDS]);

/// Zeroes `lines` lines, each at once.
///
/// # Safety
/// As [`zero`], and `to` is a multiple of [`LINE`], and the CPU has `movdir64b`.
unsafe fn zero_lines(to: *mut u8, lines: usize) {
    if lines == 0 {
        return;
    }
    // SAFETY: by the caller's promise; the loop runs `lines` times, and its source is the static line.
    unsafe {
        asm!(
            "2:",
            "movdir64b {to}, [{zero}]",
            "add {to}, 64",
            "dec {lines}",
            "jnz 2b",
            zero = in(reg) ZERO_LINE.0.as_ptr(),
            to = inout(reg) to => _,
            lines = inout(reg) lines => _,
            options(nostack),
        );
    }
}

/// Zeroes `lines` lines, word by word.
///
/// # Safety
/// As [`zero`].
unsafe fn zero_lines_by_words(to: *mut u8, lines: usize) {
    if lines == 0 {
        return;
    }
    // SAFETY: by the caller's promise; the loop runs `lines` times.
    unsafe {
        asm!(
            "2:",
            "movnti [{to}], {zero}",
            "movnti [{to} + 8], {zero}",
            "movnti [{to} + 16], {zero}",
            "movnti [{to} + 24], {zero}",
            "movnti [{to} + 32], {zero}",
            "movnti [{to} + 40], {zero}",
            "movnti [{to} + 48], {zero}",
            "movnti [{to} + 56], {zero}",
            "add {to}, 64",
            "dec {lines}",
            "jnz 2b",
            zero = in(reg) 0_u64,
            to = inout(reg) to => _,
            lines = inout(reg) lines => _,
            options(nostack),
        );
    }
}
