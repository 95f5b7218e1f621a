//! The interrupt descriptor table and the 256 entry stubs.
//!
//! Each stub makes the frame uniform (a zero where the CPU pushes no error code), pushes its vector and jumps to the common
//! part, which saves all general registers and calls `trap_entry` with a pointer to them. The kernel is soft-float: there is no
//! other state. The CPU aligns the stack to 16 before it pushes 5 words; with error code, vector and 15 registers that is 22
//! words, so the call happens on an aligned stack.
#![expect(unsafe_code, reason = "entry stubs and the table register")]

use core::arch::global_asm;

use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, Segment};
use x86_64::instructions::tables::lidt;
use x86_64::structures::DescriptorTablePointer;

use super::gdt;
use super::trap::trap_entry;

const VECTORS: usize = 256;
const STUB_BYTES: u64 = 16;

global_asm!(
    r#"
    .section .text.trap_stubs, "ax"
    .balign 16
    .global trap_stubs
trap_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if !((vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30))
    pushq $0
    .endif
    pushq $vector
    jmp trap_common
    .set vector, vector + 1
    .endr

    .balign 16
trap_common:
    pushq %rax
    pushq %rbx
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %rbp
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    movq %rsp, %rdi
    call {entry}
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rbp
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rbx
    popq %rax
    addq $16, %rsp
    iretq
    .text
    "#,
    entry = sym trap_entry,
    options(att_syntax)
);

unsafe extern "C" {
    static trap_stubs: u8;
}

/// A 64-bit interrupt gate.
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    offset_low: u16,
    selector: u16,
    ist: u8,
    kind: u8,
    offset_mid: u16,
    offset_high: u32,
    reserved: u32,
}

impl Gate {
    /// A present gate for ring 0 that turns interrupts off.
    fn new(handler: u64, selector: u16, ist: u8) -> Self {
        Self {
            offset_low: handler as u16,
            selector,
            ist,
            kind: 0x8e,
            offset_mid: (handler >> 16) as u16,
            offset_high: (handler >> 32) as u32,
            reserved: 0,
        }
    }
}

/// The table of all CPUs.
static TABLE: Once<[Gate; VECTORS]> = Once::new();

/// Loads the table on this CPU. All CPUs share it: their code selectors are the same.
pub fn load() {
    let stubs = (&raw const trap_stubs) as u64;
    let selector = CS::get_reg().0;
    let gate =
        |vector: usize| Gate::new(stubs + vector as u64 * STUB_BYTES, selector, ist_of(vector));
    let table = TABLE.call_once(|| core::array::from_fn(gate));
    let pointer = DescriptorTablePointer {
        limit: (size_of_val(table) - 1) as u16,
        base: VirtAddr::from_ptr(table),
    };
    // SAFETY: the table is never freed, and each gate leads to a stub.
    unsafe { lidt(&pointer) };
}

fn ist_of(vector: usize) -> u8 {
    match vector {
        2 => gdt::IST_NMI,
        8 => gdt::IST_DOUBLE_FAULT,
        18 => gdt::IST_MACHINE_CHECK,
        _ => 0,
    }
}
