//! The machine's NFITs: each one that ACPI lists, or the one that the host hands over instead.
//!
//! There may be several. QEMU builds one for its NVDIMMs and passes on those of `-acpitable`; all are read, in the order of
//! the root table. A table in the fw_cfg file [`crate::fw_cfg::NFIT`] replaces them all, whatever is in it: so that a test
//! sees exactly what it asked for.

use core::fmt;

use alloc::vec::Vec;

use dax::nfit::{Nfit, Rejected, parse};
use mm::mem::OutOfMemory;
use x86_64::PhysAddr;

use crate::acpi;
use crate::fw_cfg::{self, FwCfgError};

/// Bytes of a table that are looked at; a longer one is refused.
const MAX_TABLE: u32 = 1 << 20;

/// Where a table came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The ACPI table at this address.
    Acpi(PhysAddr),
    /// The fw_cfg file.
    Host,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Acpi(at) => write!(f, "ACPI table at {:#x}", at.as_u64()),
            Self::Host => f.write_str("table handed over by the host"),
        }
    }
}

/// Why a table cannot be used at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// It was refused whole.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The host's file could not be read.
    #[error(transparent)]
    Unreadable(#[from] FwCfgError),
}

/// The tables of the machine.
#[derive(Debug, Default)]
pub struct Tables {
    /// What was parsed; pieces that were refused are listed within.
    pub nfits: Vec<Nfit>,
    /// Where each of [`Tables::nfits`] came from.
    pub origins: Vec<Origin>,
    /// Tables that were refused whole.
    pub refused: Vec<(Origin, TableError)>,
}

/// Reads and parses the machine's tables.
///
/// # Errors
/// Only for want of memory; what is wrong with a table is in the answer.
pub fn read() -> Result<Tables, OutOfMemory> {
    let mut tables = Tables::default();
    match fw_cfg::read(fw_cfg::NFIT) {
        Err(FwCfgError::NotFound) => {
            for (at, bytes) in acpi::raw_tables("NFIT", MAX_TABLE) {
                tables.add(Origin::Acpi(at), parse(bytes).map_err(TableError::from))?;
            }
        }
        Ok(bytes) => tables.add(Origin::Host, parse(&bytes).map_err(TableError::from))?,
        Err(e) => tables.add(Origin::Host, Err(e.into()))?,
    }
    Ok(tables)
}

impl Tables {
    fn add(&mut self, origin: Origin, table: Result<Nfit, TableError>) -> Result<(), OutOfMemory> {
        match table {
            Ok(nfit) => {
                for rejected in &nfit.rejected {
                    log::warn!("NFIT, {origin}: {rejected}");
                }
                try_push(&mut self.nfits, nfit)?;
                try_push(&mut self.origins, origin)
            }
            Err(e) => {
                log::warn!("NFIT, {origin}: {e}");
                try_push(&mut self.refused, (origin, e))
            }
        }
    }
}

pub(crate) fn try_push<T>(list: &mut Vec<T>, entry: T) -> Result<(), OutOfMemory> {
    list.try_reserve(1).map_err(|_| OutOfMemory)?;
    list.push(entry);
    Ok(())
}
