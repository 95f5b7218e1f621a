//! Cases that prove the harness itself. The first ones run always; those in `fails` only when the host asks for them, because they
//! must fail, each in its own way.

use crate::case;

case! {
    /// The least that a case can do.
    fn a_case_that_returns_passes() {}
}

case! {
    machine = "--no-pmem --memory 128M",
    /// A machine of another kind than the usual one.
    fn a_case_gets_the_machine_it_asks_for() {
        let megabytes = kernel::boot_info().memory.ram_bytes() >> 20;
        assert!((100..=128).contains(&megabytes), "{megabytes} MiB of RAM");
    }
}

case! {
    panics = "on purpose",
    /// A case that must panic passes when it does.
    fn a_panic_that_must_be_is_one() {
        panic!("this is on purpose");
    }
}

mod fails {
    #![expect(unsafe_code, reason = "a triple fault takes some doing")]

    use core::arch::asm;

    use crate::{case, control};

    case! {
        /// A panic, after a word that must be shown with it.
        fn by_a_panic() {
            control::log(format_args!("said before the panic"));
            panic!("this case panics\non two lines");
        }
    }

    case! {
        /// The CPU finds no handler for an exception, nor for the exception that this is: the machine resets itself.
        fn by_a_triple_fault() {
            let no_handlers = [0u8; 10];
            // SAFETY: not safe at all: the machine ends here, which is what the case is for.
            unsafe { asm!("lidt [{}]", "ud2", in(reg) &no_handlers, options(noreturn)) }
        }
    }

    case! {
        seconds = 2,
        /// Silence until the deadline.
        fn by_an_endless_loop() {
            loop {
                core::hint::spin_loop();
            }
        }
    }

    case! {
        seconds = 3, panics = "never said",
        /// A panic that must be, and is not.
        fn by_no_panic() {}
    }

    case! {
        /// The one that passes among them: the run has gone on.
        fn not_at_all() {}
    }
}
