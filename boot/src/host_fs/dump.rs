//! `holdfast fs dump`: what stands on the media, structure by structure, without a mount.
//!
//! Each structure is shown as far as it can be read, with what is wrong with it in a field `fault`: a damaged image is what this is
//! for. It takes one whole superblock to know where the others lie. What the ring still has to replay is not applied: `ring` and `record`
//! show it.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use dax::pmem::MappedPmem;
use fs::commit::{Media, RECORD_WORDS, Run, Slot, decode_record};
use fs::extents::Spot;
use fs::layout::{
    BLOCK_SIZE, Block, Core, DENTRY_SIZE, Dentry, Extent, Geometry, HEAD_NAME, INODE_SIZE,
    InodeImage, SUPERBLOCK_SIZE, SuperBlock, TAIL_NAME, slots_for,
};
use fs::media_inode::{Ground, Loaded};
use fs::{Ino, choose_superblock};
use serde_json::{Value, json};
use zerocopy::FromBytes;

use super::info::letter;
use super::show::{Form, hex};
use crate::pmem_file::{Changes, PmemFile};

/// Shows what stands on the media, also of a damaged image; changes nothing.
#[derive(Args, Debug)]
pub struct Dump {
    /// The image.
    image: PathBuf,
    /// One JSON object a line.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

/// A structure.
#[derive(Debug, Subcommand)]
enum What {
    /// Both superblocks.
    Superblock,
    /// The state block, and each slot of the record ring that was ever used.
    Ring,
    /// One slot of the ring, with the stores that it asks for.
    Record {
        /// The slot.
        slot: u32,
    },
    /// An inode.
    Inode {
        /// Its number.
        ino: Ino,
    },
    /// The extents of an inode, and the nodes they stand in.
    Extents {
        /// Its number.
        ino: Ino,
    },
    /// The slots in use of a directory.
    Directory {
        /// Its number.
        ino: Ino,
    },
    /// Runs of blocks that no inode claims.
    Free,
}

impl Dump {
    /// Does it.
    ///
    /// # Errors
    /// When the image cannot be used, neither superblock is whole, or there is no such structure.
    pub fn run(&self) -> Result<()> {
        let file = PmemFile::open(&self.image, Changes::Dropped)?;
        let media = Media::new(file.pmem);
        let form = Form::new(self.json);
        if matches!(self.what, What::Superblock) {
            for block in [0, 1] {
                form.record(&superblock(&media, block));
            }
            return Ok(());
        }
        let chosen = match choose_superblock(&media) {
            Ok(chosen) => chosen,
            Err([a, b]) => bail!("{}: {a}; {b}", self.image.display()),
        };
        let on = On {
            media: &media,
            geometry: chosen.geometry,
            uuid: chosen.superblock.uuid,
            form,
        };
        match self.what {
            What::Superblock => Ok(()),
            What::Ring => on.ring(),
            What::Record { slot } => on.record(slot),
            What::Inode { ino } => on.inode(ino),
            What::Extents { ino } => on.extents(ino),
            What::Directory { ino } => on.directory(ino),
            What::Free => on.free(),
        }
    }
}

type Memory = Media<&'static MappedPmem>;

fn superblock(media: &Memory, block: Block) -> Value {
    let mut bytes = [0; SUPERBLOCK_SIZE];
    let (offset, name) = (block * BLOCK_SIZE, if block == 0 { "A" } else { "B" });
    if let Err(why) = media.read(offset, &mut bytes) {
        return json!({ "superblock": name, "offset": offset, "fault": why.to_string() });
    }
    let Ok((it, _)) = SuperBlock::read_from_prefix(&bytes) else {
        return json!({ "superblock": name, "offset": offset, "fault": "cut off" });
    };
    let checked = it.check(media.blocks());
    let label = String::from_utf8_lossy(&it.label);
    json!({
        "superblock": name,
        "offset": offset,
        "fault": checked.as_ref().err().map(ToString::to_string),
        "uuid": hex(&it.uuid),
        "generation": it.generation.get(),
        "label": label.trim_end_matches('\0'),
        "compat": it.compat.get(),
        "ro_compat": it.ro_compat.get(),
        "incompat": it.incompat.get(),
        "areas": checked.ok().map(|g| areas(&g)),
    })
}

fn areas(g: &Geometry) -> Value {
    json!({
        "blocks": g.blocks(), "ring_offset": g.ring_off(), "ring_slots": g.ring_slots(),
        "inode_offset": g.inode_off(0), "inodes": g.inodes(), "data_block": g.data_block(),
    })
}

/// A file system of which one superblock is whole.
struct On<'a> {
    media: &'a Memory,
    geometry: Geometry,
    uuid: [u8; 16],
    form: Form,
}

impl On<'_> {
    fn ground(&self) -> Ground<'_, &'static MappedPmem> {
        Ground {
            media: self.media,
            geometry: &self.geometry,
            uuid: &self.uuid,
        }
    }

    fn words<const N: usize>(&self, offset: u64) -> Result<[u64; N]> {
        self.media
            .words(offset)
            .with_context(|| format!("offset {offset:#x}"))
    }

    fn slot(&self, slot: u32) -> Result<([u64; RECORD_WORDS], u64)> {
        let offset = self.geometry.slot_off(slot.into());
        Ok((self.words(offset)?, offset))
    }

    fn ring(&self) -> Result<()> {
        self.form.row(&match self.ground().initialised() {
            Ok(inodes) => json!({ "state": "whole", "inodes_initialised": inodes }),
            Err(why) => json!({ "state": "damaged", "fault": why.to_string() }),
        });
        for slot in 0..self.geometry.ring_slots() {
            let (image, offset) = self.slot(slot)?;
            let row = match decode_record(&image, slot.into(), &self.geometry, &self.uuid) {
                Ok(Slot::Empty) => continue,
                Ok(Slot::Torn) => json!({ "slot": slot, "offset": offset, "record": "torn" }),
                Ok(Slot::Whole(found)) => json!({
                    "slot": slot, "offset": offset, "record": format!("{:?}", found.record.kind),
                    "seq": found.seq, "floor": found.floor, "runs": found.record.runs().count(),
                }),
                Err(fault) => {
                    json!({ "slot": slot, "offset": offset, "fault": fault.to_string() })
                }
            };
            self.form.row(&row);
        }
        Ok(())
    }

    fn record(&self, slot: u32) -> Result<()> {
        if slot >= self.geometry.ring_slots() {
            bail!("the ring has {} slots", self.geometry.ring_slots());
        }
        let (image, offset) = self.slot(slot)?;
        let found = decode_record(&image, slot.into(), &self.geometry, &self.uuid);
        let words: Vec<String> = image.iter().map(|word| format!("{word:#x}")).collect();
        let head = |what: Value| json!({ "slot": slot, "offset": offset, "record": what });
        match found {
            Ok(Slot::Empty) => self.form.record(&head("empty".into())),
            Ok(Slot::Torn) => {
                self.form.record(&head("torn".into()));
                self.form.record(&json!({ "words": words }));
            }
            Err(fault) => {
                self.form.record(&head(fault.to_string().into()));
                self.form.record(&json!({ "words": words }));
            }
            Ok(Slot::Whole(found)) => {
                self.form.record(&json!({
                    "slot": slot, "offset": offset, "record": format!("{:?}", found.record.kind),
                    "seq": found.seq, "floor": found.floor,
                }));
                for (at, run) in found.record.runs() {
                    let run: Vec<String> = run.iter().map(|word| format!("{word:#x}")).collect();
                    self.form
                        .row(&json!({ "at": at, "what": self.place(at), "words": run }));
                }
            }
        }
        Ok(())
    }

    /// What lies at a byte offset.
    fn place(&self, at: u64) -> String {
        let (table, data) = (self.geometry.inode_off(0), self.geometry.data_block());
        match at {
            at if at >= data * BLOCK_SIZE => format!("block {}", at / BLOCK_SIZE),
            at if at >= table => format!(
                "inode {} word {}",
                (at - table) / INODE_SIZE,
                at % INODE_SIZE / 8
            ),
            at if at == self.geometry.state_off() => "state".into(),
            _ => "elsewhere".into(),
        }
    }

    fn exists(&self, ino: Ino) -> Result<()> {
        if ino == 0 || ino >= self.geometry.inodes() {
            bail!(
                "inodes are numbered from 1 to {}",
                self.geometry.inodes() - 1
            );
        }
        Ok(())
    }

    fn inode(&self, ino: Ino) -> Result<()> {
        self.exists(ino)?;
        let offset = self.geometry.inode_off(ino);
        let words: [u64; 32] = self.words(offset)?;
        let fault = InodeImage::decode(&words, &self.uuid, ino).err();
        let head: [u64; 8] = words[..8].try_into().context("eight words")?;
        let (core, checksum) = Core::from_words(&head);
        let raw: Vec<String> = words.iter().map(|word| format!("{word:#x}")).collect();
        self.form.record(&json!({
            "inode": ino,
            "offset": offset,
            "in_use": InodeImage::in_use(words[0]),
            "fault": fault.map(|fault| fault.to_string()),
            "checksum": checksum,
            "kind": core.kind().map(|kind| letter(kind).to_string()),
            "mode": format!("{:06o}", core.mode),
            "links": core.nlink,
            "uid": core.uid,
            "gid": core.gid,
            "size": core.size,
            "parent": core.parent,
            "generation": core.generation,
            "extra": core.extra,
            "atime_ns": core.atime,
            "mtime_ns": core.mtime,
            "ctime_ns": core.ctime,
            "entries": core.entries,
            "depth": core.depth,
            "words": raw,
        }));
        Ok(())
    }

    fn load(&self, ino: Ino) -> Result<Loaded> {
        self.exists(ino)?;
        Ok(self.ground().load(ino)?)
    }

    fn extents(&self, ino: Ino) -> Result<()> {
        let loaded = self.load(ino)?;
        for (level, node) in loaded.map.tree() {
            self.form.row(&json!({
                "node": node.block, "level": level, "first": node.first, "entries": node.count,
            }));
        }
        for Extent {
            file,
            phys,
            len,
            unwritten,
        } in loaded.map.iter()
        {
            self.form.row(
                &json!({ "file_block": file, "block": phys, "blocks": len, "unwritten": unwritten }),
            );
        }
        Ok(())
    }

    fn directory(&self, ino: Ino) -> Result<()> {
        let loaded = self.load(ino)?;
        let slots = loaded.inode.core.size / DENTRY_SIZE;
        let mut slot = 0;
        while slot < slots {
            let words = self.dentry(&loaded, slot)?;
            let taken = match Dentry::decode(&words) {
                _ if words[0] == 0 => 1,
                None => {
                    self.form
                        .row(&json!({ "slot": slot, "fault": "not an entry", "inode": words[0] }));
                    1
                }
                Some((dentry, checksum)) => self.entry(&loaded, (ino, slot), (dentry, checksum))?,
            };
            slot += taken;
        }
        Ok(())
    }

    /// The words of a slot; zeroes where the directory has a hole.
    fn dentry(&self, dir: &Loaded, slot: u64) -> Result<[u64; 8]> {
        let at = slot * DENTRY_SIZE;
        match dir.map.at(at / BLOCK_SIZE) {
            Spot::Extent(extent) => self.words(extent.phys * BLOCK_SIZE + at % BLOCK_SIZE),
            Spot::HoleUntil(_) => Ok([0; 8]),
        }
    }

    /// Shows an entry; returns how many slots it takes.
    fn entry(
        &self,
        dir: &Loaded,
        (ino, slot): (Ino, u64),
        (dentry, checksum): (Dentry, u32),
    ) -> Result<u64> {
        let len = usize::from(dentry.len);
        let taken = slots_for(len) as u64;
        let mut name = Dentry::head_name(&self.dentry(dir, slot)?)[..len.min(HEAD_NAME)].to_vec();
        for tail in slot + 1..slot + taken {
            let words = self.dentry(dir, tail)?;
            let bytes = words.map(u64::to_le_bytes);
            // The first word of a tail stays free: it is a commit word.
            name.extend(&bytes.as_flattened()[8..8 + TAIL_NAME]);
        }
        name.truncate(len);
        let whole = dentry.checksum(&self.uuid, ino, &name) == checksum;
        self.form.row(&json!({
            "slot": slot, "slots": taken, "inode": dentry.ino, "kind": letter(dentry.kind).to_string(),
            "name": String::from_utf8_lossy(&name), "fault": (!whole).then_some("checksum"),
        }));
        Ok(taken)
    }

    fn free(&self) -> Result<()> {
        let mut claims = Vec::new();
        for ino in 1..self.ground().initialised()? {
            if self.ground().in_use(ino)? {
                match self.ground().load(ino) {
                    Ok(loaded) => claims.extend(loaded.map.runs()),
                    Err(why) => self
                        .form
                        .row(&json!({ "inode": ino, "fault": why.to_string() })),
                }
            }
        }
        claims.sort_unstable_by_key(|run| run.block);
        let mut at = self.geometry.data_block();
        let end = Run {
            block: self.geometry.blocks(),
            len: 0,
        };
        for run in claims.into_iter().chain([end]) {
            if run.block > at {
                self.form
                    .row(&json!({ "block": at, "blocks": run.block - at }));
            }
            at = at.max(run.end());
        }
        Ok(())
    }
}
