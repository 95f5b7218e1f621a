//! The stress test: all that may happen to a page, at once, on a small file system where every freed block is used again at once.

pub mod dice;
pub mod ledger;
pub mod stamp;
pub mod tally;
