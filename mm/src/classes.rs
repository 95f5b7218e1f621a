//! Small blocks of the heap, kept for the next who wants one of the same size.
//!
//! The heap below is a list of holes in the order of their addresses, searched from its start for the first that is large enough. After
//! a while the small holes gather at the start, and every larger allocation walks past all of them: with 5,000 holes, 80,000
//! instructions. So small blocks that are given back do not become holes: they go to a list of their size class and are the next to be
//! handed out again, in a few instructions. The heap itself sees only large blocks come and go, and the first use of small ones.
//!
//! **Invariant.** A block in the list of a class was taken from the heap with exactly that class's layout ([`Class::layout`]) and is
//! used by nobody: its first word is the link. So it can be handed out to anyone of that class, and be given back to the heap.
//!
//! **Memory is not lost.** A class keeps what it once used, which no other class can have. When the heap finds nothing and cannot grow,
//! its owner gives every kept block back to it ([`Classes::drain`]), where neighbours become one hole again, and tries once more. What
//! is kept counts as free ([`Classes::bytes`]).
#![expect(unsafe_code, reason = "free blocks hold the links of their list")]

use core::alloc::Layout;
use core::ptr::NonNull;

/// The sizes of the classes, each a multiple of [`ALIGN`].
const SIZES: [usize; 14] = [
    16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048,
];
/// The alignment of every class; what needs more is not small.
const ALIGN: usize = 16;

/// A class's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class(usize);

impl Class {
    /// The class whose blocks suit `layout`; none for what is large, or aligned to more than 16 bytes.
    pub fn of(layout: Layout) -> Option<Self> {
        let fits = |size: &usize| *size >= layout.size();
        let found = SIZES.iter().position(fits).map(Self);
        found.filter(|_| layout.align() <= ALIGN)
    }

    /// The layout of its blocks.
    pub const fn layout(self) -> Layout {
        match Layout::from_size_align(SIZES[self.0], ALIGN) {
            Ok(layout) => layout,
            Err(_) => unreachable!(),
        }
    }
}

/// A free block's first word.
struct Link(Option<NonNull<Link>>);

/// The free blocks of all classes. See the module's head.
pub struct Classes {
    heads: [Option<NonNull<Link>>; SIZES.len()],
    bytes: usize,
}

// SAFETY: the blocks in the lists are nobody else's, whichever CPU put them there.
unsafe impl Send for Classes {}

impl Default for Classes {
    fn default() -> Self {
        Self::new()
    }
}

impl Classes {
    /// Nothing is kept.
    pub const fn new() -> Self {
        Self {
            heads: [None; SIZES.len()],
            bytes: 0,
        }
    }

    /// Bytes that are kept.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Hands out a block of the class, the one that was given back last.
    pub fn take(&mut self, class: Class) -> Option<NonNull<u8>> {
        let block = self.heads[class.0]?;
        // SAFETY: a block in a list is a valid link and nobody else's.
        self.heads[class.0] = unsafe { block.read() }.0;
        self.bytes -= SIZES[class.0];
        Some(block.cast())
    }

    /// Keeps a block of the class.
    ///
    /// # Safety
    /// The block was taken from the heap with the class's layout, and nobody uses it.
    pub unsafe fn give(&mut self, class: Class, block: NonNull<u8>) {
        let block = block.cast::<Link>();
        // SAFETY: by the caller's promise; every class has room and alignment for a link.
        unsafe { block.write(Link(self.heads[class.0])) };
        self.heads[class.0] = Some(block);
        self.bytes += SIZES[class.0];
    }

    /// Takes out every block, with its layout.
    pub fn drain(&mut self, mut give_back: impl FnMut(NonNull<u8>, Layout)) {
        for class in (0..SIZES.len()).map(Class) {
            while let Some(block) = self.take(class) {
                give_back(block, class.layout());
            }
        }
    }
}

const _: () = assert!(align_of::<Link>() <= ALIGN && size_of::<Link>() <= SIZES[0]);

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use std::collections::HashMap;

    fn class(size: usize) -> Class {
        Class::of(Layout::from_size_align(size, 8).unwrap()).unwrap()
    }

    #[test]
    fn every_small_layout_fits_its_class_and_no_smaller_one_would_do() {
        for size in 0..=2048 {
            let at = class(size);
            assert!(at.layout().size() >= size);
            assert!(at.0 == 0 || SIZES[at.0 - 1] < size);
        }
    }

    #[test]
    fn what_is_large_or_aligned_to_more_is_not_small() {
        for (size, align) in [(2049, 8), (8, 32), (4096, 4096)] {
            assert_eq!(
                Class::of(Layout::from_size_align(size, align).unwrap()),
                None
            );
        }
    }

    /// Blocks come back, each once, of the right class; what is kept is counted; a drain leaves nothing.
    #[test]
    fn blocks_come_back_once_and_all_are_drained() {
        let mut classes = Classes::new();
        let mut given = HashMap::new();
        for (i, size) in (0..300).map(|i| (i, SIZES[i % SIZES.len()])) {
            let layout = class(size).layout();
            // SAFETY: the layout is not empty.
            let block = NonNull::new(unsafe { std::alloc::alloc(layout) }).unwrap();
            given.insert(block, layout);
            // SAFETY: taken with the class's layout just now.
            unsafe { classes.give(class(size), block) };
            if i % 3 == 0 {
                assert_eq!(
                    classes.take(class(size)),
                    Some(block),
                    "the last given comes first"
                );
                // SAFETY: it was handed out to us, and we do not use it.
                unsafe { classes.give(class(size), block) };
            }
        }
        assert_eq!(
            classes.bytes(),
            given.values().map(Layout::size).sum::<usize>()
        );
        let mut drained = Vec::new();
        classes.drain(|block, layout| drained.push((block, layout)));
        assert_eq!((classes.bytes(), drained.len()), (0, given.len()));
        for (block, layout) in drained {
            assert_eq!(given.remove(&block), Some(layout));
            // SAFETY: allocated above with this layout.
            unsafe { std::alloc::dealloc(block.as_ptr(), layout) };
        }
        assert!(
            SIZES
                .iter()
                .all(|size| classes.take(class(*size)).is_none())
        );
    }
}
