//! QEMU's firmware configuration device: named files handed in from the host (`-fw_cfg name=…`).
//!
//! Ports 0x510 (selector) and 0x511 (data); key 0 says "QEMU", key 0x19 is the directory: a big-endian count, then
//! entries of 64 bytes (size, key, reserved, name of 56 bytes). One lock covers select and read. Source: QEMU's
//! `docs/specs/fw_cfg`.
#![expect(unsafe_code, reason = "port I/O")]

use alloc::string::String;
use alloc::vec::Vec;

use x86_64::instructions::port::{PortReadOnly, PortWriteOnly};

use crate::lock::IrqLock;

pub use protocol::fw_cfg::{CMDLINE, NFIT, SCRIPT};

/// The largest file that is read, in bytes.
pub const MAX_FILE: usize = 1 << 20;

const KEY_SIGNATURE: u16 = 0;
const KEY_DIRECTORY: u16 = 0x19;
const MAX_ENTRIES: u32 = 4096;

static LOCK: IrqLock<()> = IrqLock::new(());

/// Why a file could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FwCfgError {
    /// No device, or no file of that name.
    #[error("no fw_cfg file of this name")]
    NotFound,
    /// The file is longer than [`MAX_FILE`], or than the buffer.
    #[error("the fw_cfg file has {0} bytes, more than fit")]
    TooLarge(usize),
    /// The heap is exhausted.
    #[error("out of memory for a fw_cfg file")]
    OutOfMemory,
    /// The file is not UTF-8, where text is wanted.
    #[error("the fw_cfg file is not UTF-8")]
    NotText,
}

/// A file in the directory.
#[derive(Clone, Copy, Debug)]
struct File {
    key: u16,
    size: usize,
}

/// Reads the whole file `name`.
pub fn read(name: &str) -> Result<Vec<u8>, FwCfgError> {
    let file = locked(|| find(name)).ok_or(FwCfgError::NotFound)?;
    if file.size > MAX_FILE {
        return Err(FwCfgError::TooLarge(file.size));
    }
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(file.size)
        .map_err(|_| FwCfgError::OutOfMemory)?;
    bytes.resize(file.size, 0);
    locked(|| fetch(file, &mut bytes));
    Ok(bytes)
}

/// Reads the whole file `name` as text.
pub fn read_text(name: &str) -> Result<String, FwCfgError> {
    String::from_utf8(read(name)?).map_err(|_| FwCfgError::NotText)
}

/// Reads the file `name` into `buf` without the heap; returns the part that was filled.
pub fn read_into<'a>(name: &str, buf: &'a mut [u8]) -> Result<&'a [u8], FwCfgError> {
    let file = locked(|| find(name)).ok_or(FwCfgError::NotFound)?;
    let part = buf
        .get_mut(..file.size)
        .ok_or(FwCfgError::TooLarge(file.size))?;
    locked(|| fetch(file, part));
    Ok(part)
}

fn locked<T>(f: impl FnOnce() -> T) -> T {
    let _guard = LOCK.lock();
    f()
}

fn find(name: &str) -> Option<File> {
    select(KEY_SIGNATURE);
    if &take::<4>() != b"QEMU" {
        return None;
    }
    select(KEY_DIRECTORY);
    let count = u32::from_be_bytes(take()).min(MAX_ENTRIES);
    (0..count).find_map(|_| {
        let size = u32::from_be_bytes(take()) as usize;
        let key = u16::from_be_bytes(take());
        let _reserved: [u8; 2] = take();
        let entry: [u8; 56] = take();
        let len = entry.iter().position(|&b| b == 0).unwrap_or(entry.len());
        (&entry[..len] == name.as_bytes()).then_some(File { key, size })
    })
}

fn fetch(file: File, buf: &mut [u8]) {
    select(file.key);
    buf.iter_mut().for_each(|b| *b = next());
}

fn take<const N: usize>() -> [u8; N] {
    core::array::from_fn(|_| next())
}

fn select(key: u16) {
    // SAFETY: the selector port has no effect but to choose what the data port yields.
    unsafe { PortWriteOnly::new(0x510).write(key) }
}

fn next() -> u8 {
    // SAFETY: reading the data port only moves the device's offset; without a device it yields 0xff.
    unsafe { PortReadOnly::new(0x511).read() }
}
