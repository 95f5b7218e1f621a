//! The local APIC of this CPU, and what it sends to the others: by MSRs (x2APIC) where CPUID offers that, else by its page of registers (xAPIC).
//!
//! Registers are named by their xAPIC offset; the MSR is `0x800 + offset / 16`. Source: Intel SDM volume 3, chapter 11.
#![expect(unsafe_code, reason = "device registers")]

use spin::Once;
use x86_64::PhysAddr;
use x86_64::registers::model_specific::{ApicBase, ApicBaseFlags, Msr};

use crate::lock::IrqOff;
use crate::mem::paging::{Cache, map_phys};

const ID: u32 = 0x20;
const EOI: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const LVT_TIMER: u32 = 0x320;
const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
const LVT_ERROR: u32 = 0x370;
const TIMER_INITIAL: u32 = 0x380;
const TIMER_CURRENT: u32 = 0x390;
const TIMER_DIVIDE: u32 = 0x3e0;
const COMMAND: u32 = 0x300;
const COMMAND_TO: u32 = 0x310;

/// Delivery modes and the level bit of an interrupt command.
const ASSERT: u32 = 1 << 14;
const NMI: u32 = 4 << 8;
const INIT: u32 = 5 << 8;
const STARTUP: u32 = 6 << 8;
const PENDING: u32 = 1 << 12;

const MASKED: u32 = 1 << 16;
const ENABLE: u32 = 1 << 8;
const DIVIDE_BY_1: u32 = 0b1011;

/// The vector of spurious interrupts: needs no end of interrupt.
pub const SPURIOUS_VECTOR: u8 = 0xff;

enum Access {
    /// The registers' address.
    Page(usize),
    Msrs,
}

static ACCESS: Once<Access> = Once::new();

/// Why the local APIC is not usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApicError {
    /// Its page of registers could not be mapped.
    #[error("the local APIC's registers cannot be mapped: {0}")]
    Map(#[from] crate::mem::paging::MapPhysError),
}

/// Turns this CPU's local APIC on, all local sources masked.
pub fn init() -> Result<(), ApicError> {
    let access = ACCESS.try_call_once(detect)?;
    if matches!(access, Access::Msrs) {
        let (frame, flags) = ApicBase::read();
        // SAFETY: CPUID offers x2APIC; the base stays as it is.
        unsafe {
            ApicBase::write(
                frame,
                flags | ApicBaseFlags::LAPIC_ENABLE | ApicBaseFlags::X2APIC_ENABLE,
            )
        };
    }
    [LVT_TIMER, LVT_LINT0, LVT_LINT1, LVT_ERROR]
        .into_iter()
        .for_each(|r| write(r, MASKED));
    write(TIMER_DIVIDE, DIVIDE_BY_1);
    write(SPURIOUS, ENABLE | u32::from(SPURIOUS_VECTOR));
    Ok(())
}

fn detect() -> Result<Access, ApicError> {
    if super::features().x2apic {
        return Ok(Access::Msrs);
    }
    let base: PhysAddr = ApicBase::read().0.start_address();
    Ok(Access::Page(
        map_phys(base, 4096, Cache::Device)?.as_u64() as usize
    ))
}

/// This CPU's APIC id.
pub fn id() -> u32 {
    let raw = read(ID);
    if matches!(ACCESS.get(), Some(Access::Page(_))) {
        raw >> 24
    } else {
        raw
    }
}

/// Whether an interrupt can be sent to the CPU with this id.
pub fn reaches(id: u32) -> bool {
    id < u8::MAX.into() || matches!(ACCESS.get(), Some(Access::Msrs))
}

/// Resets the CPU with this id, which then waits for a start-up interrupt.
pub(super) fn send_init(id: u32) {
    command(id, INIT | ASSERT);
}

/// Starts a CPU that was reset, in real mode at the page `page`.
pub(super) fn send_startup(id: u32, page: u8) {
    command(id, STARTUP | ASSERT | u32::from(page));
}

/// Sends `vector` to the CPU with this id. What the sender has written before is visible to the handler.
pub(super) fn send(id: u32, vector: u8) {
    command(id, ASSERT | u32::from(vector));
}

/// Sends a non-maskable interrupt to the CPU with this id.
pub(super) fn send_nmi(id: u32) {
    command(id, NMI | ASSERT);
}

fn command(id: u32, what: u32) {
    // The two registers of the xAPIC are one command: no handler may come in between.
    let _irq = IrqOff::new();
    match ACCESS.get() {
        Some(Access::Page(_)) => {
            while read(COMMAND) & PENDING != 0 {
                core::hint::spin_loop();
            }
            write(COMMAND_TO, id << 24);
            write(COMMAND, what);
        }
        Some(Access::Msrs) => {
            // SAFETY: x2APIC mode is on and the MSR is the command register. Writes to it are not ordered after earlier stores
            // by themselves (SDM volume 3, 11.12.3), hence the fences.
            unsafe {
                core::arch::asm!("mfence", "lfence", options(nostack, preserves_flags));
                Msr::new(0x800 + COMMAND / 16).write(u64::from(id) << 32 | u64::from(what));
            }
        }
        None => {}
    }
}

/// Tells the APIC that the interrupt in service is done.
pub fn end_of_interrupt() {
    write(EOI, 0);
}

/// Fires `vector` once after `ticks` of the APIC's clock; 0 disarms.
pub fn arm_timer(vector: u8, ticks: u32) {
    write(LVT_TIMER, u32::from(vector));
    write(TIMER_INITIAL, ticks);
}

/// What is left of the armed time, in ticks.
pub fn timer_left() -> u32 {
    read(TIMER_CURRENT)
}

fn read(register: u32) -> u32 {
    match ACCESS.get() {
        // SAFETY: the page is mapped for ever and the offset is that of a register.
        Some(Access::Page(base)) => unsafe {
            ((base + register as usize) as *const u32).read_volatile()
        },
        // SAFETY: x2APIC mode is on; the MSR is that of a readable register.
        Some(Access::Msrs) => unsafe { Msr::new(0x800 + register / 16).read() as u32 },
        None => 0,
    }
}

fn write(register: u32, value: u32) {
    match ACCESS.get() {
        // SAFETY: as in `read`; the values written come from this module.
        Some(Access::Page(base)) => unsafe {
            ((base + register as usize) as *mut u32).write_volatile(value)
        },
        // SAFETY: as in `read`.
        Some(Access::Msrs) => unsafe { Msr::new(0x800 + register / 16).write(u64::from(value)) },
        None => {}
    }
}
