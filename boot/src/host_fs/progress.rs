//! How far a long copy has come: a bar on standard error if that is a terminal, nothing otherwise.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// A bar over names, which also shows bytes.
pub struct Progress {
    bar: ProgressBar,
    bytes: u64,
}

impl Progress {
    /// A bar for so many names.
    ///
    /// # Errors
    /// When the bar's own words are wrong.
    pub fn new(names: u64) -> Result<Self> {
        let style = "{bar:30} {pos}/{len} names, {msg}, {eta} left";
        let bar = ProgressBar::new(names).with_style(ProgressStyle::with_template(style)?);
        Ok(Self { bar, bytes: 0 })
    }

    /// So many bytes more.
    pub fn bytes(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.bar
            .set_message(indicatif::HumanBytes(self.bytes).to_string());
    }

    /// One name more.
    pub fn name(&self) {
        self.bar.inc(1);
    }

    /// Takes the bar away; returns names and bytes.
    pub fn end(&self) -> (u64, u64) {
        self.bar.finish_and_clear();
        (self.bar.position(), self.bytes)
    }
}
