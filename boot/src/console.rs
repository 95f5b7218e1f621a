//! Keeps the output of `exec`'s commands apart from everything else on the first serial port (see [`protocol::console`]).

use std::fs::File;
use std::io::{self, BufWriter, Write};

use protocol::console::Line;

/// Sorts the port's bytes: command output to one writer, the rest to another.
#[derive(Debug)]
pub struct Sorter<O, N> {
    output: O,
    notes: N,
    trace: Option<BufWriter<File>>,
    line: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Before,
    Within,
    After { status: Option<u8> },
}

impl<O: Write, N: Write> Sorter<O, N> {
    /// Output goes to `output`, everything else to `notes`.
    pub fn new(output: O, notes: N) -> Self {
        Self {
            output,
            notes,
            trace: None,
            line: Vec::new(),
            state: State::Before,
        }
    }

    /// The lines of the event trace go to `trace`, instead of nowhere.
    pub fn with_trace(self, trace: Option<BufWriter<File>>) -> Self {
        Self { trace, ..self }
    }

    /// Takes the next bytes; passes on each line as soon as it is whole.
    ///
    /// # Errors
    /// When a writer fails.
    pub fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.sort(&line)?;
            } else {
                self.line.push(byte);
            }
        }
        self.output.flush()
    }

    /// Ends the stream: a line that was begun is passed on. Returns the commands' status, `None` when the end mark never came.
    ///
    /// # Errors
    /// When a writer fails.
    pub fn finish(&mut self) -> io::Result<Option<u8>> {
        if !self.line.is_empty() {
            self.take(b"\n")?;
        }
        if let Some(trace) = &mut self.trace {
            trace.flush()?;
        }
        match self.state {
            State::After { status } => Ok(status),
            _ => Ok(None),
        }
    }

    fn sort(&mut self, line: &[u8]) -> io::Result<()> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match std::str::from_utf8(line).map_or(Line::Text(""), Line::parse) {
            Line::Begin => self.state = State::Within,
            Line::End(status) => self.state = State::After { status },
            Line::Log(text) => writeln!(self.notes, "{text}")?,
            Line::Trace(text) => {
                if let Some(trace) = &mut self.trace {
                    writeln!(trace, "{text}")?;
                }
            }
            Line::Text(_) if self.state == State::Within => write_line(&mut self.output, line)?,
            Line::Text(_) => write_line(&mut self.notes, line)?,
        }
        Ok(())
    }
}

fn write_line(to: &mut impl Write, line: &[u8]) -> io::Result<()> {
    to.write_all(line)?;
    to.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::Sorter;

    fn sort(stream: &[u8], step: usize) -> (Vec<u8>, Vec<u8>, Option<u8>) {
        let (mut output, mut notes) = (Vec::new(), Vec::new());
        let mut sorter = Sorter::new(&mut output, &mut notes);
        stream
            .chunks(step)
            .for_each(|piece| sorter.take(piece).unwrap());
        let status = sorter.finish().unwrap();
        (output, notes, status)
    }

    #[test]
    fn only_what_lies_between_the_marks_is_output() {
        let stream = b"BIOS\r\n\x01BEGIN\r\na\r\n\x02warn: w\r\nb \xff\n\x01END 1\nbye";
        for step in 1..stream.len() {
            let (output, notes, status) = sort(stream, step);
            assert_eq!(output, b"a\nb \xff\n");
            assert_eq!(notes, b"BIOS\nwarn: w\nbye\n");
            assert_eq!(status, Some(1));
        }
    }

    #[test]
    fn the_trace_goes_to_its_own_place_wherever_it_stands() {
        let (output, notes, _) = sort(b"\x03{0}\n\x01BEGIN\na\n\x03{1}\n\x01END 0\n", 7);
        assert_eq!((output, notes), (b"a\n".to_vec(), Vec::new()));
    }

    #[test]
    fn without_the_end_mark_there_is_no_status() {
        let (output, _, status) = sort(b"\x01BEGIN\npart", 3);
        assert_eq!((output.as_slice(), status), (b"part\n".as_slice(), None));
    }
}
