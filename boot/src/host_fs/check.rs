//! `holdfast fs fsck`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use fs::{FsckReport, Progress, RepairReport};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::mounted::backing;
use super::show::Form;
use crate::outcome::Outcome;
use crate::pmem_file::{Changes, PmemFile};

/// Checks the file system; changes nothing unless told to repair. Ends with 1 when something is wrong, or is left so.
#[derive(Args, Debug)]
pub struct Fsck {
    /// The image.
    image: PathBuf,
    /// Repairs what can be, by transactions, and checks again: what is damaged beyond that is cleared, and named.
    #[arg(long)]
    repair: bool,
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
        let bar = progress_bar()?;
        let report = match self.repair {
            true => self.mend(&bar)?,
            false => RepairReport {
                after: self.look(&bar)?,
                ..RepairReport::default()
            },
        };
        bar.finish_and_clear();
        match self.json {
            true => Form::new(true).record(&self.object(&report)?),
            false => println!("{}{}", repairs(&report), lines(&report.after)),
        }
        Ok(match report.after.is_clean() {
            true => Outcome::Success,
            false => Outcome::GuestFailed,
        })
    }

    fn look(&self, bar: &ProgressBar) -> Result<FsckReport> {
        let file = PmemFile::open(&self.image, Changes::Dropped)?;
        Ok(fs::fsck_with(&file.pmem, &mut |progress| {
            show(bar, &progress)
        }))
    }

    fn mend(&self, bar: &ProgressBar) -> Result<RepairReport> {
        let file = PmemFile::open(&self.image, Changes::Kept)?;
        let backing = backing(&file, &self.image)?;
        let report = fs::repair(&file.pmem, &backing, &mut |progress| show(bar, &progress));
        let written = file.sync();
        written.with_context(|| format!("{}: not written to the disk", self.image.display()))?;
        Ok(report)
    }

    fn object(&self, report: &RepairReport) -> Result<Value> {
        let mut object = serde_json::to_value(&report.after)?;
        object["clean"] = report.after.is_clean().into();
        if self.repair {
            object["repaired"] = report.repaired.into();
            object["repairs"] = report.fixes.iter().map(ToString::to_string).collect();
            object["stopped"] = report.stopped.as_ref().map(ToString::to_string).into();
        }
        Ok(object)
    }
}

fn progress_bar() -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} inodes, {msg}")?;
    Ok(ProgressBar::new(0).with_style(style))
}

fn show(bar: &ProgressBar, progress: &Progress) {
    bar.set_length(progress.of);
    bar.set_position(progress.done);
    bar.set_message(format!("pass {}", progress.pass.number()));
}

/// A line for each repair, and why it ended early.
fn repairs(report: &RepairReport) -> String {
    let fixes = report.fixes.iter();
    let mut text: String = fixes.map(|fix| format!("repaired: {fix}\n")).collect();
    let untold = report.repaired - report.fixes.len() as u64;
    if untold > 0 {
        text += &format!("and {untold} more repairs\n");
    }
    if let Some(why) = &report.stopped {
        text += &format!("the repair ended early: {why}\n");
    }
    text
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
