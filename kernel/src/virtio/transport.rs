//! The PCI transport of virtio-drivers, with what the crate leaves out: MSI-X vectors for queues.
//!
//! A queue gets its vector between its selection and its enabling, so this newtype writes it in `queue_set` before it hands
//! the call on. It also hides two features: indirect descriptors, which would allocate on every request, and the event
//! index, whose comparison in the crate (0.13.0) does not survive the wrap of the 16-bit ring index.
#![expect(unsafe_code, reason = "writes a device register by raw pointer")]

use core::ptr::NonNull;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const HIDDEN: u64 = 1 << 28 | 1 << 29;
/// Offsets in the common configuration structure (virtio 1.2, 4.1.4.3).
const QUEUE_SELECT: usize = 0x16;
const QUEUE_MSIX_VECTOR: usize = 0x1a;
/// What the device answers when it could not take a vector.
const NO_VECTOR: u16 = 0xffff;

/// A virtio PCI device whose every queue interrupts by MSI-X entry `entry`.
pub struct MsixTransport {
    inner: PciTransport,
    common: NonNull<u8>,
    entry: u16,
    refused: bool,
}

// SAFETY: the pointer is to device registers, which any thread and CPU may access.
unsafe impl Send for MsixTransport {}

impl MsixTransport {
    /// Wraps a transport.
    ///
    /// # Safety
    /// `common` points to the device's mapped common configuration structure and stays mapped.
    pub unsafe fn new(inner: PciTransport, common: NonNull<u8>, entry: u16) -> Self {
        MsixTransport {
            inner,
            common,
            entry,
            refused: false,
        }
    }

    /// The device could not take the vector of a queue.
    pub fn refused_vector(&self) -> bool {
        self.refused
    }

    fn set_vector(&mut self, queue: u16) {
        // SAFETY: both registers lie in the common configuration structure, which `new` was promised.
        unsafe {
            self.common
                .add(QUEUE_SELECT)
                .cast::<u16>()
                .write_volatile(queue);
            let vector = self.common.add(QUEUE_MSIX_VECTOR).cast::<u16>();
            vector.write_volatile(self.entry);
            self.refused |= vector.read_volatile() == NO_VECTOR;
        }
    }
}

impl Transport for MsixTransport {
    fn device_type(&self) -> DeviceType {
        self.inner.device_type()
    }

    fn read_device_features(&mut self) -> u64 {
        self.inner.read_device_features() & !HIDDEN
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        self.inner.write_driver_features(driver_features);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.inner.max_queue_size(queue)
    }

    fn notify(&mut self, queue: u16) {
        self.inner.notify(queue);
    }

    fn get_status(&self) -> DeviceStatus {
        self.inner.get_status()
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.inner.set_status(status);
    }

    fn set_guest_page_size(&mut self, guest_page_size: u32) {
        self.inner.set_guest_page_size(guest_page_size);
    }

    fn requires_legacy_layout(&self) -> bool {
        self.inner.requires_legacy_layout()
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        self.set_vector(queue);
        self.inner
            .queue_set(queue, size, descriptors, driver_area, device_area);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.inner.queue_unset(queue);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.inner.queue_used(queue)
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.inner.ack_interrupt()
    }

    fn read_config_generation(&self) -> u32 {
        self.inner.read_config_generation()
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T, Error> {
        self.inner.read_config_space(offset)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<(), Error> {
        self.inner.write_config_space(offset, value)
    }
}
