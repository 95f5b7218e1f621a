//! `holdfast fs fsck`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use fs::fsck;
use serde_json::json;

use super::show::Form;
use crate::outcome::Outcome;
use crate::pmem_file::{Changes, PmemFile};

/// Checks the file system; changes nothing. Ends with 1 when something is wrong.
#[derive(Args, Debug)]
pub struct Fsck {
    /// The image.
    image: PathBuf,
    /// One JSON object.
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
        let found = fsck(&file.pmem);
        let problems: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
        match self.json {
            true => Form::new(true).record(&json!({
                "clean": found.is_clean(),
                "files": found.files,
                "directories": found.dirs,
                "orphans": found.orphans,
                "blocks_used": found.blocks_used,
                "blocks": found.blocks,
                "records_pending": found.pending,
                "records_torn": found.torn,
                "problems": problems,
            })),
            false => {
                problems.iter().for_each(|problem| println!("{problem}"));
                println!(
                    "{} files, {} directories, {} of {} blocks in use, {} records pending, {} torn: {} problems",
                    found.files,
                    found.dirs,
                    found.blocks_used,
                    found.blocks,
                    found.pending,
                    found.torn,
                    found.problems.len()
                );
            }
        }
        Ok(match found.is_clean() {
            true => Outcome::Success,
            false => Outcome::GuestFailed,
        })
    }
}
