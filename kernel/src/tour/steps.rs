//! The steps.

use super::TourError;
use super::facts::Teller;
use super::watch::{Seen, Watch};
use crate::machine::{Fs, Inode, Machine, Transfer, Window, new_uuid};
use crate::pmem::{Device, DeviceState};
use crate::shell::commands::Missing;
use crate::shell::{CommandError, Fields, Job, JobState, On, Value};
use crate::uaccess;
use crate::virtio::blk::{Direction, Disk};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use dax::layout::Held;
use dax::pmem::Pmem as _;
use fs::{MkfsError, MkfsOptions, StatFs, mkfs};
use mm::addr::{PAGE_SIZE, Pfn};
use mm::aspace::FaultError;
use mm::page::Counts;
use mm::sync::Wait;
use protocol::pattern;

const FILE: &str = "/tour-file";
const OTHER: &str = "/tour-other";
const NEXT: &str = "/tour-next";
/// The file: page 0 is stored to, page 1 gets data by DMA and stays, page 2 gets data by DMA and goes, page 3 goes.
const PAGES: u64 = 4;
const KEPT: u64 = 1;
const CUT: u64 = 2;
/// Where on the disk the data is, in sectors.
const SECTOR: u64 = 64;
const SECTOR_BYTES: u64 = 512;
/// How long the request is held back, in microseconds.
const DELAY_US: u64 = 300_000;

/// What the tour works on.
pub struct Tour<'a> {
    machine: &'a Arc<Machine>,
    disk: Arc<Disk>,
    fs: Arc<Fs>,
}

/// The file under way.
struct Stage {
    inode: Arc<Inode>,
    window: Window,
    /// The frame of each page.
    pfns: [Pfn; PAGES as usize],
}

impl<'a> Tour<'a> {
    /// Finds the stage: a region, a disk, a file system.
    pub fn prepare(machine: &'a Arc<Machine>, tell: &Teller<'_>) -> Result<Self, TourError> {
        let disk = machine.disks.first().ok_or(TourError::NoDisk)?.clone();
        let device = stage_device(machine).ok_or(TourError::NoPmem)?;
        discovered(device, tell);
        metadata(device, tell)?;
        let fs = file_system(machine, device, tell)?;
        Ok(Tour { machine, disk, fs })
    }

    /// The story itself.
    pub fn story(&self, tell: &Teller<'_>) -> Result<(), TourError> {
        self.clean_up();
        let stage = self.make_file(tell)?;
        self.store(&stage, tell)?;
        self.map_cut_page(&stage, tell)?;
        let before = self.fs.statfs();
        let job = self.start_dma(&stage, tell)?;
        let watch = Watch::start(self.fs.clone(), stage.inode.clone(), CUT * PAGE_SIZE)?;
        let seen = watch.wait_for("the truncate waits for the pin", |seen| {
            seen.waiting.is_some()
        })?;
        self.while_waiting(&stage, &seen, &before, tell)?;
        self.write_others(&stage, &watch, tell)?;
        self.end_dma(&job, tell)?;
        let seen = watch.wait_for("the truncate ends", |seen| seen.ended.is_some())?;
        self.truncated(&stage, seen, tell)?;
        self.freed(&before, tell)?;
        self.kept_data(&stage, tell)?;
        self.past_end(&stage, tell)
    }

    /// Removes the tour's files, from this time or from one that was cut short.
    pub fn clean_up(&self) {
        for path in [FILE, OTHER, NEXT] {
            // Absent is as good as removed.
            let _ = self.fs.unlink(path);
        }
    }

    fn counts(&self, pfn: Pfn) -> Counts {
        self.fs
            .pgmap()
            .folio(pfn)
            .map(|f| f.counts())
            .unwrap_or_default()
    }

    fn page_facts(&self, pfn: Pfn) -> Fields {
        let Counts { mapped, pinned } = self.counts(pfn);
        vec![
            ("pfn", Value::Hex(pfn.get())),
            ("mapped", mapped.into()),
            ("pinned", pinned.into()),
        ]
    }

    fn make_file(&self, tell: &Teller<'_>) -> Result<Stage, TourError> {
        let inode = self
            .fs
            .create_sized(FILE, 0o644, PAGES * PAGE_SIZE)
            .on(|| FILE)?;
        let mut pfns = [self.fs.pgmap().range().start(); PAGES as usize];
        for (page, pfn) in pfns.iter_mut().enumerate() {
            *pfn = inode.pfn(page as u64).ok_or(Missing::Storage).on(|| FILE)?;
        }
        let size = Value::Bytes(inode.stat().size);
        let facts = vec![
            ("inode", inode.ino().into()),
            ("size", size),
            ("pfn", Value::Hex(pfns[0].get())),
        ];
        tell.step("a file is made; its blocks are pages of the region", facts);
        let window = Window::open(&inode, 0, PAGES * PAGE_SIZE).on(|| FILE)?;
        tell.check(
            self.counts(pfns[0]).is_idle(),
            "a page that nobody touched is idle",
            self.counts(pfns[0]),
        )?;
        let mut facts = vec![("va", Value::Hex(window.start().as_u64()))];
        facts.extend(self.page_facts(pfns[0]));
        tell.step("the file is mapped; no page is, yet", facts);
        Ok(Stage {
            inode,
            window,
            pfns,
        })
    }

    fn store(&self, stage: &Stage, tell: &Teller<'_>) -> Result<(), TourError> {
        uaccess::store8(stage.window.start(), 0x42).on(|| "store")?;
        let mut byte = [0];
        self.fs.read(&stage.inode, 0, &mut byte).on(|| FILE)?;
        tell.same(byte[0], 0x42, "a store through the mapping is in the file")?;
        tell.same(
            self.counts(stage.pfns[0]),
            Counts {
                mapped: 1,
                pinned: 0,
            },
            "the mapping is counted",
        )?;
        tell.step(
            "a byte is stored: a page fault maps the page",
            self.page_facts(stage.pfns[0]),
        );
        Ok(())
    }

    /// Maps the page that will be cut, so that the truncate has something to take away.
    fn map_cut_page(&self, stage: &Stage, tell: &Teller<'_>) -> Result<(), TourError> {
        let pfn = stage.pfns[CUT as usize];
        uaccess::load8(stage.window.start() + CUT * PAGE_SIZE).on(|| "load")?;
        tell.same(self.counts(pfn).mapped, 1, "a load maps a page, too")?;
        tell.step(
            "a byte of page 2 is loaded: it is mapped as well",
            self.page_facts(pfn),
        );
        Ok(())
    }

    fn start_dma(&self, stage: &Stage, tell: &Teller<'_>) -> Result<Arc<Job>, TourError> {
        let transfer = Transfer {
            direction: Direction::Read,
            disk: self.disk.clone(),
            sector: SECTOR,
            inode: stage.inode.clone(),
            offset: KEPT * PAGE_SIZE,
            length: (CUT - KEPT + 1) * PAGE_SIZE,
            delay_us: DELAY_US,
        };
        let job = self
            .machine
            .start_transfer(transfer, String::from("tour"), None)
            .on(|| "dma")?;
        let pfn = stage.pfns[CUT as usize];
        tell.same(
            self.counts(pfn),
            Counts {
                mapped: 1,
                pinned: 1,
            },
            "the page is pinned and still mapped",
        )?;
        tell.step(
            "the disk is to write into pages 1 and 2: they are pinned",
            self.page_facts(pfn),
        );
        Ok(job)
    }

    fn while_waiting(
        &self,
        stage: &Stage,
        seen: &Seen,
        before: &StatFs,
        tell: &Teller<'_>,
    ) -> Result<(), TourError> {
        let pfn = stage.pfns[CUT as usize];
        tell.check(
            seen.zapped,
            "the range is unmapped before the count is read",
            seen.zapped,
        )?;
        tell.same(
            self.counts(pfn),
            Counts {
                mapped: 0,
                pinned: 1,
            },
            "only the pin is left",
        )?;
        tell.step(
            "a truncate to 2 pages takes page 2 out of every page table",
            self.page_facts(pfn),
        );
        let Some((held, locks)) = &seen.waiting else {
            return Ok(());
        };
        self.waits_for(stage, held, tell)?;
        tell.same(locks.len(), 0, "the truncate holds no lock while it waits")?;
        tell.check(
            !stage.inode.is_locked(),
            "the inode is not locked",
            "locked",
        )?;
        let facts = vec![
            ("waits_for_pfn", Value::Hex(held.pfn.get())),
            ("locks_held", locks.len().into()),
        ];
        tell.step("it waits for the pin, and holds no lock", facts);
        self.still_owned(stage, before, tell)
    }

    fn waits_for(&self, stage: &Stage, held: &Held, tell: &Teller<'_>) -> Result<(), TourError> {
        tell.same(
            held.pfn,
            stage.pfns[CUT as usize],
            "the truncate names the page that is pinned",
        )?;
        tell.same(held.index, CUT, "and its place in the file")?;
        let holder = self.machine.holders.of_folio(held.pfn, 1);
        tell.check(
            holder.is_some_and(|h| h.starts_with("dma ")),
            "the holder is known by name",
            "unknown",
        )
    }

    fn still_owned(
        &self,
        stage: &Stage,
        before: &StatFs,
        tell: &Teller<'_>,
    ) -> Result<(), TourError> {
        let pfn = stage.pfns[CUT as usize];
        let owner = self.fs.pgmap().owner_of(pfn).map(|o| (o.inode, o.index));
        tell.same(
            owner,
            Some((stage.inode.ino().into(), CUT)),
            "the page is still the file's",
        )?;
        tell.same(stage.inode.pfn(CUT), Some(pfn), "and so is the block")?;
        let now = self.fs.statfs();
        tell.same(
            now.space.free,
            before.space.free,
            "no block is free that was not free before",
        )?;
        let facts = vec![
            ("inode", stage.inode.ino().into()),
            ("index", CUT.into()),
            ("size", Value::Bytes(stage.inode.stat().size)),
        ];
        tell.step("meanwhile the page is still the file's", facts);
        Ok(())
    }

    /// Writes another file, and the same one, while the truncate waits.
    fn write_others(
        &self,
        stage: &Stage,
        watch: &Watch,
        tell: &Teller<'_>,
    ) -> Result<(), TourError> {
        let begun = mm::sync::now_us();
        let other = self.fs.create(OTHER, 0o644).on(|| OTHER)?;
        self.fs
            .write(&other, 0, b"nobody is locked out")
            .on(|| OTHER)?;
        self.fs
            .write(&stage.inode, 1, b"not even here")
            .on(|| FILE)?;
        let took = Value::Micros(mm::sync::now_us().saturating_sub(begun));
        tell.check(
            watch.seen().ended.is_none(),
            "the truncate still waits",
            "it has ended",
        )?;
        tell.step(
            "meanwhile another file is written, and this one",
            vec![("elapsed_us", took)],
        );
        Ok(())
    }

    fn end_dma(&self, job: &Job, tell: &Teller<'_>) -> Result<(), TourError> {
        let interrupts = self.disk.interrupts();
        let state = self.machine.jobs.wait(job, &Wait::for_us(10_000_000));
        tell.check(
            matches!(state, Ok(JobState::Done { ok: true, .. })),
            "the transfer ends well",
            state,
        )?;
        let taken = self.disk.interrupts() - interrupts;
        tell.check(taken > 0, "the disk said so by an interrupt", taken)?;
        let took = Value::Micros(job.elapsed_us());
        tell.step(
            "the disk has written and interrupts; the pages are unpinned",
            vec![("elapsed_us", took), ("interrupts", taken.into())],
        );
        Ok(())
    }

    fn truncated(&self, stage: &Stage, seen: Seen, tell: &Teller<'_>) -> Result<(), TourError> {
        let Some(ended) = seen.ended else {
            return Ok(());
        };
        let report = ended
            .map_err(|error| crate::shell::commands::CutFailure {
                error,
                holder: None,
            })
            .on(|| "truncate")?;
        tell.check(
            report.retries > 0,
            "the truncate found the page pinned",
            report,
        )?;
        tell.check(report.waited_us > 0, "and waited", report)?;
        tell.same(
            report.freed_blocks,
            PAGES - CUT,
            "it took the blocks behind the new end",
        )?;
        tell.same(
            stage.inode.pfn(CUT),
            None,
            "the block is not the file's any more",
        )?;
        let facts = vec![
            ("retries", report.retries.into()),
            ("waited_us", Value::Micros(report.waited_us)),
            ("freed_blocks", report.freed_blocks.into()),
        ];
        tell.step("the truncate goes on and commits", facts);
        let pfn = stage.pfns[CUT as usize];
        tell.check(
            self.counts(pfn).is_idle(),
            "the page is idle",
            self.counts(pfn),
        )
    }

    /// The blocks go through quarantine; the next allocation finds nothing against them.
    fn freed(&self, before: &StatFs, tell: &Teller<'_>) -> Result<(), TourError> {
        let waiting = self.fs.statfs();
        tell.same(
            waiting.quarantined,
            PAGES - CUT,
            "the blocks are in quarantine",
        )?;
        tell.step(
            "the blocks are in quarantine: freed, not yet free",
            vec![("quarantined", waiting.quarantined.into())],
        );
        self.fs.create_sized(NEXT, 0o644, PAGE_SIZE).on(|| NEXT)?;
        let now = self.fs.statfs();
        tell.same(
            now.quarantined,
            0,
            "nobody holds them, so they leave quarantine",
        )?;
        tell.same(
            now.space.free,
            waiting.space.free + (PAGES - CUT) - 1,
            "and are free; the new file took one",
        )?;
        tell.check(
            before.space.free > 0,
            "there was space all the time",
            before.space.free,
        )?;
        tell.step(
            "an allocation looks again: idle and durably freed, so free",
            vec![("free_blocks", now.space.free.into())],
        );
        Ok(())
    }

    fn kept_data(&self, stage: &Stage, tell: &Teller<'_>) -> Result<(), TourError> {
        let mut data = [0; PAGE_SIZE as usize];
        uaccess::copy_in(&mut data, stage.window.start() + KEPT * PAGE_SIZE).on(|| "load")?;
        let differs = pattern::first_difference(SECTOR * SECTOR_BYTES, &data);
        if differs == Some(0) {
            return Err(TourError::NoPattern {
                index: self.disk.index,
            });
        }
        tell.same(
            differs,
            None,
            "page 1 holds what the disk holds, byte for byte",
        )?;
        let mut head = [0; 14];
        self.fs.read(&stage.inode, 0, &mut head).on(|| FILE)?;
        tell.same(
            &head,
            b"\x42not even here",
            "page 0 holds what was stored and written",
        )?;
        let facts = vec![("bytes", data.len().into()), ("differences", 0_u32.into())];
        tell.step("page 1, which stayed, holds the disk's data", facts);
        Ok(())
    }

    fn past_end(&self, stage: &Stage, tell: &Teller<'_>) -> Result<(), TourError> {
        let load = uaccess::load8(stage.window.start() + CUT * PAGE_SIZE);
        tell.same(
            load,
            Err(FaultError::PastEof),
            "a load behind the new end fails",
        )?;
        tell.step(
            "a load from page 2 is an error, not somebody else's data",
            vec![("refused", "beyond the end of the file".into())],
        );
        Ok(())
    }
}

/// A device for the tour: the mounted one, else the first that can be written.
fn stage_device(machine: &Machine) -> Option<&'static Device> {
    let mounted = machine.mounted().map(|m| m.device);
    let usable = |d: &Device| d.memory.writable() && d.state() == DeviceState::Live;
    let wanted = |d: &&Device| mounted.map_or(usable(d), |name| d.name == name);
    machine.pmem.devices.iter().find(wanted)
}

fn discovered(device: &Device, tell: &Teller<'_>) {
    let durable = crate::shell::commands::persistence(device.memory.persistence());
    let (base, length) = (
        Value::Hex(device.base.as_u64()),
        Value::Bytes(device.length),
    );
    let facts = vec![
        ("base", base),
        ("length", length),
        ("durable_by", durable.into()),
    ];
    tell.step("the NFIT names a region of persistent memory", facts);
}

fn metadata(device: &Device, tell: &Teller<'_>) -> Result<(), TourError> {
    let s = device.pgmap().map(|p| p.stats()).unwrap_or_default();
    // A section in use, or used before on this device, costs at most 512 pages of 32 bytes.
    let sections = s.populated_sections * (16 << 10);
    let fact = "pages that nobody used cost no metadata";
    tell.check(s.metadata_bytes <= (64 << 10) + sections, fact, s)?;
    let facts = vec![
        ("pages", s.pages.into()),
        ("idle", s.idle.into()),
        ("metadata_bytes", Value::Bytes(s.metadata_bytes)),
    ];
    tell.step(
        "each page of it has a reference count; zero needs no memory",
        facts,
    );
    Ok(())
}

/// The mounted file system, or the one on the device, or a new one.
fn file_system(
    machine: &Arc<Machine>,
    device: &'static Device,
    tell: &Teller<'_>,
) -> Result<Arc<Fs>, TourError> {
    let (fs, what) = match machine.mounted() {
        Some(mounted) => (mounted.fs, "the mounted file system is used"),
        None => {
            let what = make_if_none(device)?;
            (machine.mount(device).on(|| "mount")?, what)
        }
    };
    let space = fs.statfs();
    let facts = vec![
        ("blocks", space.blocks.into()),
        ("free_blocks", space.space.free.into()),
    ];
    tell.step(what, facts);
    Ok(fs)
}

/// Makes a file system unless there is one: the tour destroys nothing.
fn make_if_none(device: &Device) -> Result<&'static str, CommandError> {
    match mkfs(&*device.memory, &MkfsOptions::new(new_uuid())) {
        Ok(_) => Ok("a file system is made on it and mounted"),
        Err(MkfsError::Exists) => Ok("the file system on it is mounted"),
        Err(e) => Err(CommandError::new("mkfs", e)),
    }
}
