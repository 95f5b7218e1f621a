//! What happens after a trap's entry stub: interrupts are dispatched, page faults handled, other exceptions told in words.

use core::fmt;

use x86_64::registers::control::Cr2;
use x86_64::registers::rflags::RFlags;

use crate::{irq, thread};

/// The registers at a trap, as the entry stub and the CPU pushed them.
#[derive(Clone, Debug)]
#[repr(C)]
#[expect(
    missing_docs,
    reason = "the fields are the registers that they are named after"
)]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

impl TrapFrame {
    /// Whether the interrupted code had interrupts on.
    pub fn interrupts_were_on(&self) -> bool {
        RFlags::from_bits_truncate(self.rflags).contains(RFlags::INTERRUPT_FLAG)
    }
}

impl fmt::Display for TrapFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = self;
        writeln!(
            f,
            "rip {:016x}  rsp {:016x}  rflags {:08x}  error {:x}",
            r.rip, r.rsp, r.rflags, r.error
        )?;
        writeln!(
            f,
            "rax {:016x}  rbx {:016x}  rcx {:016x}  rdx {:016x}",
            r.rax, r.rbx, r.rcx, r.rdx
        )?;
        writeln!(
            f,
            "rsi {:016x}  rdi {:016x}  rbp {:016x}  r8  {:016x}",
            r.rsi, r.rdi, r.rbp, r.r8
        )?;
        writeln!(
            f,
            "r9  {:016x}  r10 {:016x}  r11 {:016x}  r12 {:016x}",
            r.r9, r.r10, r.r11, r.r12
        )?;
        write!(
            f,
            "r13 {:016x}  r14 {:016x}  r15 {:016x}",
            r.r13, r.r14, r.r15
        )
    }
}

/// Where every entry stub ends: interrupts are off, the frame lies on the current stack.
pub(super) extern "C" fn trap_entry(frame: &mut TrapFrame) {
    match frame.vector {
        14 => crate::fault::page_fault(frame),
        2 => {
            crate::panic::stop_if_told();
            fatal(frame)
        }
        0..=31 => fatal(frame),
        vector => irq::dispatch(vector as u8),
    }
    if frame.interrupts_were_on() {
        thread::preempt();
    }
}

/// Panics with the exception in words.
fn fatal(frame: &TrapFrame) -> ! {
    let (name, what) = describe(frame.vector);
    if let (8, Some(owner)) = (
        frame.vector,
        Cr2::read().ok().and_then(thread::guard_page_of),
    ) {
        panic!(
            "stack overflow in thread {owner}, at {:#x}\n{frame}",
            frame.rip
        );
    }
    panic!(
        "{name} ({what}) at {:#x} in thread {}, error {:#x}\n{frame}",
        frame.rip,
        thread::current_name(),
        frame.error
    )
}

fn describe(vector: u64) -> (&'static str, &'static str) {
    match vector {
        0 => ("#DE", "division by zero or overflow"),
        1 => ("#DB", "debug trap"),
        2 => ("NMI", "non-maskable interrupt"),
        3 => ("#BP", "breakpoint"),
        4 => ("#OF", "overflow"),
        5 => ("#BR", "bound exceeded"),
        6 => ("#UD", "invalid instruction"),
        7 => ("#NM", "no floating point unit"),
        8 => ("#DF", "double fault"),
        10 => ("#TS", "invalid task state"),
        11 => ("#NP", "segment not present"),
        12 => ("#SS", "stack segment fault"),
        13 => ("#GP", "general protection"),
        16 => ("#MF", "floating point error"),
        17 => ("#AC", "alignment check"),
        18 => ("#MC", "machine check"),
        19 => ("#XM", "SIMD floating point error"),
        20 => ("#VE", "virtualization exception"),
        21 => ("#CP", "control protection"),
        _ => ("reserved exception", "unknown"),
    }
}
