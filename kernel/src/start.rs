//! From either entry to the binary's `main`: the order in which the machine comes up.
#![expect(unsafe_code, reason = "calls the binary's main by its symbol")]

use alloc::string::String;

use protocol::cmdline::CommandLine;
use spin::Once;

use crate::boot::BootInfo;
use crate::cpu::{self, apic, ioapic, smp};
use crate::exit::{ExitCode, exit};
use crate::mem::{frames, heap, paging, tlb};
use crate::{console, fault, fw_cfg, logger, pmem, thread, time};

static BOOT_INFO: Once<BootInfo> = Once::new();
static CMDLINE: Once<String> = Once::new();

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

/// The kernel's command line, as the driver wrote it; empty if there is none.
pub fn cmdline() -> CommandLine<'static> {
    CommandLine::parse(CMDLINE.get().map_or("", String::as_str), |_| {})
}

/// Brings the machine up and runs the binary's `main`; both entries end here, on the boot path's stack and page tables,
/// with interrupts off.
pub fn start(info: BootInfo) -> ! {
    let boot = BOOT_INFO.call_once(|| info);
    early_log();
    log::info!(
        "entered by {:?}, {} MiB of RAM",
        boot.entry,
        boot.memory.ram_bytes() >> 20
    );
    cpu::harden();
    frames::init_early(boot);
    paging::build(boot);
    let stack = thread::map_idle(0).expect("memory for the boot stack");
    paging::enter(stack.top(), on_own_tables)
}

/// Starts the log before there is a heap.
fn early_log() {
    let mut buf = [0; 4096];
    let text = fw_cfg::read_into(fw_cfg::CMDLINE, &mut buf)
        .ok()
        .and_then(|b| str::from_utf8(b).ok());
    let line = CommandLine::parse(text.unwrap_or(""), |_| {});
    logger::init(&line);
}

/// Goes on, on the kernel's own page tables and stack.
extern "sysv64" fn on_own_tables() -> ! {
    frames::init(boot_info());
    heap::init();
    CMDLINE.call_once(|| fw_cfg::read_text(fw_cfg::CMDLINE).unwrap_or_default());
    CommandLine::parse(CMDLINE.get().map_or("", String::as_str), |word| {
        log::warn!("unknown word {word:?} on the command line")
    });
    cpu::prepare(0).expect("memory for the traps' stacks");
    cpu::init(0);
    tlb::run_on(paging::kernel().root());
    thread::init();
    interrupt_controllers();
    time::init();
    cpu::go_online();
    fault::init().expect("memory for the address space");
    smp::start_others();
    console::listen();
    thread::spawn("main", main).expect("memory for the first thread");
    thread::idle()
}

/// The first thread: what needs a thread to come up, then the binary's `main`.
fn main() {
    pmem::init();
    exit(holdfast_main())
}

fn interrupt_controllers() {
    apic::init().expect("a local APIC");
    ioapic::init();
}
