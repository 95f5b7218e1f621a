//! Content: read, write, allocate; and the storage that a fault asks for.
//!
//! A write goes piece by piece. Over written extents it stores in place, past the caches. Into a hole it fills new blocks, zeroing
//! what the data leaves free of them, fences, and commits a record that names them. Into storage that was never written it does
//! the same in place. What it does to holes and unwritten storage it does under the commit lock, because a fault may come to
//! fill the same hole; the piece is bounded, so that the lock is not held for long.
//!
//! *Nothing old is ever shown.* New blocks are filled whole before they are published, and whoever moves the end of a file
//! outwards first zeroes, durably, what lies behind the old end in its last block (a mapping may have stored there).

use dax::pmem::Pmem;
use mm::addr::PAGE_SIZE;
use mm::aspace::FaultError;

use crate::change::Prepared;
use crate::commit::{FreshSet, Run};
use crate::error::{ChangeError, ReadError, WriteError};
use crate::extents::Spot;
use crate::inode::{Vnode, blocks_for};
use crate::layout::{BLOCK_SIZE, Core, Extent, Kind};
use crate::shared::State;
use crate::space::Goal;

const _: () = assert!(PAGE_SIZE == BLOCK_SIZE);

/// The largest file, in bytes.
pub const MAX_SIZE: u64 = BLOCK_SIZE << 32;
/// Most blocks that one record of a write publishes.
const PIECE: u64 = 512;

/// How `fallocate` leaves the space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Marked as never written: cheap now, a little dearer at the first store.
    Unwritten,
    /// Zeroed: mapping it needs no further work.
    Zeroed,
    /// As `Unwritten`, and the end of the file stays: see `zero.rs`.
    KeepSize,
}

/// An extent about to be published, prepared as far as can be.
struct Written {
    new: Extent,
    /// Where the file ends then, unless it ends behind.
    end: u64,
    /// When.
    now: u64,
    /// All of it, if it makes the last extent longer.
    longer: Option<(Prepared, Extent)>,
}

/// What a write at `now` that ends at `end` does to the attributes.
fn grown(core: &mut Core, end: u64, now: u64) {
    core.size = core.size.max(end);
    (core.mtime, core.ctime) = (now, now);
}

impl<P: Pmem> Vnode<P> {
    fn size_now(&self) -> u64 {
        self.attr.lock().image.core.size
    }

    /// The size, and where `block` is: one lock for both.
    fn size_and_spot(&self, block: u64) -> (u64, Spot) {
        let attr = self.attr.lock();
        (attr.image.core.size, attr.map.at(block))
    }

    /// Reads at `off` into `buf`; returns how many bytes there were, less than asked for only at the end of the file.
    ///
    /// Takes the inode lock.
    pub fn read(&self, off: u64, buf: &mut [u8]) -> Result<usize, ReadError> {
        match self.kind() {
            Kind::File => {}
            Kind::Dir => return Err(ReadError::IsDir),
            _ => return Err(ReadError::NotFile),
        }
        let _inside = self.shared.gate.enter()?;
        let _content = self.content.lock();
        let there = self.size_now().saturating_sub(off).min(buf.len() as u64);
        let mut done = 0;
        while done < there {
            let at = off + done;
            done += self.read_piece(at, &mut buf[done as usize..there as usize])?;
        }
        Ok(done as usize)
    }

    /// Reads the part of `buf` that comes from one extent or hole.
    fn read_piece(&self, at: u64, buf: &mut [u8]) -> Result<u64, ReadError> {
        let (block, within) = (at / BLOCK_SIZE, at % BLOCK_SIZE);
        let (extent, blocks) = match self.spot(block) {
            Spot::Extent(extent) => (Some(extent), extent.len),
            Spot::HoleUntil(end) => (None, end - block),
        };
        let n = (blocks.saturating_mul(BLOCK_SIZE) - within).min(buf.len() as u64);
        let buf = &mut buf[..n as usize];
        match extent.filter(|extent| !extent.unwritten) {
            Some(extent) => {
                let from = extent.phys * BLOCK_SIZE + within;
                let read = self.shared.media.read(from, buf);
                read.map_err(|source| ReadError::Media {
                    ino: self.ino(),
                    at: at + source.offset.saturating_sub(from),
                    source,
                })?;
            }
            None => buf.fill(0),
        }
        Ok(n)
    }

    /// Writes `data` at `off`, durably: on return it is on the media. Over written storage 1 fence; with new storage 2 for each
    /// piece of at most 2 MiB.
    ///
    /// After a crash, each aligned 8 bytes in place are old or new; new storage of a piece is there whole or not at all. Takes
    /// the inode lock, and for new storage the commit lock. On an error what was written before it stays.
    pub(crate) fn write(&self, off: u64, data: &[u8]) -> Result<(), WriteError> {
        let end = off.checked_add(data.len() as u64);
        let end = end
            .filter(|end| *end <= MAX_SIZE)
            .ok_or(WriteError::FileTooBig)?;
        self.writable_file()?;
        if data.is_empty() {
            return Ok(());
        }
        let _content = self.content.lock();
        let (size, mut spot) = self.size_and_spot(off / BLOCK_SIZE);
        self.zero_tail(size, off);
        let (mut at, mut rest, mut unfenced) = (off, data, false);
        let mut outcome = Ok(());
        while outcome.is_ok() {
            match self.write_piece(spot, at, rest, end) {
                // A piece of new storage fenced what came before it.
                Ok((n, in_place)) => (at, rest, unfenced) = (at + n, &rest[n as usize..], in_place),
                Err(error) => outcome = Err(error),
            }
            if rest.is_empty() {
                break;
            }
            spot = self.spot(at / BLOCK_SIZE);
        }
        if unfenced {
            outcome = outcome.and(self.end_in_place(at));
        }
        self.arrived(outcome)
    }

    /// After an error no record comes whose fence waits for what was stored past the caches, zeroes behind the old end, say: it must
    /// not arrive over what the next one stores who gets the inode lock.
    fn arrived(&self, outcome: Result<(), WriteError>) -> Result<(), WriteError> {
        outcome.inspect_err(|_| self.shared.media.fence())
    }

    pub(crate) fn writable_file(&self) -> Result<(), WriteError> {
        if self.kind() != Kind::File {
            return Err(WriteError::NotFile);
        }
        Ok(self.shared.writable()?)
    }

    /// Zeroes what lies behind the end of the file, `size`, in its last block, up to `until`, if the end is to move beyond. The caller
    /// fences before it commits the new size.
    fn zero_tail(&self, size: u64, until: u64) {
        let within = size % BLOCK_SIZE;
        if until <= size || within == 0 {
            return;
        }
        if let Spot::Extent(extent) = self.spot(size / BLOCK_SIZE)
            && !extent.unwritten
        {
            let n = (BLOCK_SIZE - within).min(until - size);
            let run = Run {
                block: extent.phys,
                len: 1,
            };
            self.shared.media.zero_data(run, within, n);
        }
    }

    /// Writes the part of `data` that goes to one extent or hole: `spot`, at last sight. Returns its length, and whether it still wants its fence.
    fn write_piece(
        &self,
        spot: Spot,
        at: u64,
        data: &[u8],
        end: u64,
    ) -> Result<(u64, bool), WriteError> {
        let (block, within) = (at / BLOCK_SIZE, at % BLOCK_SIZE);
        // Written storage stays what it is while the inode lock is held.
        if let Spot::Extent(extent) = spot
            && !extent.unwritten
        {
            let n = (extent.len * BLOCK_SIZE - within).min(data.len() as u64);
            let run = Run {
                block: extent.phys,
                len: extent.len,
            };
            self.shared
                .media
                .write_data(run, within, &data[..n as usize]);
            return Ok((n, true));
        }
        let mut state = self.shared.state.lock();
        let n = match self.spot(block) {
            Spot::Extent(extent) if extent.unwritten => {
                self.write_unwritten(&mut state, extent, at, data)?
            }
            // A fault filled the hole before we had the lock: the next turn finds it.
            Spot::Extent(_) => 0,
            Spot::HoleUntil(hole_end) => self.write_hole(&mut state, hole_end, at, data, end)?,
        };
        drop(state);
        if n > 0 {
            self.mapping.forget_holes(block..blocks_for(at + n));
        }
        Ok((n, false))
    }

    fn write_hole(
        &self,
        state: &mut State,
        hole_end: u64,
        at: u64,
        data: &[u8],
        end: u64,
    ) -> Result<u64, WriteError> {
        let (block, within) = (at / BLOCK_SIZE, at % BLOCK_SIZE);
        let total = blocks_for(end) - block;
        let want = total.min(hole_end - block).min(PIECE);
        let fresh = self.shared.take(state, want, self.goal(block, total))?;
        let run = fresh.run();
        let n = (run.len * BLOCK_SIZE - within).min(data.len() as u64);
        let new = Extent {
            file: block,
            phys: run.block,
            len: run.len,
            unwritten: false,
        };
        // Before the content is stored: a lock that is taken afterwards waits for all of these stores.
        let written = self.prepare_written(new, at + n);
        fresh.fill_around(&self.shared.media, within, &data[..n as usize]);
        self.publish_written(state, &written, FreshSet::of(fresh))?;
        Ok(n)
    }

    fn write_unwritten(
        &self,
        state: &mut State,
        extent: Extent,
        at: u64,
        data: &[u8],
    ) -> Result<u64, WriteError> {
        let within = at % BLOCK_SIZE;
        let n = (extent.len.min(PIECE) * BLOCK_SIZE - within).min(data.len() as u64);
        let len = blocks_for(within + n);
        let run = Run {
            block: extent.phys,
            len,
        };
        let media = &self.shared.media;
        media.zero_data(run, 0, within);
        media.write_data(run, within, &data[..n as usize]);
        media.zero_data(run, within + n, len * BLOCK_SIZE - within - n);
        media.filled(run);
        let new = Extent {
            len,
            unwritten: false,
            ..extent
        };
        self.commit_written(state, new, FreshSet::written_in_place(), at + n)?;
        Ok(n)
    }

    /// Publishes `new`; the file ends at `end` or behind.
    pub(crate) fn commit_written(
        &self,
        state: &mut State,
        new: Extent,
        set: FreshSet,
        end: u64,
    ) -> Result<(), ChangeError> {
        self.publish_written(state, &self.prepare_written(new, end), set)
    }

    /// Prepares that `new` is published, and that the file ends at `end` or behind. The caller holds the commit lock until it is done.
    fn prepare_written(&self, new: Extent, end: u64) -> Written {
        let now = self.shared.now();
        let longer = self.prepare_longer(new, |core| grown(core, end, now));
        Written {
            new,
            end,
            now,
            longer,
        }
    }

    /// Does what was prepared.
    fn publish_written(
        &self,
        state: &mut State,
        written: &Written,
        set: FreshSet,
    ) -> Result<(), ChangeError> {
        if let Some(longer) = &written.longer {
            return self.commit_longer(state, set, longer);
        }
        let Written { new, end, now, .. } = *written;
        let with = self.attr.lock().map.with(new);
        let edit = match with {
            Ok((edit, _same)) => edit,
            Err(error) => {
                self.shared.give_back(state, set);
                return Err(error.into());
            }
        };
        let change = |core: &mut Core| grown(core, end, now);
        self.commit_map(state, edit, set, change, |_| ())
    }

    fn goal(&self, block: u64, total: u64) -> Goal {
        let before = self.attr.lock().map.before(block);
        let after = before
            .filter(|extent| extent.end() == block)
            .map(|e| e.phys + e.len);
        Goal {
            file_block: block,
            after,
            total,
        }
    }

    /// Ends a write whose last piece was in place: fences, and if the file grew commits its size.
    fn end_in_place(&self, end: u64) -> Result<(), WriteError> {
        // The clock is read while the stores are on their way.
        let now = self.shared.now();
        self.shared.media.fence();
        if self.attr.lock().written_in_place(end, now) {
            return Ok(());
        }
        let mut state = self.shared.state.lock();
        self.commit_core(&mut state, |core| grown(core, end, now))?;
        Ok(())
    }

    /// Moves the end of the file outwards. The caller holds the inode lock.
    pub(crate) fn extend(&self, size: u64) -> Result<(), ChangeError> {
        let before = self.size_now();
        if size <= before {
            return Ok(());
        }
        self.zero_tail(before, size);
        self.shared.media.fence();
        let now = self.shared.now();
        let mut state = self.shared.state.lock();
        self.commit_core(&mut state, |core| grown(core, size, now))
    }

    /// Gives storage to all of `off..off + len` that has none, and moves the end of the file there if it is before. One record for
    /// each run of new blocks; zeroing goes in pieces of at most 2 MiB. A length of 0 changes nothing.
    pub(crate) fn allocate_range(&self, off: u64, len: u64, fill: Fill) -> Result<(), WriteError> {
        let end = off.checked_add(len);
        let end = end
            .filter(|end| *end <= MAX_SIZE)
            .ok_or(WriteError::FileTooBig)?;
        self.writable_file()?;
        if fill == Fill::KeepSize {
            return self.allocate_behind(off, end);
        }
        if len == 0 {
            return Ok(());
        }
        let _content = self.content.lock();
        self.zero_tail(self.size_now(), end);
        self.arrived(self.allocate_pieces(off, end, fill))
    }

    fn allocate_pieces(&self, off: u64, end: u64, fill: Fill) -> Result<(), WriteError> {
        let mut block = off / BLOCK_SIZE;
        while block < blocks_for(end) {
            block = self.allocate_piece(block, end, fill)?;
        }
        Ok(self.extend(end)?)
    }

    /// Makes `block` and what follows it up to byte `end` have storage, as far as one record reaches; returns where to go on.
    ///
    /// Unless it is to stay, the end of the file goes along in the same record: no storage lies behind it, also after an error or a crash.
    pub(crate) fn allocate_piece(
        &self,
        block: u64,
        end: u64,
        fill: Fill,
    ) -> Result<u64, WriteError> {
        let last = blocks_for(end);
        let mut state = self.shared.state.lock();
        let hole_end = match self.spot(block) {
            Spot::Extent(extent) if extent.unwritten && fill == Fill::Zeroed => {
                let len = extent.len.min(last - block).min(PIECE);
                self.convert(&mut state, Extent { len, ..extent })?;
                drop(state);
                // Who read it before has the zero page mapped, and would not see what write(2) stores in place.
                self.mapping.forget_holes(block..block + len);
                return Ok(block + len);
            }
            Spot::Extent(extent) => return Ok(extent.end()),
            Spot::HoleUntil(end) => end.min(last),
        };
        let most = if fill == Fill::Zeroed {
            PIECE
        } else {
            Extent::MAX_LEN
        };
        let want = (hole_end - block).min(most);
        let fresh = self
            .shared
            .take(&mut state, want, self.goal(block, last - block))?;
        let Run { block: phys, len } = fresh.run();
        let unwritten = fill != Fill::Zeroed;
        if !unwritten {
            fresh.zero(&self.shared.media, 0, len * BLOCK_SIZE);
        }
        let new = Extent {
            file: block,
            phys,
            len,
            unwritten,
        };
        let (here, set) = match fill {
            Fill::KeepSize => (0, FreshSet::untouched(fresh)),
            // The fence is also for the zeroes behind the old end.
            _ => (end.min((block + len) * BLOCK_SIZE), FreshSet::of(fresh)),
        };
        self.commit_written(&mut state, new, set, here)?;
        drop(state);
        if !unwritten {
            self.mapping.forget_holes(block..block + len);
        }
        Ok(block + len)
    }

    /// Zeroes storage that was never written and says so.
    fn convert(&self, state: &mut State, extent: Extent) -> Result<(), ChangeError> {
        let run = Run {
            block: extent.phys,
            len: extent.len,
        };
        self.shared.media.zero_data(run, 0, extent.len * BLOCK_SIZE);
        let new = Extent {
            unwritten: false,
            ..extent
        };
        self.commit_written(state, new, FreshSet::written_in_place(), 0)
    }

    /// The storage for a store to page `page`: what is there, or a new zeroed block, durable. Takes the commit lock.
    pub(crate) fn allocate_page(&self, page: u64) -> Result<Extent, FaultError> {
        let mut state = self.shared.state.lock();
        let made = match self.spot(page) {
            Spot::Extent(extent) if !extent.unwritten => return Ok(extent),
            Spot::Extent(extent) => self.convert(&mut state, Extent { len: 1, ..extent }),
            Spot::HoleUntil(_) => self.fill_hole(&mut state, page),
        };
        made.map_err(fault_error)?;
        match self.spot(page) {
            Spot::Extent(extent) => Ok(extent),
            Spot::HoleUntil(_) => Err(FaultError::Io),
        }
    }

    fn fill_hole(&self, state: &mut State, page: u64) -> Result<(), ChangeError> {
        self.shared.writable()?;
        let fresh = self.shared.take(state, 1, self.goal(page, 1))?;
        fresh.zero(&self.shared.media, 0, BLOCK_SIZE);
        let phys = fresh.run().block;
        let new = Extent {
            file: page,
            phys,
            len: 1,
            unwritten: false,
        };
        self.commit_written(state, new, FreshSet::of(fresh), 0)
    }
}

/// What a fault says when the file system cannot give it storage.
const fn fault_error(error: ChangeError) -> FaultError {
    match error {
        ChangeError::NoSpace { .. } | ChangeError::TooFragmented(_) => FaultError::NoSpace,
        ChangeError::OutOfMemory(_) => FaultError::OutOfMemory,
        ChangeError::ReadOnly => FaultError::Permission,
        ChangeError::Gone(_) => FaultError::Dying,
        ChangeError::NoInodes | ChangeError::Corrupt(_) | ChangeError::RecordFull(_) => {
            FaultError::Io
        }
    }
}
