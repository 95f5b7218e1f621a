//! The options that describe a machine: the same words on the command line and in a test case's wishes.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use protocol::fw_cfg;

use crate::machine::{Accel, Backing, Firmware, FwCfg, Machine, Nvdimm};
use crate::pmem::{BackingError, PmemOption};
use crate::scratch::Scratch;
use crate::size::Size;

/// The size of the scratch disk.
pub const SCRATCH_DISK: Size = Size::mib(16);

/// How the kernel gets into the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Boot {
    /// QEMU starts the kernel itself: no boot loader.
    #[default]
    Pvh,
    /// SeaBIOS starts a disk image.
    Bios,
    /// OVMF starts a disk image.
    Uefi,
}

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AccelChoice {
    /// KVM where the host can, else TCG.
    #[default]
    Auto,
    /// QEMU's translator.
    Tcg,
    /// The host's own CPU.
    Kvm,
}

/// The options that describe a machine.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Machine")]
pub struct MachineOptions {
    /// An NVDIMM backed by FILE (repeatable); a missing FILE is created, sparse, when its size is given.
    #[arg(
        long,
        global = true,
        value_name = "FILE[,size=S][,label-size=S][,unarmed]"
    )]
    pub pmem: Vec<PmemOption>,
    /// The size of the scratch NVDIMM that is there when no --pmem is given.
    #[arg(
        long,
        global = true,
        value_name = "S",
        default_value = "1G",
        conflicts_with = "pmem"
    )]
    pub pmem_size: Size,
    /// No NVDIMM at all.
    #[arg(long, global = true, conflicts_with_all = ["pmem", "pmem_size"])]
    pub no_pmem: bool,
    /// The kernel takes these bytes, a whole table, for its NFIT.
    #[arg(long, global = true, value_name = "FILE")]
    pub nfit: Option<PathBuf>,
    /// A virtio-blk disk (repeatable); a scratch disk of 16M with a known pattern when none is given.
    #[arg(long, global = true, value_name = "FILE")]
    pub disk: Vec<PathBuf>,
    /// RAM.
    #[arg(long, global = true, value_name = "S", default_value = "512M")]
    pub memory: Size,
    /// CPUs.
    #[arg(long, global = true, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=255))]
    pub cpus: u32,
    /// How the kernel gets into the machine.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub boot: Boot,
    /// What runs the guest's instructions.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub accel: AccelChoice,
    /// One CPU, and virtual time counts its instructions (TCG).
    #[arg(long, global = true, conflicts_with = "cpus")]
    pub icount: bool,
}

impl MachineOptions {
    /// The machine that the options describe, its files made; with the given firmware.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub fn prepare(&self, firmware: Firmware) -> Result<Machine, PrepareError> {
        let mut machine = Machine::new(firmware);
        machine.memory = self.memory;
        machine.cpus = self.cpu_count();
        machine.icount = self.icount;
        machine.accel = self.accel();
        machine.nvdimms = self.nvdimms()?;
        machine.disks = self.disks()?;
        if let Some(file) = &self.nfit {
            machine.fw_cfg.push(FwCfg {
                name: fw_cfg::NFIT,
                contents: existing(file)?,
            });
        }
        Ok(machine)
    }

    /// How many CPUs the machine has: one where instructions are counted.
    pub fn cpu_count(&self) -> u32 {
        if self.icount { 1 } else { self.cpus }
    }

    /// What runs the machine.
    pub fn accel(&self) -> Accel {
        match self.accel {
            AccelChoice::Kvm => Accel::Kvm,
            AccelChoice::Auto if !self.icount => Accel::best(),
            _ => Accel::Tcg,
        }
    }

    fn nvdimms(&self) -> Result<Vec<Nvdimm>, PrepareError> {
        if self.no_pmem {
            return Ok(Vec::new());
        }
        if self.pmem.is_empty() {
            let backing = Backing::Scratch(Scratch::sparse(self.pmem_size)?);
            return Ok(vec![Nvdimm {
                backing,
                size: self.pmem_size,
                label_size: None,
                unarmed: false,
            }]);
        }
        self.pmem.iter().map(nvdimm).collect()
    }

    fn disks(&self) -> Result<Vec<Backing>, PrepareError> {
        match self.disk.as_slice() {
            [] => Ok(vec![Backing::Scratch(Scratch::pattern_disk(SCRATCH_DISK)?)]),
            files => files.iter().map(|f| existing(f)).collect(),
        }
    }
}

fn nvdimm(option: &PmemOption) -> Result<Nvdimm, PrepareError> {
    let size = option.prepare()?;
    let backing = Backing::File(option.file.clone());
    Ok(Nvdimm {
        backing,
        size,
        label_size: option.label_size,
        unarmed: option.unarmed,
    })
}

fn existing(file: &Path) -> Result<Backing, PrepareError> {
    match std::fs::File::open(file) {
        Ok(_) => Ok(Backing::File(file.to_owned())),
        Err(why) => Err(PrepareError::File {
            file: file.to_owned(),
            why,
        }),
    }
}

/// Why a machine cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A file cannot back an NVDIMM.
    #[error(transparent)]
    Pmem(#[from] BackingError),
    /// A file cannot be read.
    #[error("{file}: {why}", file = file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// The scratch files cannot be made.
    #[error("no scratch file in {directory}: {0} (TMPDIR names another directory)", directory = std::env::temp_dir().display())]
    Scratch(#[from] std::io::Error),
}

/// A time limit: `90` or `90s` seconds, `2m` minutes, `500ms` milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout(pub Duration);

impl FromStr for Timeout {
    type Err = TimeoutError;

    fn from_str(text: &str) -> Result<Self, TimeoutError> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number: u64 = digits.parse().map_err(|_| TimeoutError)?;
        let time = match &text[digits.len()..] {
            "ms" => Some(Duration::from_millis(number)),
            "" | "s" => Some(Duration::from_secs(number)),
            "m" => number.checked_mul(60).map(Duration::from_secs),
            _ => None,
        };
        time.filter(|t| !t.is_zero()).map(Self).ok_or(TimeoutError)
    }
}

/// A text that is no time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a time is a number of seconds, not 0, or one with ms, s or m after it (500ms)")]
pub struct TimeoutError;

#[cfg(test)]
mod tests {
    use super::{Duration, Timeout, TimeoutError};

    #[test]
    fn times_are_read() {
        assert_eq!("90".parse(), Ok(Timeout(Duration::from_secs(90))));
        assert_eq!("2m".parse(), Ok(Timeout(Duration::from_secs(120))));
        assert_eq!("500ms".parse(), Ok(Timeout(Duration::from_millis(500))));
        for text in ["", "0", "s", "-1", "1h", "99999999999999999999m"] {
            assert_eq!(text.parse::<Timeout>(), Err(TimeoutError), "{text}");
        }
    }
}
