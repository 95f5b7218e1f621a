//! Page faults of the kernel's own code, and of code that expects them.
#![expect(unsafe_code, reason = "breaks the rules on purpose")]

use core::hint::black_box;

use kernel::fault::WINDOW_START;
use kernel::uaccess;
use mm::addr::VirtAddr;
use mm::aspace::FaultError;

use crate::case;

case! {
    fn an_access_where_nothing_is_mapped_is_an_error() {
        let va = VirtAddr::new(WINDOW_START + 0x1234_5000);
        assert_eq!(uaccess::load8(va), Err(FaultError::NoMapping));
        assert_eq!(uaccess::store64(va, 1), Err(FaultError::NoMapping));
        assert_eq!(uaccess::copy_in(&mut [0; 100], va), Err(FaultError::NoMapping));
    }
}

case! {
    /// The kernel's own memory cannot be reached by an address that a user made up.
    fn an_access_outside_the_window_is_an_error() {
        static OURS: u64 = 7;
        let ours = VirtAddr::from_ptr(&OURS);
        for va in [ours, VirtAddr::new(0), VirtAddr::new(WINDOW_START - 4)] {
            assert_eq!(uaccess::load64(va), Err(FaultError::NoMapping), "{va:?}");
        }
    }
}

case! {
    panics = "load from an unmapped page at 0x10",
    fn a_null_pointer_is_told() {
        // SAFETY: not safe: the machine ends here, which is what the case is for.
        unsafe { black_box(0x10 as *const u64).read_volatile() };
    }
}

case! {
    panics = "store to a page that forbids it",
    fn constants_cannot_be_written() {
        static CONSTANT: u64 = 7;
        // SAFETY: as above.
        unsafe { black_box((&raw const CONSTANT).cast_mut()).write_volatile(8) };
    }
}

case! {
    panics = "store to a page that forbids it",
    fn code_cannot_be_written() {
        // SAFETY: as above.
        unsafe { black_box(constants_cannot_be_written as *mut u8).write_volatile(0xc3) };
    }
}

case! {
    panics = "execution of a page that forbids it",
    fn data_cannot_be_executed() {
        let code = black_box([0xc3u8; 16]); // return, on the stack
        // SAFETY: as above.
        unsafe { core::mem::transmute::<*const u8, extern "C" fn()>(code.as_ptr())() };
    }
}
