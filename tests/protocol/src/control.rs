//! The messages on the test kernel's control port, the second serial port: lines of text, one message each.
//!
//! The guest says [`FromGuest::Hello`] once it can take orders. The host sends [`FromHost::Run`]; the guest answers with any number of
//! [`FromGuest::Log`], then one [`FromGuest::Complete`], or with [`FromGuest::Panic`], after which the machine ends. A machine that ends
//! or stays silent past the deadline without either has failed the case, too.
//!
//! A text that holds a newline or a backslash travels with both escaped, so a message never spans lines.

use core::fmt;

/// What both sides must agree on; the guest says it in its hello.
pub const VERSION: u32 = 1;

/// An order of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromHost {
    /// Run the case with this index in the list of cases.
    Run(u32),
    /// End the machine, with success.
    Exit,
}

impl FromHost {
    /// Reads a line; `None` when it is no order.
    pub fn parse(line: &str) -> Option<Self> {
        match line.trim_end().split_once(' ') {
            Some(("run", index)) => index.parse().ok().map(Self::Run),
            None if line.trim_end() == "exit" => Some(Self::Exit),
            _ => None,
        }
    }
}

impl fmt::Display for FromHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(index) => write!(f, "run {index}"),
            Self::Exit => f.write_str("exit"),
        }
    }
}

/// A message of the guest. Texts that were read are still escaped: print them with [`Unescaped`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromGuest<T> {
    /// The guest takes orders; with its [`VERSION`].
    Hello(u32),
    /// Something to show when the case fails.
    Log(T),
    /// The case, or the kernel, panicked; the machine ends. With the place and the message.
    Panic(T),
    /// The case with this index ended well.
    Complete(u32),
}

impl<'a> FromGuest<&'a str> {
    /// Reads a line; `None` when it is no message.
    pub fn parse(line: &'a str) -> Option<Self> {
        let (kind, rest) = line.trim_end_matches(['\r', '\n']).split_once(' ')?;
        match kind {
            "hello" => rest.parse().ok().map(Self::Hello),
            "log" => Some(Self::Log(rest)),
            "panic" => Some(Self::Panic(rest)),
            "complete" => rest.parse().ok().map(Self::Complete),
            _ => None,
        }
    }
}

impl<T: fmt::Display> fmt::Display for FromGuest<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello(version) => write!(f, "hello {version}"),
            Self::Log(text) => write!(f, "log {}", Escaped(text)),
            Self::Panic(text) => write!(f, "panic {}", Escaped(text)),
            Self::Complete(index) => write!(f, "complete {index}"),
        }
    }
}

/// Displays a value with its newlines and backslashes escaped.
struct Escaped<T>(T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::write(&mut Escaper(f), format_args!("{}", self.0))
    }
}

struct Escaper<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for Escaper<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| self.write_char(c))
    }

    fn write_char(&mut self, c: char) -> fmt::Result {
        match c {
            '\n' => self.0.write_str("\\n"),
            '\r' => self.0.write_str("\\r"),
            '\\' => self.0.write_str("\\\\"),
            c => self.0.write_char(c),
        }
    }
}

/// Displays a text that was read from the port as it was before it was escaped.
#[derive(Clone, Copy, Debug)]
pub struct Unescaped<'a>(pub &'a str);

impl fmt::Display for Unescaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        let mut chars = self.0.chars();
        while let Some(c) = chars.next() {
            let c = match c {
                '\\' => chars.next().map_or('\\', unescape),
                c => c,
            };
            f.write_char(c)?;
        }
        Ok(())
    }
}

fn unescape(c: char) -> char {
    match c {
        'n' => '\n',
        'r' => '\r',
        c => c,
    }
}
