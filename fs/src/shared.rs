//! What all inodes of a mounted file system share: the region, and under the commit lock all that changes.

use alloc::sync::Arc;
use alloc::vec::Vec;

use dax::pmem::Pmem;
use dax::xarray::NodePool;
use mm::addr::{Pfn, PfnRange};
use mm::mem::{OutOfMemory, check_headroom};
use mm::pgmap::Pgmap;
use mm::sync::Mutex;
use mm::trace::{self, What};
use spin::Once;

use crate::commit::{Fresh, FreshSet, Media, Ring, Run, Unlinked};
use crate::error::ChangeError;
use crate::gate::Gate;
use crate::inodes::InodeMap;
use crate::layout::{Block, Geometry, Ino, Seed};
use crate::media_inode::Ground;
use crate::removal::Progress;
use crate::space::{Allocator, Free, Goal, Need, PageUse, Quarantine, Released, Takes};
use crate::worker::Bell;

/// Quarantined runs that an allocation looks at in passing.
const IN_PASSING: usize = 4;

/// What a file system stands on, besides its bytes.
#[derive(Clone)]
pub struct Backing {
    /// The pages of the region: block 0 is its first page.
    pub pgmap: Arc<Pgmap>,
    /// Where the page indexes of all files take their nodes.
    pub nodes: Arc<NodePool>,
    /// A frame of zeroes that nobody writes; holes are read from it through mappings.
    pub zero_page: Pfn,
}

/// The shared part.
pub(crate) struct Shared<P> {
    pub media: Media<P>,
    pub geometry: Geometry,
    pub uuid: [u8; 16],
    /// What the checksums of this file system begin with.
    pub seed: Seed,
    pub backing: Backing,
    pub read_only: bool,
    /// Where times come from, once somebody set it.
    pub clock: Once<fn() -> u64>,
    /// Who is inside; closed when the device goes.
    pub gate: Gate,
    /// How far the removal of the device is.
    pub removal: Progress,
    /// Tells the worker that there is something to finish.
    pub bell: Arc<Bell>,
    /// Held by whoever finishes orphans (class reaper). Whether the bell listens to pages that come to rest.
    pub reaping: Mutex<bool>,
    /// The commit lock (class COMMIT).
    pub state: Mutex<State>,
}

/// Nanoseconds since boot: what times are until somebody sets a clock.
fn uptime_ns() -> u64 {
    mm::sync::now_us() * 1000
}

/// All that an operation changes besides the inodes themselves.
pub(crate) struct State {
    pub ring: Ring,
    pub space: Allocator,
    pub quarantine: Quarantine,
    pub inodes: InodeMap,
    pub orphans: Vec<Unlinked>,
}

impl State {
    /// Makes room on the list of orphans for one more.
    pub fn reserve_orphan(&mut self) -> Result<(), OutOfMemory> {
        self.orphans.try_reserve(1).map_err(|_| OutOfMemory)
    }

    /// Makes room for `runs` more runs on their way from a file through quarantine to the free space, so that the way takes no
    /// memory. Promised are: each extent and node of each inode in memory, each quarantined run, each new run not yet published.
    pub fn promise(&mut self, runs: usize) -> Result<(), OutOfMemory> {
        self.space.promise(runs)?;
        let room = self.quarantine.make_room(self.space.promised());
        room.inspect_err(|_| self.space.withdraw(runs))
    }
}

/// The pgmap, asked about blocks.
struct Pages<'a> {
    pgmap: &'a Pgmap,
}

impl Pages<'_> {
    fn pfn(&self, block: Block) -> Option<Pfn> {
        self.pgmap.range().start().checked_add(block)
    }
}

impl PageUse for Pages<'_> {
    fn first_held(&self, run: Run) -> Option<Block> {
        let start = self.pfn(run.block)?;
        let range = PfnRange::new(start, run.len)?;
        let base = self.pgmap.range().start().get();
        let (pfn, _) = self.pgmap.first_in_use(range)?;
        // A folio may begin before the run.
        Some((pfn.get() - base).clamp(run.block, run.end() - 1))
    }
}

/// The way from quarantine to the allocator.
struct Out<'a, P> {
    shared: &'a Shared<P>,
    space: &'a mut Allocator,
}

impl<P: Pmem> Takes for Out<'_, P> {
    fn take(&mut self, free: Free) {
        self.shared.note(trace::Kind::QuarantineOut, free.run());
        self.space.give(free);
    }

    fn may_split(&mut self) -> bool {
        self.space.promise_within_room(2)
    }

    fn did_split(&mut self, parts: usize) {
        self.space.withdraw(3 - parts);
    }
}

impl<P: Pmem> Shared<P> {
    pub fn ground(&self) -> Ground<'_, P> {
        Ground {
            media: &self.media,
            geometry: &self.geometry,
            uuid: &self.uuid,
        }
    }

    /// The frame of a block.
    pub fn pfn(&self, block: Block) -> Option<Pfn> {
        self.backing.pgmap.range().start().checked_add(block)
    }

    /// The attributes of `ino` will soon be stored to: has their line fetched meanwhile.
    pub fn expect(&self, ino: Ino) {
        self.media.prefetch(self.geometry.inode_off(ino), 1);
    }

    /// The time, in nanoseconds.
    pub fn now(&self) -> u64 {
        self.clock.get().map_or_else(uptime_ns, |clock| clock())
    }

    pub fn writable(&self) -> Result<(), ChangeError> {
        if self.read_only {
            Err(ChangeError::ReadOnly)
        } else {
            Ok(())
        }
    }

    /// Takes up to `want` blocks for data or a directory. Before it says no: everything in quarantine is looked at, and if directory
    /// blocks wait for the floor, it is made to pass (two fences).
    pub fn take(&self, state: &mut State, want: u64, goal: Goal) -> Result<Fresh, ChangeError> {
        self.take_for(state, want, goal, Need::ToKeep)
    }

    /// Takes a block for a node of extents.
    pub fn take_node(&self, state: &mut State, need: Need) -> Result<Fresh, ChangeError> {
        self.take_for(state, 1, Goal::default(), need)
    }

    fn take_for(
        &self,
        state: &mut State,
        want: u64,
        goal: Goal,
        need: Need,
    ) -> Result<Fresh, ChangeError> {
        check_headroom()?;
        state.promise(1)?;
        let taken = self.take_free(state, want, goal, need)?;
        self.note(trace::Kind::Alloc, taken.run());
        Ok(taken)
    }

    fn take_free(
        &self,
        state: &mut State,
        want: u64,
        goal: Goal,
        need: Need,
    ) -> Result<Fresh, ChangeError> {
        self.release(state, IN_PASSING);
        if let Some(fresh) = state.space.take(want, goal, need) {
            return Ok(fresh);
        }
        self.release_all(state, false);
        if state.space.available(need) == 0 {
            self.release_all(state, true);
        }
        let quarantined = state.quarantine.blocks();
        state.space.take(want, goal, need).ok_or_else(|| {
            state.space.withdraw(1);
            ChangeError::NoSpace { quarantined }
        })
    }

    fn release(&self, state: &mut State, most: usize) -> Released {
        let pages = Pages {
            pgmap: &self.backing.pgmap,
        };
        let State {
            ring,
            space,
            quarantine,
            ..
        } = state;
        let mut out = Out {
            shared: self,
            space,
        };
        quarantine.release(most, ring.passed(), &pages, &mut out)
    }

    /// Hands on all of quarantine that nobody holds; directory blocks that wait for the floor too, if `floor`: then it is made to
    /// pass (two fences). Allocates nothing.
    pub fn release_all(&self, state: &mut State, floor: bool) -> Released {
        let first = self.release(state, usize::MAX);
        if !floor || first.replayable == 0 {
            return first;
        }
        state.ring.checkpoint(&self.media);
        let second = self.release(state, usize::MAX);
        Released {
            blocks: first.blocks + second.blocks,
            ..second
        }
    }

    /// An event about the pages of a run.
    #[inline(always)]
    pub fn note(&self, kind: trace::Kind, run: Run) {
        trace::note(kind, || match self.pfn(run.block) {
            Some(pfn) => What::pages(pfn, run.len),
            None => What::default(),
        });
    }

    /// Gives back what was allocated and not published. What was stored to it past the caches is fenced first: it must not arrive over what
    /// the next owner stores.
    pub fn give_back(&self, state: &mut State, set: FreshSet) {
        for durable in set.fence(&self.media) {
            state.space.give(Free::unpublished(durable.abandon()));
        }
    }
}
