//! From either entry to the binary's `main`: the order in which the machine comes up.
#![expect(unsafe_code, reason = "calls the binary's main by its symbol")]

use spin::Once;

use crate::boot::BootInfo;
use crate::exit::{ExitCode, exit};
use crate::{fw_cfg, logger};

static BOOT_INFO: Once<BootInfo> = Once::new();

unsafe extern "Rust" {
    /// The binary's `main`, defined by [`crate::entry!`].
    safe fn holdfast_main() -> ExitCode;
}

/// What the boot path handed over.
///
/// # Panics
/// Before [`start`], which is before any other code of the kernel.
pub fn boot_info() -> &'static BootInfo {
    BOOT_INFO
        .get()
        .expect("the boot information is set before anything else runs")
}

/// Brings the machine up and runs the binary's `main`; both entries end here, on the boot stack, with interrupts off.
pub fn start(info: BootInfo) -> ! {
    BOOT_INFO.call_once(|| info);
    let mut line = [0; 4096];
    logger::init(cmdline(&mut line));
    log::info!(
        "entered by {:?}, {} MiB of RAM",
        boot_info().entry,
        boot_info().memory.ram_bytes() >> 20
    );
    exit(holdfast_main())
}

/// The command line, or nothing where there is none or it is not text.
fn cmdline(buf: &mut [u8]) -> &str {
    fw_cfg::read_into(fw_cfg::CMDLINE, buf)
        .ok()
        .and_then(|b| str::from_utf8(b).ok())
        .unwrap_or("")
}
