//! The `log` crate's way to the console: one line a record, `[LEVEL module] message`.
//!
//! The level comes from the command line (`log=off|error|warn|info|debug|trace`), by default `warn`.

use log::{LevelFilter, Log, Metadata, Record};

struct ConsoleLogger;

static LOGGER: ConsoleLogger = ConsoleLogger;

impl Log for ConsoleLogger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true // log's own maximum level has already decided
    }

    fn log(&self, record: &Record<'_>) {
        crate::println!("[{} {}] {}", record.level(), record.target(), record.args());
    }

    fn flush(&self) {}
}

/// Installs the logger with the level that `cmdline` asks for.
pub fn init(cmdline: &str) {
    let asked = crate::cmdline::value(cmdline, "log");
    let level = asked
        .and_then(|l| l.parse().ok())
        .unwrap_or(LevelFilter::Warn);
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(level);
    }
}
