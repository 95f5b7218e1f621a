//! The ring, and a transaction in its five states.

use dax::pmem::{LINE, Pmem};

use super::{Durable, Media, MetaAddr, Run};
use crate::layout::{Geometry, Seed};
use crate::record::{RECORD_WORDS, Record, RecordFull, RecordKind};

/// The record ring of a mounted file system; whoever holds it mutably is the one writer of metadata.
pub struct Ring {
    geometry: Geometry,
    uuid: [u8; 16],
    /// What every checksum begins with.
    seed: Seed,
    /// The next sequence number.
    next: u64,
    /// All records up to this one are durable in place.
    floor: u64,
    /// The floor that a durable record carries: replay never begins at or below it.
    passed: u64,
    /// The record of the transaction that is under way, and the newest that was applied: they change places.
    records: [Record; 2],
    /// Which of them is under way.
    building: usize,
    /// The words of the record that is under way, as they go to its slot.
    image: [u64; RECORD_WORDS],
    /// The in-place stores of the newest applied record are perhaps not yet durable.
    pending: bool,
}

/// Collecting stores; nothing has reached the media.
pub struct Building(());
/// The words of the record are made; nothing has reached the media.
pub struct Encoded(());
/// The record is stored and its write-back started.
pub struct InFlight(());
/// The record is durable: the operation has happened, whatever comes.
pub struct Committed(());
/// The stores are done in place.
pub struct Applied(());

/// One operation on its way to the media.
#[must_use = "a transaction does nothing until it is committed and applied"]
pub struct Tx<'r, S> {
    ring: &'r mut Ring,
    seq: u64,
    _state: S,
}

impl Ring {
    /// A ring whose records up to `next - 1` are durable in place and will not be replayed beyond what they say themselves.
    pub(super) fn resume(geometry: Geometry, uuid: [u8; 16], next: u64) -> Self {
        Self {
            geometry,
            uuid,
            seed: Seed::new(&uuid),
            next,
            floor: next - 1,
            passed: 0,
            records: [const { Record::new(RecordKind::Floor) }; 2],
            building: 0,
            image: [0; RECORD_WORDS],
            pending: false,
        }
    }

    /// The ring of a file system that is being made.
    pub(crate) fn first(geometry: Geometry, uuid: [u8; 16]) -> Self {
        Self::resume(geometry, uuid, 1)
    }

    /// The areas of the region.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The identity that every checksum carries.
    #[must_use]
    pub const fn uuid(&self) -> &[u8; 16] {
        &self.uuid
    }

    /// No mount will replay a record up to this one (rule R6).
    #[must_use]
    pub const fn passed(&self) -> u64 {
        self.passed
    }

    /// Begins an operation.
    pub fn begin(&mut self, kind: RecordKind) -> Tx<'_, Building> {
        let seq = self.next;
        self.records[self.building].reset(kind);
        Tx {
            ring: self,
            seq,
            _state: Building(()),
        }
    }

    /// Makes all that was applied durable in place, and says so in a record: afterwards [`Ring::passed`] covers every record
    /// written before. Two fences.
    pub fn checkpoint<P: Pmem>(&mut self, media: &Media<P>) {
        self.flush_last(media);
        media.fence();
        self.pending = false;
        self.floor = self.next - 1;
        let _ = self.begin(RecordKind::Floor).commit(media);
    }

    /// Makes what was applied durable in place, without a record. One fence, or none when nothing is pending.
    pub fn settle<P: Pmem>(&mut self, media: &Media<P>) {
        if self.pending {
            self.flush_last(media);
            media.fence();
            self.pending = false;
            self.floor = self.next - 1;
        }
    }

    /// The record of the transaction that is under way.
    const fn record(&self) -> &Record {
        &self.records[self.building]
    }

    const fn record_mut(&mut self) -> &mut Record {
        &mut self.records[self.building]
    }

    /// The newest record that was applied.
    const fn last(&self) -> &Record {
        &self.records[1 - self.building]
    }

    /// Writes back all that the last record stored in place.
    fn flush_last<P: Pmem>(&self, media: &Media<P>) {
        if self.pending {
            self.last()
                .runs()
                .for_each(|(off, words)| media.flush_words(off, words.len()));
        }
    }

    /// Writes back what the last record stored in place, but for what the record under way stores anew.
    fn flush_left<P: Pmem>(&self, media: &Media<P>) {
        if self.pending {
            self.last()
                .runs_not_in(self.record())
                .for_each(|(off, words)| media.flush_words(off, words.len()));
        }
    }

    /// Has the lines fetched that the next record will be stored to: their write-back took them out of the caches.
    fn expect_next<P: Pmem>(&self, media: &Media<P>) {
        let lines = RECORD_WORDS as u64 * 8 / LINE;
        media.prefetch(self.geometry.slot_off(self.next), lines);
    }
}

impl<S> Tx<'_, S> {
    /// The sequence number of its record.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// The areas of the region.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        &self.ring.geometry
    }

    /// What every checksum begins with.
    pub(crate) const fn seed(&self) -> &Seed {
        &self.ring.seed
    }
}

impl<'r> Tx<'r, Building> {
    /// Adds a store of `words` at `at`.
    pub fn store(&mut self, at: MetaAddr, words: &[u64]) -> Result<(), RecordFull> {
        self.ring.record_mut().push(at.offset(), words)
    }

    /// Words still free in the record.
    #[must_use]
    pub fn room(&self) -> usize {
        self.ring.record().room()
    }

    /// Makes the words of the record. What an operation has on its way to the media meanwhile is not waited for; its fence comes after this.
    pub fn encode(self) -> Tx<'r, Encoded> {
        let ring = &mut *self.ring;
        let record = &ring.records[ring.building];
        record.encode_into(&mut ring.image, (self.seq, ring.floor), &ring.seed);
        self.into_state(Encoded(()))
    }

    /// Encodes and seals.
    pub fn seal<P: Pmem>(self, media: &Media<P>) -> Tx<'r, InFlight> {
        self.encode().seal(media)
    }

    /// Encodes, seals, fences and applies.
    pub fn commit<P: Pmem>(self, media: &Media<P>) -> Tx<'r, Applied> {
        self.encode().commit(media)
    }
}

impl<'r> Tx<'r, Encoded> {
    /// Lets the record name a run: only what is durable may be named on the media (rule R4).
    ///
    /// ```compile_fail,E0308
    /// # use fs::commit::{Encoded, Fresh, Tx};
    /// # fn f(tx: &mut Tx<'_, Encoded>, fresh: Fresh) {
    /// let _ = tx.publish(fresh); // its content may still be in a cache
    /// # }
    /// ```
    pub fn publish(&mut self, durable: Durable) -> Run {
        durable.into_run()
    }

    /// Stores the record into its slot, each line's tag last, and starts the write-back: of the record, and of what the previous
    /// record stored in place and this one does not.
    pub fn seal<P: Pmem>(self, media: &Media<P>) -> Tx<'r, InFlight> {
        let ring = &*self.ring;
        let slot = ring.geometry.slot_off(self.seq);
        media.store_words(slot, &ring.image);
        media.flush_words(slot, RECORD_WORDS);
        ring.flush_left(media);
        self.into_state(InFlight(()))
    }

    /// Seals, fences and applies.
    pub fn commit<P: Pmem>(self, media: &Media<P>) -> Tx<'r, Applied> {
        self.seal(media).fence(media).apply(media)
    }
}

impl<'r> Tx<'r, InFlight> {
    /// The commit: after this fence the record is durable, and so is what the previous one stored in place.
    pub fn fence<P: Pmem>(self, media: &Media<P>) -> Tx<'r, Committed> {
        media.fence();
        self.ring.passed = self.ring.floor;
        self.ring.floor = self.seq - 1;
        self.ring.next = self.seq + 1;
        self.ring.pending = false;
        self.into_state(Committed(()))
    }
}

impl<'r> Tx<'r, Committed> {
    /// Does the stores in place (rule R1: only here).
    pub fn apply<P: Pmem>(self, media: &Media<P>) -> Tx<'r, Applied> {
        let ring = &mut *self.ring;
        for (off, words) in ring.record().runs() {
            media.store_words(off, words);
        }
        ring.building = 1 - ring.building;
        ring.pending = true;
        ring.expect_next(media);
        self.into_state(Applied(()))
    }
}

impl<'r, S> Tx<'r, S> {
    fn into_state<T>(self, state: T) -> Tx<'r, T> {
        Tx {
            ring: self.ring,
            seq: self.seq,
            _state: state,
        }
    }
}

impl Ring {
    /// Initialises inodes `from..to` of the table, and commits `word` to the state block. Two fences.
    ///
    /// Direct stores to metadata are sound here and only here: no record can have targeted inodes that were never initialised.
    pub(crate) fn grow_table<P: Pmem>(
        &mut self,
        media: &Media<P>,
        from: u32,
        to: u32,
        word: u64,
    ) -> Result<(), RecordFull> {
        let (start, end) = (self.geometry.inode_off(from), self.geometry.inode_off(to));
        media.pmem().zero_nt(start, end - start);
        media.pmem().heal(start, end - start);
        media.fence();
        let at = MetaAddr::state(&self.geometry);
        let mut tx = self.begin(RecordKind::Table);
        tx.store(at, &[word])?;
        let _ = tx.commit(media);
        Ok(())
    }
}
