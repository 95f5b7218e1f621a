//! The cases, by what they are about.

mod faults;
mod harness;
mod machine;
mod pmem;
mod served_faults;
mod threads;
