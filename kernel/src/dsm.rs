//! Label areas, read by QEMU's protocol for NVDIMM methods, without an interpreter for AML.
//!
//! QEMU's AML does nothing but this: it puts a request into a page, writes the page's physical address to an I/O port, and
//! finds the answer in the page. Any page of RAM below 4 GiB will do. We speak the protocol only where the SSDT that
//! holds that AML is present, which is QEMU's signature; elsewhere no device has labels for us.
//! Source: QEMU's `docs/specs/acpi_nvdimm`, and Intel's NVDIMM DSM interface for the functions.

#![expect(unsafe_code, reason = "port I/O, and a page that the host writes")]

use alloc::vec::Vec;
use core::ptr::NonNull;

use mm::addr::Pfn;
use mm::mem::OutOfMemory;
use x86_64::instructions::port::PortWriteOnly;

use crate::acpi;
use crate::mem::{frames, paging};

const PORT: u16 = 0x0A18;
/// Revision of a device's methods.
const REVISION: u32 = 1;
const GET_SIZE: u32 = 4;
const GET_DATA: u32 = 5;
const SUCCESS: u32 = 0;
const NOT_SUPPORTED: u32 = 1;
/// The device is not QEMU's: its handle comes from a hand-made table.
const NO_DEVICE: u32 = 2;
/// Words of a page.
const WORDS: usize = 1024;
/// Words of an answer to [`GET_DATA`] before the data: length and status.
const HEAD: usize = 2;
/// The largest label area that is read, in bytes.
const MAX_AREA: u32 = 1 << 20;

/// Why a label area could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DsmError {
    /// A method failed.
    #[error(
        "reading the labels of device {handle:#x} failed: function {function}, status {status}"
    )]
    Status {
        /// NFIT handle of the device.
        handle: u32,
        /// The method.
        function: u32,
        /// What it answered.
        status: u32,
    },
    /// A method gave fewer bytes than it must.
    #[error(
        "reading the labels of device {handle:#x} failed: function {function} answered {length} bytes"
    )]
    Short {
        /// NFIT handle of the device.
        handle: u32,
        /// The method.
        function: u32,
        /// Bytes of its answer.
        length: u32,
    },
    /// The area is too large, or its pieces are too small, to be believed.
    #[error(
        "device {handle:#x} claims a label area of {size} bytes, read by {piece} (at most {MAX_AREA} by at least 4)"
    )]
    Size {
        /// NFIT handle of the device.
        handle: u32,
        /// Bytes of the area.
        size: u32,
        /// Bytes of the largest piece that can be read at once.
        piece: u32,
    },
    /// No page below 4 GiB, or the heap is exhausted.
    #[error("out of memory for the labels")]
    OutOfMemory,
}

impl From<OutOfMemory> for DsmError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// The label area of the device with this NFIT handle; empty where it has none, or is not QEMU's.
pub fn read_labels(handle: u32) -> Result<Vec<u8>, DsmError> {
    if !is_qemu() {
        return Ok(Vec::new());
    }
    let mut page = Page::new().ok_or(DsmError::OutOfMemory)?;
    match size(&mut page, handle)? {
        Some((size, piece)) => read(&mut page, handle, size, piece),
        None => Ok(Vec::new()),
    }
}

/// Whether the firmware's tables hold QEMU's NVDIMM methods, by the table's own name.
fn is_qemu() -> bool {
    acpi::raw_tables("SSDT", 36).any(|(_, header)| header.get(16..24) == Some(b"NVDIMM\0\0"))
}

/// Bytes of the label area, and of the largest piece that can be read at once; `None`: there is no area.
fn size(page: &mut Page, handle: u32) -> Result<Option<(u32, u32)>, DsmError> {
    let function = GET_SIZE;
    match page.call(&[handle, REVISION, function]) {
        [length, _, _, _] if length < 8 => Err(DsmError::Short {
            handle,
            function,
            length,
        }),
        [_, NOT_SUPPORTED | NO_DEVICE, _, _] => Ok(None),
        [length, SUCCESS, _, _] if length < 16 => Err(DsmError::Short {
            handle,
            function,
            length,
        }),
        [_, SUCCESS, 0, _] => Ok(None),
        [_, SUCCESS, size, piece] if size <= MAX_AREA && piece >= 4 => Ok(Some((size, piece))),
        [_, SUCCESS, size, piece] => Err(DsmError::Size {
            handle,
            size,
            piece,
        }),
        [_, status, _, _] => Err(DsmError::Status {
            handle,
            function,
            status,
        }),
    }
}

/// Reads the whole area piece by piece.
fn read(page: &mut Page, handle: u32, size: u32, piece: u32) -> Result<Vec<u8>, DsmError> {
    let mut area = Vec::new();
    area.try_reserve_exact(size as usize)
        .map_err(|_| OutOfMemory)?;
    let piece = piece.min(((WORDS - HEAD) * 4) as u32) & !3;
    while (area.len() as u32) < size {
        let count = piece.min(size - area.len() as u32);
        let function = GET_DATA;
        let [length, status, ..] =
            page.call(&[handle, REVISION, function, area.len() as u32, count]);
        if length < 8 || status == SUCCESS && length < 8 + count {
            return Err(DsmError::Short {
                handle,
                function,
                length,
            });
        }
        if status != SUCCESS {
            return Err(DsmError::Status {
                handle,
                function,
                status,
            });
        }
        area.extend((0..count as usize).map(|i| page.byte(HEAD * 4 + i)));
    }
    Ok(area)
}

/// A page through which requests and answers go.
struct Page {
    frame: Pfn,
    words: NonNull<[u32; WORDS]>,
}

impl Page {
    /// A zeroed page whose address fits the port.
    fn new() -> Option<Self> {
        let frame = frames::alloc_zeroed()?;
        let words = NonNull::new(paging::direct(frame.phys()).as_mut_ptr())?;
        let page = Self { frame, words };
        u32::try_from(frame.phys().as_u64()).ok().map(|_| page)
    }

    /// Makes a request, and gives the first words of the answer.
    fn call(&mut self, request: &[u32]) -> [u32; 4] {
        for (i, word) in request.iter().enumerate() {
            // SAFETY: requests are shorter than the page, which is ours; volatile, since the host reads it.
            unsafe { self.words.cast::<u32>().add(i).write_volatile(*word) };
        }
        // SAFETY: QEMU's port, which is present where its SSDT is; it writes to this page alone.
        unsafe { PortWriteOnly::new(PORT).write(self.frame.phys().as_u64() as u32) };
        // SAFETY: within the page; volatile, since the host has written it.
        core::array::from_fn(|i| unsafe { self.words.cast::<u32>().add(i).read_volatile() })
    }

    /// Byte `i` of the answer, which lies within the page.
    fn byte(&self, i: usize) -> u8 {
        assert!(i < WORDS * 4);
        // SAFETY: within the page; volatile, since the host has written it.
        unsafe { self.words.cast::<u8>().add(i).read_volatile() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        frames::free(self.frame, 0);
    }
}
