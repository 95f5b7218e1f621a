//! The address spaces and their page faults.
//!
//! One [`AddressSpace`] lives in the lower half of the kernel's own table; others have roots of their own, and all have the same window. A thread
//! is in one of them. A fault at an address of the window, from a thread with interrupts on, is
//! handled on that thread's stack with interrupts on again: the handler takes sleeping locks and waits like any other
//! code. A fault that cannot be satisfied ends the access with an error if `uaccess` made it; from anywhere else, and
//! for every other address, it is the kernel's own mistake and a panic.
//!
//! All mappings are supervisor-only, so SMAP and SMEP do not stand in the way.
#![expect(
    unsafe_code,
    reason = "the address space lives in the running page table"
)]

use alloc::sync::Arc;
use core::fmt;

use mm::aspace::{Access, AddressSpace, FaultError, VaRange};
use mm::mem::OutOfMemory;
use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::interrupts;
use x86_64::registers::control::Cr2;

use crate::cpu::trap::TrapFrame;
use crate::mem::paging::{self, TableMem};
use crate::mem::tlb::MachineTlb;
use crate::{thread, uaccess};

/// Where mapped files lie.
pub const WINDOW_START: u64 = 0x0000_1000_0000_0000;
/// How many pages the window has: 16 TiB.
pub const WINDOW_PAGES: u64 = (16 << 40) >> 12;

static SPACE: Once<Arc<AddressSpace>> = Once::new();

/// The kernel's address space.
///
/// # Panics
/// Before the machine is up.
pub fn space() -> &'static Arc<AddressSpace> {
    SPACE
        .get()
        .expect("the address space is made before the first thread")
}

/// The address space of the running thread: the kernel's own, unless it was made by `thread::spawn_in`.
pub fn current_space() -> Arc<AddressSpace> {
    thread::with_space(Arc::clone)
}

/// A new address space with a root table of its own, whose upper half is the kernel's. Its window is that of the kernel's own space.
///
/// Threads enter it by `thread::spawn_in` alone, and each holds a reference, so that when the last reference goes no CPU is on its root: a
/// CPU is on a root only while it runs a thread of that space (an idle one is on the kernel's root).
///
/// # Errors
/// `OutOfMemory` if there is none for it.
pub fn new_space() -> Result<Arc<AddressSpace>, OutOfMemory> {
    AddressSpace::new(Arc::new(TableMem), Arc::new(MachineTlb), window())
}

fn window() -> VaRange {
    VaRange::new(VirtAddr::new(WINDOW_START), WINDOW_PAGES).expect("the window is a range")
}

/// Makes the kernel's own address space.
pub(crate) fn init() -> Result<(), OutOfMemory> {
    let root = paging::kernel().root();
    // SAFETY: the root and its tables are never freed, and nothing else maps below the higher half.
    let space = unsafe {
        AddressSpace::with_root(Arc::new(TableMem), Arc::new(MachineTlb), root, window())
    }?;
    SPACE.call_once(|| space);
    Ok(())
}

/// Handles a page fault, or panics. Entered with interrupts off.
pub(crate) fn page_fault(frame: &mut TrapFrame) {
    let raw = Cr2::read_raw();
    match VirtAddr::try_new(raw).ok().filter(|&va| is_ours(va, frame)) {
        Some(va) => in_window(va, frame),
        None => die(frame, raw, None),
    }
}

/// Whether the address space answers for this fault. A set reserved bit in an entry is corruption, whatever the address.
fn is_ours(va: VirtAddr, frame: &TrapFrame) -> bool {
    let in_window = SPACE.get().is_some_and(|s| s.window().contains(va));
    in_window && frame.interrupts_were_on() && frame.error & RESERVED == 0
}

fn in_window(va: VirtAddr, frame: &mut TrapFrame) {
    let access = access(frame.error);
    interrupts::enable();
    let done = thread::with_space(|space| space.handle_fault(va, access));
    interrupts::disable();
    if let Err(error) = done
        && !uaccess::fix_up(frame, error)
    {
        die(frame, va.as_u64(), Some(error));
    }
}

const PROTECTION: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const RESERVED: u64 = 1 << 3;
const FETCH: u64 = 1 << 4;

fn access(error: u64) -> Access {
    match (error & WRITE != 0, error & FETCH != 0) {
        (true, _) => Access::Write,
        (false, true) => Access::Execute,
        (false, false) => Access::Read,
    }
}

/// A page fault's error code in words.
struct InWords(u64);

impl fmt::Display for InWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match access(self.0) {
            Access::Read => "load from",
            Access::Write => "store to",
            Access::Execute => "execution of",
        })?;
        f.write_str(match (self.0 & RESERVED != 0, self.0 & PROTECTION != 0) {
            (true, _) => " a corrupt page-table entry at",
            (_, true) => " a page that forbids it at",
            (_, false) => " an unmapped page at",
        })
    }
}

fn die(frame: &TrapFrame, va: u64, error: Option<FaultError>) -> ! {
    let what = InWords(frame.error);
    if frame.vector == 14
        && frame.error & PROTECTION == 0
        && thread::guard_page_of(VirtAddr::new_truncate(va)).is_some()
    {
        panic!(
            "stack overflow: {what} {va:#x}, by {:#x}\n{frame}",
            frame.rip
        );
    }
    let who = thread::current_name();
    match error {
        Some(e) => panic!(
            "page fault: {what} {va:#x} ({e}), by {:#x} in thread {who}\n{frame}",
            frame.rip
        ),
        None => panic!(
            "page fault: {what} {va:#x}, by {:#x} in thread {who}\n{frame}",
            frame.rip
        ),
    }
}
