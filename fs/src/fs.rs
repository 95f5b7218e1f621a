//! A mounted file system: mount, the table of inodes in use, orphans, unmount.
//!
//! The inodes in use: [`Table`]. What becomes of an inode without a name: [`Worker`].
//!
//! # Locks
//!
//! `reaper → inode (content) → invalidate → entry → commit → spin locks (table, attributes)`. Operations on names take the commit lock alone:
//! what they read (indexes, attributes) changes only under it.

use alloc::sync::Arc;
use alloc::vec::Vec;

use dax::pmem::Pmem;
use mm::mem::{ArcSlot, OutOfMemory, check_headroom, try_box};
use mm::pgmap::Pgmap;
use mm::sync::atomic::{AtomicUsize, Ordering};
use mm::sync::{Mutex, MutexGuard, class};
use spin::Once;

use crate::claims::Sorted;
use crate::commit::{Media, Recovered, recover};
use crate::dir::Dir;
use crate::error::{Busy, ChangeError, LookupError, MountError, UnmountError};
use crate::gate::Gate;
use crate::inode::{Inode, Vnode};
use crate::layout::{BLOCK_SIZE, Geometry, Ino, Kind, Seed, SuperblockFault};
use crate::media_inode::{Corrupt, Ground};
use crate::names::Loser;
use crate::removal::Progress;
use crate::shared::{Backing, Shared, State};
use crate::space::{Allocator, Free, Quarantine, SpaceStats, reserve};
use crate::superblock;
use crate::survey::{Found, Survey};
use crate::table::{Known, Table};
use crate::worker::{Depth, REAPER, Worker};

/// Inodes that the table keeps although nobody uses them.
const KEEP: usize = 1024;

/// A mounted file system.
pub struct Fs<P: Pmem> {
    pub(crate) shared: Arc<Shared<P>>,
    pub(crate) table: Arc<Table<P>>,
    worker: Worker<P>,
    pub(crate) keep: AtomicUsize,
    report: MountReport,
}

/// What the mount found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountReport {
    /// Records replayed from the ring.
    pub replayed: u32,
    /// Slots of the ring with a torn record.
    pub torn: u32,
    /// Inodes in use.
    pub inodes: u32,
    /// What was wrong with the other superblock, if it was not whole.
    pub superblock: Option<SuperblockFault>,
    /// Nothing can be changed: the region cannot be written, or there is an inode that cannot be read.
    pub read_only: bool,
    /// The first inode or node of extents that the medium could not give. Its blocks are unknown, so that nothing may be allocated.
    pub unreadable: Option<Corrupt>,
}

/// Space and inodes, as `df` shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes of a block.
    pub block_size: u64,
    /// Blocks that files may use.
    pub blocks: u64,
    /// What is free, by tier. Its `free` is what files can get, the reserve left out.
    pub space: SpaceStats,
    /// Blocks that are kept for truncate and punch, which must write down what they free.
    pub reserved: u64,
    /// Blocks that are freed and wait in quarantine.
    pub quarantined: u64,
    /// Room in the inode table.
    pub inodes: u64,
    /// Inodes in use, orphans included.
    pub inodes_used: u64,
    /// Inodes without a name that somebody still uses.
    pub orphans: u64,
}

/// How often a block may be claimed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claimed {
    Once,
    Twice,
}

impl<P: Pmem> Fs<P> {
    /// Mounts the file system on `p`: chooses a superblock, replays the ring, and derives from the inode table what is free. The same
    /// whether or not the last user crashed. Takes time by inodes, not by blocks.
    pub fn mount(p: P, backing: Backing) -> Result<Arc<Self>, MountError> {
        Self::mount_with(p, backing, Claimed::Once)
    }

    /// As [`Fs::mount`]; for repairs, also when blocks are claimed twice.
    pub(crate) fn mount_with(
        p: P,
        backing: Backing,
        claimed: Claimed,
    ) -> Result<Arc<Self>, MountError> {
        check_headroom()?;
        let media = Media::new(p);
        let chosen =
            superblock::choose(&media).map_err(|[a, b]| MountError::Superblocks { a, b })?;
        let (geometry, uuid) = (chosen.geometry, chosen.superblock.uuid);
        let (blocks, pages) = (geometry.blocks(), backing.pgmap.range().pages());
        if blocks > pages {
            return Err(MountError::Pgmap { blocks, pages });
        }
        let Recovered {
            ring,
            replayed,
            torn,
        } = recover(&media, &geometry, &uuid)?;
        let ground = Ground {
            media: &media,
            geometry: &geometry,
            uuid: &uuid,
        };
        let survey = Survey::new(ground);
        let Found {
            inodes,
            claims,
            unreadable,
        } = survey.all()?;
        let claims = claims.sorted();
        if claimed == Claimed::Once
            && let Some(block) = claims.twice()
        {
            return Err(survey.overlap(block));
        }
        let space = free_space(&geometry, &backing.pgmap, &claims)?;
        let report = MountReport {
            replayed,
            torn,
            inodes: inodes.in_use(),
            superblock: chosen.other,
            read_only: !media.pmem().writable() || unreadable.is_some(),
            unreadable,
        };
        let state = State {
            ring,
            space,
            quarantine: Quarantine::new(),
            inodes,
            orphans: Vec::new(),
        };
        Ok(Self::assemble(media, backing, state, report))
    }

    fn assemble(media: Media<P>, backing: Backing, state: State, report: MountReport) -> Arc<Self> {
        let shared = Shared {
            read_only: report.read_only,
            media,
            geometry: *state.ring.geometry(),
            uuid: *state.ring.uuid(),
            seed: Seed::new(state.ring.uuid()),
            backing,
            clock: Once::new(),
            gate: Gate::new(),
            removal: Progress::default(),
            bell: Arc::default(),
            reaping: Mutex::new(&REAPER, false),
            state: Mutex::new(&class::COMMIT, state),
        };
        let worker = Worker {
            shared: Arc::new(shared),
            table: Arc::new(Table::new()),
        };
        Arc::new(Self {
            shared: worker.shared.clone(),
            table: worker.table.clone(),
            worker,
            keep: AtomicUsize::new(KEEP),
            report,
        })
    }

    /// What the mount found.
    #[must_use]
    pub const fn mount_report(&self) -> &MountReport {
        &self.report
    }

    /// The areas of the region.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.shared.geometry
    }

    /// The identity of the file system.
    #[must_use]
    pub fn uuid(&self) -> &[u8; 16] {
        &self.shared.uuid
    }

    /// The pgmap of the region.
    #[must_use]
    pub fn pgmap(&self) -> &Arc<Pgmap> {
        &self.shared.backing.pgmap
    }

    /// The region; reading it goes past the file system.
    #[must_use]
    pub fn pmem(&self) -> &P {
        self.shared.media.pmem()
    }

    /// Takes times from `clock` (nanoseconds since 1970) instead of the time since boot. The first call counts.
    pub fn set_clock(&self, clock: fn() -> u64) {
        self.shared.clock.call_once(|| clock);
    }

    /// Keeps at most about `inodes` inodes in memory that nobody uses, instead of 1,024; more stay if they have pages in their index.
    pub fn keep_inodes(&self, inodes: usize) {
        // Relaxed: as in `shrink`.
        self.keep.store(inodes, Ordering::Relaxed);
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock()
    }

    /// Space and inodes.
    #[must_use]
    pub fn statfs(&self) -> StatFs {
        let state = self.lock();
        let g = &self.shared.geometry;
        let mut space = state.space.stats();
        let reserved = state.space.reserve().min(space.free);
        space.free -= reserved;
        StatFs {
            block_size: BLOCK_SIZE,
            blocks: g.blocks() - g.data_block(),
            space,
            reserved,
            quarantined: state.quarantine.blocks(),
            inodes: u64::from(g.inodes()) - 1,
            inodes_used: u64::from(state.inodes.in_use()),
            orphans: state.orphans.len() as u64,
        }
    }

    /// The inode of that number, if it is in use.
    pub fn inode(&self, ino: Ino) -> Result<Arc<Inode<P>>, LookupError> {
        let _inside = self.shared.gate.enter()?;
        if let Known::Used(inode) = self.table.find(ino) {
            return Ok(inode);
        }
        self.get(&mut self.lock(), ino)
    }

    /// As [`Fs::inode`], under the commit lock, which keeps the media and the table in step.
    pub(crate) fn get(&self, state: &mut State, ino: Ino) -> Result<Arc<Inode<P>>, LookupError> {
        match self.table.find(ino) {
            Known::Used(inode) => return Ok(inode),
            Known::Over => return Err(LookupError::NotFound),
            Known::Absent => {}
        }
        check_headroom()?;
        if !state.inodes.is_set(ino) {
            return Err(LookupError::NotFound);
        }
        let memory = ArcSlot::new();
        let loaded = self.shared.ground().load(ino)?;
        if loaded.inode.core.nlink == 0 {
            // An orphan that has just ended: a second one in memory would have its blocks.
            return Err(LookupError::NotFound);
        }
        let inode = Inode::new(memory, self.shared.clone(), ino, loaded);
        let room = self.table.room(ino)?;
        state.promise(inode.runs())?;
        room.fill(inode.clone());
        Ok(inode)
    }

    /// Loads the index of a directory, if it is not loaded. Under the commit lock.
    pub(crate) fn load_index(&self, _state: &State, dir: &Inode<P>) -> Result<(), LookupError> {
        if dir.kind() != Kind::Dir {
            return Err(LookupError::NotDir);
        }
        let (map, blocks) = {
            let attr = dir.attr.lock();
            if attr.index.is_some() {
                return Ok(());
            }
            let map = attr.map.try_clone()?;
            (map, attr.image.core.size / BLOCK_SIZE)
        };
        let on_media = Dir {
            ground: self.shared.ground(),
            ino: dir.ino(),
            map: &map,
        };
        let index = try_box(on_media.index(blocks)?)?;
        dir.attr.lock().index = Some(index);
        Ok(())
    }

    /// Who finishes orphans in a thread of its own. Without one, operations do it in passing.
    #[must_use]
    pub fn worker(&self) -> Worker<P> {
        self.worker.clone()
    }

    /// Ends the orphans that nobody uses any more; returns how many. Never waits for a page, allocates nothing. Lock classes: reaper,
    /// and what follows it.
    pub fn reap_orphans(&self) -> usize {
        self.worker.finish(Depth::Orphans).orphans
    }

    /// Ends orphans and makes free what in quarantine nobody holds, as the next operation that allocates would. As
    /// [`Fs::reap_orphans`] otherwise.
    pub fn settle(&self) {
        self.worker.finish(Depth::Quarantine);
    }

    /// What an operation does before it wants space: finishes what is ready, and waits for who is finishing.
    pub(crate) fn finish_waiting(&self) {
        if self.worker.has_work() {
            self.worker.finish(Depth::Orphans);
        }
    }

    /// Ends the use of an inode that has lost a name; if it was the last of both, the orphan ends here. The caller holds no lock.
    pub(crate) fn let_go(&self, Loser { inode, ended }: Loser<P>) {
        if let Some(last) = Arc::into_inner(inode)
            && last.is_orphan()
        {
            if !ended {
                self.worker.end(last.vnode());
            }
            last.leave_quietly();
        }
    }

    /// Calls `each` with every inode in use, without the table's lock. Those that come meanwhile may be left out. Allocates nothing.
    pub(crate) fn each_loaded(&self, each: impl Fn(&Vnode<P>)) {
        let mut from = 0;
        while let Some(inode) = self.table.from(from) {
            each(&inode);
            from = inode.ino() + 1;
        }
    }

    /// Ends orphans, makes everything durable and leaves nothing to replay. Gives the file system back, still mounted, when it is in
    /// use.
    pub fn unmount(self: Arc<Self>) -> Result<(), (Arc<Self>, UnmountError)> {
        let left = self.leave();
        left.map_err(|why| (self, why))
    }

    fn leave(self: &Arc<Self>) -> Result<(), UnmountError> {
        let inside = self.shared.gate.enter();
        let _inside = inside.map_err(ChangeError::from)?;
        self.sync()?;
        // The worker is not half-way through an orphan, and begins none.
        let mut listening = self.shared.reaping.lock();
        self.worker.pass(Depth::Orphans);
        if let Some(busy) = self.busy() {
            return Err(UnmountError::Busy(busy));
        }
        if Arc::strong_count(self) > 1 {
            return Err(UnmountError::InUse);
        }
        if !self.shared.read_only {
            let mut state = self.lock();
            state.ring.checkpoint(&self.shared.media);
            state.ring.settle(&self.shared.media);
        }
        if core::mem::take(&mut *listening) {
            self.worker.listen(false);
        }
        self.shared.bell.close();
        Ok(())
    }

    /// An inode that somebody besides the table uses, or of which a page is held.
    fn busy(&self) -> Option<Busy> {
        let used = self
            .table
            .first_used(|vnode| vnode.is_orphan() && vnode.held().is_some())?;
        Some(Busy {
            ino: used.ino(),
            orphan: used.is_orphan(),
            page: used.held(),
        })
    }
}

impl<P: Pmem> Drop for Fs<P> {
    fn drop(&mut self) {
        self.shared.bell.close();
        self.table.clear();
    }
}

/// What no inode claims.
fn free_space(g: &Geometry, pgmap: &Pgmap, claims: &Sorted) -> Result<Allocator, OutOfMemory> {
    let gaps = claims.gaps(g.data_block()..g.blocks());
    let base = pgmap.range().start().get();
    let mut space = Allocator::derived(base, gaps.map(Free::derived))?;
    space.set_reserve(reserve(g.blocks() - g.data_block()));
    Ok(space)
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::fixture::mounted;

    #[test]
    fn an_orphan_that_nobody_uses_cannot_be_opened_by_its_number() {
        let fs = mounted();
        let open = fs.create("/f", 0o644).expect("create");
        let ino = open.ino();
        fs.unlink("/f").expect("unlink");
        assert!(fs.inode(ino).is_ok(), "it is in use");
        drop(open);
        assert!(fs.worker.has_work(), "the bell rang");
        assert!(matches!(fs.inode(ino), Err(LookupError::NotFound)));
        assert!(fs.table.is_over(ino).is_some(), "it has not ended yet");
        assert_eq!(fs.reap_orphans(), 1);
        assert!(matches!(fs.inode(ino), Err(LookupError::NotFound)));
        assert!(fs.table.is_over(ino).is_none());
    }

    #[test]
    fn promises_are_kept_in_step_with_what_is_in_memory() {
        let fs = mounted();
        let base = fs.lock().space.promised();
        let f = fs.create("/f", 0o644).expect("create");
        for i in 0..40 {
            fs.write(&f, i * 8192, &[1; 100]).expect("write");
        }
        fs.settle();
        // 40 extents and a node of the file; the block of the root directory.
        assert_eq!(fs.lock().space.promised(), base + 42);
        let report = &mut dax::layout::BreakReport::default();
        fs.punch(&f, 0, 8192 * 30, dax::layout::How::NoWait, report)
            .expect("punch");
        fs.settle();
        // 10 extents, still in a node: more new words than a record holds.
        assert_eq!(fs.lock().space.promised(), base + 12);
        drop(f);
        fs.unlink("/f").expect("unlink");
        fs.settle();
        assert_eq!(fs.lock().space.promised(), base + 1);
    }
}
