//! The serial ports: COM1 is the console, COM2 the control port of the tests.
//!
//! Output is polled, and a port's lock is held for one `write`, with interrupts off, so that lines of two threads do not mix.
//! A port that does not answer swallows its output: a machine without a serial port still runs. Bytes go out as they are
//! (no carriage returns are added).
#![expect(unsafe_code, reason = "port I/O")]

use core::fmt::{self, Write};

use spin::{Mutex, Once};
use uart_16550::backend::PioBackend;
use uart_16550::{BaudRate, Config, Uart16550};
use x86_64::instructions::interrupts::without_interrupts;

/// One serial port.
pub struct Port {
    base: u16,
    uart: Once<Option<Mutex<Uart16550<PioBackend>>>>,
}

/// COM1: the console.
pub static CONSOLE: Port = Port::new(0x3f8);
/// COM2: the control port of the test harness.
pub static CONTROL: Port = Port::new(0x2f8);

impl Port {
    const fn new(base: u16) -> Self {
        Self {
            base,
            uart: Once::new(),
        }
    }

    fn uart(&self) -> Option<&Mutex<Uart16550<PioBackend>>> {
        self.uart
            .call_once(|| open(self.base).map(Mutex::new))
            .as_ref()
    }

    /// Whether a port answered.
    pub fn is_present(&self) -> bool {
        self.uart().is_some()
    }

    /// Sends all bytes, waiting for the port as long as it takes.
    pub fn write(&self, bytes: &[u8]) {
        if let Some(uart) = self.uart() {
            without_interrupts(|| uart.lock().send_bytes_exact(bytes));
        }
    }

    /// A byte that has already arrived.
    pub fn try_read(&self) -> Option<u8> {
        without_interrupts(|| self.uart()?.lock().try_receive_byte().ok())
    }

    /// Breaks the lock that a panicking thread may have left held. For the panic handler alone.
    ///
    /// # Safety
    /// No other code may use the port at the same time.
    pub(crate) unsafe fn force_unlock(&self) {
        if let Some(Some(uart)) = self.uart.get() {
            // SAFETY: the caller says that nobody else runs.
            unsafe { uart.force_unlock() };
        }
    }
}

fn open(base: u16) -> Option<Uart16550<PioBackend>> {
    // SAFETY: the PC's serial ports are ours alone.
    let mut uart = unsafe { Uart16550::new_port(base) }.ok()?;
    uart.init(Config {
        baud_rate: BaudRate::Baud115200,
        ..Config::DEFAULT
    })
    .ok()?;
    Some(uart)
}

struct Writer(&'static Port);

impl Write for Writer {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.0.write(s.as_bytes());
        Ok(())
    }
}

/// Prints to the console; [`print!`] and [`println!`] call it.
pub fn print(args: fmt::Arguments<'_>) {
    // Writer never fails; a formatter that does has said what it could.
    let _ = Writer(&CONSOLE).write_fmt(args);
}

/// Prints to the console, without a line end.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => { $crate::console::print(format_args!($($arg)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arg:tt)*) => { $crate::console::print(format_args!("{}\n", format_args!($($arg)*))) };
}
