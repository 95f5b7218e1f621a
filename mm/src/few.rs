//! A list whose first elements need no allocation, and which grows only when told to.

use alloc::vec::Vec;

use arrayvec::ArrayVec;

use crate::mem::OutOfMemory;

/// A list with room for `N` elements inside; more go to the heap.
///
/// [`Few::push`] allocates nothing: it may be called with interrupts off. Room is made by [`Few::reserve`].
pub(crate) struct Few<T, const N: usize> {
    near: ArrayVec<T, N>,
    far: Vec<T>,
}

impl<T, const N: usize> Few<T, N> {
    pub(crate) const fn new() -> Self {
        Self {
            near: ArrayVec::new_const(),
            far: Vec::new(),
        }
    }

    /// How many elements can be pushed.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        self.near.remaining_capacity() + self.far.capacity() - self.far.len()
    }

    /// Makes room for `more` elements.
    #[inline]
    pub(crate) fn reserve(&mut self, more: usize) -> Result<(), OutOfMemory> {
        if more <= self.room() {
            return Ok(());
        }
        let far = more.saturating_sub(self.near.remaining_capacity());
        self.far.try_reserve(far).map_err(|_| OutOfMemory)
    }

    /// Adds an element. Panics without room: an allocation here would happen with interrupts off.
    pub(crate) fn push(&mut self, element: T) {
        if let Err(full) = self.near.try_push(element) {
            assert!(
                self.far.len() < self.far.capacity(),
                "room was not reserved"
            );
            self.far.push(full.element());
        }
    }

    /// The elements on the heap, taken out with their room, or put back.
    pub(crate) fn far_mut(&mut self) -> &mut Vec<T> {
        &mut self.far
    }

    pub(crate) fn clear(&mut self) {
        self.near.clear();
        self.far.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.near.len() + self.far.len()
    }

    pub(crate) fn last(&self) -> Option<&T> {
        self.far.last().or_else(|| self.near.last())
    }

    pub(crate) fn last_mut(&mut self) -> Option<&mut T> {
        self.far.last_mut().or_else(|| self.near.last_mut())
    }

    pub(crate) fn get(&self, at: usize) -> Option<&T> {
        match at.checked_sub(N) {
            Some(far) => self.far.get(far),
            None => self.near.get(at),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.near.iter().chain(&self.far)
    }
}
