//! What the stress test writes into blocks: who owns them, in every 8 bytes.
//!
//! ```text
//!  63           48 47        38 37        22 21            0
//! ┌───────────────┬────────────┬────────────┬───────────────┐
//! │     check     │    page    │  version   │     file      │
//! └───────────────┴────────────┴────────────┴───────────────┘
//! ```
//!
//! A file's number is never used twice in a run, so a block that changed hands is known at once by any 8 bytes of it. Eight
//! bytes are stored and loaded in one access: a reader sees a whole stamp or none.

/// Whose a word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The file, as the test numbers it: 1 to 2^22 - 1.
    pub file: u32,
    /// The page of the file, below 1024.
    pub page: u16,
    /// The version of the page's content, the low 16 bits.
    pub version: u16,
}

/// What a word holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Nothing was stored since the block was zeroed.
    Zero,
    /// A stamp.
    Stamp(Stamp),
    /// Neither: bytes that the test never wrote.
    Garbage(u64),
}

const FILE_BITS: u32 = 22;
const PAGE_BITS: u32 = 10;

/// The most files of a run, and one more.
pub const FILES: u32 = 1 << FILE_BITS;
/// The most pages of a file.
pub const PAGES: u64 = 1 << PAGE_BITS;

impl Stamp {
    /// The word; `salt` makes the words of one run differ from those of another.
    #[must_use]
    pub fn encode(self, salt: u64) -> u64 {
        let page = u64::from(self.page) % PAGES;
        let body = page << 38 | u64::from(self.version) << FILE_BITS | u64::from(self.file % FILES);
        check(body, salt) << 48 | body
    }
}

impl Word {
    /// What a word holds, if `salt` is that of its run.
    #[must_use]
    pub fn decode(word: u64, salt: u64) -> Self {
        if word == 0 {
            return Word::Zero;
        }
        let body = word & ((1 << 48) - 1);
        let file = body as u32 % FILES;
        if check(body, salt) != word >> 48 || file == 0 {
            return Word::Garbage(word);
        }
        Word::Stamp(Stamp {
            file,
            page: (body >> 38) as u16,
            version: (body >> FILE_BITS) as u16,
        })
    }
}

impl core::fmt::Display for Word {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Word::Zero => f.write_str("zeroes"),
            Word::Garbage(word) => write!(f, "{word:#018x}, which nobody wrote"),
            Word::Stamp(s) => write!(
                f,
                "the stamp of file {} page {} version {}",
                s.file, s.page, s.version
            ),
        }
    }
}

/// 16 bits that depend on all others.
fn check(body: u64, salt: u64) -> u64 {
    let mut x = body ^ salt;
    x = (x ^ x >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (x ^ x >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 48
}

#[cfg(test)]
mod tests {
    use super::{FILES, PAGES, Stamp, Word};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_stamp_is_read_back(file in 1..FILES, page in 0..PAGES as u16, version: u16, salt: u64) {
            let stamp = Stamp { file, page, version };
            prop_assert_eq!(Word::decode(stamp.encode(salt), salt), Word::Stamp(stamp));
        }

        #[test]
        fn one_changed_bit_is_noticed(file in 1..FILES, page in 0..PAGES as u16, version: u16, salt: u64, bit in 0..64) {
            let stamp = Stamp { file, page, version };
            let word = stamp.encode(salt) ^ 1_u64 << bit;
            prop_assert_ne!(Word::decode(word, salt), Word::Stamp(stamp));
        }
    }

    #[test]
    fn the_stamps_of_another_run_are_garbage() {
        let stamps = (1..2000).map(|file| Stamp {
            file,
            page: 3,
            version: 9,
        });
        let taken = stamps.filter(|s| matches!(Word::decode(s.encode(1), 2), Word::Stamp(_)));
        assert!(taken.count() < 10);
    }

    #[test]
    fn zeroes_are_zeroes_in_every_run() {
        assert_eq!(Word::decode(0, 77), Word::Zero);
    }
}
