//! The tests of the file system, in one program: each would otherwise be built with a file system of its own. What is cut off at every
//! store stands apart, in `crash.rs`; the models of many threads in `shuttle/`.

mod common;
#[path = "common/heap.rs"]
mod heap;
#[path = "common/lists.rs"]
mod lists;
mod rules_model;

mod bad_media;
mod basic;
mod budget;
mod differential;
mod fsck;
mod hold;
mod media_errors;
mod model;
mod mount;
mod orphans;
mod posix;
mod removal;
mod rules;
mod seams;
mod space;
mod threads;
mod zero;
