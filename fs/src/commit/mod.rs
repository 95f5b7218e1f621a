//! How metadata changes: one record, one fence, then in place. The only module that can store to metadata.
//!
//! # The argument
//!
//! An operation's stores to metadata are collected in a `Record`, written to the next slot of the ring
//! together with the write-back of what the *previous* operation stored in place, and one fence makes both durable. That
//! fence is the commit. Then the stores are done in place, and nothing waits for them: either the next operation's fence
//! makes them durable, or a crash comes first and the mount replays the record.
//!
//! So at any time at most one record ([`Ring`]'s `last`) has stores in place that no write-back was begun for, and each record carries
//! that fact as its floor. The write-back of `last` is issued by the CPU that fences, since a fence waits for its own CPU only.
//!
//! Not written back is what the new record stores anew, the same words at the same place: an inode that each of many operations
//! changes, say. These words are durable by the record that stored them last. *Why that is enough:* take a word, and the newest record
//! k that stored it. If a record after k is durable, its fence waited for the write-back of what k stored in place, because the record
//! right after k did not store the word anew (else k were not the newest). If none is, k itself is the newest durable record, and the
//! mount replays it: its floor lies below it. What older records stored there is of no use to anybody. A write-back takes the line out of the
//! caches as well, so that leaving it out also saves the next store from waiting for the line.
//!
//! | rule | what it demands | held by |
//! |---|---|---|
//! | R1 | in-place stores only after the record's fence | only [`Tx<Committed>`] has `apply` |
//! | R2 | a record counts only if all its lines arrived | tags and checksum, `record::decode` |
//! | R3 | a slot is reused only when its targets are durable, or stored anew by a later record | `last` is one record, [`Tx::seal`] writes it back; the ring has at least 16 slots |
//! | R4 | blocks written directly are fenced before the record that publishes them is stored | [`Tx::publish`] takes [`Durable`] |
//! | R5 | a block freed by an operation is not reused within it | [`Freed`] comes only from [`Tx<Applied>`] or [`Unlinked`] |
//! | R6 | a freed *metadata* block waits until the floor has passed its record | `space::Quarantined::free` |
//! | R7 | replay in order | [`recover()`] |
//! | R8 | the next sequence number exceeds every tag, torn ones included | [`recover()`] |
//!
//! Storing metadata before the commit does not compile:
//!
//! ```compile_fail,E0599
//! # use fs::commit::{Media, Ring, RecordKind};
//! # fn f<P: dax::pmem::Pmem>(media: &Media<P>, ring: &mut Ring) {
//! let tx = ring.begin(RecordKind::Attributes);
//! let _ = tx.apply(media); // no method `apply` on `Tx<Building>`
//! # }
//! ```
//!
//! nor does it between the stores of the record and its fence:
//!
//! ```compile_fail,E0599
//! # use fs::commit::{Media, Ring, RecordKind};
//! # fn f<P: dax::pmem::Pmem>(media: &Media<P>, ring: &mut Ring) {
//! let tx = ring.begin(RecordKind::Attributes).seal(media);
//! let _ = tx.apply(media); // no method `apply` on `Tx<InFlight>`
//! # }
//! ```
//!
//! In the right order it does:
//!
//! ```
//! # use fs::commit::{Media, Ring, RecordKind};
//! # fn f<P: dax::pmem::Pmem>(media: &Media<P>, ring: &mut Ring) {
//! let tx = ring.begin(RecordKind::Attributes).seal(media).fence(media);
//! let _ = tx.apply(media);
//! # }
//! ```

mod fresh;
mod media;
mod recover;
mod tx;

pub use crate::record::{
    Found, RECORD_WORDS, Record, RecordFault, RecordFull, RecordKind, Slot, decode as decode_record,
};
pub use fresh::{Class, Durable, Freed, Fresh, FreshSet, Run, Unlinked};
pub use media::{Media, MetaAddr};
pub use recover::{RecoverError, Recovered, recover};
pub(crate) use recover::{Scan, salvage, scan};
pub use tx::{Applied, Building, Committed, Encoded, InFlight, Ring, Tx};
