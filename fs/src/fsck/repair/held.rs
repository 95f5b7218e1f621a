//! Repairs that need space or names: on a mounted file system, in which blocks with two owners are nobody's to give.

use alloc::sync::Arc;
use alloc::vec::Vec;

use dax::pmem::Pmem;

use super::{RepairError, RepairReport};
use crate::attr::NewInode;
use crate::commit::{FreshSet, MetaAddr, RecordKind, Run};
use crate::dir::Dir;
use crate::error::{CreateError, LookupError};
use crate::extents::{ExtentMap, Spot};
use crate::fs::{Claimed, Fs};
use crate::fsck::Problem;
use crate::inode::Inode;
use crate::layout::{BLOCK_SIZE, Block, Extent, Ino, Kind, slots_for};
use crate::media_inode::Corrupt;
use crate::names::Place;
use crate::shared::Backing;
use crate::slots::{Site, head_len};
use crate::space::Goal;

/// Where inodes without a name go.
const LOST_AND_FOUND: &str = "/lost+found";
/// Blocks of a directory that are put back at most; beyond, it is cleared.
const MOST_HOLES: u64 = 64;

pub(super) fn round<'a, P: Pmem>(
    p: &P,
    backing: &Backing,
    problems: impl Iterator<Item = &'a Problem>,
    report: &mut RepairReport,
) -> Result<(), RepairError> {
    let fs = Fs::mount_with(p, backing.clone(), Claimed::Twice)?;
    let mut without_a_name = false;
    let mut first_named = None;
    for problem in problems {
        match problem {
            Problem::Overlap {
                block,
                first,
                second,
            } => fs.part(*block, *first, *second)?,
            Problem::Corrupt(Corrupt::DirHole { dir, block }) => fs.fill(*dir, *block)?,
            Problem::DirStorage { dir, .. } => fs.cover(*dir)?,
            Problem::Unreachable {
                ino, named: false, ..
            } => {
                without_a_name = true;
                fs.find_a_place(*ino)?;
            }
            Problem::Unreachable { ino, .. } => {
                first_named.get_or_insert((*ino, problem));
                continue;
            }
            _ => continue,
        }
        report.note(problem, Vec::new());
    }
    // Each of them stands in another: a ring. One is taken out, and has no name when the next round looks.
    if let Some((ino, problem)) = first_named.filter(|_| !without_a_name) {
        fs.cut_ring(ino)?;
        report.note(problem, Vec::new());
    }
    // Dropped, not unmounted: the next mount replays, as after a crash.
    fs.lock().ring.checkpoint(&fs.shared.media);
    Ok(())
}

impl<P: Pmem> Fs<P> {
    /// Takes a block away from one of its two owners. A node of extents is its inode's: its checksum says so.
    fn part(&self, block: Block, first: Ino, second: Ino) -> Result<(), RepairError> {
        let owner = self.inode(first)?;
        if first == second {
            return self.part_from_itself(&owner, block);
        }
        let other = self.inode(second)?;
        let is_node = |inode: &Inode<P>| {
            inode
                .attr
                .lock()
                .map
                .node_blocks()
                .any(|node| node == block)
        };
        let (winner, loser) = if is_node(&other) {
            (other, owner)
        } else {
            (owner, other)
        };
        let run = claim_at(&winner, block);
        let found: Vec<Extent> = self.overlapping(&loser, run).collect();
        for piece in found {
            self.take_away(&loser, &piece)?;
        }
        Ok(())
    }

    fn part_from_itself(&self, inode: &Arc<Inode<P>>, block: Block) -> Result<(), RepairError> {
        let run = claim_at(inode, block);
        let node_of_its = inode
            .attr
            .lock()
            .map
            .node_blocks()
            .any(|node| node == block);
        // A node keeps its block; of two extents the first one in the file does.
        let found: Vec<Extent> = self
            .overlapping(inode, run)
            .skip(usize::from(!node_of_its))
            .collect();
        for piece in found {
            self.take_away(inode, &piece)?;
        }
        Ok(())
    }

    /// The pieces of a file that lie in `run` of the region.
    fn overlapping(&self, inode: &Arc<Inode<P>>, run: Run) -> impl Iterator<Item = Extent> {
        let extents: Vec<Extent> = self.extents(inode).collect();
        extents.into_iter().filter_map(move |extent| {
            let from = extent.phys.max(run.block);
            let to = (extent.phys + extent.len).min(run.end());
            let file = extent.file + from.checked_sub(extent.phys)?;
            (from < to).then(|| Extent {
                file,
                phys: from,
                len: to - from,
                unwritten: extent.unwritten,
            })
        })
    }

    /// Makes a piece of a file a hole. Its blocks are not freed: they are somebody else's.
    fn take_away(&self, inode: &Inode<P>, piece: &Extent) -> Result<(), RepairError> {
        let cut = inode.attr.lock().map.cut(piece.file, piece.end());
        let map = cut?.0;
        let mut state = self.lock();
        inode.commit_map(&mut state, map, FreshSet::new(), |_| (), |_| ())?;
        Ok(())
    }

    /// Puts an empty block into a directory where it has none; gives a directory up that is mostly hole.
    fn fill(&self, ino: Ino, block: u64) -> Result<(), RepairError> {
        let dir = self.inode(ino)?;
        // One after the other: `stat` takes the lock too.
        let blocks = dir.attr.lock().map.blocks();
        let size = dir.stat().size;
        if size / BLOCK_SIZE > blocks + MOST_HOLES {
            return self.shorten(&dir);
        }
        let mut state = self.lock();
        let fresh = self.shared.take(&mut state, 1, Goal::default())?;
        fresh.zero(&self.shared.media, 0, BLOCK_SIZE);
        let new = Extent {
            file: block,
            phys: fresh.run().block,
            len: 1,
            unwritten: false,
        };
        let set = FreshSet::of(fresh);
        let with = dir.attr.lock().map.with(new);
        let map = match with {
            Ok((map, _unwritten)) => map,
            Err(error) => {
                self.shared.give_back(&mut state, set);
                return Err(error.into());
            }
        };
        dir.commit_map(&mut state, map, set, |_| (), |_| ())?;
        Ok(())
    }

    /// A directory whose size is far beyond its storage ends where its storage begins to be missing.
    fn shorten(&self, dir: &Inode<P>) -> Result<(), RepairError> {
        let end = covered(&dir.attr.lock().map);
        let mut state = self.lock();
        let map = dir.attr.lock().map.cut(end, u64::MAX)?.0;
        let size = |core: &mut crate::layout::Core| core.size = end * BLOCK_SIZE;
        dir.commit_map(&mut state, map, FreshSet::new(), size, |_| ())?;
        Ok(())
    }

    /// Makes a directory's size cover its storage.
    fn cover(&self, ino: Ino) -> Result<(), RepairError> {
        let dir = self.inode(ino)?;
        let last = dir.attr.lock().map.iter().last().map_or(0, Extent::end);
        if last > dir.stat().blocks + MOST_HOLES {
            return self.shorten(&dir);
        }
        let mut state = self.lock();
        dir.commit_core(&mut state, |core| core.size = last * BLOCK_SIZE)?;
        Ok(())
    }

    fn lost_and_found(&self) -> Result<Arc<Inode<P>>, RepairError> {
        match self.open_nofollow(LOST_AND_FOUND) {
            Ok(found) if found.kind() == Kind::Dir => Ok(found),
            // Something else has the name.
            Ok(_) => Ok(self.root()?),
            Err(LookupError::NotFound) => {
                let new = NewInode::new(Kind::Dir, 0o700);
                Ok(self.create_as(LOST_AND_FOUND, &new)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Gives an inode without a name one in `/lost+found`: `#` and its number.
    fn find_a_place(&self, ino: Ino) -> Result<(), RepairError> {
        let (dir, inode) = (self.lost_and_found()?, self.inode(ino)?);
        let name = alloc::format!("#{ino}");
        let place = Place::new(&dir, name.as_bytes()).map_err(LookupError::from)?;
        let name = place.name;
        let mut state = self.lock();
        let state = &mut *state;
        let Site { slot, at, .. } = self.site(state, &place)?;
        let now = self.shared.now();
        let mut child = inode.edit();
        if inode.kind() == Kind::Dir {
            child.new.parent = dir.ino();
        } else {
            child.new.nlink = 1;
        }
        let words = self.head(&dir, name, ino, inode.kind());
        let mut tx = state.ring.begin(RecordKind::Link);
        tx.store(at, &words[..head_len(name)])?;
        inode.put(&mut tx, &child)?;
        let held = dir.hold();
        let mut parent = held.edit(now);
        if inode.kind() == Kind::Dir {
            let links = parent.new.nlink.checked_add(1);
            parent.new.nlink = links.ok_or(CreateError::TooManyLinks)?;
        }
        held.put(&mut tx, &parent)?;
        let _ = tx.commit(&self.shared.media);
        held.adopt_entry(&parent, |index| {
            index.add(slot, name, (ino, inode.kind()));
        });
        inode.adopt(&child);
        Ok(())
    }

    /// Removes the entry that names a directory to which no path leads.
    fn cut_ring(&self, ino: Ino) -> Result<(), RepairError> {
        let initialised = self.lock().inodes.initialised();
        for parent in 1..initialised {
            let used = self.lock().inodes.is_set(parent);
            let found = if used {
                self.entry_of(parent, ino)?
            } else {
                None
            };
            if let Some(at) = found {
                let mut state = self.lock();
                let mut tx = state.ring.begin(RecordKind::Unlink);
                tx.store(at, &[0])?;
                let _ = tx.commit(&self.shared.media);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Where directory `parent` names `ino`.
    fn entry_of(&self, parent: Ino, ino: Ino) -> Result<Option<MetaAddr>, RepairError> {
        let loaded = self.shared.ground().load(parent)?;
        if loaded.inode.core.kind() != Some(Kind::Dir) {
            return Ok(None);
        }
        let dir = Dir {
            ground: self.shared.ground(),
            ino: parent,
            map: &loaded.map,
        };
        let (mut slot, slots) = (0, loaded.inode.core.size / BLOCK_SIZE * 64);
        while u64::from(slot) < slots {
            match dir.entry(slot)? {
                Some((dentry, _)) if dentry.ino == ino => return Ok(Some(dir.addr(slot, 0)?)),
                Some((dentry, _)) => slot += slots_for(dentry.len.into()) as u32,
                None => slot += 1,
            }
        }
        Ok(None)
    }
}

/// The run in which an inode claims `block`.
fn claim_at<P: Pmem>(inode: &Inode<P>, block: Block) -> Run {
    let attr = inode.attr.lock();
    let extents = attr.map.iter();
    let mut runs = extents.map(|extent| Run {
        block: extent.phys,
        len: extent.len,
    });
    let covers = |run: &Run| (run.block..run.end()).contains(&block);
    runs.find(covers).unwrap_or(Run { block, len: 1 })
}

/// Blocks from the start that have written storage.
fn covered(map: &ExtentMap) -> u64 {
    let mut at = 0;
    while let Spot::Extent(extent) = map.at(at) {
        if extent.unwritten {
            break;
        }
        at = extent.end();
    }
    at
}
