//! Device interrupts: vectors, their handlers, and the messages and lines that raise them.
//!
//! A driver asks for a vector with [`allocate_vector`] and gives its device either [`msi_message`] (MSI, MSI-X) or a line of the
//! I/O APIC ([`route_line`]). All of them lead to the boot CPU: the devices here interrupt seldom. Handlers run with interrupts off, on the interrupted thread's stack: they do not sleep, do not
//! allocate, and wake threads through `mm::sync`'s wait queues. The end of interrupt is sent after the handler.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu::{self, apic, ioapic};
use crate::lock::IrqLock;

pub use crate::cpu::ioapic::{NoSuchLine, Trigger};

/// What runs on an interrupt.
pub type Handler = &'static (dyn Fn() + Send + Sync);

const FIRST: u8 = 0x20;
const LAST: u8 = 0xef;
/// The vector of the CPU-local timer.
pub(crate) const TIMER_VECTOR: u8 = 0xf0;

/// The vector by which a CPU asks another to look at its run queue.
pub(crate) const RESCHEDULE_VECTOR: u8 = 0xf1;
/// The vector by which a CPU asks others to drop translations.
pub(crate) const SHOOTDOWN_VECTOR: u8 = 0xf2;

const LINES: usize = (LAST - FIRST) as usize + 1;

#[derive(Clone, Copy)]
struct Slot {
    name: &'static str,
    handler: Handler,
}

static SLOTS: IrqLock<[Option<Slot>; LINES]> = IrqLock::new([None; LINES]);
static COUNTS: [AtomicU64; LINES] = [const { AtomicU64::new(0) }; LINES];
static UNEXPECTED: AtomicU64 = AtomicU64::new(0);

/// A vector that belongs to its holder for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vector(u8);

impl Vector {
    /// The number, 0x20 to 0xef.
    pub fn get(self) -> u8 {
        self.0
    }
}

/// All vectors are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no free interrupt vector")]
pub struct NoVector;

/// What a device writes, and where, to raise an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// The address of the message.
    pub address: u64,
    /// The data of the message.
    pub data: u32,
}

/// Takes a free vector for `handler`; `name` appears in [`counts`].
pub fn allocate_vector(name: &'static str, handler: Handler) -> Result<Vector, NoVector> {
    let mut slots = SLOTS.lock();
    let free = slots.iter().position(Option::is_none).ok_or(NoVector)?;
    slots[free] = Some(Slot { name, handler });
    Ok(Vector(FIRST + free as u8))
}

/// The message that raises `vector` on the boot CPU: fixed delivery, edge-triggered.
pub fn msi_message(vector: Vector) -> Msi {
    Msi {
        address: 0xfee0_0000 | u64::from(cpu::boot_apic_id() & 0xff) << 12,
        data: u32::from(vector.0),
    }
}

/// Leads the line `gsi` of the I/O APIC to `vector`.
pub fn route_line(gsi: u32, trigger: Trigger, vector: Vector) -> Result<(), NoSuchLine> {
    ioapic::route(gsi, trigger, vector.0, cpu::boot_apic_id())
}

/// Leads the ISA interrupt `isa` (0 to 15) to `vector`.
pub fn route_isa(isa: u8, vector: Vector) -> Result<(), NoSuchLine> {
    ioapic::route_isa(isa, vector.0, cpu::boot_apic_id())
}

/// Calls `each` with name, vector and number of interrupts of every vector in use.
pub fn counts(mut each: impl FnMut(&'static str, Vector, u64)) {
    let slots = *SLOTS.lock();
    for (i, slot) in slots.iter().enumerate() {
        if let Some(slot) = slot {
            // Relaxed: a figure for the eye.
            each(
                slot.name,
                Vector(FIRST + i as u8),
                COUNTS[i].load(Ordering::Relaxed),
            );
        }
    }
}

/// Runs what belongs to `vector`. Called by the trap entry with interrupts off.
pub(crate) fn dispatch(vector: u8) {
    let _handler = mm::sync::InHandler::enter();
    crate::mem::tlb::leave_idle();
    match vector {
        apic::SPURIOUS_VECTOR => return,
        TIMER_VECTOR => crate::thread::timer_tick(),
        RESCHEDULE_VECTOR => {} // the flag is looked at when the trap ends
        SHOOTDOWN_VECTOR => crate::mem::tlb::answer(),
        FIRST..=LAST => device(vector),
        _ => unexpected(vector),
    }
    apic::end_of_interrupt();
}

fn device(vector: u8) {
    let index = usize::from(vector - FIRST);
    // Relaxed: a figure for the eye.
    COUNTS[index].fetch_add(1, Ordering::Relaxed);
    let slot = SLOTS.lock()[index];
    match slot {
        Some(slot) => (slot.handler)(),
        None => unexpected(vector),
    }
}

fn unexpected(vector: u8) {
    // Relaxed: a figure for the eye; only the first is told, a storm would drown the console.
    if UNEXPECTED.fetch_add(1, Ordering::Relaxed) == 0 {
        log::warn!("interrupt {vector:#x} has no handler");
    }
}
