//! virtio-blk: transfers between a disk and pinned pages, without a copy.
//!
//! A transfer owns the [`PinnedPages`] that it reads or writes. It is cut into chains of at most 14 physically
//! contiguous pieces; the queue holds four of them at a time. The device interrupts by MSI-X; the handler only wakes the disk's
//! thread, which takes the finished chains from the ring, sends the next, and ends the transfer: *first* the pages are dropped
//! (unpinned), *then* the waiters are told. So whoever has seen the end of a transfer sees its pages unpinned, and no page is
//! unpinned in interrupt context.
//!
//! Nothing is allocated after a transfer has been accepted. Locks: the disk's spin lock, held without sleeping; the pages are
//! dropped and the waiters told outside it.
#![expect(unsafe_code, reason = "hands physical memory to a device")]

mod cut;
mod ring;

use self::cut::{Segment, cut};
use self::ring::Ring;
use super::hal::KernelHal;
use super::transport::MsixTransport;
use crate::irq;
use crate::pci::{Msix, MsixError, Pci};
use crate::thread::{self, SpawnError};
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bitflags::bitflags;
use core::fmt;
use core::sync::atomic::Ordering;
use mm::gup::PinnedPages;
use mm::mem::OutOfMemory;
use mm::sync::atomic::{AtomicBool, AtomicU64};
use mm::sync::{SpinLock, Wait, WaitError, WaitQueue};
use spin::Once;
use thiserror::Error;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::pci::bus::DeviceFunction;
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};
use virtio_drivers::transport::{DeviceType, Transport};

/// Bytes in a sector, the unit of a disk's addresses.
pub const SECTOR: u64 = 512;
const QUEUE: u16 = 0;
/// The entry of the MSI-X table that the queue uses.
const ENTRY: u16 = 0;
/// The type number of the common configuration structure (virtio 1.2, 4.1.4).
const COMMON_CONFIG: u8 = 1;

bitflags! {
    /// The features that this driver takes (virtio 1.2, 5.2.3 and 6).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Features: u64 {
        const READ_ONLY = 1 << 5;
        const VERSION_1 = 1 << 32;
    }
}

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the disk into memory.
    Read,
    /// From memory to the disk.
    Write,
}

/// Why a transfer was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SubmitError {
    /// Offset or length is no multiple of a sector, or the length is 0.
    #[error("offset {offset} and length {len} must be multiples of 512, the length not 0")]
    Unaligned {
        /// Bytes into the pages.
        offset: u64,
        /// Bytes to transfer.
        len: u64,
    },
    /// It would pass the end of the disk.
    #[error("the disk ends after sector {sectors}")]
    PastEndOfDisk {
        /// Sectors of the disk.
        sectors: u64,
    },
    /// It would pass the end of the pages.
    #[error("the pinned pages hold only {bytes} bytes")]
    PastEndOfPages {
        /// Bytes in the pages.
        bytes: u64,
    },
    /// A write to a disk that takes none.
    #[error("the disk is read-only")]
    ReadOnly,
    /// The device broke the protocol of its queue; it is not used any more.
    #[error("the disk is out of order")]
    Broken,
    /// No memory for its list of segments.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// How the device failed a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IoError {
    /// It reports an error of the medium or of the host.
    #[error("the device reports an I/O error")]
    Device,
    /// It does not know the request.
    #[error("the device does not support the request")]
    Unsupported,
    /// It broke the protocol of its queue.
    #[error("the device broke the queue's protocol")]
    Protocol,
}

/// Why a disk could not be brought up.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProbeError {
    /// It has no virtio 1 PCI interface that the transport knows.
    #[error("no virtio 1 PCI interface: {0}")]
    Transport(#[from] virtio_drivers::transport::pci::VirtioPciError),
    /// The common configuration structure is missing or outside its BAR.
    #[error("no common configuration structure")]
    NoCommonConfig,
    /// No MSI-X.
    #[error(transparent)]
    Msix(#[from] MsixError),
    /// The device does not take the interrupt vector.
    #[error("the device refuses its interrupt vector")]
    VectorRefused,
    /// No interrupt vector is free.
    #[error(transparent)]
    NoVector(#[from] irq::NoVector),
    /// The disk's thread could not be made.
    #[error(transparent)]
    Thread(#[from] SpawnError),
    /// It is a legacy device.
    #[error("the device does not speak virtio 1")]
    Legacy,
    /// The queue could not be set up.
    #[error("its queue could not be set up: {0}")]
    Queue(virtio_drivers::Error),
    /// No memory.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// What happened to a transfer.
type Outcome = Result<(), IoError>;
/// Called in the disk's thread when the transfer has ended and its pages are unpinned.
pub type OnDone = Box<dyn FnOnce(Outcome) + Send>;

/// A transfer that the disk has accepted and not ended.
struct Transfer {
    direction: Direction,
    next_sector: u64,
    segments: Vec<Segment>,
    sent: usize,
    in_flight: u32,
    outcome: Outcome,
    pages: PinnedPages,
    on_done: OnDone,
    done: Arc<Done>,
}

impl Transfer {
    fn has_ended(&self) -> bool {
        self.in_flight == 0 && !self.has_more()
    }

    fn has_more(&self) -> bool {
        self.outcome.is_ok() && self.sent < self.segments.len()
    }

    /// Unpins, then tells everyone.
    fn end(self) {
        let Transfer {
            pages,
            outcome,
            on_done,
            done,
            ..
        } = self;
        drop(pages);
        *done.outcome.lock() = Some(outcome);
        done.queue.wake_all();
        on_done(outcome);
    }
}

struct Done {
    outcome: SpinLock<Option<Outcome>>,
    queue: WaitQueue,
}

/// A transfer to wait for. Dropping it does not stop the transfer.
pub struct Request(Arc<Done>);

impl Request {
    /// Waits for the end of the transfer, when its pages are unpinned.
    ///
    /// # Errors
    /// The wait was bounded or cancelled; the transfer goes on.
    pub fn wait(&self, wait: &Wait<'_>) -> Result<Result<(), IoError>, WaitError> {
        let mut outcome = None;
        self.0.queue.wait_until(
            || {
                outcome = *self.0.outcome.lock();
                outcome.is_some()
            },
            wait,
        )?;
        Ok(outcome.unwrap_or(Err(IoError::Protocol)))
    }
}

/// A virtio block device.
pub struct Disk {
    /// Its number, from 0 in the order of discovery.
    pub index: u32,
    /// Its place on the PCI bus.
    pub at: DeviceFunction,
    sectors: u64,
    read_only: bool,
    ring: SpinLock<Ring>,
    rung: AtomicBool,
    bell: WaitQueue,
    interrupts: AtomicU64,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "disk {} at {}, {} sectors",
            self.index, self.at, self.sectors
        )
    }
}

impl Disk {
    /// Brings up the device at `at` as disk `index`, with its interrupt and its thread.
    ///
    /// # Errors
    /// See [`ProbeError`]; the device is reset then.
    pub fn probe(pci: &mut Pci, at: DeviceFunction, index: u32) -> Result<Arc<Self>, ProbeError> {
        pci.enable(at);
        let mut transport = transport(pci, at)?;
        let features = transport.begin_init(Features::all());
        if !features.contains(Features::VERSION_1) {
            return Err(ProbeError::Legacy);
        }
        let queue =
            VirtQueue::new(&mut transport, QUEUE, false, false).map_err(ProbeError::Queue)?;
        if transport.refused_vector() {
            return Err(ProbeError::VectorRefused);
        }
        let disk = Arc::new(Disk {
            index,
            at,
            sectors: sectors(&transport).map_err(ProbeError::Queue)?,
            read_only: features.contains(Features::READ_ONLY),
            ring: SpinLock::new(Ring::new(transport, queue)?),
            rung: AtomicBool::new(false),
            bell: WaitQueue::new(),
            interrupts: AtomicU64::new(0),
        });
        disk.start(pci)?;
        Ok(disk)
    }

    /// Leads the interrupt to this disk, makes the thread, and lets the device begin.
    fn start(self: &Arc<Self>, pci: &mut Pci) -> Result<(), ProbeError> {
        let (theirs, ours) = (self.clone(), self.clone());
        // A device is never given back: its handler lives for ever.
        let handler = Box::leak(Box::new(move || theirs.interrupt()));
        let message = irq::msi_message(irq::allocate_vector("virtio-blk", handler)?);
        Msix::enable(pci, self.at)?.set(ENTRY, message)?;
        thread::spawn(&format!("disk {}", self.index), move || -> () {
            ours.work()
        })?;
        self.ring.lock().transport.finish_init();
        Ok(())
    }

    /// The size in sectors of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// It takes no writes.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Interrupts taken since boot.
    pub fn interrupts(&self) -> u64 {
        // Relaxed: a statistic.
        self.interrupts.load(Ordering::Relaxed)
    }

    /// Starts a transfer of `len` bytes between the disk from `sector` on and the pages from byte `offset` on, and returns at
    /// once. The transfer owns the pages until it ends; `on_done` is called after they are unpinned.
    ///
    /// # Errors
    /// See [`SubmitError`]; the pages are unpinned then, and `on_done` is not called.
    pub fn transfer(
        &self,
        direction: Direction,
        sector: u64,
        pages: PinnedPages,
        offset: u64,
        len: u64,
        on_done: OnDone,
    ) -> Result<Request, SubmitError> {
        self.check(direction, sector, offset, len)?;
        let segments = cut(&pages, offset, len)?;
        let done = Arc::new(Done {
            outcome: SpinLock::new(None),
            queue: WaitQueue::new(),
        });
        let request = Request(done.clone());
        let transfer = Transfer {
            direction,
            next_sector: sector,
            segments,
            sent: 0,
            in_flight: 0,
            outcome: Ok(()),
            pages,
            on_done,
            done,
        };
        self.accept(transfer)?;
        Ok(request)
    }

    /// Says whether a transfer would be accepted, as far as the disk is concerned.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub fn check(
        &self,
        direction: Direction,
        sector: u64,
        offset: u64,
        len: u64,
    ) -> Result<(), SubmitError> {
        if len == 0 || !len.is_multiple_of(SECTOR) || !offset.is_multiple_of(SECTOR) {
            return Err(SubmitError::Unaligned { offset, len });
        }
        if sector
            .checked_add(len / SECTOR)
            .is_none_or(|end| end > self.sectors)
        {
            return Err(SubmitError::PastEndOfDisk {
                sectors: self.sectors,
            });
        }
        match (direction, self.read_only) {
            (Direction::Write, true) => Err(SubmitError::ReadOnly),
            _ => Ok(()),
        }
    }

    /// Queues a transfer; one that is refused is dropped, and so unpinned, outside the lock.
    fn accept(&self, transfer: Transfer) -> Result<(), SubmitError> {
        let mut slot = Some(transfer);
        let accepted = self.ring.lock().accept(&mut slot);
        drop(slot);
        accepted
    }

    /// The interrupt handler: wakes the thread.
    fn interrupt(&self) {
        // Relaxed: a statistic.
        self.interrupts.fetch_add(1, Ordering::Relaxed);
        // Release: pairs with the Acquire swap in `work`, so that the thread looks at the ring after this interrupt.
        self.rung.store(true, Ordering::Release);
        self.bell.wake_all();
    }

    /// The disk's thread: ends what the device has finished, for ever.
    fn work(&self) -> ! {
        loop {
            // Acquire: pairs with the Release store in `interrupt`.
            let rung = || self.rung.swap(false, Ordering::Acquire);
            // A wait without deadline or cancel ends only by its condition.
            let _ = self.bell.wait_until(rung, &Wait::forever());
            while let Some(transfer) = self.next_ended() {
                transfer.end();
            }
        }
    }

    fn next_ended(&self) -> Option<Transfer> {
        self.ring.lock().next_ended()
    }
}

/// The device's transport, which gives each queue the MSI-X entry [`ENTRY`].
fn transport(pci: &mut Pci, at: DeviceFunction) -> Result<MsixTransport, ProbeError> {
    let inner = PciTransport::new::<KernelHal, _>(pci.root(), at)?;
    let (bar, offset, len) = pci
        .virtio_structure(at, COMMON_CONFIG)
        .ok_or(ProbeError::NoCommonConfig)?;
    let base = bar.base + u64::from(offset);
    let common = super::map_device(base, len.into()).ok_or(ProbeError::OutOfMemory(OutOfMemory))?;
    // SAFETY: it is the device's common configuration structure, mapped for good.
    Ok(unsafe { MsixTransport::new(inner, common, ENTRY) })
}

/// The capacity: the first field of the device's configuration, 8 bytes that are read in halves.
fn sectors(transport: &MsixTransport) -> virtio_drivers::Result<u64> {
    transport.read_consistent(|| {
        let low: u32 = transport.read_config_space(0)?;
        let high: u32 = transport.read_config_space(4)?;
        Ok(u64::from(high) << 32 | u64::from(low))
    })
}

/// The disks of the machine, in the order of their numbers; brought up at the first call.
pub fn all() -> &'static [Arc<Disk>] {
    static DISKS: Once<Vec<Arc<Disk>>> = Once::new();
    DISKS.call_once(|| match Pci::open() {
        Ok(mut pci) => probe_all(&mut pci),
        Err(e) => {
            log::warn!("no disks: {e}");
            Vec::new()
        }
    })
}

/// Brings up every virtio block device; one that fails is told in the log and left out.
fn probe_all(pci: &mut Pci) -> Vec<Arc<Disk>> {
    let mut disks = Vec::new();
    for (at, info) in pci.functions() {
        if virtio_device_type(&info) != Some(DeviceType::Block) {
            continue;
        }
        match Disk::probe(pci, at, disks.len() as u32) {
            Ok(disk) => disks.push(disk),
            Err(e) => log::warn!("the disk at {at} is left out: {e}"),
        }
    }
    disks
}
