//! The cases, by what they are about.

mod disk;
mod errors;
mod faults;
mod files;
mod fixture;
mod harness;
mod machine;
mod moves;
mod pmem;
mod removal;
mod served_faults;
mod smp;
mod threads;
mod truncate;
