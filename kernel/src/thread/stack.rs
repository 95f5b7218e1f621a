//! Kernel stacks, each below unmapped memory: an overflow is a fault, never a silent overwrite.
//!
//! The area is cut into strides, one for each slot. A stack lies at the end of its stride, and all below it in the stride is
//! unmapped: at least 7 times its own size. Slots beyond the threads' belong to the CPUs (stacks of double fault and the like).

use mm::addr::{PAGE_SIZE, VirtAddr};
use mm::mem::OutOfMemory;

use super::table::SLOTS as THREAD_SLOTS;
use crate::cpu::{IST_STACKS, MAX_CPUS};
use crate::mem::{frames, paging};

const AREA: u64 = 0xffff_c000_0000_0000;
const STRIDE: u64 = 1 << 20;
/// The size of a stack in bytes.
pub const STACK_BYTES: u64 = 128 << 10;
const SLOTS: u64 = (THREAD_SLOTS + MAX_CPUS * IST_STACKS) as u64;

/// A mapped stack.
#[derive(Debug)]
pub struct Stack {
    top: u64,
}

impl Stack {
    /// One past its highest byte, aligned to a page.
    pub fn top(&self) -> u64 {
        self.top
    }
}

/// Maps the stack of `slot` with new frames. What was mapped stays when memory runs out, and the next call goes on from there: kernel
/// mappings are never taken back.
pub fn map(slot: usize) -> Result<Stack, OutOfMemory> {
    let top = AREA + (slot as u64 + 1) * STRIDE;
    (1..=STACK_BYTES / PAGE_SIZE).try_for_each(|page| map_page(top - page * PAGE_SIZE))?;
    Ok(Stack { top })
}

/// Maps the stack number `which` of CPU `cpu`'s traps.
pub fn map_ist(cpu: usize, which: usize) -> Result<Stack, OutOfMemory> {
    map(THREAD_SLOTS + cpu * IST_STACKS + which)
}

fn map_page(va: u64) -> Result<(), OutOfMemory> {
    let va = VirtAddr::new(va);
    if paging::is_mapped(va) {
        return Ok(());
    }
    let frame = frames::alloc(0).ok_or(OutOfMemory)?;
    paging::map_page(va, frame.phys()).inspect_err(|_| frames::free(frame, 0))
}

/// The slot whose guard pages hold `va`.
pub fn guard_slot(va: u64) -> Option<usize> {
    let offset = va.checked_sub(AREA)?;
    let (slot, within) = (offset / STRIDE, offset % STRIDE);
    (slot < SLOTS && within < STRIDE - STACK_BYTES).then_some(slot as usize)
}
