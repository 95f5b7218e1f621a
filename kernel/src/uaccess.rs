//! Loads and stores through the kernel's address space that may fail.
//!
//! Each function is a real instruction at a mapped address, so it takes real page faults. When the fault handler cannot satisfy one, it
//! looks whether the instruction lies between `uaccess_begin` and `uaccess_end`; if so it goes on at `uaccess_fault` with the
//! error's code in `rdx`, and the function returns it. The routines push nothing, so that a plain return works from
//! everywhere in them.
#![expect(
    unsafe_code,
    reason = "accesses memory by instructions whose faults are handled"
)]

use core::arch::global_asm;

use mm::addr::PAGE_SIZE;
use mm::aspace::{FaultError, VaRange};
use x86_64::VirtAddr;

use crate::cpu::trap::TrapFrame;
use crate::fault;

global_asm!(
    r#"
    .section .text.uaccess, "ax"
    .balign 16
    .global uaccess_begin, uaccess_end, uaccess_fault
    .global uaccess_load8, uaccess_load64, uaccess_store8, uaccess_store64, uaccess_copy, uaccess_fill
uaccess_begin:
uaccess_load8:
    movzx eax, byte ptr [rdi]
    xor edx, edx
    ret
uaccess_load64:
    mov rax, [rdi]
    xor edx, edx
    ret
uaccess_store8:
    mov [rdi], sil
    xor edx, edx
    ret
uaccess_store64:
    mov [rdi], rsi
    xor edx, edx
    ret
uaccess_copy:                   /* rdi: to, rsi: from, rdx: bytes */
    mov rcx, rdx
    rep movsb
    xor edx, edx
    ret
uaccess_fill:                   /* rdi: to, rsi: byte, rdx: bytes */
    mov rcx, rdx
    mov eax, esi
    rep stosb
    xor edx, edx
    ret
uaccess_end:
uaccess_fault:
    ret
    .text
    "#
);

/// What a routine returns in `rax` and `rdx`.
#[repr(C)]
struct Outcome {
    value: u64,
    error: u64,
}

unsafe extern "sysv64" {
    static uaccess_begin: u8;
    static uaccess_end: u8;
    static uaccess_fault: u8;
    fn uaccess_load8(at: u64) -> Outcome;
    fn uaccess_load64(at: u64) -> Outcome;
    fn uaccess_store8(at: u64, value: u64) -> Outcome;
    fn uaccess_store64(at: u64, value: u64) -> Outcome;
    fn uaccess_copy(to: u64, from: u64, bytes: u64) -> Outcome;
    fn uaccess_fill(to: u64, byte: u64, bytes: u64) -> Outcome;
}

/// Loads the byte at `at`.
///
/// As every function here: called with interrupts on and no spin lock held; takes the locks of a page fault.
///
/// # Errors
/// `NoMapping` outside the window of the kernel's address space, else what the fault could not be satisfied for.
pub fn load8(at: VirtAddr) -> Result<u8, FaultError> {
    let at = check(at, 1)?;
    // SAFETY: the address lies in the window, where a fault is handled or ends the routine with an error.
    decode(unsafe { uaccess_load8(at) }).map(|v| v as u8)
}

/// Loads the 8 bytes at `at`, little-endian, in one access where `at` is aligned.
///
/// # Errors
/// As [`load8`].
pub fn load64(at: VirtAddr) -> Result<u64, FaultError> {
    let at = check(at, 8)?;
    // SAFETY: as in `load8`.
    decode(unsafe { uaccess_load64(at) })
}

/// Stores a byte at `at`.
///
/// # Errors
/// As [`load8`].
pub fn store8(at: VirtAddr, value: u8) -> Result<(), FaultError> {
    let at = check(at, 1)?;
    // SAFETY: as in `load8`; the window holds mapped files, never a Rust object.
    decode(unsafe { uaccess_store8(at, u64::from(value)) }).map(drop)
}

/// Stores 8 bytes at `at`, little-endian, in one access where `at` is aligned.
///
/// # Errors
/// As [`load8`].
pub fn store64(at: VirtAddr, value: u64) -> Result<(), FaultError> {
    let at = check(at, 8)?;
    // SAFETY: as in `store8`.
    decode(unsafe { uaccess_store64(at, value) }).map(drop)
}

/// Copies from the window to `to`.
///
/// # Errors
/// As [`load8`]; a part may have been copied.
pub fn copy_in(to: &mut [u8], from: VirtAddr) -> Result<(), FaultError> {
    let at = check(from, to.len())?;
    // SAFETY: `to` is exclusively ours and the window holds no Rust object; faults as in `load8`.
    decode(unsafe { uaccess_copy(to.as_mut_ptr() as u64, at, to.len() as u64) }).map(drop)
}

/// Copies `from` to the window.
///
/// # Errors
/// As [`load8`]; a part may have been copied.
pub fn copy_out(to: VirtAddr, from: &[u8]) -> Result<(), FaultError> {
    let at = check(to, from.len())?;
    // SAFETY: as in `copy_in`, the other way round.
    decode(unsafe { uaccess_copy(at, from.as_ptr() as u64, from.len() as u64) }).map(drop)
}

/// Stores `byte` in `len` bytes of the window.
///
/// # Errors
/// As [`load8`]; a part may have been filled.
pub fn fill(to: VirtAddr, byte: u8, len: usize) -> Result<(), FaultError> {
    let at = check(to, len)?;
    // SAFETY: as in `store8`.
    decode(unsafe { uaccess_fill(at, u64::from(byte), len as u64) }).map(drop)
}

/// The address as a number, if all `len` bytes lie in the window.
fn check(at: VirtAddr, len: usize) -> Result<u64, FaultError> {
    debug_assert!(
        x86_64::instructions::interrupts::are_enabled(),
        "uaccess with interrupts off"
    );
    let end = VirtAddr::try_new(at.as_u64().wrapping_add((len as u64).max(1)))
        .map_err(|_| FaultError::NoMapping)?;
    let range = VaRange::covering(at, end).filter(|r| r.bytes() <= fault::WINDOW_PAGES * PAGE_SIZE);
    let inside = range.is_some_and(|r| fault::space().window().covers(r));
    if inside {
        Ok(at.as_u64())
    } else {
        Err(FaultError::NoMapping)
    }
}

/// Sends a faulting routine of this module to its error return; false if the instruction is none of them.
pub(crate) fn fix_up(frame: &mut TrapFrame, error: FaultError) -> bool {
    let (begin, end) = (
        (&raw const uaccess_begin) as u64,
        (&raw const uaccess_end) as u64,
    );
    let ours = (begin..end).contains(&frame.rip);
    if ours {
        frame.rip = (&raw const uaccess_fault) as u64;
        frame.rdx = code(error);
    }
    ours
}

/// Every error, at the place of its code less 1.
const ERRORS: [FaultError; 8] = [
    FaultError::NoMapping,
    FaultError::Permission,
    FaultError::OutOfMemory,
    FaultError::NoSpace,
    FaultError::Dying,
    FaultError::TooManyMappings,
    FaultError::Io,
    FaultError::PastEof,
];

fn code(error: FaultError) -> u64 {
    match error {
        FaultError::NoMapping => 1,
        FaultError::Permission => 2,
        FaultError::OutOfMemory => 3,
        FaultError::NoSpace => 4,
        FaultError::Dying => 5,
        FaultError::TooManyMappings => 6,
        FaultError::Io => 7,
        FaultError::PastEof => 8,
    }
}

fn decode(outcome: Outcome) -> Result<u64, FaultError> {
    match outcome.error.checked_sub(1) {
        None => Ok(outcome.value),
        Some(index) => Err(ERRORS[index as usize]),
    }
}
