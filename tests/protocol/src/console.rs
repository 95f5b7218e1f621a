//! Marks in the stream of the first serial port.
//!
//! Under `exec` the port carries the firmware's and the kernel's words as well as the output of the commands. The kernel encloses the
//! output in a [`BEGIN`] line and an [`END`] line, each on a line of its own; the driver prints what lies between on standard
//! output and all the rest on standard error. A line that starts with [`LOG`] is not output wherever it stands: under `exec` the
//! kernel starts each line of its log, and of a panic message, with it, after a newline if a line had been begun.

/// The line that starts the output of the commands.
pub const BEGIN: &str = "\u{1}BEGIN";
/// What the line that ends the output starts with; a space and the status follow: 0 when every command succeeded, else 1.
pub const END: &str = "\u{1}END";
/// What a line starts with that is not output.
pub const LOG: char = '\u{2}';

/// What a line of the event trace starts with: one JSON object follows. Not output either.
pub const TRACE: char = '\u{3}';

/// What a whole line, without its line end, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// The output starts after this line.
    Begin,
    /// The output ended before this line; with the status, or `None` where it is not a number.
    End(Option<u8>),
    /// A line of the log, without its mark.
    Log(&'a str),
    /// A line of the event trace, without its mark.
    Trace(&'a str),
    /// Anything else.
    Text(&'a str),
}

impl<'a> Line<'a> {
    /// Tells what a line is; a carriage return at its end is dropped.
    pub fn parse(line: &'a str) -> Self {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line == BEGIN {
            Self::Begin
        } else if let Some(status) = line.strip_prefix(END) {
            Self::End(status.trim().parse().ok())
        } else if let Some(text) = line.strip_prefix(LOG) {
            Self::Log(text)
        } else if let Some(text) = line.strip_prefix(TRACE) {
            Self::Trace(text)
        } else {
            Self::Text(line)
        }
    }
}
