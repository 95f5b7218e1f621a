//! `holdfast fs mkfs`.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use dax::pmem::Pmem;
use fs::{MkfsOptions, mkfs};
use serde_json::json;

use super::mounted::now_ns;
use super::show::{Form, hex};
use crate::pmem::create_sparse;
use crate::pmem_file::{Changes, PmemFile};
use crate::size::Size;

/// Bytes of a name for people.
const LABEL: usize = 32;

/// Makes an empty file system.
#[derive(Args, Debug)]
pub struct Mkfs {
    /// The image.
    image: PathBuf,
    /// Makes the image, sparse, if it is missing.
    #[arg(long, value_name = "S")]
    size: Option<Size>,
    /// Room for so many files and directories [default: one for each 64K].
    #[arg(long, value_name = "N", conflicts_with = "bytes_per_inode")]
    inodes: Option<u32>,
    /// Room for a file or directory for so many bytes of the image.
    #[arg(long, value_name = "S")]
    bytes_per_inode: Option<Size>,
    /// A name for people, at most 32 bytes.
    #[arg(long, value_name = "NAME", default_value = "", value_parser = label)]
    label: Label,
    /// Overwrites a file system that is there.
    #[arg(long)]
    force: bool,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// A name for people, padded with zeroes.
#[derive(Clone, Debug)]
struct Label([u8; LABEL]);

/// Why a text is no label.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a label has at most {LABEL} bytes, none of them zero")]
struct LabelError;

fn label(text: &str) -> Result<Label, LabelError> {
    let mut label = [0; LABEL];
    let place = label.get_mut(..text.len()).ok_or(LabelError)?;
    if text.contains('\0') {
        return Err(LabelError);
    }
    place.copy_from_slice(text.as_bytes());
    Ok(Label(label))
}

impl Mkfs {
    /// Does it.
    ///
    /// # Errors
    /// When the image cannot be used, holds a file system, or cannot be divided so.
    pub fn run(&self) -> Result<()> {
        let name = self.image.display();
        if let (Some(size), false) = (self.size, self.image.exists()) {
            create_sparse(&self.image, size).with_context(|| name.to_string())?;
        }
        let file = PmemFile::open(&self.image, Changes::Kept)?;
        let len = file.pmem.len();
        if self.size.is_some_and(|size| size.0 != len) {
            bail!("{name}: the file has {}, not what --size says", Size(len));
        }
        let options = self.options(len)?;
        let made = mkfs(&file.pmem, &options).with_context(|| name.to_string())?;
        file.sync()?;
        let (blocks, inodes, records) = (made.blocks, made.inodes, made.ring_slots);
        match self.json {
            false => println!("{blocks} blocks, {inodes} inodes, {records} records"),
            true => Form::new(true).record(&json!({
                "blocks": blocks, "inodes": inodes, "records": records, "uuid": hex(&options.uuid),
            })),
        }
        Ok(())
    }

    fn options(&self, len: u64) -> Result<MkfsOptions> {
        let per = self.bytes_per_inode.map(|size| len / size.0.max(1));
        let per = per.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        Ok(MkfsOptions {
            force: self.force,
            now_ns: now_ns(),
            label: self.label.0,
            inodes: self.inodes.or(per),
            ..MkfsOptions::new(random()?)
        })
    }
}

fn random() -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
