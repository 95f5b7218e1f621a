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

mod allocator;
#[cfg(all(test, not(any(loom, shuttle))))]
mod exhaustive;
mod quarantine;
mod runs;

pub use allocator::{Allocator, Goal, SpaceStats};
pub use quarantine::{Free, PageUse, Quarantine, Quarantined, Released, Takes};
