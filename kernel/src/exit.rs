//! Ending the machine: QEMU's `isa-debug-exit`.
//!
//! The device is asynchronous: code after the write still runs for a while, so [`exit`] loops. Without the device the machine
//! just halts, every CPU of it.
#![expect(unsafe_code, reason = "port I/O")]

pub use protocol::exit::Exit as ExitCode;
use x86_64::instructions::port::Port;
use x86_64::instructions::{hlt, interrupts};

/// Ends the machine; never returns.
pub fn exit(code: ExitCode) -> ! {
    interrupts::disable();
    // SAFETY: the port belongs to the debug-exit device or to nobody.
    unsafe { Port::new(protocol::exit::PORT).write(code as u8) };
    crate::panic::stop_machine();
    loop {
        hlt();
    }
}
