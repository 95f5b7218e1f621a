//! Page faults that an object serves, or refuses: one of three pages of zeroes, mapped in the kernel's address space.

use alloc::sync::Arc;

use kernel::mem::{self, frames};
use kernel::{fault, uaccess};
use mm::addr::{PAGE_SIZE, PageSize, Pfn, VirtAddr};
use mm::aspace::{
    Access, Attachment, FaultAt, FaultError, FaultSink, Prot, SpaceId, VaRange, VmObject,
};
use mm::mem::OutOfMemory;

use crate::case;

const PAGES: u64 = 3;

/// Zeroes: loads get one shared frame, stores find no space, and the last page does not exist.
struct Zeroes {
    frame: Pfn,
}

impl VmObject for Zeroes {
    fn fault(&self, at: &FaultAt, sink: &FaultSink<'_>) -> Result<(), FaultError> {
        match (at.file_page, at.access) {
            (PAGES.., _) => Err(FaultError::PastEof),
            (_, Access::Write) => Err(FaultError::NoSpace),
            _ => sink
                .install_uncounted(at.va, self.frame, PageSize::Size4K)
                .map(drop),
        }
    }

    fn attach(&self, _: Attachment) -> Result<(), OutOfMemory> {
        Ok(())
    }

    fn detach(&self, _: SpaceId, _: VaRange) {}
}

/// Maps one page more than the object has, runs `f`, unmaps.
fn with_zeroes(prot: Prot, f: impl FnOnce(VaRange)) {
    let frame = frames::alloc_zeroed().expect("a frame");
    let range = fault::space().map(
        Arc::new(Zeroes { frame }),
        0,
        PAGES + 1,
        prot,
        PageSize::Size4K,
    );
    let range = range.expect("room in the window");
    f(range);
    fault::space().unmap(range).expect("it is mapped");
    frames::free(frame, 0);
}

fn page(range: VaRange, index: u64) -> VirtAddr {
    range.start() + index * PAGE_SIZE
}

case! {
    /// A load faults once and gets the object's memory.
    fn a_load_is_served_by_a_page_fault() {
        with_zeroes(Prot::empty(), |range| {
            assert!(fault::space().translate(page(range, 1)).is_none());
            assert_eq!(uaccess::load64(page(range, 1)), Ok(0));
            assert!(fault::space().translate(page(range, 1)).is_some_and(|m| !m.writable));
            let mut bytes = [1; 2 * PAGE_SIZE as usize];
            assert_eq!(uaccess::copy_in(&mut bytes, page(range, 0) + 100), Ok(()));
            assert!(bytes.iter().all(|b| *b == 0));
        });
    }
}

case! {
    /// Every reason for which a fault cannot be satisfied comes back from the access that faulted.
    fn a_fault_that_fails_is_an_error_of_the_access() {
        with_zeroes(Prot::WRITE, |range| {
            assert_eq!(uaccess::store8(page(range, 0), 1), Err(FaultError::NoSpace));
            assert_eq!(uaccess::load8(page(range, PAGES)), Err(FaultError::PastEof));
            assert_eq!(uaccess::load8(page(range, PAGES + 1)), Err(FaultError::NoMapping));
            let mut bytes = [0; 16];
            assert_eq!(uaccess::copy_in(&mut bytes, page(range, PAGES) - 8), Err(FaultError::PastEof));
            assert_eq!(uaccess::copy_out(page(range, PAGES) - 8, &bytes), Err(FaultError::NoSpace));
            assert_eq!(uaccess::fill(page(range, 0), 7, 10), Err(FaultError::NoSpace));
        });
        with_zeroes(Prot::empty(), |range| {
            assert_eq!(uaccess::load8(page(range, 0)), Ok(0));
            assert_eq!(uaccess::store64(page(range, 0), 1), Err(FaultError::Permission));
        });
    }
}

case! {
    /// Addresses outside the window are refused before they are touched, however the range wraps.
    fn an_address_outside_the_window_is_refused() {
        let window = fault::space().window();
        for at in [VirtAddr::zero(), window.start() - 1, window.end(), VirtAddr::new(u64::MAX - 3)] {
            assert_eq!(uaccess::load64(at), Err(FaultError::NoMapping), "{at:?}");
        }
        assert_eq!(uaccess::load64(window.end() - 4), Err(FaultError::NoMapping));
        assert_eq!(uaccess::fill(window.start(), 0, usize::MAX), Err(FaultError::NoMapping));
    }
}

case! {
    /// No memory for a page table is an error of the access, and later the same access succeeds.
    fn out_of_memory_in_a_fault_is_an_error() {
        with_zeroes(Prot::empty(), |range| {
            mem::inject_failures(u64::MAX);
            let refused = uaccess::load8(page(range, 0));
            mem::inject_failures(0);
            assert_eq!(refused, Err(FaultError::OutOfMemory));
            assert_eq!(uaccess::load8(page(range, 0)), Ok(0));
        });
    }
}

case! {
    /// Faults leave nothing behind: after the unmapping every frame is free again.
    fn page_tables_are_given_back() {
        // Once before: the tables above the window's first ones stay for ever.
        with_zeroes(Prot::empty(), |range| assert_eq!(uaccess::load8(page(range, 0)), Ok(0)));
        let before = frames::free_frames();
        with_zeroes(Prot::empty(), |range| {
            assert_eq!(uaccess::load8(page(range, 0)), Ok(0));
            assert!(frames::free_frames() < before);
        });
        assert_eq!(frames::free_frames(), before);
    }
}
