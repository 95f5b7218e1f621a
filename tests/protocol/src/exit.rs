//! The debug-exit device (`isa-debug-exit`): the kernel writes a value to its port, QEMU ends with `value << 1 | 1`.
//!
//! The write is asynchronous: code after it still runs for a while, so the kernel loops after it. QEMU ending with 0 means that the
//! machine reset itself: with `-no-reboot` that is what a triple fault looks like. So the kernel never powers off by any other way.

/// The I/O port of the device.
pub const PORT: u16 = 0xf4;

/// How the kernel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything was done and went well.
    Success = 0x10,
    /// A command of the script failed, or a fact of the tour was wrong.
    Failed = 0x11,
    /// The kernel panicked or took a fault that it cannot handle.
    Panicked = 0x12,
}

impl Exit {
    /// The exit status with which QEMU ends when the kernel writes this value.
    pub const fn qemu_status(self) -> i32 {
        ((self as i32) << 1) | 1
    }

    /// The kernel's word behind QEMU's exit status; `None` when the status is not one of the kernel's.
    pub fn from_qemu_status(status: i32) -> Option<Self> {
        [Self::Success, Self::Failed, Self::Panicked]
            .into_iter()
            .find(|e| e.qemu_status() == status)
    }
}
