//! The control port: takes the host's orders, runs the cases, answers.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayString;
use kernel::console::CONTROL;
use kernel::exit::ExitCode;
use mm::sync::Wait;
use protocol::control::{FromGuest, FromHost, VERSION};

use crate::case;

/// Says hello, then runs what the host orders until it orders the end.
pub fn serve() -> ExitCode {
    kernel::panic::set_hook(tell_panic);
    say(FromGuest::Hello::<&str>(VERSION));
    loop {
        match FromHost::parse(&read_line()) {
            Some(FromHost::Run(index)) => run(index),
            Some(FromHost::Exit) => return ExitCode::Success,
            None => say(FromGuest::Log("not an order")),
        }
    }
}

/// Shows a line when the case fails.
pub fn log(args: fmt::Arguments<'_>) {
    say(FromGuest::Log(args));
}

fn run(index: u32) {
    match case::all().get(index as usize) {
        Some(case) => {
            case.run();
            say(FromGuest::Complete::<&str>(index));
        }
        None => say(FromGuest::Log("no case has this index")),
    }
}

/// What threads do meanwhile that must have stopped when a panic is told.
pub static NOISE: AtomicU64 = AtomicU64::new(0);

fn tell_panic(info: &PanicInfo<'_>) {
    // Relaxed, both: a CPU that still runs is seen sooner or later.
    let before = NOISE.load(Ordering::Relaxed);
    (0..1_000_000).for_each(|_| core::hint::spin_loop());
    if NOISE.load(Ordering::Relaxed) == before {
        say(FromGuest::Panic(info));
    } else {
        say(FromGuest::Panic("a CPU still runs while a panic is told"));
    }
}

fn read_line() -> ArrayString<32> {
    let mut line = ArrayString::new();
    loop {
        match CONTROL.read(&Wait::forever()) {
            Ok(b'\n') => return line,
            // A line that is too long is no order: what is left of it says so.
            Ok(byte) => drop(line.try_push(char::from(byte))),
            Err(_) => unreachable!("a wait without deadline or cancel has no other end"),
        }
    }
}

fn say<T: fmt::Display>(message: FromGuest<T>) {
    CONTROL.print(format_args!("{message}\n"));
}
