//! A list whose first elements need no allocation, and which grows only when told to.

use alloc::vec::Vec;

use arrayvec::ArrayVec;

use crate::mem::OutOfMemory;

/// A list with room for `N` elements inside; more go to the heap.
///
/// [`Few::push`] allocates nothing: it may be called with interrupts off. Room is made by [`Few::reserve`].
pub(super) struct Few<T, const N: usize> {
    near: ArrayVec<T, N>,
    far: Vec<T>,
}

impl<T, const N: usize> Few<T, N> {
    pub(super) const fn new() -> Self {
        Self {
            near: ArrayVec::new_const(),
            far: Vec::new(),
        }
    }

    /// How many elements can be pushed.
    pub(super) fn room(&self) -> usize {
        self.near.remaining_capacity() + self.far.capacity() - self.far.len()
    }

    /// Makes room for `more` elements.
    pub(super) fn reserve(&mut self, more: usize) -> Result<(), OutOfMemory> {
        let far = more.saturating_sub(self.near.remaining_capacity());
        self.far.try_reserve(far).map_err(|_| OutOfMemory)
    }

    /// Adds an element. Panics without room: an allocation here would happen with interrupts off.
    pub(super) fn push(&mut self, element: T) {
        if let Err(full) = self.near.try_push(element) {
            assert!(
                self.far.len() < self.far.capacity(),
                "room was not reserved"
            );
            self.far.push(full.element());
        }
    }

    pub(super) fn len(&self) -> usize {
        self.near.len() + self.far.len()
    }

    pub(super) fn last(&self) -> Option<&T> {
        self.far.last().or_else(|| self.near.last())
    }

    pub(super) fn last_mut(&mut self) -> Option<&mut T> {
        self.far.last_mut().or_else(|| self.near.last_mut())
    }

    pub(super) fn get(&self, at: usize) -> Option<&T> {
        match at.checked_sub(N) {
            Some(far) => self.far.get(far),
            None => self.near.get(at),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.near.iter().chain(&self.far)
    }
}
