//! The running test kernels, kept between cases: booting costs more than most cases do.
//!
//! A machine belongs to one case at a time. One whose case passed goes back, for the next case that wants its kind; one whose case
//! failed is gone, and the next case gets a fresh one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use boot::machine::Firmware;

use crate::guest::{After, Failure, Guest};
use crate::list::Case;

/// The machines that wait for work, by the words that describe them.
#[derive(Debug)]
pub struct Fleet {
    elf: PathBuf,
    idle: Mutex<HashMap<String, Vec<Guest>>>,
}

impl Fleet {
    /// No machine yet, for this test kernel.
    pub fn new(elf: &Path) -> Self {
        Self {
            elf: elf.to_owned(),
            idle: Mutex::default(),
        }
    }

    /// Runs a case on a machine of the kind that it wants.
    ///
    /// # Errors
    /// When the case fails, or its machine does not come up.
    pub fn run(&self, case: &Case) -> Result<(), Failure> {
        let mut guest = match self.take(&case.machine) {
            Some(guest) => guest,
            None => Guest::boot(
                Firmware::Pvh {
                    kernel: self.elf.clone(),
                },
                &case.machine,
            )?,
        };
        if guest.run(case)? == After::Usable {
            self.give_back(&case.machine, guest);
        }
        Ok(())
    }

    fn take(&self, machine: &str) -> Option<Guest> {
        self.idle().get_mut(machine)?.pop()
    }

    fn give_back(&self, machine: &str, guest: Guest) {
        self.idle()
            .entry(machine.to_owned())
            .or_default()
            .push(guest);
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<Guest>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
