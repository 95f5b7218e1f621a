//! A mounted file system on the heap, for the tests within the crate.

use alloc::sync::Arc;

use dax::pmem::RamPmem;
use dax::xarray::NodePool;
use mm::pgmap::{Pgmap, scratch_range};

use crate::{Backing, Fs, MkfsOptions, mkfs};

/// New, empty, 2 MiB large.
pub fn mounted() -> Arc<Fs<RamPmem>> {
    let ram = RamPmem::new(2 << 20).expect("memory");
    mkfs(&ram, &MkfsOptions::new([7; 16])).expect("mkfs");
    let backing = Backing {
        pgmap: Pgmap::new("test", scratch_range(512), None).expect("room"),
        nodes: NodePool::new(8).expect("memory"),
        zero_page: scratch_range(1).start(),
    };
    Fs::mount(ram, backing).expect("mount")
}
