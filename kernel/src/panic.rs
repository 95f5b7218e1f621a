//! What happens at a panic: it prints where and why, and ends the machine with [`ExitCode::Panicked`].

#![expect(unsafe_code, reason = "breaks the console's lock")]

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::console::CONSOLE;
use crate::exit::{ExitCode, exit};

static PANICKING: AtomicBool = AtomicBool::new(false);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    x86_64::instructions::interrupts::disable();
    // Relaxed: only this CPU reads what it wrote; the flag guards against a panic inside the printing below.
    if !PANICKING.swap(true, Ordering::Relaxed) {
        // SAFETY: interrupts are off and this CPU will run nothing else.
        unsafe { CONSOLE.force_unlock() };
        crate::println!("\n{info}");
    }
    exit(ExitCode::Panicked)
}
