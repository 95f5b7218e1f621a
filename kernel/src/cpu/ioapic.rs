//! The I/O APICs: where lines of devices (global system interrupts) become vectors; and the old PIC, silenced.
//!
//! Found in the MADT. Each has two registers, an index and a window onto the rest; one lock covers the pair. Source: Intel
//! 82093AA datasheet.
#![expect(unsafe_code, reason = "device registers")]

use ::acpi::sdt::madt::{Madt, MadtEntry};
use arrayvec::ArrayVec;
use x86_64::PhysAddr;
use x86_64::instructions::port::Port;

use crate::acpi;
use crate::lock::IrqLock;
use crate::mem::paging::{Cache, map_phys};

const VERSION: u32 = 1;
const REDIRECTION: u32 = 0x10;
const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;
const ACTIVE_LOW: u32 = 1 << 13;

struct IoApic {
    registers: usize,
    first_gsi: u32,
    lines: u32,
}

/// Where an ISA interrupt really arrives.
#[derive(Clone, Copy)]
struct Override {
    isa: u8,
    gsi: u32,
    flags: u16,
}

struct Routes {
    apics: ArrayVec<IoApic, 8>,
    overrides: ArrayVec<Override, 16>,
}

static ROUTES: IrqLock<Routes> = IrqLock::new(Routes {
    apics: ArrayVec::new_const(),
    overrides: ArrayVec::new_const(),
});

/// No I/O APIC has this line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no I/O APIC serves interrupt line {0}")]
pub struct NoSuchLine(pub u32);

/// How a line signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Edge-triggered, active high.
    Edge,
    /// Level-triggered, active low: PCI's INTx.
    Level,
}

impl IoApic {
    fn read(&self, index: u32) -> u32 {
        // SAFETY: the registers are mapped for ever, and the lock of ROUTES makes the pair of accesses one.
        unsafe {
            (self.registers as *mut u32).write_volatile(index);
            ((self.registers + 0x10) as *const u32).read_volatile()
        }
    }

    fn write(&self, index: u32, value: u32) {
        // SAFETY: as in `read`.
        unsafe {
            (self.registers as *mut u32).write_volatile(index);
            ((self.registers + 0x10) as *mut u32).write_volatile(value);
        }
    }

    fn serves(&self, gsi: u32) -> bool {
        (self.first_gsi..self.first_gsi + self.lines).contains(&gsi)
    }
}

/// Masks the PIC and every line of every I/O APIC in the MADT. Without a MADT there are no lines, only MSI.
pub fn init() {
    // SAFETY: masks the two PICs, which nothing here uses.
    unsafe {
        Port::<u8>::new(0x21).write(0xff);
        Port::<u8>::new(0xa1).write(0xff);
    }
    let Some(madt) = acpi::tables().and_then(|t| t.find_table::<Madt>()) else {
        log::warn!("no MADT: devices can interrupt by MSI only");
        return;
    };
    let mut routes = ROUTES.lock();
    madt.get().entries().for_each(|entry| routes.learn(&entry));
}

impl Routes {
    fn learn(&mut self, entry: &MadtEntry<'_>) {
        match entry {
            MadtEntry::IoApic(e) => self.add(e.io_apic_address, e.global_system_interrupt_base),
            MadtEntry::InterruptSourceOverride(e) => {
                let o = Override {
                    isa: e.irq,
                    gsi: e.global_system_interrupt,
                    flags: e.flags,
                };
                // A table with more than 16 overrides names ISA lines that do not exist.
                let _ = self.overrides.try_push(o);
            }
            _ => {}
        }
    }

    fn add(&mut self, address: u32, first_gsi: u32) {
        let Ok(va) = map_phys(PhysAddr::new(u64::from(address)), 4096, Cache::Device) else {
            log::warn!("the I/O APIC at {address:#x} cannot be mapped");
            return;
        };
        let mut apic = IoApic {
            registers: va.as_u64() as usize,
            first_gsi,
            lines: 0,
        };
        apic.lines = (apic.read(VERSION) >> 16 & 0xff) + 1;
        (0..apic.lines).for_each(|line| apic.write(REDIRECTION + 2 * line, MASKED));
        if self.apics.try_push(apic).is_err() {
            log::warn!("more I/O APICs than 8: the one at {address:#x} is left out");
        }
    }
}

/// Leads the line `gsi` to `vector` on the CPU with `apic_id`, unmasked.
pub fn route(gsi: u32, trigger: Trigger, vector: u8, apic_id: u32) -> Result<(), NoSuchLine> {
    let bits = if trigger == Trigger::Level {
        LEVEL | ACTIVE_LOW
    } else {
        0
    };
    program(gsi, bits, vector, apic_id)
}

/// Leads an ISA interrupt (0 to 15) to `vector` on the CPU with `apic_id`, by the MADT's overrides.
pub fn route_isa(isa: u8, vector: u8, apic_id: u32) -> Result<(), NoSuchLine> {
    let found = ROUTES
        .lock()
        .overrides
        .iter()
        .find(|o| o.isa == isa)
        .copied();
    let (gsi, flags) = found.map_or((u32::from(isa), 0), |o| (o.gsi, o.flags));
    let polarity = if flags & 3 == 3 { ACTIVE_LOW } else { 0 };
    let level = if flags >> 2 & 3 == 3 { LEVEL } else { 0 };
    program(gsi, polarity | level, vector, apic_id)
}

fn program(gsi: u32, bits: u32, vector: u8, apic_id: u32) -> Result<(), NoSuchLine> {
    let routes = ROUTES.lock();
    let apic = routes
        .apics
        .iter()
        .find(|a| a.serves(gsi))
        .ok_or(NoSuchLine(gsi))?;
    let at = REDIRECTION + 2 * (gsi - apic.first_gsi);
    apic.write(at + 1, apic_id << 24);
    apic.write(at, bits | u32::from(vector));
    Ok(())
}
