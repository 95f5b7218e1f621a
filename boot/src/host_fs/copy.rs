//! `holdfast fs get` and `holdfast fs put`: one file.

use std::fs::File;
use std::io::{Read, Write, stdin, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use super::import::PIECE;
use super::mounted::{Mounted, change, look};

/// Copies a file out of the image; changes nothing in it.
#[derive(Args, Debug)]
pub struct Get {
    /// The image.
    image: PathBuf,
    /// The file in the image.
    path: String,
    /// Where it goes; `-` is standard output.
    #[arg(default_value = "-")]
    to: PathBuf,
}

/// Copies a file into the image, over one that is there.
#[derive(Args, Debug)]
pub struct Put {
    /// The image.
    image: PathBuf,
    /// The file of the host; `-` is standard input.
    from: PathBuf,
    /// The file in the image.
    path: String,
}

impl Get {
    /// Does it.
    ///
    /// # Errors
    /// With what was wrong, and with which file.
    pub fn run(&self) -> Result<()> {
        look(&self.image, |fs| self.copy(fs))
    }

    fn copy(&self, fs: &Mounted) -> Result<()> {
        let path = &self.path;
        let inode = fs.open(path).with_context(|| path.clone())?;
        let mut to: Box<dyn Write> = match self.to == Path::new("-") {
            true => Box::new(stdout()),
            false => {
                Box::new(File::create(&self.to).with_context(|| self.to.display().to_string())?)
            }
        };
        let (mut buffer, mut at) = (vec![0; PIECE], 0);
        while let n @ 1.. = inode.read(at, &mut buffer).with_context(|| path.clone())? {
            to.write_all(&buffer[..n])?;
            at += n as u64;
        }
        Ok(to.flush()?)
    }
}

impl Put {
    /// Does it.
    ///
    /// # Errors
    /// As [`Get::run`].
    pub fn run(&self) -> Result<()> {
        change(&self.image, |fs| {
            if self.from == Path::new("-") {
                return fill(fs, &mut stdin(), &self.path);
            }
            let mut file =
                File::open(&self.from).with_context(|| self.from.display().to_string())?;
            fill(fs, &mut file, &self.path)
        })
    }
}

/// Writes all that `from` gives to a file, made anew.
fn fill(fs: &Mounted, from: &mut impl Read, path: &str) -> Result<()> {
    if fs.stat(path).is_ok() {
        fs.unlink(path).with_context(|| path.to_owned())?;
    }
    let inode = fs.create(path, 0o644).with_context(|| path.to_owned())?;
    let (mut buffer, mut at) = (vec![0; PIECE], 0);
    while let n @ 1.. = from.read(&mut buffer)? {
        fs.write(&inode, at, &buffer[..n])
            .with_context(|| path.to_owned())?;
        at += n as u64;
    }
    Ok(())
}
