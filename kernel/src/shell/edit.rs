//! Reads command lines from a byte stream: with editing and history where a terminal answers, plainly where none does.
//!
//! The line editor (noline) asks the terminal for its cursor position and waits for the answer. A pipe never answers, so the
//! reader asks once itself, with a deadline; bytes that are no answer are input that came early, and are kept.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::convert::Infallible;
use embedded_io::{ErrorType, Read, Write};
use noline::builder::EditorBuilder;
use noline::error::NolineError;

/// A console as a stream of bytes.
pub trait Terminal {
    /// Waits for the next byte; `None` when none came until `deadline_us` (microseconds since boot) or the stream ended.
    fn read(&mut self, deadline_us: Option<u64>) -> Option<u8>;

    /// Writes bytes as they are.
    fn write(&mut self, bytes: &[u8]);
}

/// How long a terminal may take to answer, in microseconds.
const ANSWER_US: u64 = 300_000;
/// The longest line, in bytes.
const LINE: usize = 4096;
/// The room for lines typed before, in bytes.
const HISTORY: usize = 8192;
/// Ctrl-D, which ends the input.
const END_OF_INPUT: u8 = 4;

/// Reads lines until the input ends or `each` returns false.
pub fn read_lines<T: Terminal>(
    terminal: T,
    prompt: &'static str,
    mut each: impl FnMut(&str) -> bool,
) {
    let mut io = Io {
        terminal,
        early: VecDeque::new(),
    };
    match answers(&mut io) {
        true => edited(&mut io, prompt, &mut each),
        false => plain(&mut io, &mut each),
    }
}

struct Io<T> {
    terminal: T,
    early: VecDeque<u8>,
}

impl<T: Terminal> Io<T> {
    fn next(&mut self) -> Option<u8> {
        self.early.pop_front().or_else(|| self.terminal.read(None))
    }
}

/// Asks for the cursor position; true when something that knows the question answered.
fn answers<T: Terminal>(io: &mut Io<T>) -> bool {
    io.terminal.write(b"\x1b[6n");
    let deadline = mm::sync::now_us() + ANSWER_US;
    let mut got = Vec::new();
    while let Some(byte) = io.terminal.read(Some(deadline)) {
        got.push(byte);
        if byte == b'R' || got.len() == 64 {
            break;
        }
    }
    let answered = is_position(&got);
    if !answered {
        io.early.extend(got);
    }
    answered
}

/// `ESC [ row ; column R`.
fn is_position(bytes: &[u8]) -> bool {
    let inner = bytes
        .strip_prefix(b"\x1b[")
        .and_then(|b| b.strip_suffix(b"R"));
    inner.is_some_and(|b| b.iter().all(|c| c.is_ascii_digit() || *c == b';') && b.contains(&b';'))
}

fn edited<T: Terminal>(io: &mut Io<T>, prompt: &'static str, each: &mut impl FnMut(&str) -> bool) {
    let (mut line, mut history) = (alloc::vec![0; LINE], alloc::vec![0; HISTORY]);
    let builder = EditorBuilder::from_slice(&mut line).with_slice_history(&mut history);
    let Ok(mut editor) = builder.build_sync(io) else {
        return;
    };
    loop {
        match editor.readline(prompt, io) {
            Ok(line) if !each(line) => return,
            Ok(_) => {}
            Err(NolineError::Aborted) => return,
            Err(_) => {}
        }
    }
}

fn plain<T: Terminal>(io: &mut Io<T>, each: &mut impl FnMut(&str) -> bool) {
    let mut line = Vec::new();
    while let Some(byte) = io.next() {
        match byte {
            b'\n' | b'\r' if !each(&String::from_utf8_lossy(&core::mem::take(&mut line))) => return,
            b'\n' | b'\r' => {}
            END_OF_INPUT => return,
            // A longer line than anyone types is cut, not collected without end.
            byte if line.len() < LINE => line.push(byte),
            _ => {}
        }
    }
}

impl<T> ErrorType for Io<T> {
    type Error = Infallible;
}

impl<T: Terminal> Read for Io<T> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, Infallible> {
        let Some(first) = buf.first_mut() else {
            return Ok(0);
        };
        Ok(self.next().map_or(0, |byte| {
            *first = byte;
            1
        }))
    }
}

impl<T: Terminal> Write for Io<T> {
    fn write(&mut self, buf: &[u8]) -> Result<usize, Infallible> {
        self.terminal.write(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    /// Input that was written beforehand; a terminal answers each question for the cursor.
    struct Fake<'a> {
        input: VecDeque<u8>,
        answers: bool,
        pending: VecDeque<u8>,
        written: &'a mut Vec<u8>,
    }

    impl Terminal for Fake<'_> {
        fn read(&mut self, deadline_us: Option<u64>) -> Option<u8> {
            self.pending.pop_front().or_else(|| match deadline_us {
                Some(_) if self.answers => None,
                _ => self.input.pop_front(),
            })
        }

        fn write(&mut self, bytes: &[u8]) {
            self.written.extend(bytes);
            let asked = self.written.windows(4).filter(|w| w == b"\x1b[6n").count();
            if self.answers && bytes.ends_with(b"\x1b[6n") {
                let answer: &[u8] = if asked == 1 {
                    b"\x1b[24;80R"
                } else {
                    b"\x1b[1;3R"
                };
                self.pending.extend(answer);
            }
        }
    }

    fn lines(input: &str, answers: bool) -> (Vec<String>, String) {
        let (mut got, mut written) = (vec![], vec![]);
        let input = input.bytes().collect();
        let fake = Fake {
            input,
            answers,
            pending: VecDeque::new(),
            written: &mut written,
        };
        read_lines(fake, "> ", |l| {
            got.push(l.into());
            l != "stop"
        });
        (got, String::from_utf8(written).unwrap())
    }

    #[test]
    fn a_pipe_gives_plain_lines_and_early_input_is_kept() {
        let (got, written) = lines("ls /a\r\npage 5\nlost", false);
        assert_eq!(got, ["ls /a", "", "page 5"]);
        assert_eq!(written, "\x1b[6n");
    }

    #[test]
    fn ctrl_d_ends_plain_input_and_so_does_the_callers_no() {
        assert_eq!(lines("a\n\x04b\n", false).0, ["a"]);
        assert_eq!(lines("a\nstop\nb\n", false).0, ["a", "stop"]);
    }

    #[test]
    fn a_terminal_gets_editing_and_history() {
        // Backspace, then the line before by arrow up.
        let (got, written) = lines("lx\x7fs\r\x1b[A\rstop\r", true);
        assert_eq!(got, ["ls", "ls", "stop"]);
        assert!(written.contains("> "));
    }
}
