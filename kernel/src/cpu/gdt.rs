//! Segments and the task state: ring 0 only, and stacks of their own for the traps that must not trust the current one.
#![expect(unsafe_code, reason = "loads segment registers")]

use alloc::boxed::Box;

use mm::mem::{OutOfMemory, try_box};
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

/// One CPU's descriptor table, which lives for ever.
pub struct Segments {
    table: GlobalDescriptorTable,
    code: SegmentSelector,
    data: SegmentSelector,
    task: SegmentSelector,
}

impl Segments {
    /// Makes a table for a CPU whose trap stacks end at `ist_tops`.
    pub fn new(ist_tops: [VirtAddr; IST_STACKS]) -> Result<&'static Self, OutOfMemory> {
        let mut tss = TaskStateSegment::new();
        let mut stacks = tss.interrupt_stack_table;
        stacks[..IST_STACKS].copy_from_slice(&ist_tops);
        tss.interrupt_stack_table = stacks;
        let tss = Box::leak(try_box(tss)?);
        let mut table = GlobalDescriptorTable::new();
        let code = table.append(Descriptor::kernel_code_segment());
        let data = table.append(Descriptor::kernel_data_segment());
        let task = table.append(Descriptor::tss_segment(tss));
        Ok(Box::leak(try_box(Self {
            table,
            code,
            data,
            task,
        })?))
    }

    /// Loads the table on this CPU, which no other CPU has done. Clobbers GS.
    pub fn load(&'static self) {
        self.table.load();
        // SAFETY: the selectors name descriptors of the table just loaded, of the kinds that the registers want.
        unsafe {
            CS::set_reg(self.code);
            SS::set_reg(self.data);
            DS::set_reg(self.data);
            ES::set_reg(self.data);
            FS::set_reg(SegmentSelector::NULL);
            GS::set_reg(SegmentSelector::NULL);
            load_tss(self.task);
        }
    }
}
