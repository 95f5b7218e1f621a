//! One processor: its control registers, tables, traps and interrupt controller; and the data that each CPU has for itself.
//!
//! The per-CPU data is reached through GS: its base holds the address of this CPU's [`Cpu`]. There is no user mode, so GS never
//! changes. All fields are atomics used by their own CPU alone, unless their comment says otherwise, hence Relaxed. How the other CPUs come up
//! is told in [`smp`].
#![expect(unsafe_code, reason = "control registers and the GS base")]

pub mod apic;
mod gdt;
mod idt;
pub mod ioapic;
pub mod smp;
pub mod stats;
mod trampoline;
pub mod trap;

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use mm::mem::OutOfMemory;
use spin::Once;
use x86_64::VirtAddr;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::registers::model_specific::GsBase;

use crate::lock::IrqOff;
use crate::thread;

/// The most CPUs that the kernel has data for.
pub const MAX_CPUS: usize = 64;

/// What one CPU knows of itself.
#[repr(C, align(128))]
pub struct Cpu {
    /// The address of this very struct: what `gs:[0]` yields.
    this: AtomicPtr<Cpu>,
    /// Its place in the table of CPUs.
    index: AtomicUsize,
    /// The local APIC's id. Written before the CPU counts as online, hence Relaxed for those that have seen that.
    pub(crate) apic_id: AtomicU32,
    /// The number of the thread that runs.
    current: AtomicU64,
    /// Another thread should run as soon as interrupts allow it. Set by any CPU; see `thread::sched`.
    pub(crate) resched: AtomicBool,
    /// How many [`Steady`] the running thread has.
    steady: AtomicU32,
    /// Its segments, made before it starts.
    segments: Once<&'static gdt::Segments>,
}

impl Cpu {
    const fn new() -> Self {
        Self {
            this: AtomicPtr::new(core::ptr::null_mut()),
            index: AtomicUsize::new(0),
            apic_id: AtomicU32::new(0),
            current: AtomicU64::new(0),
            resched: AtomicBool::new(false),
            steady: AtomicU32::new(0),
            segments: Once::new(),
        }
    }

    /// The CPU's place in the table of CPUs; the boot CPU is 0.
    pub fn index(&self) -> usize {
        self.index.load(Ordering::Relaxed)
    }

    /// Whether the running thread may give way.
    pub(crate) fn may_switch(&self) -> bool {
        self.steady.load(Ordering::Relaxed) == 0
    }
}

static CPUS: [Cpu; MAX_CPUS] = [const { Cpu::new() }; MAX_CPUS];
static ONLINE: AtomicUsize = AtomicUsize::new(0);

/// The CPU that runs this. Only steady while interrupts are off, else the thread may move.
pub fn this() -> &'static Cpu {
    let cpu: *const Cpu;
    // SAFETY: `init` pointed GS at an element of CPUS, whose first word is its own address.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) cpu, options(nostack, preserves_flags, readonly));
        &*cpu
    }
}

/// The number of the thread that runs this: one load, so it is right with interrupts on, too.
pub(crate) fn current_thread() -> u64 {
    let number: u64;
    // SAFETY: as in `this`; reads a field of this CPU's `Cpu`.
    unsafe {
        asm!("mov {}, gs:[{at}]", out(reg) number, at = const core::mem::offset_of!(Cpu, current),
            options(nostack, preserves_flags, readonly));
    }
    number
}

/// The thread with this number runs here from now on. Interrupts are off.
pub(crate) fn set_current_thread(number: u64) {
    // Relaxed: read by this CPU alone.
    this().current.store(number, Ordering::Relaxed);
}

/// The running thread stays on this CPU, and no other runs here, while this lives. Interrupts stay as they are. It must not sleep.
pub struct Steady {
    cpu: usize,
}

impl Steady {
    /// Lets the thread stay.
    #[expect(clippy::new_without_default, reason = "it has an effect")]
    pub fn new() -> Self {
        let _irq = IrqOff::new();
        let cpu = this();
        // Relaxed: this CPU's own, interrupts off.
        cpu.steady
            .store(cpu.steady.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        Self { cpu: cpu.index() }
    }

    /// The index of the CPU.
    pub fn cpu(&self) -> usize {
        self.cpu
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        let irq = IrqOff::new();
        let cpu = this();
        // Relaxed: as in `new`.
        cpu.steady
            .store(cpu.steady.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
        if irq.were_on() {
            thread::preempt();
        }
    }
}

/// Interrupts the CPU with `index` with `vector`.
pub(crate) fn interrupt(index: usize, vector: u8) {
    let _irq = IrqOff::new();
    stats::of(this().index()).ipi();
    // Relaxed: written before the CPU came online.
    apic::send(CPUS[index].apic_id.load(Ordering::Relaxed), vector);
}

/// The index of this CPU; 0 before it has any data of its own. For the panic handler.
pub(crate) fn index_if_known() -> usize {
    if GsBase::read().is_null() {
        0
    } else {
        this().index()
    }
}

/// Sends the other CPUs a non-maskable interrupt. For the panic handler.
pub(crate) fn stop_others() {
    let me = index_if_known();
    // Relaxed: written before the CPU came online.
    let ids = CPUS[..online()].iter().enumerate();
    ids.filter(|&(i, _)| i != me)
        .for_each(|(_, cpu)| apic::send_nmi(cpu.apic_id.load(Ordering::Relaxed)));
}

/// Lets another CPU look at its queue.
pub(crate) fn poke(index: usize) {
    // AcqRel: pairs with the swaps in `thread::preempt` and in the scheduler: what was queued before is found. If the flag
    // was set, its owner will look yet.
    if !CPUS[index].resched.swap(true, Ordering::AcqRel) {
        interrupt(index, crate::irq::RESCHEDULE_VECTOR);
    }
}

/// Makes what the CPU with `index` needs before it can run: trap stacks and segments.
pub(crate) fn prepare(index: usize) -> Result<(), OutOfMemory> {
    CPUS[index].segments.try_call_once(|| {
        let mut tops = [VirtAddr::zero(); gdt::IST_STACKS];
        for (i, top) in tops.iter_mut().enumerate() {
            *top = VirtAddr::new(thread::map_ist(index, i)?.top());
        }
        gdt::Segments::new(tops)
    })?;
    Ok(())
}

/// Sets up the running CPU as the one with `index`, for which [`prepare`] was called: per-CPU data, segments, traps.
pub(crate) fn init(index: usize) {
    let cpu = &CPUS[index];
    // Relaxed, both: this CPU alone reads them.
    cpu.index.store(index, Ordering::Relaxed);
    cpu.this
        .store((&raw const *cpu).cast_mut(), Ordering::Relaxed);
    cpu.segments.get().expect("the CPU was prepared").load();
    GsBase::write(VirtAddr::from_ptr(cpu));
    idt::load();
}

/// Counts the running CPU, which is the next in the table, as online: the others may now interrupt it.
pub(crate) fn go_online() {
    // Relaxed: published by the next line.
    this().apic_id.store(apic::id(), Ordering::Relaxed);
    // Release: pairs with the Acquire in `online`; all that the CPU has set up is seen by who counts it.
    ONLINE.fetch_add(1, Ordering::Release);
}

/// How many CPUs run the kernel. Their indices are 0 up to this, once all that were started have come in.
pub fn online() -> usize {
    // Acquire: pairs with the Release in `go_online`.
    ONLINE.load(Ordering::Acquire)
}

/// The local APIC's id of the CPU that booted: where the interrupts of devices go.
pub(crate) fn boot_apic_id() -> u32 {
    // Relaxed: written before there were others.
    CPUS[0].apic_id.load(Ordering::Relaxed)
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
