//! Persistent memory of the machine: from the NFITs to devices that a file system can be made on.
//!
//! [`init`] reads the tables, finds the regions, and for each: reads its devices' labels, maps it, and makes a pgmap for
//! every namespace whose bytes are memory as they are. A region that fails is listed with the reason, and the others come
//! up. Nothing is stored to any region here.

#![expect(unsafe_code, reason = "maps pmem and hands the mapping on")]

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::arch::x86_64::__cpuid;
use core::ops::Range;
use core::ptr::NonNull;

use arrayvec::ArrayVec;
use dax::label::{self, LabelArea, Mode, Namespaces};
use dax::pmem::{FlushOp, Hints, MAX_HINTS, MappedPmem};
use dax::region::{self, Discovery, MAX_REGIONS, Machine, Region};
use mm::addr::{PAGE_SIZE, Pfn, PfnRange};
use mm::mem::OutOfMemory;
use mm::pgmap::{MAX_PGMAPS, Pgmap, PgmapError};
use mm::sync::SpinLock;
use mm::sync::atomic::{AtomicBool, Ordering};
use spin::Once;
use x86_64::PhysAddr;

use crate::dsm::{self, DsmError};
use crate::mem::paging::{Cache, MapPhysError, map_phys};
use crate::memmap::MAX_RANGES;
use crate::nfit::{self, Tables, try_push};

/// What the host and the user call the devices.
const NAMES: [&str; MAX_PGMAPS] = [
    "pmem0", "pmem1", "pmem2", "pmem3", "pmem4", "pmem5", "pmem6", "pmem7", "pmem8", "pmem9",
    "pmem10", "pmem11", "pmem12", "pmem13", "pmem14", "pmem15", "pmem16", "pmem17", "pmem18",
    "pmem19", "pmem20", "pmem21", "pmem22", "pmem23", "pmem24", "pmem25", "pmem26", "pmem27",
    "pmem28", "pmem29", "pmem30", "pmem31",
];

/// Where PCs have firmware data, and where they have APICs, timers and flash memory: no pmem, whatever a table says.
const FIXED: [Range<u64>; 2] = [0..1 << 20, 0xFEC0_0000..1 << 32];

/// Physical address bits that the direct map covers.
const DIRECT_BITS: u8 = 46;

static PMEM: Once<Pmem> = Once::new();

/// A namespace that is ready for use.
pub struct Device {
    /// Its name.
    pub name: &'static str,
    /// The region it lies in, by [`Region::id`].
    pub region: u32,
    /// First byte.
    pub base: PhysAddr,
    /// Bytes, a multiple of 4 KiB.
    pub length: u64,
    /// Access to its bytes; read-only where the region or its labels say so.
    pub memory: Arc<MappedPmem>,
    /// Its pages.
    pub pages: PfnRange,
    service: SpinLock<Service>,
    /// Somebody is removing it.
    in_turn: AtomicBool,
}

/// What a device's pages live by, and whether it is on its way out.
struct Service {
    pgmap: Option<Arc<Pgmap>>,
    removing: bool,
}

/// Where a device is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// It can be used.
    Live,
    /// Its removal has begun: who uses it ends, and nobody begins.
    Removing,
    /// Nothing of it is in use.
    Removed,
}

/// The right to remove a device, of one thread at a time.
pub struct RemovalTurn<'a>(&'a Device);

impl Drop for RemovalTurn<'_> {
    fn drop(&mut self) {
        // Release pairs with the Acquire in `begin_removal`.
        self.0.in_turn.store(false, Ordering::Release);
    }
}

impl Device {
    /// The life of its pages; `None` when it is removed.
    pub fn pgmap(&self) -> Option<Arc<Pgmap>> {
        self.service.lock().pgmap.clone()
    }

    /// Where it is in its life.
    pub fn state(&self) -> DeviceState {
        let service = self.service.lock();
        match (&service.pgmap, service.removing) {
            (None, _) => DeviceState::Removed,
            (Some(_), true) => DeviceState::Removing,
            (Some(_), false) => DeviceState::Live,
        }
    }

    /// The right to remove it, unless another thread has it.
    pub(crate) fn begin_removal(&self) -> Option<RemovalTurn<'_>> {
        // Acquire pairs with the Release in the drop of `RemovalTurn`.
        let taken = self.in_turn.swap(true, Ordering::Acquire);
        (!taken).then_some(RemovalTurn(self))
    }

    /// Marks it as on its way out; gives its pgmap, or `None` if it is removed already. Under the volume lock.
    pub(crate) fn mark_removing(&self) -> Option<Arc<Pgmap>> {
        let mut service = self.service.lock();
        service.removing = service.pgmap.is_some();
        service.pgmap.clone()
    }

    /// Sets its pgmap: none when it is removed, a new one when it comes back. Under the volume lock.
    pub(crate) fn set_pgmap(&self, pgmap: Option<Arc<Pgmap>>) {
        let next = Service {
            pgmap,
            removing: false,
        };
        // The old one may end here, which frees its metadata: outside of the lock.
        let old = core::mem::replace(&mut *self.service.lock(), next);
        drop(old);
    }
}

/// What a region's labels make of it.
#[derive(Debug)]
pub struct Division {
    /// The region, by [`Region::id`].
    pub region: u32,
    /// Its namespaces.
    pub namespaces: Namespaces,
    /// Whether any of its devices has a label area.
    pub labelled: bool,
}

/// Why a region, or a namespace of it, did not come up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BringUpError {
    /// It cannot be mapped.
    #[error(transparent)]
    Map(#[from] MapPhysError),
    /// No pgmap can be made for it.
    #[error(transparent)]
    Pgmap(#[from] PgmapError),
    /// Its labels cannot be read.
    #[error(transparent)]
    Labels(#[from] DsmError),
    /// Its labels are damaged.
    #[error(
        "the labels are damaged, and what they protect is not known (initialise them to give up the contents)"
    )]
    Damaged,
    /// It is not memory as it is.
    #[error("{0:?} namespaces are not supported (make it raw)")]
    Mode(Mode),
    /// It has more devices with flush hints than can be written.
    #[error("more than {MAX_HINTS} devices with flush hints")]
    TooManyHints,
    /// There are more devices than names.
    #[error("more than {MAX_PGMAPS} devices")]
    TooMany,
    /// The heap is exhausted.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// The machine's persistent memory.
#[derive(Default)]
pub struct Pmem {
    /// The tables, and what was refused of them.
    pub tables: Tables,
    /// The regions, and what was refused of them.
    pub discovery: Discovery,
    /// How labels divide the regions.
    pub divisions: Vec<Division>,
    /// What is ready for use, in the order of the regions.
    pub devices: Vec<Device>,
    /// Regions that did not come up, or of which a namespace did not, by [`Region::id`].
    pub failed: Vec<(u32, BringUpError)>,
}

/// Finds and brings up the machine's persistent memory, once; needs the heap.
pub fn init() -> &'static Pmem {
    PMEM.call_once(|| {
        let mut pmem = Pmem::default();
        if let Err(OutOfMemory) = pmem.bring_up() {
            log::error!("out of memory while bringing up persistent memory");
        }
        pmem
    })
}

/// What [`init`] found.
///
/// # Panics
/// Before [`init`].
pub fn get() -> &'static Pmem {
    PMEM.get().expect("pmem is brought up before main runs")
}

impl Pmem {
    /// The device of this name.
    pub fn device(&self, name: &str) -> Option<&Device> {
        self.devices.iter().find(|device| device.name == name)
    }

    fn bring_up(&mut self) -> Result<(), OutOfMemory> {
        self.tables = nfit::read()?;
        self.discovery = discover(&self.tables)?;
        for (table, rejected) in &self.discovery.rejected {
            log::warn!("NFIT {table}: {rejected}");
        }
        for i in 0..self.discovery.regions.len() {
            let region = self.discovery.regions[i].clone();
            if let Err(e) = self.open(&region) {
                self.fail(&region, e)?;
            }
        }
        Ok(())
    }

    fn fail(&mut self, region: &Region, e: BringUpError) -> Result<(), OutOfMemory> {
        log::warn!("region {}: {e}", region.id);
        try_push(&mut self.failed, (region.id, e))
    }

    /// Brings up a region's namespaces.
    fn open(&mut self, region: &Region) -> Result<(), BringUpError> {
        let mut areas = Vec::new();
        for device in &region.devices {
            let bytes = dsm::read_labels(device.handle)?;
            try_push(&mut areas, LabelArea::parse(&bytes)?)?;
        }
        let labelled = areas.iter().any(|area| *area != LabelArea::Fresh);
        let namespaces = label::namespaces(region, &areas)?;
        let (id, damaged) = (region.id, namespaces.damaged);
        let ready = namespaces.clone().namespaces;
        try_push(
            &mut self.divisions,
            Division {
                region: id,
                namespaces,
                labelled,
            },
        )?;
        if damaged {
            return Err(BringUpError::Damaged);
        }
        for namespace in &ready {
            if let Err(e) = self.add(region, namespace) {
                self.fail(region, e)?;
            }
        }
        Ok(())
    }

    /// Makes a device of a namespace.
    fn add(&mut self, region: &Region, namespace: &label::Namespace) -> Result<(), BringUpError> {
        if namespace.mode != Mode::Raw {
            return Err(BringUpError::Mode(namespace.mode));
        }
        let name = *NAMES.get(self.devices.len()).ok_or(BringUpError::TooMany)?;
        let base = PhysAddr::new(region.base + namespace.range.start);
        let length = namespace.range.end - namespace.range.start;
        let memory = Arc::new(map(region, base, length, namespace.read_only)?);
        let pages = PfnRange::new(Pfn::from_phys(base), length / PAGE_SIZE);
        let pages = pages.ok_or(BringUpError::Map(MapPhysError::Range))?;
        let pgmap = Pgmap::new(name, pages, None)?;
        log::info!("{name}: {length:#x} bytes at {base:?}, {}", region.domain);
        let device = Device {
            name,
            region: region.id,
            base,
            length,
            memory,
            pages,
            service: SpinLock::new(Service {
                pgmap: Some(pgmap),
                removing: false,
            }),
            in_turn: AtomicBool::new(false),
        };
        Ok(try_push(&mut self.devices, device)?)
    }
}

/// Finds the regions, knowing where RAM and fixed devices are and what the CPU can address.
fn discover(tables: &Tables) -> Result<Discovery, OutOfMemory> {
    let ram = crate::boot_info()
        .memory
        .ranges()
        .iter()
        .filter(|range| range.kind.is_ram());
    let taken: ArrayVec<Range<u64>, { MAX_RANGES + FIXED.len() }> = FIXED
        .into_iter()
        .chain(ram.map(|range| range.start..range.end))
        .collect();
    let address_bits = address_bits().min(DIRECT_BITS);
    let machine = Machine {
        taken: &taken,
        address_bits,
    };
    region::discover(&tables.nfits, &machine).map_err(|_| OutOfMemory)
}

/// Physical address bits of the CPU; 36 where it does not tell.
fn address_bits() -> u8 {
    if __cpuid(0x8000_0000).eax < 0x8000_0008 {
        return 36;
    }
    __cpuid(0x8000_0008).eax as u8
}

/// Maps a part of a region.
fn map(
    region: &Region,
    base: PhysAddr,
    length: u64,
    read_only: bool,
) -> Result<MappedPmem, BringUpError> {
    let at = map_phys(base, length, Cache::WriteBack)?;
    let at = NonNull::new(at.as_mut_ptr()).ok_or(MapPhysError::Range)?;
    let hints = map_hints(region)?;
    let domain = region.domain.persistence(FlushOp::of_this_cpu());
    // SAFETY: `map_phys` has mapped these bytes write-back, for ever. They are pmem and not RAM, regions do not overlap and
    // namespaces neither, so that nothing else in the kernel has a reference to them; the CPU was asked for the instruction.
    let memory = unsafe { MappedPmem::new(at, length, domain) };
    // SAFETY: mapped uncached just now, for ever, and aligned; discovery gives flush hints only where nothing else is.
    let memory = unsafe { memory.with_flush_hints(hints) };
    Ok(if read_only || !region.armed() {
        memory.read_only()
    } else {
        memory
    })
}

/// Maps the flush hints that a region's stores need.
fn map_hints(region: &Region) -> Result<Hints, BringUpError> {
    let mut hints = Hints::new_const();
    for hint in region.devices.iter().filter_map(|device| device.hint) {
        let at = map_phys(PhysAddr::new(hint), 8, Cache::Device)?;
        let at = NonNull::new(at.as_mut_ptr()).ok_or(MapPhysError::Range)?;
        hints.try_push(at).map_err(|_| BringUpError::TooManyHints)?;
    }
    Ok(hints)
}

const _: () = assert!(MAX_REGIONS <= MAX_PGMAPS);
