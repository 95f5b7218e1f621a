//! The list of cases: one record each in a link section that the linker script encloses in two symbols.
#![expect(unsafe_code, reason = "the bounds of a link section are symbols")]

use core::ptr::addr_of;

use protocol::case::Case;

unsafe extern "C" {
    static __holdfast_cases_start: u64; // not the records' type: they hold Rust function pointers
    static __holdfast_cases_end: u64;
}

/// All cases, in the order in which the host counts them.
pub fn all() -> &'static [Case] {
    let (start, end) = (
        addr_of!(__holdfast_cases_start),
        addr_of!(__holdfast_cases_end),
    );
    let count = (end.addr() - start.addr()) / size_of::<Case>();
    // SAFETY: the linker script puts the records of the section, and nothing else, between the two symbols; they are never written.
    unsafe { core::slice::from_raw_parts(start.cast(), count) }
}

/// Makes a case of a function: its name, prefixed by the modules that it stands in, is what the host prints.
///
/// `machine = "WORDS"` asks for a machine of its own kind, in the words of the driver's command line; cases with equal words share
/// machines. `seconds = N` is the longest that the case may take, 10 by default. `panics = "TEXT"` is for a case that must end in a
/// panic whose message contains the text; it costs a machine.
#[macro_export]
macro_rules! case {
    ($(machine = $machine:literal,)? $(seconds = $seconds:literal,)? $(panics = $panics:literal,)? $(#[$meta:meta])* fn $name:ident() $body:block) => {
        $(#[$meta])*
        fn $name() $body

        const _: () = {
            const LISTED: protocol::case::Listed<'static> = protocol::case::Listed {
                name: concat!(module_path!(), "::", stringify!($name)),
                machine: concat!($($machine)?),
                panics: concat!($($panics)?),
                deadline_ms: (10 $(- 10 + $seconds)?) * 1000,
            };
            #[used]
            #[allow(unsafe_code, reason = "a record in the section that lists the cases")]
            #[unsafe(link_section = ".holdfast_cases")]
            static CASE: protocol::case::Case = protocol::case::Case::new(&LISTED, $name);
        };
    };
}
