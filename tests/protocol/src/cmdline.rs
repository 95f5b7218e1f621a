//! The kernel command line: words `key=value`, separated by spaces, in any order; a later word overrides an earlier one.
//!
//! | word | meaning |
//! |---|---|
//! | `mode=tour` | show the tour, then do what `then` says; the default |
//! | `mode=shell` | start the shell |
//! | `mode=exec` | run the script in the fw_cfg file [`crate::fw_cfg::SCRIPT`], with the marks of [`crate::console`], and end |
//! | `mode=bench` | run the benchmarks and end |
//! | `then=shell`, `then=exit` | after a tour without errors: the shell, or the end (the default) |
//! | `log=off`, `error`, `warn`, `info`, `debug`, `trace` | the log level; the default is `warn` |
//! | `trace=on`, `trace=off` | with `mode=exec`: record events from the start, and hand them over at the end of the script |
//!
//! A word that nobody knows is reported to the caller and otherwise ignored: an older kernel boots with a newer driver.

use core::fmt;

/// What the kernel does once it is up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Shows the tour.
    #[default]
    Tour,
    /// Starts the shell.
    Shell,
    /// Runs a script and ends.
    Exec,
    /// Runs the benchmarks and ends.
    Bench,
}

impl Mode {
    const NAMES: [(&'static str, Self); 4] = [
        ("tour", Self::Tour),
        ("shell", Self::Shell),
        ("exec", Self::Exec),
        ("bench", Self::Bench),
    ];

    fn parse(text: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, mode)| *mode)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES
            .iter()
            .find(|(_, mode)| mode == self)
            .map_or("", |(name, _)| *name);
        f.write_str(name)
    }
}

/// A command line, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandLine<'a> {
    /// What to do.
    pub mode: Mode,
    /// Whether the shell follows a tour.
    pub then_shell: bool,
    /// The log level's name, for the `log` crate's own parser.
    pub log: &'a str,
    /// Whether events are recorded and handed over.
    pub trace: bool,
}

impl Default for CommandLine<'_> {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            then_shell: false,
            log: "warn",
            trace: false,
        }
    }
}

impl<'a> CommandLine<'a> {
    /// Takes a command line apart; calls `unknown` for each word that it cannot use.
    pub fn parse(text: &'a str, mut unknown: impl FnMut(&'a str)) -> Self {
        let mut parsed = Self::default();
        for word in text.split_whitespace() {
            if parsed.take(word).is_none() {
                unknown(word);
            }
        }
        parsed
    }

    fn take(&mut self, word: &'a str) -> Option<()> {
        match word.split_once('=')? {
            ("mode", name) => self.mode = Mode::parse(name)?,
            ("then", "shell") => self.then_shell = true,
            ("then", "exit") => self.then_shell = false,
            ("trace", "on") => self.trace = true,
            ("trace", "off") => self.trace = false,
            ("log", level @ ("off" | "error" | "warn" | "info" | "debug" | "trace")) => {
                self.log = level
            }
            _ => return None,
        }
        Some(())
    }
}

impl fmt::Display for CommandLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let then = if self.then_shell { "shell" } else { "exit" };
        let trace = if self.trace { "on" } else { "off" };
        let Self { mode, log, .. } = self;
        write!(f, "mode={mode} then={then} log={log} trace={trace}")
    }
}
