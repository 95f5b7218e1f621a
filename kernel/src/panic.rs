//! What happens at a panic: it stops the other CPUs, prints where and why, with a backtrace of addresses, and ends the machine with
//! [`ExitCode::Panicked`].
#![expect(unsafe_code, reason = "breaks the console's lock, walks the stack")]

use core::arch::asm;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

use spin::Once;
use x86_64::VirtAddr;

use crate::console::{CONSOLE, CONTROL};
use crate::cpu;
use crate::exit::{ExitCode, exit};
use crate::logger;
use crate::mem::paging;

const MAX_FRAMES: usize = 24;

/// One more than the index of the CPU that panics, or 0.
static PANICKING: AtomicUsize = AtomicUsize::new(0);
/// How many CPUs have stopped for it.
static STOPPED: AtomicUsize = AtomicUsize::new(0);
/// How long the panicking CPU waits for the others to stop, in turns of a loop: the clock may be what is broken.
const STOP_TURNS: u64 = 50_000_000;
static HOOK: Once<fn(&PanicInfo<'_>)> = Once::new();

/// Installs a function that runs before the machine ends for a panic, after the message was printed; the first call counts. It
/// runs with interrupts off and must neither sleep nor allocate.
pub fn set_hook(hook: fn(&PanicInfo<'_>)) {
    HOOK.call_once(|| hook);
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    x86_64::instructions::interrupts::disable();
    if claim() {
        stop_others();
        // SAFETY: interrupts are off, this CPU will run nothing else, and the others have stopped.
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

/// Whether this is the machine's first panic. A later one on another CPU waits here to be stopped; one on the same CPU comes from the
/// printing below, and ends the machine at once.
fn claim() -> bool {
    let me = cpu::index_if_known() + 1;
    // AcqRel: of two CPUs that panic at once one is first.
    match PANICKING.compare_exchange(0, me, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => true,
        Err(first) if first == me => false,
        Err(_) => stop(),
    }
}

/// Stops the other CPUs of a machine that has ended and may be unable to switch itself off. After a panic they have stopped already.
pub(crate) fn stop_machine() {
    if claim() {
        cpu::stop_others();
    }
}

/// Stops the other CPUs by a non-maskable interrupt, wherever they are, so that nothing comes between the lines and the locks that they
/// held can be broken. One that does not stop in time is told.
fn stop_others() {
    let others = cpu::online().saturating_sub(1);
    cpu::stop_others();
    // Acquire: pairs with the Release in `stop`.
    let stopped = || STOPPED.load(Ordering::Acquire);
    let mut turns = 0;
    while stopped() < others && turns < STOP_TURNS {
        core::hint::spin_loop();
        turns += 1;
    }
    if stopped() < others {
        logger::print(format_args!("{} CPUs did not stop", others - stopped()));
    }
}

/// Stops this CPU for ever, if another panics. Called at a non-maskable interrupt.
pub(crate) fn stop_if_told() {
    // Acquire: pairs with `claim`.
    let first = PANICKING.load(Ordering::Acquire);
    if first != 0 && first != cpu::index_if_known() + 1 {
        stop();
    }
}

fn stop() -> ! {
    // Release: pairs with the Acquire in `stop_others`: this CPU writes nothing any more.
    STOPPED.fetch_add(1, Ordering::Release);
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
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
