//! What an address space asks of the machine's translation caches.

use x86_64::VirtAddr;

use crate::addr::Pfn;

/// Drops cached translations, and waits for lock-free walkers.
///
/// The order of a zap rests on this trait: clear the entry, `flush`, and only then drop the reference to the page. What
/// lock-free walkers may still look at (page tables, lists of mappings) is freed after `quiesce`.
///
/// "Runs on a root" means: the CPU has that root table loaded. A CPU that loads another root drops every translation of
/// the one it leaves, or keeps them apart, so that they cannot be used before it loads that root again.
pub trait Tlb: Send + Sync {
    /// Drops every translation of `[start, end)` made through the root table `root`, and returns when that is done.
    ///
    /// 1. When it returns, no CPU can use a translation of the range that was read from the page table before the call:
    ///    neither a leaf translation nor a paging-structure entry (INVLPG drops both). A CPU that does not run on `root`
    ///    now drops them before it does.
    /// 2. When it returns, every section with interrupts off (`sync::irq_off`) that was under way when the call began,
    ///    on a CPU that ran on `root`, has ended. A shootdown by interrupt gives this for nothing: a CPU with interrupts
    ///    off answers late.
    ///
    /// Called with interrupts on and no spin lock held; sleeping locks may be held. Does not allocate and cannot fail. Both
    /// addresses are page-aligned. An implementation may drop more than was asked for.
    fn flush(&self, root: Pfn, start: VirtAddr, end: VirtAddr);

    /// Returns when every section with interrupts off that was under way when the call began, on any CPU, has ended.
    ///
    /// Called as `flush`, but seldom: it disturbs every CPU that is not idle.
    fn quiesce(&self);

    /// Whether the calling CPU counts as one that runs on `root`, for the second promise of [`Tlb::flush`], until
    /// interrupts come back on. Called with interrupts off; costs a register or a word of memory.
    ///
    /// Walkers that use what only `flush` guards (the list of mappings, the metadata of a page that an entry holds)
    /// ask first, and take the locks when the answer is no. An implementation that cannot tell says no.
    fn runs_on(&self, _root: Pfn) -> bool {
        false
    }
}
