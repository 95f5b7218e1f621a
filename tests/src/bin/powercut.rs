//! `powercut [N] [--seed S] [--keep FILE]`: N machines killed under load, one after the other, on one pmem file. See `tests::powercut`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use boot::pmem_file::{Changes, PmemFile};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use tests::powercut::{Series, Shown};

/// Bytes of the pmem file.
const SIZE: u64 = 128 << 20;

/// Kills machines under load and looks at what is left.
#[derive(Parser)]
#[command(name = "powercut")]
struct Options {
    /// How many.
    #[arg(default_value_t = 100)]
    cuts: u32,
    /// What the load and the moments follow from; the moments are no more exact than the host's clock.
    #[arg(long)]
    seed: Option<u64>,
    /// Where the image is kept when something is wrong.
    #[arg(long, value_name = "FILE", default_value = "powercut.img")]
    keep: PathBuf,
}

fn main() -> ExitCode {
    match Options::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("powercut: {why:#}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn run(&self) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let image = folder.path().join("image");
        make(&image)?;
        let seed = self.seed.unwrap_or_else(clock);
        println!("{} cuts, seed {seed}", self.cuts);
        let (mut series, begun) = (Series::new(&image, seed), Instant::now());
        let (mut sum, bar) = (Shown::default(), self.bar()?);
        for number in 0..self.cuts {
            let shown = series
                .cut(number)
                .map_err(|why| self.violation(&image, number, why))?;
            sum = add(sum, shown);
            bar.set_message(format!("{} operations checked", sum.acknowledged));
            bar.inc(1);
        }
        bar.finish_and_clear();
        println!(
            "{} cuts, {} acknowledged operations checked, 0 violations ({} MiB compared, {} records replayed, {} s)",
            self.cuts,
            sum.acknowledged,
            sum.bytes >> 20,
            sum.replayed,
            begun.elapsed().as_secs()
        );
        Ok(())
    }

    fn bar(&self) -> Result<ProgressBar> {
        let style = "{bar:30} {pos}/{len} cuts, {msg}, {eta} left";
        let bar = ProgressBar::new(self.cuts.into());
        Ok(bar.with_style(ProgressStyle::with_template(style)?))
    }

    /// Keeps the image for who looks for the reason.
    fn violation(&self, image: &Path, number: u32, why: anyhow::Error) -> anyhow::Error {
        let kept = match std::fs::copy(image, &self.keep) {
            Ok(_) => format!("; the image is {}", self.keep.display()),
            Err(error) => format!("; the image is not kept: {error}"),
        };
        why.context(format!("1 violation at cut {number}{kept}"))
    }
}

fn make(image: &Path) -> Result<()> {
    std::fs::File::create(image)?.set_len(SIZE)?;
    let file = PmemFile::open(image, Changes::Kept)?;
    let mut uuid = [0x5a; 16];
    uuid[..8].copy_from_slice(&clock().to_le_bytes());
    fs::mkfs(&file.pmem, &fs::MkfsOptions::new(uuid)).context("mkfs")?;
    Ok(file.sync()?)
}

fn clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| since.as_nanos() as u64)
}

const fn add(a: Shown, b: Shown) -> Shown {
    Shown {
        acknowledged: a.acknowledged + b.acknowledged,
        bytes: a.bytes + b.bytes,
        replayed: a.replayed + b.replayed,
    }
}
