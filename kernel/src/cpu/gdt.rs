//! Segments and the task state: ring 0 only, and stacks of their own for the traps that must not trust the current one.
#![expect(unsafe_code, reason = "loads segment registers")]

use alloc::boxed::Box;

use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

/// How many traps have a stack of their own.
pub const IST_STACKS: usize = 3;
/// The IST slot (1-based, as the gate holds it) of the double fault: the stack may have overflowed.
pub const IST_DOUBLE_FAULT: u8 = 1;
/// The IST slot of the non-maskable interrupt: it may come at any instruction.
pub const IST_NMI: u8 = 2;
/// The IST slot of the machine check.
pub const IST_MACHINE_CHECK: u8 = 3;

/// Loads a new GDT and TSS on this CPU; they live for ever. Clobbers GS.
pub fn load(ist_tops: [VirtAddr; IST_STACKS]) {
    let mut tss = TaskStateSegment::new();
    let mut stacks = tss.interrupt_stack_table;
    stacks[..IST_STACKS].copy_from_slice(&ist_tops);
    tss.interrupt_stack_table = stacks;
    let tss = Box::leak(Box::new(tss));
    let gdt = Box::leak(Box::new(GlobalDescriptorTable::new()));
    let code = gdt.append(Descriptor::kernel_code_segment());
    let data = gdt.append(Descriptor::kernel_data_segment());
    let task = gdt.append(Descriptor::tss_segment(tss));
    gdt.load();
    // SAFETY: the selectors name descriptors of the table just loaded, of the kinds that the registers want.
    unsafe {
        CS::set_reg(code);
        SS::set_reg(data);
        DS::set_reg(data);
        ES::set_reg(data);
        FS::set_reg(SegmentSelector::NULL);
        GS::set_reg(SegmentSelector::NULL);
        load_tss(task);
    }
}
