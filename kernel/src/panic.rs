//! What happens at a panic: it prints where and why, with a backtrace of addresses, and ends the machine with
//! [`ExitCode::Panicked`].
#![expect(unsafe_code, reason = "breaks the console's lock, walks the stack")]

use core::arch::asm;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use spin::Once;
use x86_64::VirtAddr;

use crate::console::{CONSOLE, CONTROL};
use crate::exit::{ExitCode, exit};
use crate::logger;
use crate::mem::paging;

const MAX_FRAMES: usize = 24;

static PANICKING: AtomicBool = AtomicBool::new(false);
static HOOK: Once<fn(&PanicInfo<'_>)> = Once::new();

/// Installs a function that runs before the machine ends for a panic, after the message was printed; the first call counts. It
/// runs with interrupts off and must neither sleep nor allocate.
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
            CONSOLE.break_open();
            CONTROL.break_open();
        }
        logger::print(format_args!("{info}"));
        backtrace();
        if let Some(hook) = HOOK.get() {
            hook(info);
        }
    }
    exit(ExitCode::Panicked)
}

/// Prints the return addresses on the stack, by the chain of frame pointers.
fn backtrace() {
    let mut frame: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack, preserves_flags)) };
    for _ in 0..MAX_FRAMES {
        let Some([next, back]) = read_frame(frame) else {
            return;
        };
        if back == 0 {
            return;
        }
        logger::print(format_args!("  called from {back:#x}"));
        frame = next;
    }
}

/// The saved frame pointer and the return address at `frame`, if that is mapped.
fn read_frame(frame: u64) -> Option<[u64; 2]> {
    let mapped = |at: u64| VirtAddr::try_new(at).is_ok_and(paging::is_mapped);
    let good = frame.is_multiple_of(8) && frame >> 63 == 1 && mapped(frame) && mapped(frame + 15);
    // SAFETY: the 16 bytes are mapped kernel memory; whatever they hold is only printed and checked in the same way.
    good.then(|| unsafe { (frame as *const [u64; 2]).read() })
}
