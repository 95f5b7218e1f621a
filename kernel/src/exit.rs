//! Ending the machine: QEMU's `isa-debug-exit` at port 0xf4.
//!
//! A byte `v` written there ends QEMU with the exit code `v << 1 | 1`. The device is asynchronous: code after the write
//! still runs for a while, so [`exit`] loops. Without the device the machine just halts.
#![expect(unsafe_code, reason = "port I/O")]

use x86_64::instructions::port::Port;
use x86_64::instructions::{hlt, interrupts};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// All well: QEMU exits with 33.
    Success = 0x10,
    /// A guest command or a case failed: 35.
    Failed = 0x11,
    /// The kernel panicked or faulted: 37.
    Panicked = 0x12,
}

/// Ends the machine; never returns.
pub fn exit(code: ExitCode) -> ! {
    interrupts::disable();
    // SAFETY: the port belongs to the debug-exit device or to nobody.
    unsafe { Port::new(0xf4).write(code as u8) };
    loop {
        hlt();
    }
}
