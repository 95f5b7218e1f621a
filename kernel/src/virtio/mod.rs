//! virtio devices: what the virtio-drivers crate needs of this kernel, and the block device.

pub mod blk;
mod hal;
mod transport;

pub use hal::map_device;
