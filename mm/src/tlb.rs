//! What an address space asks of the machine's translation caches.

use x86_64::VirtAddr;

use crate::addr::Pfn;

/// Drops cached translations on every CPU.
///
/// The order of a zap rests on this trait: clear the entry, `flush`, and only then drop the reference to the page.
/// So an implementation must keep two promises, and each of them is a promise about *every* CPU:
///
/// 1. When `flush` returns, no CPU can use a translation of the range that it read from the page table before the
///    call:
///    neither a leaf translation nor a paging-structure entry (INVLPG drops both).
/// 2. When `flush` returns, every section that runs with interrupts off (`sync::irq_off`) and that was under way
///    when
///    the call began has ended. A shootdown by interrupt gives this for nothing: a CPU with interrupts off answers
///    late. Lock-free walkers run in such sections, and page-table pages are freed after a flush because of it.
pub trait Tlb: Send + Sync {
    /// Drops every translation of `[start, end)` made through the root table `root`, and returns when that is done.
    ///
    /// Called with interrupts on and no spin lock held; sleeping locks may be held. Does not allocate and cannot
    /// fail. Both addresses are page-aligned. An implementation may drop more than was asked for.
    fn flush(&self, root: Pfn, start: VirtAddr, end: VirtAddr);
}
