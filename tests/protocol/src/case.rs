//! The list of the test kernel's cases, which the host reads from the ELF file without booting it.
//!
//! Each case is one [`Case`] in the link section [`SECTION`]; a case's index is its place in that section. All that the host needs
//! stands in the record itself, as bytes at fixed offsets, so the host neither follows pointers nor shares a Rust layout with the guest.

/// The link section with the cases.
pub const SECTION: &str = ".holdfast_cases";
/// The bytes of one record in the section.
pub const RECORD: usize = size_of::<Case>();
/// The first field of each record: a record without it means that host and guest disagree.
pub const MAGIC: u32 = 0x7473_7431;

const NAME: usize = 112;
const MACHINE: usize = 128;
const PANICS: usize = 64;

/// One case.
#[derive(Debug)]
#[repr(C, align(8))]
pub struct Case {
    magic: u32,
    deadline_ms: u32,
    name: [u8; NAME],
    machine: [u8; MACHINE],
    panics: [u8; PANICS],
    run: fn(),
}

const _: () = assert!(RECORD == 8 + NAME + MACHINE + PANICS + size_of::<fn()>());

/// What the host must know of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed<'a> {
    /// The full module path and name.
    pub name: &'a str,
    /// The driver's options for the machine that it wants; empty: the usual one.
    pub machine: &'a str,
    /// What the message of the panic must contain that the case must end with; empty: it must not panic.
    pub panics: &'a str,
    /// The milliseconds that it may take.
    pub deadline_ms: u32,
}

impl Case {
    /// A case: what the host must know of it, and the function.
    ///
    /// # Panics
    /// At compile time, when a text is too long or the deadline is 0.
    pub const fn new(listed: &Listed<'_>, run: fn()) -> Self {
        assert!(listed.deadline_ms != 0);
        Self {
            magic: MAGIC,
            deadline_ms: listed.deadline_ms,
            name: bytes(listed.name),
            machine: bytes(listed.machine),
            panics: bytes(listed.panics),
            run,
        }
    }

    /// Runs the case.
    pub fn run(&self) {
        (self.run)();
    }
}

/// A text padded with zeroes.
const fn bytes<const N: usize>(text: &str) -> [u8; N] {
    let (text, mut out, mut at) = (text.as_bytes(), [0; N], 0);
    assert!(text.len() <= N, "the text is too long for its field");
    while at < text.len() {
        out[at] = text[at];
        at += 1;
    }
    out
}

impl<'a> Listed<'a> {
    /// Reads one record of [`RECORD`] bytes; `None` when it is none.
    pub fn parse(record: &'a [u8]) -> Option<Self> {
        let word = |at: usize| {
            record
                .get(at..at + 4)?
                .try_into()
                .ok()
                .map(u32::from_le_bytes)
        };
        if word(0)? != MAGIC {
            return None;
        }
        let (name, rest) = record.get(8..)?.split_at_checked(NAME)?;
        let (machine, rest) = rest.split_at_checked(MACHINE)?;
        let (panics, _run) = rest.split_at_checked(PANICS)?;
        Some(Self {
            name: text(name)?,
            machine: text(machine)?,
            panics: text(panics)?,
            deadline_ms: word(4)?,
        })
    }
}

fn text(field: &[u8]) -> Option<&str> {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    core::str::from_utf8(&field[..end]).ok()
}
