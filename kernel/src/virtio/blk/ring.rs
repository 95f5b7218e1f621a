//! The queue of a disk: chains of descriptors in flight, and the transfers that they belong to.
//!
//! Headers and status bytes lie in a DMA page, at the index of their chain. The slices that the queue is given exist for the length
//! of that call; it takes only addresses from them.
#![expect(unsafe_code, reason = "hands physical memory to a device")]

use super::cut::Segment;
use super::{Direction, IoError, Outcome, QUEUE, SECTOR, SubmitError, Transfer};
use crate::mem::paging::direct;
use crate::virtio::hal::{DmaPage, KernelHal};
use crate::virtio::transport::MsixTransport;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::slice;
use core::sync::atomic::{Ordering, fence};
use mm::mem::OutOfMemory;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;

/// Chains in flight at a time.
const CHAINS: usize = 4;
/// Pieces of memory in one chain.
const SEGMENTS: usize = 14;
/// Descriptors in the queue: each chain takes a header, its pieces and a status.
pub(super) const QUEUE_SIZE: usize = CHAINS * (SEGMENTS + 2);
const REQUEST_IN: u32 = 0;
const REQUEST_OUT: u32 = 1;
const STATUS_OK: u8 = 0;
const STATUS_UNSUPPORTED: u8 = 2;
/// What the status byte holds until the device writes it.
const STATUS_NONE: u8 = 0xff;

/// What a chain in flight was made of; its header and status lie in the disk's DMA page at the same index.
#[derive(Default)]
struct Chain {
    transfer: Option<u64>,
    token: u16,
    segments: ArrayVec<Segment, SEGMENTS>,
}

pub(super) struct Ring {
    pub(super) transport: MsixTransport,
    queue: VirtQueue<KernelHal, QUEUE_SIZE>,
    /// Headers (16 bytes each) from byte 0 on, status bytes from [`STATUSES`] on.
    page: DmaPage,
    chains: [Chain; CHAINS],
    transfers: Vec<(u64, Transfer)>,
    next_id: u64,
    /// The device named a chain that it was never given. It may still write to any page that it holds, so these stay pinned.
    broken: bool,
}

const HEADER: usize = 16;
const STATUSES: usize = 1024;

impl Ring {
    pub(super) fn new(
        transport: MsixTransport,
        queue: VirtQueue<KernelHal, QUEUE_SIZE>,
    ) -> Result<Self, OutOfMemory> {
        Ok(Ring {
            transport,
            queue,
            page: DmaPage::new()?,
            chains: Default::default(),
            transfers: Vec::new(),
            next_id: 0,
            broken: false,
        })
    }

    /// Queues the transfer and sends what it can; a transfer that is refused stays with the caller.
    pub(super) fn accept(&mut self, transfer: &mut Option<Transfer>) -> Result<(), SubmitError> {
        if self.broken {
            return Err(SubmitError::Broken);
        }
        self.transfers.try_reserve(1).map_err(|_| OutOfMemory)?;
        self.transfers
            .extend(transfer.take().map(|t| (self.next_id, t)));
        self.next_id += 1;
        self.send_more();
        Ok(())
    }

    /// Takes finished chains off the ring until a transfer has ended, which it hands out.
    pub(super) fn next_ended(&mut self) -> Option<Transfer> {
        while let Some(token) = self.queue.peek_used().filter(|_| !self.broken) {
            self.complete(token);
        }
        self.send_more();
        let ended = self.transfers.iter().position(|(_, t)| t.has_ended())?;
        Some(self.transfers.remove(ended).1)
    }

    fn complete(&mut self, token: u16) {
        let Some(slot) = self
            .chains
            .iter()
            .position(|c| c.transfer.is_some() && c.token == token)
        else {
            log::error!("a disk finished request {token}, which it was never given");
            self.broken = true;
            return;
        };
        let chain = core::mem::take(&mut self.chains[slot]);
        let popped = self.pop(slot, token, &chain);
        let Some((_, transfer)) = self
            .transfers
            .iter_mut()
            .find(|(id, _)| Some(*id) == chain.transfer)
        else {
            return;
        };
        transfer.in_flight -= 1;
        transfer.outcome = transfer.outcome.and(popped);
    }

    fn pop(&mut self, slot: usize, token: u16, chain: &Chain) -> Outcome {
        let direction = self.direction(chain);
        let status = self.page.at(STATUSES + slot);
        // SAFETY: these are the buffers that `send` added under this token.
        let popped = with_buffers(
            &self.page,
            slot,
            direction,
            &chain.segments,
            |inputs, outputs| unsafe { self.queue.pop_used(token, inputs, outputs) },
        );
        popped.map_err(|_| IoError::Protocol)?;
        // SAFETY: the byte lies in the DMA page, and the device has given it back.
        match unsafe { status.read_volatile() } {
            STATUS_OK => Ok(()),
            STATUS_UNSUPPORTED => Err(IoError::Unsupported),
            _ => Err(IoError::Device),
        }
    }

    fn direction(&self, chain: &Chain) -> Direction {
        let transfer = self
            .transfers
            .iter()
            .find(|(id, _)| Some(*id) == chain.transfer);
        transfer.map_or(Direction::Read, |(_, t)| t.direction)
    }

    /// Sends chains while there are free ones and transfers with unsent pieces, the oldest transfer first.
    fn send_more(&mut self) {
        let mut sent = false;
        while !self.broken
            && let Some(slot) = self.chains.iter().position(|c| c.transfer.is_none())
            && let Some(at) = self.transfers.iter().position(|(_, t)| t.has_more())
        {
            self.send(slot, at);
            sent = true;
        }
        // The device must see the new chains before it is asked whether it wants to be told.
        fence(Ordering::SeqCst);
        if sent && self.queue.should_notify() {
            self.transport.notify(QUEUE);
        }
    }

    fn send(&mut self, slot: usize, at: usize) {
        let (id, transfer) = &mut self.transfers[at];
        let direction = transfer.direction;
        let rest = &transfer.segments[transfer.sent..];
        let segments: ArrayVec<Segment, SEGMENTS> = rest.iter().take(SEGMENTS).copied().collect();
        write_header(&self.page, slot, direction, transfer.next_sector);
        transfer.sent += segments.len();
        transfer.next_sector += segments.iter().map(|s| s.len).sum::<u64>() / SECTOR;
        // SAFETY: header and status lie in the DMA page, which lives as long as the queue; the segments lie in pages that
        // the transfer keeps pinned until the chain has been popped.
        let added = with_buffers(
            &self.page,
            slot,
            direction,
            &segments,
            |inputs, outputs| unsafe { self.queue.add(inputs, outputs) },
        );
        match added {
            Ok(token) => {
                transfer.in_flight += 1;
                self.chains[slot] = Chain {
                    transfer: Some(*id),
                    token,
                    segments,
                };
            }
            Err(_) => transfer.outcome = Err(IoError::Protocol),
        }
    }
}

fn write_header(page: &DmaPage, slot: usize, direction: Direction, sector: u64) {
    let kind = if direction == Direction::Read {
        REQUEST_IN
    } else {
        REQUEST_OUT
    };
    let header = page.at(slot * HEADER);
    // SAFETY: 16 bytes of the DMA page (asserted below), aligned to 16, and no chain that uses them is in flight.
    unsafe {
        header.cast::<u32>().write_volatile(kind);
        header.cast::<u32>().add(1).write_volatile(0);
        header.cast::<u64>().add(1).write_volatile(sector);
        page.at(STATUSES + slot).write_volatile(STATUS_NONE);
    }
}

const _: () =
    assert!(CHAINS * HEADER <= STATUSES && STATUSES + CHAINS <= virtio_drivers::PAGE_SIZE);

/// Calls `f` with the buffers of a chain as the queue wants them.
///
/// The slices exist for the length of that call only, and the queue takes nothing but addresses from them: it is the device that
/// reads and writes the memory.
fn with_buffers<R>(
    page: &DmaPage,
    slot: usize,
    direction: Direction,
    segments: &[Segment],
    f: impl for<'a> FnOnce(&'a [&'a [u8]], &'a mut [&'a mut [u8]]) -> R,
) -> R {
    let (mut inputs, mut outputs) = (Buffers::<&[u8]>::new(), Buffers::<&mut [u8]>::new());
    let (header, status) = (page.at(slot * HEADER), page.at(STATUSES + slot));
    // SAFETY: both lie in the DMA page.
    let (header, status) = unsafe {
        (
            slice::from_raw_parts(header.as_ptr(), HEADER),
            slice::from_raw_parts_mut(status.as_ptr(), 1),
        )
    };
    inputs.push(header);
    for segment in segments {
        let (at, len) = (
            direct(segment.base).as_mut_ptr::<u8>(),
            segment.len as usize,
        );
        // SAFETY: pinned pages are mapped for good at their place in the direct map.
        unsafe {
            match direction {
                Direction::Read => outputs.push(slice::from_raw_parts_mut(at, len)),
                Direction::Write => inputs.push(slice::from_raw_parts(at, len)),
            }
        }
    }
    outputs.push(status);
    f(&inputs.list[..inputs.len], &mut outputs.list[..outputs.len])
}

/// A short list without a destructor, so that the queue may borrow it for as long as its elements live.
struct Buffers<B> {
    list: [B; SEGMENTS + 1],
    len: usize,
}

impl<B: Default> Buffers<B> {
    fn new() -> Self {
        Buffers {
            list: core::array::from_fn(|_| B::default()),
            len: 0,
        }
    }

    fn push(&mut self, buffer: B) {
        self.list[self.len] = buffer;
        self.len += 1;
    }
}
