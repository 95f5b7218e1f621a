//! The commit protocol as a model: a few cells, a ring of records, CPUs with fences of their own, and every crash.
//!
//! It is weaker than the file system where it can be: what is stored in place is not written back before a checkpoint needs it, so
//! that the proof does not rest on flushes in passing. Each rule can be left out, to see that it is needed. What a record says stands in
//! two lines of two words: a change, and a tag with the sequence number and the checksum of both changes.
//!
//! - [`memory`]: lines, CPUs, tearing.
//! - [`protocol`]: the operations, the ring, recovery.
//! - [`explore`]: all sequences of operations, a crash after every step, a second crash after that.

pub mod explore;
pub mod memory;
pub mod protocol;
