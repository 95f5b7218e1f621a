//! The cases, read from the test kernel's ELF file without booting it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use object::{Object, ObjectSection};
use protocol::case::{Listed, RECORD, SECTION};

/// A case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Its place in the guest's list.
    pub index: u32,
    /// What the user calls it: the modules below `cases`, and its name.
    pub name: String,
    /// The driver's options for its machine; empty for the usual one.
    pub machine: String,
    /// What the panic's message must contain that it must end with; empty: it must not panic.
    pub panics: String,
    /// The longest that it may take.
    pub limit: Duration,
}

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The file cannot be read.
    #[error("{file}: {why}", file = file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// It is no ELF file.
    #[error("{0}")]
    Elf(#[from] object::Error),
    /// The section is missing: the linker script was not used.
    #[error("the test kernel has no section {SECTION}: was it linked by kernel/kernel.ld?")]
    NoSection,
    /// A record is not what this program expects.
    #[error(
        "record {0} in {SECTION} is none: the test kernel and the harness are of different versions"
    )]
    Record(usize),
}

/// All cases of a test kernel.
///
/// # Errors
/// [`ListError`].
pub fn read(elf: &Path) -> Result<Vec<Case>, ListError> {
    let bytes = std::fs::read(elf).map_err(|why| ListError::Io {
        file: elf.to_owned(),
        why,
    })?;
    let file = object::File::parse(bytes.as_slice())?;
    let section = file.section_by_name(SECTION).ok_or(ListError::NoSection)?;
    parse(section.data()?)
}

fn parse(section: &[u8]) -> Result<Vec<Case>, ListError> {
    let records = section.chunks(RECORD).enumerate();
    records
        .map(|(n, record)| case(n, record).ok_or(ListError::Record(n)))
        .collect()
}

fn case(n: usize, record: &[u8]) -> Option<Case> {
    let listed = Listed::parse(record)?;
    Some(Case {
        index: n.try_into().ok()?,
        name: listed
            .name
            .split_once("::cases::")
            .map_or(listed.name, |(_, rest)| rest)
            .to_owned(),
        machine: listed.machine.to_owned(),
        panics: listed.panics.to_owned(),
        limit: Duration::from_millis(listed.deadline_ms.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::{ListError, RECORD, parse};

    #[test]
    fn bytes_that_are_no_record_are_refused() {
        assert!(matches!(parse(&[0; RECORD]), Err(ListError::Record(0))));
        assert!(matches!(parse(&[0; RECORD - 1]), Err(ListError::Record(0))));
        assert_eq!(parse(&[]).unwrap(), []);
    }
}
