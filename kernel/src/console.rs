//! The serial ports: COM1 is the console, COM2 the control port of the tests.
//!
//! Output is polled. Formatted text goes out whole: who prints holds the port's turn, with interrupts off, so that the lines of two
//! CPUs do not mix. The lock of the device itself is held for one piece of at most [`PIECE`] bytes. A port that does not answer swallows its output: a machine without one still runs. Bytes go out as they are (no
//! carriage returns are added).
//!
//! Input comes by interrupt into a ring, from which [`Port::read`] takes it. A full ring turns the port's interrupt off
//! until somebody has read, and the bytes wait in the device and in the host: nothing is lost.
#![expect(unsafe_code, reason = "port I/O")]

use core::fmt::{self, Write};

use arrayvec::ArrayVec;
use mm::sync::{Wait, WaitError, WaitQueue};
use spin::Once;
use uart_16550::backend::PioBackend;
use uart_16550::spec::registers::IER;
use uart_16550::{BaudRate, Config, Uart16550};

use crate::irq;
use crate::lock::IrqLock;

const PIECE: usize = 256;
const RING: usize = 1024;

struct Device {
    uart: Uart16550<PioBackend>,
    /// The last byte sent was not a line end.
    line_begun: bool,
    ring: [u8; RING],
    /// Bytes ever put into the ring and ever taken out; the difference is what it holds.
    put: usize,
    taken: usize,
}

/// One serial port.
pub struct Port {
    base: u16,
    isa_irq: u8,
    device: Once<Option<IrqLock<Device>>>,
    /// Held by who prints.
    turn: IrqLock<()>,
    arrived: WaitQueue,
}

/// COM1: the console.
pub static CONSOLE: Port = Port::new(0x3f8, 4);
/// COM2: the control port of the test harness.
pub static CONTROL: Port = Port::new(0x2f8, 3);

impl Device {
    fn open(base: u16) -> Option<IrqLock<Self>> {
        // SAFETY: the PC's serial ports are ours alone.
        let mut uart = unsafe { Uart16550::new_port(base) }.ok()?;
        uart.init(Config {
            baud_rate: BaudRate::Baud115200,
            ..Config::DEFAULT
        })
        .ok()?;
        Some(IrqLock::new(Self {
            uart,
            line_begun: false,
            ring: [0; RING],
            put: 0,
            taken: 0,
        }))
    }

    fn send(&mut self, bytes: &[u8]) {
        if let Some(&last) = bytes.last() {
            self.line_begun = last != b'\n';
            self.uart.send_bytes_exact(bytes);
        }
    }

    /// Moves what the device holds into the ring; turns its interrupt off when the ring is full.
    fn drain(&mut self) {
        while self.put - self.taken < RING {
            let Ok(byte) = self.uart.try_receive_byte() else {
                return;
            };
            self.ring[self.put % RING] = byte;
            self.put += 1;
        }
        self.uart.disable_interrupts(IER::DATA_READY);
    }

    fn take(&mut self) -> Option<u8> {
        self.drain();
        if self.put == self.taken {
            return None;
        }
        let byte = self.ring[self.taken % RING];
        self.taken += 1;
        self.uart.enable_interrupts(IER::DATA_READY);
        Some(byte)
    }
}

impl Port {
    const fn new(base: u16, isa_irq: u8) -> Self {
        Self {
            base,
            isa_irq,
            device: Once::new(),
            turn: IrqLock::new(()),
            arrived: WaitQueue::new(),
        }
    }

    fn device(&self) -> Option<&IrqLock<Device>> {
        self.device.call_once(|| Device::open(self.base)).as_ref()
    }

    /// Whether a port answered.
    pub fn is_present(&self) -> bool {
        self.device().is_some()
    }

    /// Sends all bytes, waiting for the port as long as it takes.
    pub fn write(&self, bytes: &[u8]) {
        if let Some(device) = self.device() {
            bytes
                .chunks(PIECE)
                .for_each(|piece| device.lock().send(piece));
        }
    }

    /// Prints formatted text, nothing in between. Formatting it must not print.
    pub fn print(&self, args: fmt::Arguments<'_>) {
        let _turn = self.turn.lock();
        self.print_in_turn(args);
    }

    fn print_in_turn(&self, args: fmt::Arguments<'_>) {
        let mut writer = Buffered {
            port: self,
            piece: ArrayVec::new(),
        };
        // The writer never fails; a formatter that does has said what it could.
        let _ = writer.write_fmt(args);
        writer.flush();
    }

    /// A byte that has already arrived.
    pub fn try_read(&self) -> Option<u8> {
        self.device()?.lock().take()
    }

    /// The next byte; sleeps until there is one. On a machine without the port, until the wait is over.
    pub fn read(&self, wait: &Wait<'_>) -> Result<u8, WaitError> {
        let mut byte = None;
        self.arrived.wait_until(
            || {
                byte = self.try_read();
                byte.is_some()
            },
            wait,
        )?;
        byte.ok_or(WaitError::TimedOut)
    }

    /// Whether the last line sent has not ended yet.
    fn line_begun(&self) -> bool {
        self.device().is_some_and(|d| d.lock().line_begun)
    }

    /// Lets input arrive by interrupt.
    fn listen(&'static self, name: &'static str, handler: irq::Handler) {
        let Some(device) = self.device() else { return };
        let routed =
            irq::allocate_vector(name, handler).map(|vector| irq::route_isa(self.isa_irq, vector));
        match routed {
            Ok(Ok(())) => device.lock().uart.enable_interrupts(IER::DATA_READY),
            _ => log::warn!("{name} has no interrupt: no input from it"),
        }
    }

    fn interrupt(&self) {
        if let Some(device) = self.device() {
            device.lock().drain();
            self.arrived.wake_all();
        }
    }

    /// Breaks the locks that a panicking thread, or one on a CPU that was stopped, may have left held. For the panic handler alone.
    ///
    /// # Safety
    /// No other code may use the port at the same time.
    pub(crate) unsafe fn break_open(&self) {
        if let Some(Some(device)) = self.device.get() {
            // SAFETY: the caller says that nobody else runs.
            unsafe {
                device.break_open();
                self.turn.break_open();
            }
        }
    }
}

/// Lets input of both ports arrive by interrupt. Interrupt controllers are up.
pub(crate) fn listen() {
    CONSOLE.listen("console", &|| CONSOLE.interrupt());
    CONTROL.listen("control", &|| CONTROL.interrupt());
}

/// Collects formatted text into pieces.
struct Buffered<'a> {
    port: &'a Port,
    piece: ArrayVec<u8, PIECE>,
}

impl Buffered<'_> {
    fn flush(&mut self) {
        self.port.write(&self.piece);
        self.piece.clear();
    }
}

impl Write for Buffered<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let mut rest = s.as_bytes();
        while !rest.is_empty() {
            if self.piece.is_full() {
                self.flush();
            }
            let (now, later) = rest.split_at(rest.len().min(self.piece.remaining_capacity()));
            self.piece.extend(now.iter().copied());
            rest = later;
        }
        Ok(())
    }
}

/// Prints to the console; [`print!`](crate::print!) and [`println!`](crate::println!) call it.
pub fn print(args: fmt::Arguments<'_>) {
    CONSOLE.print(args);
}

/// Prints lines that are no command's output (the log, a panic) to the console, each beginning with `mark` and none in the
/// middle of another line.
pub(crate) fn print_aside(mark: &str, args: fmt::Arguments<'_>) {
    let _turn = CONSOLE.turn.lock();
    let start = if CONSOLE.line_begun() { "\n" } else { "" };
    CONSOLE.print_in_turn(format_args!("{start}{}\n", Marked { mark, args }));
}

/// Text with a mark at the beginning of each line.
struct Marked<'a> {
    mark: &'a str,
    args: fmt::Arguments<'a>,
}

impl fmt::Display for Marked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.mark)?;
        write!(
            Marker {
                mark: self.mark,
                to: f
            },
            "{}",
            self.args
        )
    }
}

struct Marker<'a, 'b> {
    mark: &'a str,
    to: &'a mut fmt::Formatter<'b>,
}

impl Write for Marker<'_, '_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for (i, line) in s.split('\n').enumerate() {
            if i != 0 {
                self.to.write_char('\n')?;
                self.to.write_str(self.mark)?;
            }
            self.to.write_str(line)?;
        }
        Ok(())
    }
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
