//! The `log` crate's way to the console: one line a record, `[seconds LEVEL module] message`.
//!
//! Under `exec` each line begins with a mark (see `protocol::console`), so that the driver can tell it from the commands' output.

use core::sync::atomic::{AtomicBool, Ordering};

use log::{LevelFilter, Log, Metadata, Record};
use protocol::cmdline::{CommandLine, Mode};

struct ConsoleLogger;

static LOGGER: ConsoleLogger = ConsoleLogger;
static MARKED: AtomicBool = AtomicBool::new(false);

impl Log for ConsoleLogger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true // log's own maximum level has already decided
    }

    fn log(&self, r: &Record<'_>) {
        let us = crate::time::now_us();
        let (s, us) = (us / 1_000_000, us % 1_000_000);
        print(format_args!(
            "[{s}.{us:06} {} {}] {}",
            r.level(),
            r.target(),
            r.args()
        ));
    }

    fn flush(&self) {}
}

/// Prints lines that are no command's output.
pub fn print(args: core::fmt::Arguments<'_>) {
    // Relaxed: set once, before other threads.
    let marked = MARKED.load(Ordering::Relaxed);
    let mut buf = [0; 4];
    let mark = if marked {
        &*protocol::console::LOG.encode_utf8(&mut buf)
    } else {
        ""
    };
    crate::console::print_aside(mark, args);
}

/// Installs the logger with the level that the command line asks for.
pub fn init(line: &CommandLine<'_>) {
    // Relaxed: as in `print`.
    MARKED.store(line.mode == Mode::Exec, Ordering::Relaxed);
    let level = line.log.parse().unwrap_or(LevelFilter::Warn);
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(level);
    }
}
