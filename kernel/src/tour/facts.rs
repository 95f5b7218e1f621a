//! How the tour speaks and checks.

use super::TourError;
use crate::shell::out::label;
use crate::shell::{Fields, Out, Value};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use core::cell::Cell;
use core::fmt::{Debug, Write};

/// The width of a step's sentence, so that the facts stand below each other.
const WIDTH: usize = 66;

/// Prints the steps.
pub struct Teller<'a> {
    out: &'a Out,
    step: Cell<u32>,
    facts: Cell<u32>,
}

impl<'a> Teller<'a> {
    pub fn new(out: &'a Out) -> Self {
        Teller {
            out,
            step: Cell::new(0),
            facts: Cell::new(0),
        }
    }

    /// One step: what happens, and the facts beside it.
    pub fn step(&self, what: &str, facts: Fields) {
        self.step.set(self.step.get() + 1);
        let number = self.step.get();
        let line = format!("{number:>2} {what:<WIDTH$} {}", beside(&facts));
        let mut fields = vec![("step", number.into()), ("what", what.to_string().into())];
        fields.extend(facts);
        self.out.say(fields, format_args!("{}", line.trim_end()));
    }

    /// Checks a fact.
    pub fn check(
        &self,
        holds: bool,
        fact: &'static str,
        found: impl Debug,
    ) -> Result<(), TourError> {
        self.facts.set(self.facts.get() + 1);
        match holds {
            true => Ok(()),
            false => Err(TourError::Wrong {
                fact,
                found: format!("{found:?}"),
            }),
        }
    }

    /// Checks that two things are the same.
    pub fn same<T: PartialEq + Debug>(
        &self,
        found: T,
        wanted: T,
        fact: &'static str,
    ) -> Result<(), TourError> {
        self.check(found == wanted, fact, (&found, "instead of", &wanted))
    }

    /// The last line.
    pub fn end(&self, us: u64) {
        let (steps, facts, time) = (self.step.get(), self.facts.get(), Value::Micros(us));
        let fields = vec![
            ("steps", steps.into()),
            ("facts", facts.into()),
            ("elapsed_us", time.clone()),
        ];
        self.out
            .say(fields, format_args!("All {facts} facts held, in {time}."));
    }
}

fn beside(facts: &Fields) -> String {
    let mut line = String::new();
    for (i, (key, value)) in facts.iter().enumerate() {
        let comma = if i > 0 { ", " } else { "" };
        // Writing to a String cannot fail.
        let _ = write!(line, "{comma}{} {value}", label(key));
    }
    line
}
