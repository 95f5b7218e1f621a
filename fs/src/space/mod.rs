//! Free space: an allocator in memory, and the quarantine in front of it.
//!
//! Free space is not stored: it is what no live inode reaches, derived at mount. A crash can neither leak nor double a block, and an
//! operation that is given up needs no undo on the media.
//!
//! A block that leaves a file goes through [`Quarantine`], and the only way out is [`Quarantined::free`], which asks for all three
//! facts: the freeing is durable ([`Freed`](crate::commit::Freed) exists only then), no page of it is referenced, and,
//! for blocks that old records may target, that no mount will replay those (rule R6). The allocator takes nothing but the [`Free`] it yields:
//!
//! ```compile_fail,E0308
//! # use fs::{commit::Run, space::Allocator};
//! # fn f(space: &mut Allocator, run: Run) {
//! space.give(run); // who says that nobody holds these blocks?
//! # }
//! ```
//!
//! ```compile_fail,E0423
//! # use fs::{commit::Run, space::Free};
//! # fn f(run: Run) -> Free { Free(run) }
//! ```
//!
//! ```
//! # use fs::{commit::Freed, space::{Allocator, PageUse, Quarantined}};
//! # fn f(space: &mut Allocator, freed: Freed, passed: u64, pages: &dyn PageUse) {
//! if let Ok(free) = Quarantined::new(freed).free(passed, pages) {
//!     space.give(free);
//! }
//! # }
//! ```
//!
//! # The reserve
//!
//! Truncate and punch write new nodes for a file in many extents before the old nodes and the freed blocks come back. So [`reserve`]
//! blocks are kept free, which only [`Need::ToFree`] gets, and taking storage away succeeds on a full disk:
//!
//! - one cut of a tree of depth d takes at most 2d + 1 new nodes ([`extents`](crate::extents)). When it is done, the nodes that it replaced and at
//!   least one block of data come back, at once: nobody holds them. So it keeps more than it gives back only if it split nodes, at most one
//!   a level and one new level.
//! - other changes leave a node 32 entries short of full. So of the cuts that add an entry to a node, the 33rd splits it, and each of
//!   the others has given back a block that it did not keep, or has filled up the reserve before anybody else gets a block.
//! - so 3d + 2 blocks are enough for a cut after a cut that split every level.
//!
//! It is not a proof for every sequence: punches that split nodes above the leaves one right after the other, in as many full nodes
//! as there are blocks in the reserve, while somebody else takes what each gives back, would use it up; then a cut says "no space" and
//! has changed nothing. A cut at the end of a file never splits a node. `unlink` writes no node at all.

#[cfg(all(test, not(any(loom, shuttle, miri))))]
mod ageing;
mod allocator;
#[cfg(all(test, not(any(loom, shuttle))))]
mod exhaustive;
mod quarantine;
mod runs;

use crate::layout::{INLINE_EXTENTS, MAX_DEPTH};

pub use allocator::{Allocator, Goal, Need, SpaceStats};
pub use quarantine::{Free, PageUse, Quarantine, Quarantined, Released, Takes};

/// Blocks that are kept free on a region with `data` blocks for files: 3d + 2 for the deepest tree that a file there can have.
///
/// A tree of depth d is only made when the entries of depth d − 1 are more than 12 or, rarely, change too many words of the inode; then they are
/// at least 7 nodes. At least 32 extents stand in a node, on average.
#[must_use]
pub fn reserve(data: u64) -> u64 {
    if data <= INLINE_EXTENTS as u64 {
        return 0;
    }
    let holds = |depth: u32| {
        32_u64
            .saturating_pow(depth)
            .saturating_mul(INLINE_EXTENTS as u64)
    };
    let levels = (1..u32::from(MAX_DEPTH)).find(|depth| holds(*depth) >= data);
    let regrouped = u64::from(data >= 7 * 32);
    let deepest = levels.map_or(u64::from(MAX_DEPTH), u64::from) + regrouped;
    3 * deepest.min(MAX_DEPTH.into()) + 2
}
