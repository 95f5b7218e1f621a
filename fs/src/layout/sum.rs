//! CRC-32C, the checksum of every structure: by the CPU's instruction where it has one, by the tables of the `crc` crate elsewhere.
//!
//! The instruction works on general registers, so that a kernel without vector registers may use it too. It is for inodes, which a
//! mount reads by the million.

#![expect(
    unsafe_code,
    reason = "the instruction's stable form wants a target with vector registers"
)]

use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicU8, Ordering};

use crc::{CRC_32_ISCSI, Crc, Digest, Table};
use zerocopy::IntoBytes;

static TABLES: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// Bit of ECX of CPUID leaf 1 that says that the instruction is there.
const SSE4_2: u32 = 1 << 20;

/// Whether the CPU has the instruction: 0 not asked yet, 1 no, 2 yes.
static HAS: AtomicU8 = AtomicU8::new(0);

fn has_instruction() -> bool {
    // Relaxed: whoever asks twice gets the same answer; nothing else goes along.
    match HAS.load(Ordering::Relaxed) {
        0 => {
            let has = !cfg!(miri) && __cpuid(1).ecx & SSE4_2 != 0;
            // Relaxed: as above.
            HAS.store(1 + u8::from(has), Ordering::Relaxed);
            has
        }
        known => known == 2,
    }
}

/// A running CRC-32C over bytes alone; what the shell's `sum` prints.
#[derive(Clone)]
pub struct Running(Way);

#[derive(Clone)]
enum Way {
    /// The register, not inverted.
    Instruction(u32),
    Tables(Digest<'static, u32, Table<16>>),
}

impl Running {
    /// A sum over nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self(if has_instruction() {
            Way::Instruction(u32::MAX)
        } else {
            Way::Tables(TABLES.digest())
        })
    }

    /// Adds the next piece.
    pub fn update(&mut self, data: &[u8]) {
        match &mut self.0 {
            // SAFETY: `new` found the instruction.
            Way::Instruction(state) => *state = unsafe { step(*state, data) },
            Way::Tables(digest) => digest.update(data),
        }
    }

    /// Adds words, each little-endian.
    #[inline(always)]
    pub fn words(&mut self, data: &[u64]) {
        const { assert!(cfg!(target_endian = "little")) }
        match &mut self.0 {
            Way::Instruction(state) => {
                // SAFETY: `new` found the instruction.
                let step = |state, word: &u64| unsafe { step_word(state, *word) };
                *state = data.iter().fold(u64::from(*state), step) as u32;
            }
            Way::Tables(digest) => digest.update(data.as_bytes()),
        }
    }

    /// The checksum.
    #[must_use]
    #[inline]
    pub fn finish(self) -> u32 {
        match self.0 {
            Way::Instruction(state) => !state,
            Way::Tables(digest) => digest.finalize(),
        }
    }
}

impl Default for Running {
    fn default() -> Self {
        Self::new()
    }
}

/// The register after `data`.
///
/// # Safety
/// The CPU has the instruction.
unsafe fn step(state: u32, data: &[u8]) -> u32 {
    let (words, rest) = data.as_chunks::<8>();
    let mut state = u64::from(state);
    for word in words {
        // SAFETY: by the caller's promise.
        state = unsafe { step_word(state, u64::from_le_bytes(*word)) };
    }
    let mut state = state as u32;
    let (half, rest) = rest.as_chunks::<4>();
    for half in half {
        let half = u32::from_le_bytes(*half);
        // SAFETY: by the caller's promise; it reads and writes registers only.
        unsafe {
            asm!("crc32 {state:e}, {half:e}", state = inout(reg) state, half = in(reg) half, options(pure, nomem, nostack, preserves_flags));
        }
    }
    for byte in rest {
        // SAFETY: as above.
        unsafe {
            asm!("crc32 {state:e}, {byte}", state = inout(reg) state, byte = in(reg_byte) *byte, options(pure, nomem, nostack, preserves_flags));
        }
    }
    state
}

/// The register, its upper half zero, after one word.
///
/// # Safety
/// The CPU has the instruction.
#[inline]
unsafe fn step_word(mut state: u64, word: u64) -> u64 {
    // SAFETY: by the caller's promise; it reads and writes registers only.
    unsafe {
        asm!("crc32 {state}, {word}", state = inout(reg) state, word = in(reg) word, options(pure, nomem, nostack, preserves_flags));
    }
    state
}

/// What the sums of all structures of a file system begin with, added up once: for who makes a sum a million times.
#[derive(Clone)]
pub struct Seed(Running);

impl Seed {
    /// By the identity of the file system.
    #[must_use]
    pub fn new(uuid: &[u8; 16]) -> Self {
        let mut sum = Running::new();
        sum.update(uuid);
        Self(sum)
    }

    /// Starts the sum of the structure in that place.
    #[must_use]
    #[inline(always)]
    pub fn at(&self, place: u64) -> Sum {
        let mut sum = self.0.clone();
        sum.words(&[place]);
        Sum(sum)
    }
}

/// A running CRC-32C that is bound to a file system and a place.
pub struct Sum(Running);

impl Sum {
    /// Starts a sum; `seed` binds it to the file system and the place, so that a structure in a wrong place is found.
    #[must_use]
    pub fn new(uuid: &[u8; 16], place: u64) -> Self {
        Seed::new(uuid).at(place)
    }

    /// Adds bytes.
    #[must_use]
    pub fn bytes(mut self, data: &[u8]) -> Self {
        self.0.update(data);
        self
    }

    /// Adds words, each little-endian.
    #[must_use]
    #[inline(always)]
    pub fn words(mut self, data: &[u64]) -> Self {
        self.0.words(data);
        self
    }

    /// The checksum of all that was added.
    #[must_use]
    #[inline]
    pub fn finish(self) -> u32 {
        self.0.finish()
    }
}

/// The CRC-32C of `data`, bound to nothing.
#[must_use]
pub fn crc32c(data: &[u8]) -> u32 {
    let mut sum = Running::new();
    sum.update(data);
    sum.finish()
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_is_the_checksum_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    proptest! {
        /// However the data arrives, the instruction says what the tables say.
        #[test]
        fn the_instruction_agrees_with_the_tables(data in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let expected = TABLES.checksum(&data);
            let (a, b) = data.split_at(cut.min(data.len()));
            let mut sum = Running::new();
            sum.update(a);
            sum.update(b);
            prop_assert_eq!(sum.finish(), expected);
            let mut tables = Running(Way::Tables(TABLES.digest()));
            tables.update(a);
            tables.update(b);
            prop_assert_eq!(tables.finish(), expected);
        }

        /// Words are the bytes that they stand for, and a sum from a seed is the sum from the start.
        #[test]
        fn words_and_seeds_say_what_bytes_say(uuid: [u8; 16], place: u64, words in prop::collection::vec(any::<u64>(), 0..40)) {
            let bytes = [&uuid, place.to_le_bytes().as_slice(), words.as_bytes()].concat();
            let expected = TABLES.checksum(&bytes);
            let seed = Seed::new(&uuid);
            prop_assert_eq!(seed.at(place).words(&words).finish(), expected);
            prop_assert_eq!(Sum::new(&uuid, place).bytes(words.as_bytes()).finish(), expected);
            let mut tables = Running(Way::Tables(TABLES.digest()));
            tables.update(&uuid);
            prop_assert_eq!(Seed(tables).at(place).words(&words).finish(), expected);
        }
    }
}
