//! What happens at a panic: it prints where and why, and ends the machine with [`ExitCode::Panicked`].

#![expect(unsafe_code, reason = "breaks the serial ports' locks")]

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use spin::Once;

use crate::console::{CONSOLE, CONTROL};
use crate::exit::{ExitCode, exit};

static PANICKING: AtomicBool = AtomicBool::new(false);

static HOOK: Once<fn(&PanicInfo<'_>)> = Once::new();

/// Sets what else is done at a panic, after the console has it: for a binary with a reader of its own. Only the first call counts.
/// The hook runs with interrupts off, in whatever state the panic left the machine: it may take no lock and allocate nothing.
pub fn set_hook(hook: fn(&PanicInfo<'_>)) {
    HOOK.call_once(|| hook);
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    x86_64::instructions::interrupts::disable();
    // Relaxed: only this CPU reads what it wrote; the flag guards against a panic inside the printing below.
    if !PANICKING.swap(true, Ordering::Relaxed) {
        // SAFETY: interrupts are off and this CPU will run nothing else.
        unsafe {
            CONSOLE.force_unlock();
            CONTROL.force_unlock();
        }
        crate::println!("\n{info}");
        if let Some(hook) = HOOK.get() {
            hook(info);
        }
    }
    exit(ExitCode::Panicked)
}
