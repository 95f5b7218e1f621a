//! `holdfast fs fsck`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use fs::FsckReport;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::show::Form;
use crate::outcome::Outcome;
use crate::pmem_file::{Changes, PmemFile};

/// Checks the file system; changes nothing. Ends with 1 when something is wrong.
#[derive(Args, Debug)]
pub struct Fsck {
    /// The image.
    image: PathBuf,
    /// One JSON object: each problem with its pass, structure, offset, what was found and expected, and what a repair would do.
    #[arg(long)]
    json: bool,
}

impl Fsck {
    /// Does it.
    ///
    /// # Errors
    /// When the image cannot be used.
    pub fn run(&self) -> Result<Outcome> {
        let file = PmemFile::open(&self.image, Changes::Dropped)?;
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} inodes, {msg}")?;
        let bar = ProgressBar::new(0).with_style(style);
        let found = fs::fsck_with(&file.pmem, &mut |progress| {
            bar.set_length(progress.of);
            bar.set_position(progress.done);
            bar.set_message(format!("pass {}", progress.pass.number()));
        });
        bar.finish_and_clear();
        match self.json {
            true => Form::new(true).record(&object(&found)?),
            false => println!("{}", lines(&found)),
        }
        Ok(match found.is_clean() {
            true => Outcome::Success,
            false => Outcome::GuestFailed,
        })
    }
}

fn object(found: &FsckReport) -> Result<Value> {
    let mut object = serde_json::to_value(found)?;
    object["clean"] = found.is_clean().into();
    Ok(object)
}

/// A line for each problem, and one for the whole.
fn lines(found: &FsckReport) -> String {
    let problems = found.problems.iter();
    let mut text: String = problems
        .map(|finding| format!("pass {}: {}\n", finding.pass.number(), finding.problem))
        .collect();
    text += &format!(
        "{} files, {} directories, {} of {} blocks in use, {} records pending, {} torn: {} problems",
        found.files,
        found.dirs,
        found.blocks_used,
        found.blocks,
        found.pending,
        found.torn,
        found.problems.len()
    );
    text
}
