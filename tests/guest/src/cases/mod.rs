//! The cases, by what they are about.

mod faults;
mod files;
mod fixture;
mod harness;
mod machine;
mod pmem;
mod served_faults;
mod threads;
mod truncate;
