//! What a mount asks of the inode table: which inodes are in use, and what storage they claim. One pass, in which an inode that was never
//! used, or is empty, costs one line; with extents of its own it costs two; only one with nodes takes memory.
//!
//! Every inode is checked as [`Ground::load`] would check it. One that is no longer used must be whole too: a damaged first word must not make its
//! blocks free.

use core::ops::Range;

use arrayvec::ArrayVec;
use dax::pmem::{MediaError, Pmem};
use mm::mem::OutOfMemory;

use crate::claims::Claims;
use crate::commit::Run;
use crate::error::MountError;
use crate::inodes::InodeMap;
use crate::layout::{
    BLOCK_SIZE, Block, Body, CORE_WORDS, Core, Extent, INLINE_EXTENTS, INODE_SIZE, Ino, InodeFault,
    InodeImage, Kind, ROOT, SUM_WORD, Seed,
};
use crate::media_inode::{Corrupt, Ground, LoadError};

/// Inodes that are looked at together: those of one word of the map.
const GROUP: u32 = 64;
/// Lines are asked for so many inodes ahead: about as many loads as a core keeps under way.
const AHEAD: u32 = 16;

/// A look at all inodes of a file system that is not mounted yet.
pub struct Survey<'a, P> {
    ground: Ground<'a, P>,
    seed: Seed,
}

/// Takes the runs that an inode claims.
trait Each: FnMut(Run) -> Result<(), OutOfMemory> {}

impl<F: FnMut(Run) -> Result<(), OutOfMemory>> Each for F {}

/// What it found.
pub struct Found {
    /// The inodes in use, those that cannot be read among them.
    pub inodes: InodeMap,
    /// What they claim.
    pub claims: Claims,
    /// The first inode or node of extents that the medium could not give.
    pub unreadable: Option<Corrupt>,
}

impl<'a, P: Pmem> Survey<'a, P> {
    /// Looks at nothing yet.
    #[must_use]
    pub fn new(ground: Ground<'a, P>) -> Self {
        let seed = Seed::new(ground.uuid);
        Self { ground, seed }
    }

    /// Reads every initialised inode once. An inode without a link is free. Errors: an inode is wrong, or the root directory is missing.
    pub fn all(&self) -> Result<Found, MountError> {
        let initialised = self.ground.initialised()?;
        let mut found = Found {
            inodes: InodeMap::new(initialised)?,
            claims: Claims::default(),
            unreadable: None,
        };
        for first in (0..initialised).step_by(GROUP as usize) {
            let end = first + GROUP.min(initialised - first);
            let used = self.group(first..end, &mut found)?;
            found.inodes.set_group((first / GROUP) as usize, used);
        }
        self.root(&found.inodes)?;
        Ok(found)
    }

    /// Looks at a group of inodes; those in use, as bits.
    fn group(&self, inos: Range<Ino>, found: &mut Found) -> Result<u64, MountError> {
        let mut used = 0;
        let mut body = Body::default();
        for ino in inos.start.max(ROOT)..inos.end {
            self.fetch_ahead(ino);
            let claimed = self.claims(ino, &mut body, &mut |run| found.claims.add(run));
            let is_used = match claimed {
                Ok(is_used) => is_used,
                Err(LoadError::Corrupt(lost)) if lost.is_media() => {
                    found.unreadable.get_or_insert(lost);
                    true
                }
                Err(error) => return Err(error.into()),
            };
            used |= u64::from(is_used) << (ino - inos.start);
        }
        Ok(used)
    }

    /// Asks for the lines of an inode that comes soon: its attributes, and its first extents.
    #[inline]
    fn fetch_ahead(&self, ino: Ino) {
        let next = self.ground.geometry.inode_off(ino) + u64::from(AHEAD) * INODE_SIZE;
        self.ground.media.prefetch(next, 2);
    }

    fn root(&self, inodes: &InodeMap) -> Result<(), MountError> {
        let ground = self.ground;
        if inodes.is_set(ROOT) && ground.inode(ROOT)?.core.kind() == Some(Kind::Dir) {
            return Ok(());
        }
        let offset = ground.geometry.inode_off(ROOT);
        Err(MountError::NoRoot { offset })
    }

    /// Whether an inode is in use, and then the runs that it claims, each to `each`. `body` is room for its entries; those of another may stand behind
    /// them.
    #[inline]
    fn claims(&self, ino: Ino, body: &mut Body, each: &mut impl Each) -> Result<bool, LoadError> {
        let (media, offset) = (self.ground.media, self.ground.geometry.inode_off(ino));
        let mut words = [0; CORE_WORDS];
        let read = media.read_words(offset, &mut words);
        read.map_err(|source| self.bad(ino, source))?;
        if words[0] == 0 && words[SUM_WORD] == 0 {
            return Ok(false);
        }
        let after = &mut body.as_flattened_mut()[..InodeImage::words_after(&words)];
        if !after.is_empty() {
            let read = media.read_words(offset + 8 * CORE_WORDS as u64, after);
            read.map_err(|source| self.bad(ino, source))?;
        }
        let core = Core::decode(&words, after, self.seed.at(ino.into()));
        let core = core.map_err(|fault| self.wrong(ino, fault))?;
        if !InodeImage::in_use(words[0]) {
            return Ok(false);
        }
        if core.depth > 0 {
            self.in_nodes(ino, each)?;
        } else if core.entries > 0 {
            self.inline(ino, &body[..usize::from(core.entries)], each)?;
        }
        Ok(true)
    }

    #[cold]
    fn bad(&self, ino: Ino, source: MediaError) -> Corrupt {
        let offset = self.ground.geometry.inode_off(ino);
        Corrupt::InodeMedia {
            ino,
            offset,
            source,
        }
    }

    #[cold]
    fn wrong(&self, ino: Ino, fault: InodeFault) -> Corrupt {
        let offset = self.ground.geometry.inode_off(ino);
        Corrupt::Inode { ino, offset, fault }
    }

    /// The runs of extents that stand in nodes, and these.
    #[inline(never)]
    fn in_nodes(&self, ino: Ino, each: &mut impl Each) -> Result<(), LoadError> {
        Ok(self.ground.load(ino)?.map.runs().try_for_each(each)?)
    }

    /// The runs of extents that stand in an inode; refuses those that overlap in the file.
    fn inline(
        &self,
        ino: Ino,
        entries: &[[u64; 2]],
        each: &mut impl Each,
    ) -> Result<(), LoadError> {
        let mut places: ArrayVec<(u64, u64), INLINE_EXTENTS> = ArrayVec::new();
        for (index, words) in entries.iter().enumerate() {
            let words = *words;
            let extent = Extent::from_words(words, self.ground.geometry);
            let wrong = || self.wrong(ino, InodeFault::Extent { index, words });
            let extent = extent.ok_or_else(wrong)?;
            places.push((extent.file, extent.end()));
            each(Run {
                block: extent.phys,
                len: extent.len,
            })?;
        }
        places.sort_unstable();
        match places.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            Some(pair) => Err(self.wrong(ino, InodeFault::Overlap(pair[1].0)).into()),
            None => Ok(()),
        }
    }

    /// Whose `block` is, which is claimed more than once: by the two claims that begin first. Reads every inode once more.
    pub fn overlap(&self, block: Block) -> MountError {
        let mut owners = [(Block::MAX, 0); 2];
        let mut claim = |ino, run: Run| {
            if (run.block..run.end()).contains(&block) {
                let ([one, other], new) = (owners, (run.block, ino));
                owners = if new < one {
                    [new, one]
                } else {
                    [one, other.min(new)]
                };
            }
        };
        if let Err(error) = self.each_claim(&mut claim) {
            return error;
        }
        let [(_, first), (_, second)] = owners;
        MountError::Overlap {
            block,
            offset: block * BLOCK_SIZE,
            first,
            second,
        }
    }

    /// Every claim with its owner, those of inodes that cannot be read left out.
    fn each_claim(&self, each: &mut impl FnMut(Ino, Run)) -> Result<(), MountError> {
        let mut body = Body::default();
        for ino in ROOT..self.ground.initialised()? {
            let mut claim = |run| {
                each(ino, run);
                Ok(())
            };
            match self.claims(ino, &mut body, &mut claim) {
                Err(LoadError::Corrupt(lost)) if lost.is_media() => {}
                other => drop(other?),
            }
        }
        Ok(())
    }
}
