//! `bench`: the guest's figures as a table and as a file; under `--icount` measured by two machines, which must agree.
//!
//! The guest reports one JSON object for each figure. The file has one object: `machine` (what was measured on), `figures` (those objects),
//! and `repeatable` (`null` where time was measured, which repeats never).

use std::io::{self, Write, stdout};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

use crate::outcome::Outcome;
use crate::say;
use crate::session::Session;

/// The command's own arguments.
#[derive(Args, Debug)]
pub struct Bench {
    /// A part of the names of those to run; all by default.
    filter: Option<Filter>,
    /// A file for the figures as JSON.
    #[arg(long, value_name = "F")]
    json: Option<PathBuf>,
}

/// A part of a benchmark's name, or several with commas between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(String);

/// A text that can be part of no name.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("names have letters, digits, dots, dashes and underlines only, with commas between them")]
pub struct FilterError;

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ',');
        match text.starts_with('-') || !text.chars().all(fits) {
            true => Err(FilterError),
            false => Ok(Self(text.into())),
        }
    }
}

impl Bench {
    /// What the guest is to do.
    pub fn script(&self) -> String {
        let filter = self.filter.as_ref().map_or("", |f| f.0.as_str());
        format!("bench {filter} --json")
    }

    /// Runs the machine, or two of them.
    ///
    /// # Errors
    /// When the host cannot set up, or the file cannot be written.
    pub fn run(&self, session: &Session) -> Result<Outcome> {
        let (mut figures, mut outcome) = measure(session, stdout())?;
        let mut repeatable = Value::Null;
        if session.options.icount && outcome == Outcome::Success {
            let again;
            (again, outcome) = measure(session, io::sink())?;
            let differing = differing(&mut figures, &again);
            repeatable = json!(differing == 0);
            if outcome == Outcome::Success && differing > 0 {
                outcome = Outcome::GuestFailed;
            }
        }
        if let Some(file) = &self.json {
            write(file, session, &figures, &repeatable)?;
        }
        Ok(outcome)
    }
}

fn measure(session: &Session, table: impl Write) -> Result<(Vec<Value>, Outcome)> {
    let mut figures = Figures {
        table,
        line: Vec::new(),
        figures: Vec::new(),
    };
    let outcome = session.run_into(&mut figures)?;
    Ok((figures.figures, outcome))
}

/// Says how the figures of a second machine differ; returns how many do. Each figure keeps what the other found.
fn differing(figures: &mut [Value], again: &[Value]) -> usize {
    let mut differing = 0;
    for figure in figures.iter_mut() {
        let name = figure["name"].clone();
        let other = again.iter().find(|f| f["name"] == name);
        let other = other.map_or(Value::Null, |f| f["instructions"].clone());
        if other != figure["instructions"] {
            say!(
                "{name}: {} instructions, then {other}",
                figure["instructions"]
            );
            differing += 1;
        }
        figure["instructions_again"] = other;
    }
    match differing {
        0 => say!(
            "a second machine counted the same for each of {} figures",
            figures.len()
        ),
        n => say!(
            "{n} of {} figures differ from those of a second machine",
            figures.len()
        ),
    }
    differing
}

fn write(file: &Path, session: &Session, figures: &[Value], repeatable: &Value) -> Result<()> {
    let options = &session.options;
    let report = json!({
        "machine": {
            "cpus": options.cpu_count(),
            "memory": options.memory.0,
            "accel": format!("{:?}", options.accel()).to_lowercase(),
            "icount": options.icount,
            "profile": format!("{:?}", session.profile).to_lowercase(),
        },
        "repeatable": repeatable,
        "figures": figures,
    });
    let text = format!("{report:#}\n");
    std::fs::write(file, text).with_context(|| file.display().to_string())
}

/// Takes the guest's lines: keeps each figure, and shows it in the table.
struct Figures<W> {
    table: W,
    line: Vec<u8>,
    figures: Vec<Value>,
}

impl<W: Write> Figures<W> {
    fn take(&mut self, line: &[u8]) -> io::Result<()> {
        let Ok(fact) = serde_json::from_slice::<Value>(line) else {
            return writeln!(self.table, "{}", String::from_utf8_lossy(line));
        };
        if let Some(message) = fact["error"]["message"].as_str() {
            eprintln!("error: {message}");
            return Ok(());
        }
        if self.figures.is_empty() {
            writeln!(self.table, "{}", protocol::bench::head())?;
        }
        writeln!(
            self.table,
            "{}",
            protocol::bench::row(|key| cell(&fact[key]))
        )?;
        self.figures.push(fact);
        self.table.flush()
    }
}

impl<W: Write> Write for Figures<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            match byte {
                b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    self.take(&line)?;
                }
                _ => self.line.push(byte),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.table.flush()
    }
}

/// A fact as the table shows it.
fn cell(fact: &Value) -> String {
    match fact {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Number(n) if n.is_f64() => format!("{:.1}", n.as_f64().unwrap_or(0.0)),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_part_of_a_name_and_no_shell_word() {
        for text in ["gup", "fault.read.4k", "gup_fast-1,zap"] {
            assert!(text.parse::<Filter>().is_ok(), "{text}");
        }
        for text in ["a;b", "a b", "'a'", "--list", "a\n", "a&"] {
            assert!(text.parse::<Filter>().is_err(), "{text}");
        }
    }

    #[test]
    fn figures_become_rows_and_are_kept() {
        let mut table = Vec::new();
        let mut figures = Figures {
            table: &mut table,
            line: Vec::new(),
            figures: Vec::new(),
        };
        for piece in [
            "{\"name\":\"a\",\"instructions_per_op\":19.960,",
            "\"ns_per_op\":null}\n",
        ] {
            figures.write_all(piece.as_bytes()).unwrap();
        }
        assert_eq!(figures.figures.len(), 1);
        let text = String::from_utf8(table).unwrap();
        let row: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!((row[0], row[3]), ("a", "20.0"));
    }

    #[test]
    fn figures_that_differ_or_are_missing_are_counted() {
        let figure = |name: &str, n: u64| json!({"name": name, "instructions": n});
        let mut first = vec![figure("a", 1), figure("b", 2), figure("c", 3)];
        assert_eq!(differing(&mut first, &[figure("b", 9), figure("a", 1)]), 2);
        assert_eq!(first[1]["instructions_again"], json!(9));
        assert_eq!(first[2]["instructions_again"], Value::Null);
    }
}
