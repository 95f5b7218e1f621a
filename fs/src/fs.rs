//! A mounted file system: mount, the table of inodes in use, orphans, sync, unmount.
//!
//! # The table
//!
//! Every inode in use is in the table, and the table holds one reference of its own. So "nobody uses it" is "the only reference is
//! the table's", and dropping an inode runs no code of ours: no lock, no allocation, no waiting at the end of a pin.
//!
//! # Orphans
//!
//! An inode whose last name went while it was open, mapped or pinned is an orphan. It is alive in memory, and free to the next mount:
//! `nlink` 0 on the media *is* "free", so that its end needs no record. [`Fs::reap_orphans`] ends those that nobody uses any more;
//! operations that allocate call it first, so does [`Fs::sync`], and a worker may. It never waits: an orphan whose page is still
//! held stays one.
//!
//! # Locks
//!
//! `inode (content) → invalidate → entry → commit → spin locks (table, attributes)`. Operations on names take the commit lock alone:
//! what they read (indexes, attributes) changes only under it.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use dax::pmem::Pmem;
use mm::mem::{OutOfMemory, check_headroom};
use mm::pgmap::Pgmap;
use mm::sync::atomic::{AtomicUsize, Ordering};
use mm::sync::{Mutex, MutexGuard, SpinLock, class};
use mm::trace::{self, What};

use crate::commit::{Media, Recovered, Run, Unlinked, recover};
use crate::cut::PAGES_END;
use crate::dir::Dir;
use crate::error::{ChangeError, LookupError, MountError, UnmountError};
use crate::gate::Gate;
use crate::inode::Inode;
use crate::inodes::InodeMap;
use crate::layout::{BLOCK_SIZE, Block, Geometry, Ino, Kind, ROOT, SuperblockFault};
use crate::media_inode::Ground;
use crate::removal::Progress;
use crate::shared::{Backing, Shared, State};
use crate::space::{Allocator, Free, Quarantine, SpaceStats};
use crate::superblock;

/// Inodes that the table keeps although nobody uses them.
const KEEP: usize = 1024;

/// A mounted file system.
pub struct Fs<P: Pmem> {
    pub(crate) shared: Arc<Shared<P>>,
    pub(crate) table: SpinLock<BTreeMap<Ino, Arc<Inode<P>>>>,
    keep: AtomicUsize,
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
    /// The region cannot be written.
    pub read_only: bool,
}

/// Space and inodes, as `df` shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes of a block.
    pub block_size: u64,
    /// Blocks that files may use.
    pub blocks: u64,
    /// What is free, by tier.
    pub space: SpaceStats,
    /// Blocks that are freed and wait in quarantine.
    pub quarantined: u64,
    /// Room in the inode table.
    pub inodes: u64,
    /// Inodes in use, orphans included.
    pub inodes_used: u64,
    /// Inodes without a name that somebody still uses.
    pub orphans: u64,
}

/// The extents of all live inodes: run and owner.
type Claims = Vec<(Run, Ino)>;

impl<P: Pmem> Fs<P> {
    /// Mounts the file system on `p`: chooses a superblock, replays the ring, and derives from the inode table what is free. The same
    /// whether or not the last user crashed. Takes time by inodes, not by blocks.
    pub fn mount(p: P, backing: Backing) -> Result<Arc<Self>, MountError> {
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
        let (inodes, claims) = scan(ground)?;
        let space = free_space(&geometry, &backing.pgmap, claims)?;
        let report = MountReport {
            replayed,
            torn,
            inodes: inodes.in_use(),
            superblock: chosen.other,
            read_only: !media.pmem().writable(),
        };
        let state = State {
            ring,
            space,
            quarantine: Quarantine::new(),
            inodes,
            orphans: Vec::new(),
            orphans_out: 0,
        };
        Ok(Self::assemble(media, backing, state, report))
    }

    fn assemble(media: Media<P>, backing: Backing, state: State, report: MountReport) -> Arc<Self> {
        let shared = Shared {
            read_only: report.read_only,
            media,
            geometry: *state.ring.geometry(),
            uuid: *state.ring.uuid(),
            backing,
            clock: SpinLock::new(uptime_ns),
            gate: Gate::new(),
            removal: Progress::default(),
            state: Mutex::new(&class::COMMIT, state),
        };
        Arc::new(Self {
            shared: Arc::new(shared),
            table: SpinLock::new(BTreeMap::new()),
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

    /// Takes times from `clock` (nanoseconds since 1970) instead of the time since boot.
    pub fn set_clock(&self, clock: fn() -> u64) {
        *self.shared.clock.lock() = clock;
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
        StatFs {
            block_size: BLOCK_SIZE,
            blocks: g.blocks() - g.data_block(),
            space: state.space.stats(),
            quarantined: state.quarantine.blocks(),
            inodes: u64::from(g.inodes()) - 1,
            inodes_used: u64::from(state.inodes.in_use()),
            orphans: state.orphans.len() as u64,
        }
    }

    /// The inode of that number, if it is in use.
    pub fn inode(&self, ino: Ino) -> Result<Arc<Inode<P>>, LookupError> {
        let _inside = self.shared.gate.enter()?;
        if let Some(inode) = self.table.lock().get(&ino) {
            return Ok(inode.clone());
        }
        self.get(&self.lock(), ino)
    }

    /// As [`Fs::inode`], under the commit lock, which keeps the media and the table in step.
    pub(crate) fn get(&self, state: &State, ino: Ino) -> Result<Arc<Inode<P>>, LookupError> {
        if let Some(inode) = self.table.lock().get(&ino) {
            return Ok(inode.clone());
        }
        check_headroom()?;
        if !state.inodes.is_set(ino) {
            return Err(LookupError::NotFound);
        }
        let loaded = self.shared.ground().load(ino)?;
        if loaded.inode.core.nlink == 0 {
            // An orphan that is being ended: a second one in memory would outlive it, and have its blocks.
            return Err(LookupError::NotFound);
        }
        let inode = Arc::new(Inode::new(self.shared.clone(), ino, loaded));
        self.table.lock().insert(ino, inode.clone());
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
            let map = attr.map.cut(u64::MAX, u64::MAX)?.0;
            (map, attr.image.core.size / BLOCK_SIZE)
        };
        let on_media = Dir {
            ground: self.shared.ground(),
            ino: dir.ino(),
            map: &map,
        };
        let index = on_media.index(blocks)?;
        dir.attr.lock().index = Some(index);
        Ok(())
    }

    /// Ends the orphans that nobody uses any more; returns how many. Never waits. Takes inode and commit locks.
    pub fn reap_orphans(&self) -> usize {
        let Ok(_inside) = self.shared.gate.enter() else {
            return 0;
        };
        let mut reaped = 0;
        let mut looked = 0;
        while let Some((inode, unlinked)) = self.next_orphan(&mut looked) {
            if inode.bury(&unlinked).is_ok() {
                let mut state = self.lock();
                state.inodes.clear(unlinked.ino());
                state.orphans_out -= 1;
                trace::note(trace::Kind::OrphanEnd, || {
                    What::default().file(unlinked.ino().into(), 0)
                });
                reaped += 1;
            } else {
                self.keep_orphan(inode, unlinked);
                break;
            }
        }
        reaped
    }

    /// Ends the orphans that nobody uses any more and makes free what in quarantine nobody holds, as the next operation that
    /// allocates would. Never waits; what it has no memory for stays as it is. Takes inode and commit locks.
    pub fn settle(&self) {
        self.reap_orphans();
        let Ok(_inside) = self.shared.gate.enter() else {
            return;
        };
        // Best effort: the next allocation tries again.
        let _ = self.shared.release_all(&mut self.lock());
    }

    /// Takes an orphan that only the table refers to out of table and list, from place `looked` on.
    fn next_orphan(&self, looked: &mut usize) -> Option<(Arc<Inode<P>>, Unlinked)> {
        let mut state = self.lock();
        while let Some(orphan) = state.orphans.get(*looked) {
            let ino = orphan.ino();
            let mut table = self.table.lock();
            if table
                .get(&ino)
                .is_some_and(|inode| Arc::strong_count(inode) == 1)
            {
                let inode = table.remove(&ino)?;
                drop(table);
                state.orphans_out += 1;
                return Some((inode, state.orphans.swap_remove(*looked)));
            }
            *looked += 1;
        }
        None
    }

    fn keep_orphan(&self, inode: Arc<Inode<P>>, unlinked: Unlinked) {
        let mut state = self.lock();
        self.table.lock().insert(unlinked.ino(), inode);
        // There is room: whoever adds one leaves it, see `State::reserve_orphan`.
        state.orphans_out -= 1;
        state.orphans.push(unlinked);
    }

    /// All inodes of the table, to be used without its lock.
    fn loaded(&self) -> Result<Vec<Arc<Inode<P>>>, OutOfMemory> {
        let mut all = Vec::new();
        let len = self.table.lock().len();
        all.try_reserve(len).map_err(|_| OutOfMemory)?;
        // Some may have come since; who comes later is as if it came after the call.
        all.extend(self.table.lock().values().take(len).cloned());
        Ok(all)
    }

    /// Calls `each` with every inode in use, without the table's lock. Those that come meanwhile may be left out. Allocates nothing.
    pub(crate) fn each_loaded(&self, each: impl Fn(&Inode<P>)) {
        let mut from = 0;
        while let Some(inode) = self.loaded_from(from) {
            each(&inode);
            from = inode.ino() + 1;
        }
    }

    fn loaded_from(&self, from: Ino) -> Option<Arc<Inode<P>>> {
        let table = self.table.lock();
        table.range(from..).next().map(|(_, inode)| inode.clone())
    }

    /// Makes all stores through mappings durable and writes lazy times. Ends orphans.
    pub fn sync(&self) -> Result<(), ChangeError> {
        let _inside = self.shared.gate.enter()?;
        self.reap_orphans();
        for inode in self.loaded()? {
            self.fsync(&inode)?;
        }
        self.shrink();
        Ok(())
    }

    /// Makes all stores to one file durable, through mappings too, and writes its lazy time. What write(2) wrote is durable already.
    pub fn fsync(&self, inode: &Inode<P>) -> Result<(), ChangeError> {
        let _inside = self.shared.gate.enter()?;
        inode.clean(0..PAGES_END);
        if !self.shared.read_only && inode.stat().nlink > 0 {
            inode.settle_times(&mut self.lock())?;
        }
        Ok(())
    }

    /// Lets go of inodes that nobody uses, when there are many. Those with pages in their index must be clean.
    pub(crate) fn shrink(&self) {
        // Relaxed: a bound that may be a moment old.
        if self.table.lock().len() <= self.keep.load(Ordering::Relaxed) {
            return;
        }
        while let Some(inode) = self.take_unused() {
            trace::note(trace::Kind::Evict, || {
                What::default().file(inode.ino().into(), 0)
            });
            drop(inode);
        }
    }

    fn take_unused(&self) -> Option<Arc<Inode<P>>> {
        let state = self.lock();
        let mut table = self.table.lock();
        // Relaxed: as in `shrink`.
        let over = table.len() > self.keep.load(Ordering::Relaxed) / 2;
        let unused = |inode: &&Arc<Inode<P>>| {
            Arc::strong_count(inode) == 1 && inode.is_clean() && inode.stat().nlink > 0
        };
        let ino = table.values().filter(|_| over).find(unused)?.ino();
        let inode = table.remove(&ino);
        drop(table);
        drop(state);
        inode
    }

    /// Ends orphans, makes everything durable and leaves nothing to replay. Gives the file system back, still mounted, when it is in
    /// use.
    pub fn unmount(self: Arc<Self>) -> Result<(), (Arc<Self>, UnmountError)> {
        let shared = self.shared.clone();
        let _inside = match shared.gate.enter() {
            Ok(inside) => inside,
            Err(gone) => return Err((self, UnmountError::Change(gone.into()))),
        };
        if let Err(error) = self.sync() {
            return Err((self, error.into()));
        }
        if let Some(ino) = self.busy() {
            return Err((self, UnmountError::Busy(ino)));
        }
        if Arc::strong_count(&self) > 1 {
            return Err((self, UnmountError::InUse));
        }
        if !self.shared.read_only {
            self.lock().ring.checkpoint(&self.shared.media);
            self.lock().ring.settle(&self.shared.media);
        }
        Ok(())
    }

    /// An inode that somebody besides the table refers to.
    fn busy(&self) -> Option<Ino> {
        let table = self.table.lock();
        let used = |inode: &&Arc<Inode<P>>| Arc::strong_count(inode) > 1;
        table.values().find(used).map(|inode| inode.ino())
    }
}

/// Nanoseconds since boot: what times are until somebody sets a clock.
fn uptime_ns() -> u64 {
    mm::sync::now_us() * 1000
}

/// Reads every initialised inode once: which are in use, and what storage they claim. An inode without a link is free.
fn scan<P: Pmem>(ground: Ground<'_, P>) -> Result<(InodeMap, Claims), MountError> {
    let initialised = ground.initialised()?;
    let mut inodes = InodeMap::new(initialised)?;
    let mut claims = Claims::new();
    for ino in 1..initialised {
        if ground.in_use(ino)? {
            inodes.set(ino);
            claim(ground, ino, &mut claims)?;
        }
    }
    let root = inodes.is_set(ROOT) && ground.inode(ROOT)?.core.kind() == Some(Kind::Dir);
    let offset = ground.geometry.inode_off(ROOT);
    if root {
        Ok((inodes, claims))
    } else {
        Err(MountError::NoRoot { offset })
    }
}

fn claim<P: Pmem>(ground: Ground<'_, P>, ino: Ino, claims: &mut Claims) -> Result<(), MountError> {
    let loaded = ground.load(ino)?;
    let extents = loaded.map.as_slice();
    let more = extents.len() + loaded.leaves.len();
    claims.try_reserve(more).map_err(|_| OutOfMemory)?;
    let runs = extents.iter().map(|e| Run {
        block: e.phys,
        len: e.len,
    });
    let leaves = loaded.leaves.iter().map(|leaf| Run {
        block: leaf.block,
        len: 1,
    });
    claims.extend(runs.chain(leaves).map(|run| (run, ino)));
    Ok(())
}

/// What no inode claims; refuses claims that overlap.
fn free_space(g: &Geometry, pgmap: &Pgmap, mut claims: Claims) -> Result<Allocator, MountError> {
    claims.sort_unstable_by_key(|(run, _)| run.block);
    let mut space = Allocator::new(pgmap.range().start().get());
    let mut at = g.data_block();
    let mut last = ROOT;
    for (index, (run, ino)) in claims.into_iter().enumerate() {
        if index % 64 == 0 {
            check_headroom()?;
        }
        if run.block < at {
            return Err(overlap(run.block, last, ino));
        }
        give(&mut space, at, run.block);
        (at, last) = (run.end(), ino);
    }
    give(&mut space, at, g.blocks());
    Ok(space)
}

fn give(space: &mut Allocator, from: Block, to: Block) {
    if from < to {
        space.give(Free::derived(Run {
            block: from,
            len: to - from,
        }));
    }
}

const fn overlap(block: Block, first: Ino, second: Ino) -> MountError {
    MountError::Overlap {
        block,
        offset: block * BLOCK_SIZE,
        first,
        second,
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use dax::pmem::RamPmem;
    use dax::xarray::NodePool;
    use mm::pgmap::scratch_range;

    fn mounted() -> Arc<Fs<RamPmem>> {
        let ram = RamPmem::new(2 << 20).expect("memory");
        crate::mkfs(&ram, &crate::MkfsOptions::new([7; 16])).expect("mkfs");
        let backing = Backing {
            pgmap: Pgmap::new("test", scratch_range(512), None).expect("room"),
            nodes: NodePool::new(8).expect("memory"),
            zero_page: scratch_range(1).start(),
        };
        Fs::mount(ram, backing).expect("mount")
    }

    #[test]
    fn an_orphan_that_is_being_ended_cannot_be_opened_by_its_number() {
        let fs = mounted();
        let open = fs.create("/f", 0o644).expect("create");
        let ino = open.ino();
        fs.unlink("/f").expect("unlink");
        assert!(fs.inode(ino).is_ok(), "it is in use");
        drop(open);
        let (inode, unlinked) = fs.next_orphan(&mut 0).expect("nobody uses it");
        assert!(matches!(fs.inode(ino), Err(LookupError::NotFound)));
        fs.keep_orphan(inode, unlinked);
        assert!(fs.inode(ino).is_ok(), "it stayed");
        assert_eq!(fs.reap_orphans(), 1);
        assert!(matches!(fs.inode(ino), Err(LookupError::NotFound)));
    }

    #[test]
    fn an_orphan_that_is_out_can_come_back_without_memory() {
        let fs = mounted();
        let names: Vec<_> = (0..9).map(|i| alloc::format!("/{i}")).collect();
        let open: Vec<_> = names.iter().map(|n| fs.create(n, 0o644)).collect();
        names[..8]
            .iter()
            .for_each(|n| fs.unlink(n).expect("unlink"));
        fs.lock().orphans.shrink_to_fit();
        drop(open);
        let (inode, unlinked) = fs.next_orphan(&mut 0).expect("nobody uses it");
        fs.lock().reserve_orphan().expect("memory");
        let state = fs.lock();
        assert!(state.orphans.capacity() >= state.orphans.len() + 2);
        drop(state);
        fs.keep_orphan(inode, unlinked);
        assert_eq!(fs.reap_orphans(), 8);
    }
}
