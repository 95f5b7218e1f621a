//! The table of the benchmarks, the same from the guest's shell and from the driver: names, counts, times last.

use alloc::format;
use alloc::string::String;

/// A column: the key of the fact that it shows, its heading, its width in characters.
struct Column {
    key: &'static str,
    heading: &'static str,
    width: usize,
}

const fn column(key: &'static str, heading: &'static str, width: usize) -> Column {
    Column {
        key,
        heading,
        width,
    }
}

const NAME: Column = column("name", "benchmark", 26);

const COLUMNS: [Column; 10] = [
    column("unit", "unit", 9),
    column("ops", "ops", 6),
    column("instructions_per_op", "instr/op", 11),
    column("instructions", "instr", 11),
    column("ipis", "IPIs", 6),
    column("shootdowns", "shootdowns", 10),
    column("pages_flushed", "pages", 7),
    column("full_flushes", "full", 6),
    column("ns_per_op", "ns/op", 11),
    column("ns_worst_per_op", "worst", 11),
];

/// The table's first line.
#[must_use]
pub fn head() -> String {
    line(|column| String::from(column.heading))
}

/// A line of the table; `value` tells the fact of a key, as text.
#[must_use]
pub fn row(value: impl Fn(&str) -> String) -> String {
    line(|column| value(column.key))
}

fn line(cell: impl Fn(&Column) -> String) -> String {
    let name = format!("{:<width$}", cell(&NAME), width = NAME.width);
    COLUMNS.iter().fold(name, |line, c| {
        format!("{line} {:>width$}", cell(c), width = c.width)
    })
}
