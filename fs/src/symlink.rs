//! Symbolic links: the text stands in the inode if it is short, in a block of its own if not.
//!
//! Up to 192 bytes: in the inode, after the attributes. If the record of the new link has room for the text, it carries it (1 fence);
//! if not, a record before it stores the text into the inode while that is still free (2 fences). Up to 4,095 bytes: in a new block,
//! written and fenced before the record that publishes it (2 fences; rule R4). The inode's checksum covers a text in the inode; for
//! one in a block the inode keeps its CRC-32C.
//!
//! The text of a link never changes.

use alloc::sync::Arc;

use dax::pmem::Pmem;
use mm::mem::{OutOfMemory, check_headroom};

use crate::attr::{NewInode, Owner};
use crate::commit::{Durable, FreshSet, Media, MetaAddr, RecordKind, Ring};
use crate::error::{ChangeError, CreateError, ReadlinkError};
use crate::extents::{ExtentMap, Spot};
use crate::fs::Fs;
use crate::inode::{Inode, Vnode};
use crate::layout::{
    BLOCK_SIZE, CORE_WORDS, Core, Extent, INLINE_TEXT, Ino, InodeImage, Kind, Running, TEXT_MAX,
    crc32c,
};
use crate::media_inode::Corrupt;
use crate::names::Place;
use crate::record::PAYLOAD_WORDS;
use crate::shared::State;
use crate::space::{Free, Goal};

/// Why bytes are no target of a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No text at all.
    #[error("a symbolic link needs a target")]
    Empty,
    /// More than 4,095 bytes.
    #[error("the target has {0} bytes, but 4095 is the most")]
    TooLong(usize),
    /// A zero byte.
    #[error("a target has no zero byte")]
    Zero,
}

/// The text of a link that is being made.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a>(&'a [u8]);

impl<'a> Target<'a> {
    /// Checks a target.
    pub fn new(text: &'a [u8]) -> Result<Self, TargetError> {
        match text.len() {
            0 => Err(TargetError::Empty),
            len if len > TEXT_MAX => Err(TargetError::TooLong(len)),
            _ if text.contains(&0) => Err(TargetError::Zero),
            _ => Ok(Self(text)),
        }
    }

    /// Words of an inode that it takes.
    const fn words(self) -> usize {
        self.0.len().div_ceil(8)
    }
}

/// A text that has been brought to the media: what its block is, and how many words of it the record of the link still has to carry.
#[derive(Default)]
pub(crate) struct Stored {
    pub block: Option<Durable>,
    pub map: ExtentMap,
    pub words: usize,
}

impl<P: Pmem> Fs<P> {
    /// Makes a symbolic link at `path` that says `target`: 1 to 4,095 bytes, which need not lead anywhere.
    pub fn symlink(&self, path: &str, target: &[u8]) -> Result<Arc<Inode<P>>, CreateError> {
        let _inside = self.begin()?;
        let parent = self.parent_of(path)?;
        self.link_to(&parent.place(), target, Owner::default())
    }

    /// As [`Fs::symlink`], in a directory.
    pub fn symlink_in(
        &self,
        dir: &Arc<Inode<P>>,
        name: &[u8],
        target: &[u8],
        owner: Owner,
    ) -> Result<Arc<Inode<P>>, CreateError> {
        let _inside = self.begin()?;
        let place = Place::new(dir, name)?;
        self.link_to(&place, target, owner)
    }

    fn link_to(
        &self,
        place: &Place<'_, P>,
        target: &[u8],
        owner: Owner,
    ) -> Result<Arc<Inode<P>>, CreateError> {
        let target = Target::new(target)?;
        let new = NewInode::new(Kind::Symlink, 0o777).owned_by(owner);
        self.make(place, &new, Some(target))
    }

    /// Puts the text into `image`, and as far as the record of the link has no room for it (`room` words), on the media.
    pub(crate) fn store_text(
        &self,
        state: &mut State,
        ino: Ino,
        image: &mut InodeImage,
        (target, room): (Target<'_>, usize),
    ) -> Result<Stored, ChangeError> {
        image.core.size = target.0.len() as u64;
        if target.0.len() > INLINE_TEXT {
            return self.store_in_block(state, image, target);
        }
        let words = image.body.as_flattened_mut();
        for (word, bytes) in words.iter_mut().zip(target.0.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_le_bytes(whole);
        }
        let words = target.words();
        if words <= room.min(PAYLOAD_WORDS) {
            return Ok(Stored {
                words,
                ..Stored::default()
            });
        }
        self.store_in_inode(&mut state.ring, ino, &image.body.as_flattened()[..words])?;
        Ok(Stored::default())
    }

    /// Stores a text into inode `ino`, which is free: until the link's own record nobody looks there.
    fn store_in_inode(&self, ring: &mut Ring, ino: Ino, text: &[u64]) -> Result<(), ChangeError> {
        let at = MetaAddr::inode(&self.shared.geometry, ino, CORE_WORDS);
        let mut tx = ring.begin(RecordKind::Prepare);
        tx.store(at, text)?;
        let _ = tx.commit(&self.shared.media);
        Ok(())
    }

    fn store_in_block(
        &self,
        state: &mut State,
        image: &mut InodeImage,
        target: Target<'_>,
    ) -> Result<Stored, ChangeError> {
        check_headroom()?;
        let fresh = self.shared.take(state, 1, Goal::default())?;
        let extent = Extent {
            file: 0,
            phys: fresh.run().block,
            len: 1,
            unwritten: false,
        };
        let map = match ExtentMap::single(extent) {
            Ok(map) => map,
            Err(OutOfMemory) => {
                state.space.give(Free::unpublished(fresh));
                return Err(OutOfMemory.into());
            }
        };
        fresh.fill_around(&self.shared.media, 0, target.0);
        let block = FreshSet::of(fresh).fence(&self.shared.media).next();
        image.core.entries = 1;
        image.core.extra = crc32c(target.0);
        image.body[0] = extent.to_words();
        let words = 2;
        Ok(Stored { block, map, words })
    }
}

impl<P: Pmem> Vnode<P> {
    /// Copies the text of a symbolic link into `buf`, as much as fits; returns how many bytes that is. [`Stat::size`] says how
    /// many there are. Takes no sleeping lock.
    ///
    /// [`Stat::size`]: crate::Stat::size
    pub fn readlink(&self, buf: &mut [u8]) -> Result<usize, ReadlinkError> {
        if self.kind() != Kind::Symlink {
            return Err(ReadlinkError::NotSymlink);
        }
        let _inside = self.shared.gate.enter()?;
        let image = self.attr.lock().image;
        let len = (image.core.size as usize).min(TEXT_MAX);
        if image.core.entries > 0 {
            text_of_block(
                &self.shared.media,
                self.ino(),
                self.spot(0),
                &image.core,
                buf,
            )?;
            return Ok(len.min(buf.len()));
        }
        let n = len.min(INLINE_TEXT).min(buf.len());
        for (word, bytes) in image.body.as_flattened().iter().zip(buf[..n].chunks_mut(8)) {
            bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
        }
        Ok(n)
    }
}

/// Reads the text of a symlink that has a block of its own, at `spot`, into as much of `buf` as there is, and checks all of it.
pub(crate) fn text_of_block<P: Pmem>(
    media: &Media<P>,
    ino: Ino,
    spot: Spot,
    core: &Core,
    buf: &mut [u8],
) -> Result<(), Corrupt> {
    let Spot::Extent(Extent {
        phys,
        unwritten: false,
        ..
    }) = spot
    else {
        return Err(Corrupt::NoText(ino));
    };
    let (offset, len) = (phys * BLOCK_SIZE, (core.size as usize).min(TEXT_MAX));
    let (mut sum, mut at, mut part) = (Running::new(), 0, [0; 256]);
    while at < len {
        let part = &mut part[..(len - at).min(256)];
        let read = media.read(offset + at as u64, part);
        read.map_err(|source| Corrupt::TextMedia {
            ino,
            offset,
            source,
        })?;
        sum.update(part);
        let room = at.min(buf.len());
        let to = &mut buf[room..];
        let n = to.len().min(part.len());
        to[..n].copy_from_slice(&part[..n]);
        at += part.len();
    }
    let (found, expected) = (sum.finish(), core.extra);
    if found == expected {
        return Ok(());
    }
    Err(Corrupt::Text {
        ino,
        offset,
        found,
        expected,
    })
}
