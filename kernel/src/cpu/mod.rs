//! One processor: its control registers, tables, traps and interrupt controller; and the data that each CPU has for itself.
//!
//! The per-CPU data is reached through GS: its base holds the address of this CPU's [`Cpu`]. There is no user mode, so GS never
//! changes. All fields are atomics used by their own CPU alone, unless their comment says otherwise, hence Relaxed.
#![expect(unsafe_code, reason = "control registers and the GS base")]

pub mod apic;
mod gdt;
mod idt;
pub mod ioapic;
pub mod trap;

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize};

use x86_64::VirtAddr;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::registers::model_specific::GsBase;

/// The most CPUs that the kernel has data for.
pub const MAX_CPUS: usize = 64;

/// What one CPU knows of itself.
#[repr(C)]
pub struct Cpu {
    /// The address of this very struct: what `gs:[0]` yields.
    this: AtomicPtr<Cpu>,
    /// Its place in the table of CPUs.
    index: AtomicUsize,
    /// The local APIC's id.
    pub apic_id: AtomicU32,
    /// The slot of the thread that runs.
    pub current: AtomicUsize,
    /// The slot of the thread that runs when no other can.
    pub idle: AtomicUsize,
    /// Another thread should run as soon as interrupts allow it.
    pub resched: AtomicBool,
}

impl Cpu {
    const fn new() -> Self {
        Self {
            this: AtomicPtr::new(core::ptr::null_mut()),
            index: AtomicUsize::new(0),
            apic_id: AtomicU32::new(0),
            current: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
            resched: AtomicBool::new(false),
        }
    }

    /// The CPU's place in the table of CPUs; the boot CPU is 0.
    pub fn index(&self) -> usize {
        self.index.load(core::sync::atomic::Ordering::Relaxed)
    }
}

static CPUS: [Cpu; MAX_CPUS] = [const { Cpu::new() }; MAX_CPUS];

/// The CPU that runs this. Only steady while interrupts are off, else the thread may move.
pub fn this() -> &'static Cpu {
    let cpu: *const Cpu;
    // SAFETY: `init` pointed GS at an element of CPUS, whose first word is its own address.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) cpu, options(nostack, preserves_flags, readonly));
        &*cpu
    }
}

/// Sets up the CPU with `index`: per-CPU data, then segments and traps. Needs the heap; `ist_tops` are the ends of the stacks of
/// double fault, NMI and machine check.
pub fn init(index: usize, ist_tops: [VirtAddr; gdt::IST_STACKS]) {
    let cpu = &CPUS[index];
    // Relaxed: this CPU alone reads them.
    cpu.index
        .store(index, core::sync::atomic::Ordering::Relaxed);
    cpu.this.store(
        (&raw const *cpu).cast_mut(),
        core::sync::atomic::Ordering::Relaxed,
    );
    gdt::load(ist_tops);
    GsBase::write(VirtAddr::from_ptr(cpu));
    idt::load();
}

/// How many CPUs run the kernel.
pub fn online() -> usize {
    // Relaxed: a figure for the eye.
    let runs = |cpu: &&Cpu| {
        !cpu.this
            .load(core::sync::atomic::Ordering::Relaxed)
            .is_null()
    };
    CPUS.iter().filter(runs).count()
}

/// Number of [`init`]'s stacks.
pub const IST_STACKS: usize = gdt::IST_STACKS;

/// What the CPU can do, of the things that the kernel turns on only where they exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Ring 0 does not execute user pages.
    pub smep: bool,
    /// Ring 0 does not touch user pages.
    pub smap: bool,
    /// Ring 3 does not read descriptor table registers.
    pub umip: bool,
    /// Pages of 1 GiB.
    pub gib_pages: bool,
    /// The local APIC has an MSR interface.
    pub x2apic: bool,
}

/// Asks CPUID.
pub fn features() -> Features {
    let (one, seven) = (__cpuid_count(1, 0), __cpuid_count(7, 0));
    let extended = __cpuid_count(0x8000_0001, 0);
    Features {
        smep: seven.ebx >> 7 & 1 == 1,
        smap: seven.ebx >> 20 & 1 == 1,
        umip: seven.ecx >> 2 & 1 == 1,
        gib_pages: extended.edx >> 26 & 1 == 1,
        x2apic: one.ecx >> 21 & 1 == 1,
    }
}

/// Turns on NX, write-protect in ring 0, and what [`features`] offers.
pub fn harden() {
    let has = features();
    let mut cr4 = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION;
    cr4.set(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION, has.smep);
    cr4.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, has.smap);
    cr4.set(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, has.umip);
    // SAFETY: paging stays as it is; the kernel has no user mappings, so no access of its own is newly refused, and it
    // writes to no page that is mapped read-only.
    unsafe {
        Efer::update(|f| f.insert(EferFlags::NO_EXECUTE_ENABLE));
        Cr0::update(|f| f.insert(Cr0Flags::WRITE_PROTECT));
        Cr4::update(|f| f.insert(cr4));
    }
}
