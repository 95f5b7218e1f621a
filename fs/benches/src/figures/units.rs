//! Numbers for people, and tables of them.

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};

use super::timing::Spread;

/// Nanoseconds, in the unit that fits.
pub fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        ..1e3 => (ns, "ns"),
        ..1e6 => (ns / 1e3, "µs"),
        ..1e9 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    format!("{} {unit}", three(value))
}

/// Three digits that count.
fn three(value: f64) -> String {
    let digits = match value {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}

/// The median, and the fast tenth in brackets.
pub fn spread(spread: &Spread) -> String {
    format!("{} ({})", time(spread.median_ns), time(spread.fast_ns))
}

/// Bytes, in the unit that fits.
pub fn bytes(n: u64) -> String {
    match n {
        ..0x400 => format!("{n} B"),
        0x400..0x10_0000 => format!("{} KiB", n >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", n >> 20),
        _ => format!("{} GiB", n >> 30),
    }
}

/// Prints a table under a heading: the first column to the left, numbers to the right.
pub fn table(heading: &str, columns: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_header(columns);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{heading}\n\n{table}\n");
}
